"""What a painted figure is made of: flat parts, each of one labeled material.

A part knows its material by a label; what the label looks like is up to the sensor. So
the same figure serves every modality, and the pattern of a garment shows only to the
sensors that can tell its two dyes apart.
"""

import dataclasses
import enum

import numpy as np

from mbn_jax.data.synthetic_vireid.geometry import View
from mbn_jax.data.synthetic_vireid.identity import Fabric, Identity, Material


class Label(enum.IntEnum):
    """What a pixel shows. A print follows its ground: `print_patterns` relies on it."""

    BACKGROUND = 0
    SKIN = 1
    HAIR = 2
    HAT = 3
    UPPER = 4
    UPPER_PRINT = 5
    LOWER = 6
    LOWER_PRINT = 7
    INNER = 8
    SHOES = 9
    BAG = 10
    STRAP = 11
    EYE = 12
    OBSTACLE = 13


class Order:
    """Painting order of what does not simply follow from the depth, in meters.

    Legs stay below the garments of the trunk, whichever is nearer to the camera. An arm
    that is not far behind the trunk's axis is painted over it.
    """

    FAR = -0.5
    LEGS = 0.0
    LOWER = 0.010
    NECK = 0.018
    TRUNK = 0.020
    PANEL = 0.022  # what is printed or worn on the front of the trunk
    STRAP = 0.023
    HEAD = 0.026
    ARM = 0.03
    HAT = 0.4  # over all hair
    NEAR = 0.5


@dataclasses.dataclass(frozen=True)
class Part:
    """A polygon of one material.

    Attributes:
      outline: (n, 2) float, canvas column and row.
      label: its material.
      order: parts are painted in ascending order.
      depth: meters toward the camera, for the shading only.
    """

    outline: np.ndarray
    label: Label
    order: float
    depth: float


_EYE = Material(color=(0.02, 0.015, 0.01), near_infrared=0.08, insulation=0.05)


def materials(identity: Identity, obstacle: Material) -> dict[Label, Material]:
    """The material of every label but the background."""
    upper, lower = identity.upper, identity.lower
    return {
        Label.SKIN: identity.body.skin,
        Label.HAIR: identity.hair.material,
        Label.HAT: identity.hair.hat,
        Label.UPPER: upper.fabric.ground,
        Label.UPPER_PRINT: upper.fabric.print,
        Label.LOWER: lower.fabric.ground,
        Label.LOWER_PRINT: lower.fabric.print,
        Label.INNER: upper.inner or upper.fabric.ground,
        Label.SHOES: identity.shoes.material,
        Label.BAG: identity.bag.body,
        Label.STRAP: identity.bag.strap,
        Label.EYE: _EYE,
        Label.OBSTACLE: obstacle,
    }


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
    """Where the second dye is; x (1, W) and y (H, 1) in meters, from the feet up."""
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
