"""The training step of `train_step.py` in PyTorch: the peer, in its strongest form.

torchvision's ResNet with a last stride and a width to choose, the BN neck, the same
losses and the same optimizer as ours. On a GPU channels-last, autocast and
torch.compile; on a CPU what the flags of `train_step.py` choose.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


# A convolution: its features, the size of its kernel and its stride.
Convolution = tuple[int, int, int]


def basic(features: int, stride: int) -> list[Convolution]:
    """3×3 with the stride, and 3×3."""
    return [(features, 3, stride), (features, 3, 1)]


def bottleneck(features: int, stride: int) -> list[Convolution]:
    """1×1, 3×3 with the stride, and 1×1 to four times the features."""
    return [(features, 1, 1), (features, 3, stride), (4 * features, 1, 1)]


STAGES = {18: (basic, (2, 2, 2, 2)), 50: (bottleneck, (3, 4, 6, 3))}


def normalized(inputs: int, convolution: Convolution) -> list[nn.Module]:
    """A convolution, padded so that stride 1 keeps the size, and its normalization."""
    features, size, stride = convolution
    return [
        nn.Conv2d(inputs, features, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(features),
    ]


class Block(nn.Module):
    """Convolutions and a shortcut."""

    def __init__(self, inputs: int, convolutions: Sequence[Convolution]) -> None:
        super().__init__()
        branch, features = [], inputs
        for convolution in convolutions:
            branch += [*normalized(features, convolution), nn.ReLU(inplace=True)]
            features = convolution[0]
        self.branch = nn.Sequential(*branch[:-1])
        stride = math.prod(stride for _, _, stride in convolutions)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != features:
            self.shortcut = nn.Sequential(*normalized(inputs, (features, 1, stride)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, H, W) to (B, features, H / stride, W / stride)."""
        return F.relu(self.branch(x) + self.shortcut(x), inplace=True)


class ReID(nn.Module):
    """ResNet, mean over positions, BN neck, classifier."""

    def __init__(
        self, num_identities: int, depth: int, width: float, last_stride: int
    ) -> None:
        super().__init__()
        inputs = round(64 * width)
        layers: list[nn.Module] = [
            *normalized(3, (inputs, 7, 2)),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, padding=1),
        ]
        block, repeats = STAGES[depth]
        for i, repeat in enumerate(repeats):
            features = round(64 * width) * 2**i
            for j in range(repeat):
                stride = (1, 2, 2, last_stride)[i] if j == 0 else 1
                convolutions = block(features, stride)
                layers.append(Block(inputs, convolutions))
                inputs = convolutions[-1][0]
        for module in (m for layer in layers for m in layer.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        self.backbone = nn.Sequential(*layers)
        self.neck = nn.BatchNorm1d(inputs)
        self.neck.bias.requires_grad_(False)  # ours has none
        self.classifier = nn.Linear(inputs, num_identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The pooled feature (B, features) and the logits, of (B, 3, H, W)."""
        pooled = self.backbone(images).mean((2, 3))
        return pooled, self.classifier(self.neck(pooled))


def weighted_regularized_triplet(
    features: torch.Tensor, identity: torch.Tensor
) -> torch.Tensor:
    """As `mbn_jax.losses.weighted_regularized_triplet`."""
    centered = features.float() - features.float().mean(0, keepdim=True).detach()
    square = (centered**2).sum(1)
    squared = square[:, None] + square[None, :] - 2.0 * centered @ centered.T
    distance = squared.clamp_min(1e-12).sqrt()
    same = identity[:, None] == identity[None, :]
    positive = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    lowest = torch.finfo(torch.float32).min

    def weighted(logits: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(torch.where(where, logits, lowest), 1)
        return (weights * distance * where).sum(1)

    return F.softplus(weighted(distance, positive) - weighted(-distance, ~same)).mean()


def make_optimizer(
    parameters: Sequence[nn.Parameter], values: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """As `mbn_jax.training.state.make_optimizer`, with a constant learning rate."""
    rates = dict(lr=values["learning_rate"], weight_decay=values["weight_decay"])
    if values["name"] == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **rates)
    momentum, nesterov = values["momentum"], values["nesterov"]
    return torch.optim.SGD(
        parameters, momentum=momentum, nesterov=nesterov, fused=True, **rates
    )


def train_step(
    images: np.ndarray,
    identity: np.ndarray,
    *,
    num_identities: int,
    dtype: str,
    channels_last: bool,
    compiled: bool,
    depth: int,
    width: float,
    last_stride: int,
    label_smoothing: float,
    optimizer: Mapping[str, Any],
) -> tuple[Callable[[], float], int]:
    """A function that takes one step on the batch, waits for it, and returns the loss.

    Args:
      images: `(B, H, W, 3)` uint8, as a loader hands them over.
      identity: `(B,)`.
      num_identities: the classifier's classes.
      dtype: "float32", or "bfloat16" for autocast.
      channels_last: whether activations and weights lie in memory with channels last.
      compiled: whether torch.compile makes the forward and backward pass.
      depth: 18 or 50.
      width: multiplies every number of features.
      last_stride: of the last stage.
      label_smoothing: of the identity loss.
      optimizer: keys of our configuration's `optimizer`.

    Returns:
      The function, and the number of parameters that it trains.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = ReID(num_identities, depth, width, last_stride)
    model = model.to(device, memory_format=layout).train()
    parameters = [value for value in model.parameters() if value.requires_grad]
    updates = make_optimizer(parameters, optimizer)
    mean = torch.tensor(_MEAN, device=device).reshape(1, 3, 1, 1)
    std = torch.tensor(_STD, device=device).reshape(1, 3, 1, 1)

    def objective(pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        # Channels last in memory already; PyTorch's order of the axes.
        x = (pixels.permute(0, 3, 1, 2).float() / 255.0 - mean) / std
        x = x.contiguous(memory_format=layout)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            pooled, logits = model(x)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
        return loss + weighted_regularized_triplet(pooled, labels)

    function = torch.compile(objective) if compiled else objective
    pixels = torch.from_numpy(images).to(device)
    labels = torch.from_numpy(identity).long().to(device)

    def step() -> float:
        updates.zero_grad(set_to_none=True)
        loss = function(pixels, labels)
        loss.backward()
        updates.step()
        return loss.item()

    return step, sum(value.numel() for value in parameters)
