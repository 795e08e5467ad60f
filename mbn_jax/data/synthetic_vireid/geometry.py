"""From points of a body to polygons of an image."""

import dataclasses
import functools
import math

import cv2
import numpy as np
import numpy.typing as npt

_ARC = np.linspace(-math.pi / 2, math.pi / 2, 7)
_HALF_CIRCLE = np.stack([np.cos(_ARC), np.sin(_ARC)], axis=1)  # about the +u axis
_TURN = np.linspace(0, 2 * math.pi, 16, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
_CORNERS = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])


@dataclasses.dataclass(frozen=True)
class View:
    """An orthographic view of the body.

    Attributes:
      yaw: turn of the body about the vertical axis, radians; 0 faces the camera.
      elevation: how far the camera looks down, radians.
      scale: canvas pixels in a meter.
      origin: canvas position (column, row) of the point between the feet.
    """

    yaw: float
    elevation: float
    scale: float
    origin: tuple[float, float]

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
        """Projects points.

        Args:
          points: (…, 3) float, meters.

        Returns:
          (…, 3) float: column and row on the canvas, and the depth in meters, which
          grows toward the camera.
        """
        return points @ self._matrix + self._offset

    def half_width(self, lateral: float, sagittal: float) -> float:
        """Half the width, in meters, at which an elliptic cross-section is seen."""
        return math.hypot(lateral * math.cos(self.yaw), sagittal * math.sin(self.yaw))


def capsule(
    view: View, start: np.ndarray, end: np.ndarray, radii: tuple[float, float]
) -> np.ndarray:
    """The outline (14, 2) of a limb from `start` to `end`, radii in meters."""
    a, b = view.project(np.array([start, end]))[:, :2]
    along = b - a
    length = math.hypot(along[0], along[1])
    u = along / length if length > 1e-6 else np.array([1.0, 0.0])
    rotation = np.array([[u[0], u[1]], [-u[1], u[0]]])
    arc = _HALF_CIRCLE @ rotation
    return np.concatenate(
        [a - view.scale * radii[0] * arc, b + view.scale * radii[1] * arc]
    )


def ellipse(
    view: View, center: np.ndarray, half_axes: tuple[float, float]
) -> np.ndarray:
    """The outline (16, 2) of an upright ellipse about a point, half axes in meters."""
    return view.project(center)[:2] + view.scale * _CIRCLE * np.array(half_axes)


def loft(
    view: View, levels: list[tuple[np.ndarray, float, float]], sag: float = 0.0
) -> np.ndarray:
    """The outline of a stack of elliptic cross-sections.

    Args:
      view: the view.
      levels: (center, lateral half axis, sagittal half axis) from top to bottom,
        meters.
      sag: meters by which the middle of the lowest edge hangs lower than its ends.

    Returns:
      (2 n + 1, 2) float, canvas positions.
    """
    centers = view.project(np.array([center for center, _, _ in levels]))[:, :2]
    widths = view.scale * np.array([view.half_width(a, b) for _, a, b in levels])
    offset = np.stack([widths, np.zeros_like(widths)], axis=1)
    bottom = centers[-1:] + np.array([[0.0, view.scale * sag]])
    return np.concatenate([centers - offset, bottom, (centers + offset)[::-1]])


def box(view: View, center: np.ndarray, half_axes: npt.ArrayLike) -> np.ndarray:
    """The outline (n, 2) of a box whose sides lie along x, y and z of the body."""
    corners = view.project(center + _CORNERS * np.asarray(half_axes))[:, :2]
    return cv2.convexHull(corners.astype(np.float32))[:, 0]
