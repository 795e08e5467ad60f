"""Logits of PyTorch ResNets of torchvision's topology, for `test_pretrained.py`.

    python tests/models/make_torch_reference.py

needs PyTorch (2.13.0 made the file that is there) and writes `torch_reference.json`
beside itself: for each depth the names and shapes of the arrays, and the logits of two
images. Weights and images are functions of names and shapes (`numbers`), so that they
need not be stored.
"""

import json
import zlib
from pathlib import Path

import numpy as np

CLASSES = 10
PATH = Path(__file__).with_name("torch_reference.json")


def numbers(name, shape):
    """What stands for a trained array: right in size, and of its own for each name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 100
    return (rng.normal(size=shape) * (2 / fan_in) ** 0.5).astype(np.float32)


def images():
    return np.random.default_rng(0).normal(size=(2, 64, 48, 3)).astype(np.float32)


def main():
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs, features, stride, is_bottleneck):
            super().__init__()
            outputs = features * (4 if is_bottleneck else 1)
            plan = (
                [(features, 1, 1), (features, 3, stride), (outputs, 1, 1)]
                if is_bottleneck
                else [(features, 3, stride), (features, 3, 1)]
            )
            self.number = len(plan)
            before = inputs
            for i, (after, size, step) in enumerate(plan, start=1):
                convolution = nn.Conv2d(
                    before, after, size, step, size // 2, bias=False
                )
                setattr(self, f"conv{i}", convolution)
                setattr(self, f"bn{i}", nn.BatchNorm2d(after))
                before = after
            self.downsample = None
            if stride != 1 or inputs != outputs:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                    nn.BatchNorm2d(outputs),
                )

        def forward(self, x):
            y = x
            for i in range(1, self.number + 1):
                y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
                y = y if i == self.number else torch.relu(y)
            return torch.relu(y + (self.downsample(x) if self.downsample else x))

    class ResNet(nn.Module):
        def __init__(self, repeats, is_bottleneck):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            inputs = 64
            for stage, repeat in enumerate(repeats):
                blocks = []
                for j in range(repeat):
                    features, stride = 64 * 2**stage, 2 if stage and j == 0 else 1
                    blocks.append(Block(inputs, features, stride, is_bottleneck))
                    inputs = features * (4 if is_bottleneck else 1)
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            self.fc = nn.Linear(inputs, CLASSES)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            x = nn.functional.max_pool2d(x, 3, 2, 1)
            for stage in range(1, 5):
                x = getattr(self, f"layer{stage}")(x)
            return self.fc(x.mean((2, 3)))

    reference = {}
    for depth, repeats in ((18, (2, 2, 2, 2)), (50, (3, 4, 6, 3))):
        model = ResNet(repeats, depth >= 50).eval()
        shapes = {name: list(array.shape) for name, array in model.state_dict().items()}
        weights = {
            name: torch.from_numpy(numbers(name, shape))
            for name, shape in shapes.items()
            if not name.endswith("num_batches_tracked")
        }
        model.load_state_dict(weights, strict=False)
        with torch.no_grad():
            logits = model(torch.from_numpy(images()).permute(0, 3, 1, 2)).numpy()
        reference[str(depth)] = {"shapes": shapes, "logits": logits.tolist()}
    PATH.write_text(json.dumps(reference) + "\n")


if __name__ == "__main__":
    main()
