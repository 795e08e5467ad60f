"""Draws two_gaps.png: what the two distribution gaps are, on made-up numbers.

    python docs/pictures/two_gaps.py

One channel of a layer's input, visible values around 0 and infrared values around 3,
goes through BatchNorm and ModalityBatchNorm in training mode. The picture explains the
words; it measures no network.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from flax import linen as nn

from mbn_jax import ModalityBatchNorm

BATCH, POSITIONS, BATCHES = 64, 32, 12
COLORS = {"visible": "#0072b2", "infrared": "#d55e00"}


def normalize(x: np.ndarray, modality: np.ndarray) -> dict[str, np.ndarray]:
    """Values (B, POSITIONS) after each of the two normalizations."""
    x = jnp.asarray(x)[:, :, None]
    layers = {"BN": nn.BatchNorm(False), "MBN": ModalityBatchNorm(False)}
    arguments = {"BN": (x,), "MBN": (x, modality)}
    return {
        name: np.asarray(layer.init_with_output(jax.random.key(0), *arguments[name])[0])
        for name, layer in layers.items()
    }


def draw() -> plt.Figure:
    """The intra-mini-batch gap on the left, the inter-mini-batch gap on the right."""
    rng = np.random.default_rng(0)
    number_infrared = np.linspace(8, 56, BATCHES).astype(int)
    rng.shuffle(number_infrared)
    after = []
    for number in number_infrared:
        modality = (np.arange(BATCH) < number).astype(np.int32)
        mean, deviation = 3 * modality[:, None], 1 - 0.5 * modality[:, None]
        x = rng.normal(mean, deviation, (BATCH, POSITIONS))
        after.append((normalize(x.astype(np.float32), modality), modality))

    figure, axes = plt.subplots(
        2, 2, figsize=(9, 4.2), width_ratios=(1, 1.4), layout="constrained"
    )
    left, right = axes.T
    for row, name in enumerate(("BN", "MBN")):
        values, modality = after[int(np.argmin(np.abs(number_infrared - BATCH / 2)))]
        for m, (label, color) in enumerate(COLORS.items()):
            left[row].hist(
                values[name][modality == m].ravel(),
                bins=np.linspace(-3, 3, 31),
                color=color,
                alpha=0.6,
                label=label,
            )
            means, deviations = np.array(
                [(v[name][n == m].mean(), v[name][n == m].std()) for v, n in after]
            ).T
            right[row].errorbar(
                np.arange(1, BATCHES + 1) + 0.15 * (2 * m - 1),
                means,
                deviations,
                fmt="o",
                color=color,
                capsize=2,
                label=label,
            )
        left[row].set_ylabel(f"after {name}\n\nvalues")
        right[row].set_ylim(-3.4, 3.4)
        right[row].set_ylabel("mean ± deviation")
        right[row].axhline(0, color="0.7", linewidth=0.8, zorder=0)
    left[0].set_title("within one mini-batch", fontsize=11)
    right[0].set_title("from mini-batch to mini-batch", fontsize=11)
    left[1].set_xlabel("value of the channel")
    right[1].set_xlabel("mini-batch, each with another share of infrared")
    left[0].legend(fontsize=8, loc="upper left")
    return figure


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).with_suffix(".png")
    parser.add_argument("--output", type=Path, default=default, help="default: here")
    path = parser.parse_args().output
    draw().savefig(path, dpi=120, metadata={"Software": None})
    print(path)


if __name__ == "__main__":
    main()
