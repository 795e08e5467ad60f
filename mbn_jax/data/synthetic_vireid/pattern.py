"""Patterns of garments: which pixels of a garment show its second dye."""

import numpy as np

from mbn_jax.data.synthetic_vireid.geometry import View
from mbn_jax.data.synthetic_vireid.identity import Fabric, Identity
from mbn_jax.data.synthetic_vireid.parts import Label


def print_patterns(labels: np.ndarray, identity: Identity, view: View) -> None:
    """Turns ground into print where the pattern says so, in place.

    Args:
      labels: (H, W) uint8, values of `Label`.
      identity: the person whose garments these are.
      view: tells where the person stands, so that the pattern moves with it.
    """
    rows, columns = labels.shape
    x = ((np.arange(columns) - view.origin[0]) / view.scale).astype(np.float32)
    y = ((view.origin[1] - np.arange(rows)) / view.scale).astype(np.float32)
    for fabric, ground in (
        (identity.upper.fabric, Label.UPPER),
        (identity.lower.fabric, Label.LOWER),
    ):
        mask = _mask(fabric, x[None, :], y[:, None], identity.body.height)
        if mask is not None:
            labels += (labels == ground) & mask  # the print's label comes next


def _mask(
    fabric: Fabric, x: np.ndarray, y: np.ndarray, height: float
) -> np.ndarray | None:
    """Where the second dye is; x (1, W) and y (H, 1) in metres, from the feet up."""
    period = fabric.period
    if fabric.pattern == "hoops":
        return _band(y, period, 0.45)
    if fabric.pattern == "stripes":
        return _band(x, 0.7 * period, 0.4)
    if fabric.pattern == "checks":
        return _band(x, 1.2 * period, 0.5) ^ _band(y, 1.2 * period, 0.5)
    if fabric.pattern == "dots":
        return (_saw(x, period) ** 2 + _saw(y, period) ** 2) < (0.3 * period) ** 2
    if fabric.pattern == "block":
        return y > 0.70 * height  # the yoke, and the upper part of the sleeves
    return None  # plain, or painted as a part of its own


def _band(t: np.ndarray, period: float, share: float) -> np.ndarray:
    return (t % period) < share * period


def _saw(t: np.ndarray, period: float) -> np.ndarray:
    return t % period - 0.5 * period
