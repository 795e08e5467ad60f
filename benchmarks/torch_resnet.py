"""The training step of `train_step.py` in PyTorch: the peer, in its strongest form.

torchvision's ResNet-50 with last stride 1, the BN neck, the same losses and the same
optimiser as ours. On a GPU channels-last, autocast and torch.compile; on a CPU what the
flags of `train_step.py` choose.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class Bottleneck(nn.Module):
    """1×1, 3×3 with the stride, 1×1 to four times the features, and a shortcut."""

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        wide = 4 * features
        self.conv1 = nn.Conv2d(inputs, features, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(features)
        self.conv3 = nn.Conv2d(features, wide, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(wide)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != wide:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, wide, 1, stride, bias=False), nn.BatchNorm2d(wide)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, H, W) to (B, 4 · features, H / stride, W / stride)."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = F.relu(self.norm2(self.conv2(y)), inplace=True)
        y = self.norm3(self.conv3(y))
        return F.relu(y + self.shortcut(x), inplace=True)


class ReID(nn.Module):
    """ResNet-50 with last stride 1, mean over positions, BN neck, classifier."""

    def __init__(self, num_identities: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, 64, 7, 2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, padding=1),
        ]
        inputs = 64
        for i, (blocks, stride) in enumerate(
            zip((3, 4, 6, 3), (1, 2, 2, 1), strict=True)
        ):
            for j in range(blocks):
                block = Bottleneck(inputs, 64 * 2**i, stride if j == 0 else 1)
                layers.append(block)
                inputs = 4 * 64 * 2**i
        for module in (m for layer in layers for m in layer.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        self.backbone = nn.Sequential(*layers)
        self.neck = nn.BatchNorm1d(inputs)
        self.classifier = nn.Linear(inputs, num_identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The pooled feature (B, 2048) and the logits, of (B, 3, H, W)."""
        pooled = self.backbone(images).mean((2, 3))
        return pooled, self.classifier(self.neck(pooled))


def weighted_regularised_triplet(
    features: torch.Tensor, identity: torch.Tensor
) -> torch.Tensor:
    """As `mbn_jax.losses.weighted_regularised_triplet`."""
    centred = features.float() - features.float().mean(0, keepdim=True).detach()
    square = (centred**2).sum(1)
    squared = square[:, None] + square[None, :] - 2.0 * centred @ centred.T
    distance = squared.clamp_min(1e-12).sqrt()
    same = identity[:, None] == identity[None, :]
    positive = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    lowest = torch.finfo(torch.float32).min

    def weighted(logits: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(torch.where(where, logits, lowest), 1)
        return (weights * distance * where).sum(1)

    return F.softplus(weighted(distance, positive) - weighted(-distance, ~same)).mean()


def train_step(
    images: np.ndarray,
    identity: np.ndarray,
    *,
    num_identities: int,
    dtype: str,
    channels_last: bool,
    compiled: bool,
    label_smoothing: float,
) -> Callable[[], float]:
    """A function that takes one step on the batch, waits for it, and returns the loss.

    Args:
      images: `(B, H, W, 3)` uint8, as a loader hands them over.
      identity: `(B,)`.
      num_identities: the classifier's classes.
      dtype: "float32", or "bfloat16" for autocast.
      channels_last: whether activations and weights lie in memory with channels last.
      compiled: whether torch.compile makes the forward and backward pass.
      label_smoothing: of the identity loss.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = ReID(num_identities).to(device, memory_format=layout).train()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=1e-3,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        fused=True,
    )
    mean = torch.tensor(_MEAN, device=device).reshape(1, 3, 1, 1)
    std = torch.tensor(_STD, device=device).reshape(1, 3, 1, 1)

    def objective(pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        # Channels last in memory already; PyTorch's order of the axes.
        x = (pixels.permute(0, 3, 1, 2).float() / 255.0 - mean) / std
        x = x.contiguous(memory_format=layout)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            pooled, logits = model(x)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
        return loss + weighted_regularised_triplet(pooled, labels)

    function = torch.compile(objective) if compiled else objective
    pixels = torch.from_numpy(images).to(device)
    labels = torch.from_numpy(identity).long().to(device)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = function(pixels, labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
