"""What a painted figure is made of: flat parts, each of one labeled material.

A part is the outline of a body seen from some direction. It knows its material by a
label; what the label looks like is up to the sensor. So the same figure serves every
modality, and the pattern of a garment shows only to the sensors that can tell its two
dyes apart.
"""

import dataclasses
import enum
import functools
import math

import cv2
import numpy as np
import numpy.typing as npt

from mbn_jax.data.synthetic_vireid.person import Fabric, Identity, Material

_ARC = np.linspace(-math.pi / 2, math.pi / 2, 7)
_HALF_CIRCLE = np.stack([np.cos(_ARC), np.sin(_ARC)], axis=1)  # about the +u axis
_TURN = np.linspace(0, 2 * math.pi, 16, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
_CORNERS = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
_EYE = Material(color=(0.02, 0.015, 0.01), near_infrared=0.08, insulation=0.05)


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
    """A polygon of one material."""

    outline: np.ndarray  # (n, 2) float, canvas column and row
    label: Label
    order: float  # parts are painted in ascending order
    depth: float  # meters toward the camera, for the shading only


@dataclasses.dataclass(frozen=True)
class View:
    """An orthographic view of the body."""

    yaw: float  # turn of the body about the vertical axis, radians; 0 faces the camera
    elevation: float  # how far the camera looks down, radians
    scale: float  # canvas pixels in a meter
    origin: tuple[float, float]  # column and row of the point between the feet

    @functools.cached_property
    def _matrix(self) -> np.ndarray:
        """The linear part of the projection, (3, 3): from x, y, z by columns."""
        cosine, sine = math.cos(self.yaw), math.sin(self.yaw)
        across, toward = np.array([cosine, 0.0, sine]), np.array([-sine, 0.0, cosine])
        up = np.array([0.0, math.cos(self.elevation), 0.0])
        up -= math.sin(self.elevation) * toward  # what is nearer appears lower
        return np.stack([self.scale * across, -self.scale * up, toward], axis=1)

    @functools.cached_property
    def _offset(self) -> np.ndarray:
        return np.array([*self.origin, 0.0])

    def project(self, points: np.ndarray) -> np.ndarray:
        """Projects points (…, 3) in meters to (…, 3) column, row and depth.

        Columns and rows are those of the canvas; the depth in meters grows toward the
        camera.
        """
        return points @ self._matrix + self._offset

    def half_width(self, lateral: float, sagittal: float) -> float:
        """Half the width, in meters, at which an elliptic cross-section is seen."""
        return math.hypot(lateral * math.cos(self.yaw), sagittal * math.sin(self.yaw))

    def capsule(
        self, start: np.ndarray, end: np.ndarray, radii: tuple[float, float]
    ) -> np.ndarray:
        """The outline (14, 2) of a limb from `start` to `end`, radii in meters."""
        a, b = self.project(np.array([start, end]))[:, :2]
        along = b - a
        length = math.hypot(along[0], along[1])
        u = along / length if length > 1e-6 else np.array([1.0, 0.0])
        rotation = np.array([[u[0], u[1]], [-u[1], u[0]]])
        arc = _HALF_CIRCLE @ rotation
        return np.concatenate(
            [a - self.scale * radii[0] * arc, b + self.scale * radii[1] * arc]
        )

    def ellipse(self, center: np.ndarray, half_axes: tuple[float, float]) -> np.ndarray:
        """The outline (16, 2) of an upright ellipse, half axes in meters."""
        return self.project(center)[:2] + self.scale * _CIRCLE * np.array(half_axes)

    def loft(
        self, levels: list[tuple[np.ndarray, float, float]], sag: float = 0.0
    ) -> np.ndarray:
        """The outline (2 n + 1, 2) of a stack of elliptic cross-sections.

        Args:
            view: the self.
            levels: (center, lateral half axis, sagittal half axis) from top to bottom,
                meters.
            sag: meters by which the middle of the lowest edge hangs below its ends.
        """
        centers = self.project(np.array([center for center, _, _ in levels]))[:, :2]
        widths = self.scale * np.array([self.half_width(a, b) for _, a, b in levels])
        offset = np.stack([widths, np.zeros_like(widths)], axis=1)
        bottom = centers[-1:] + np.array([[0.0, self.scale * sag]])
        return np.concatenate([centers - offset, bottom, (centers + offset)[::-1]])

    def box(self, center: np.ndarray, half_axes: npt.ArrayLike) -> np.ndarray:
        """The outline (n, 2) of a box whose sides lie along x, y and z of the body."""
        corners = self.project(center + _CORNERS * np.asarray(half_axes))[:, :2]
        return cv2.convexHull(corners.astype(np.float32))[:, 0]


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
        view: where the person stands, so that the pattern moves with them.
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
