"""What a painted figure is made of: flat parts, each of one labelled material.

A part knows of which material it is by a label; what the label looks like is the
business of the sensor. So the same figure serves every modality, and a pattern shows
only to the sensors that can tell its two dyes apart.
"""

import dataclasses
import enum

import numpy as np

from mbn_jax.data.synthetic_vireid.identity import Identity, Material


class Label(enum.IntEnum):
    """What a pixel shows. A print follows its ground: pattern.py relies on it."""

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
    """Painting order of what does not simply follow from the depth, in metres.

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
      depth: metres towards the camera, for the shading only.
    """

    outline: np.ndarray
    label: Label
    order: float
    depth: float


_EYE = Material(colour=(0.02, 0.015, 0.01), near_infrared=0.08, insulation=0.05)


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
