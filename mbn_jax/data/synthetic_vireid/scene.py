"""What stands behind the people: a drawn place for each camera.

A place is drawn once in the three kinds of light that the sensors see; the cameras
that share a place see the same walls and objects, each in its own light.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from mbn_jax.data.synthetic_vireid.config import Sensor

ROWS, COLUMNS = 448, 768  # a place, in pixels of the canvas
FLOOR_ROW = 230  # where the floor begins
AIR = 0.15  # temperature of the air, on the scale where skin is 1
_OUTDOORS = {"street", "garden", "yard", "campus"}


Outline = np.ndarray | Sequence[tuple[float, float]]  # corners: column, row


@dataclasses.dataclass(frozen=True)
class Surface:
    """A thing of the place as the three kinds of sensor see it."""

    color: np.ndarray  # (3,) linear RGB
    near_infrared: float
    temperature: float


@functools.lru_cache(maxsize=16)
def draw_place(seed: int, place: str) -> dict[Sensor, np.ndarray]:
    """Draws a place.

    Returns:
      For each kind of sensor an array (ROWS, COLUMNS, bands) float32, 3 bands for
      visible light and one for the others: reflectance times the light that falls
      on it, or temperature.
    """
    words = [seed, *place.encode()]
    rng = np.random.default_rng(np.random.SeedSequence(words))
    layers: dict[Sensor, np.ndarray] = {
        "visible": np.zeros((ROWS, COLUMNS, 3), np.float32),
        "near_infrared": np.zeros((ROWS, COLUMNS, 1), np.float32),
        "thermal": np.zeros((ROWS, COLUMNS, 1), np.float32),
    }
    outdoors = place in _OUTDOORS

    def paint(outline: Outline, surface: Surface) -> None:
        polygon = [np.round(np.asarray(outline)).astype(np.int32)]
        cv2.fillPoly(layers["visible"], polygon, surface.color.tolist())
        cv2.fillPoly(layers["near_infrared"], polygon, [surface.near_infrared])
        cv2.fillPoly(layers["thermal"], polygon, [surface.temperature])

    paint(_rectangle(0, 0, COLUMNS, ROWS), _surface(rng, 0.2))
    paint(_rectangle(0, FLOOR_ROW, COLUMNS, ROWS), _surface(rng, 0.15))
    for _ in range(rng.integers(9, 15)):
        surface = _surface(rng, 0.3)
        left, wide = rng.uniform(-40, COLUMNS), rng.uniform(15, 110)
        if rng.random() < 0.5:  # a door, a cupboard, a car: stands on the floor
            top = FLOOR_ROW - rng.uniform(40, 200)
            bottom = FLOOR_ROW + rng.uniform(0, 12)
        else:  # a window, a poster
            top = rng.uniform(0, FLOOR_ROW - 70)
            bottom = top + rng.uniform(20, 80)
        paint(_rectangle(left, top, left + wide, bottom), surface)
        if rng.random() < 0.5:
            frame = dataclasses.replace(surface, color=0.4 * surface.color)
            paint(_rectangle(left, top, left + wide, top + 5), frame)
    if outdoors:
        for _ in range(rng.integers(3, 7)):
            _paint_tree(rng, paint)
    for _ in range(rng.integers(3, 8)):  # seams and stripes of the floor
        x, slant = rng.uniform(0, COLUMNS), rng.uniform(-200, 200)
        seam = [(x, FLOOR_ROW), (x + 3, FLOOR_ROW), (x + slant + 9, ROWS)]
        paint([*seam, (x + slant, ROWS)], _surface(rng, 0.15))

    light = _cloud(rng, 7) * np.linspace(1.1, 0.85, ROWS, dtype=np.float32)[:, None]
    grain = 1 + 0.3 * (_cloud(rng, 60) - 1) + rng.normal(0, 0.02, (ROWS, COLUMNS))
    layers["visible"] *= (light * grain).astype(np.float32)[..., None]
    layers["near_infrared"] *= grain.astype(np.float32)[..., None]
    layers["thermal"] *= _cloud(rng, 12)[..., None]
    for layer in layers.values():
        cv2.GaussianBlur(layer, (0, 0), 1.0, dst=layer)
        layer.setflags(write=False)
    return layers


def _surface(rng: np.random.Generator, saturation: float) -> Surface:
    gray = rng.uniform(0.08, 0.75)
    tint = 1 + saturation * rng.uniform(-0.7, 0.7, 3)
    return Surface(
        color=np.clip(gray * tint, 0.02, 0.95) ** 1.5,
        near_infrared=float(rng.uniform(0.05, 0.5)),
        temperature=AIR + float(rng.normal(0.0, 0.1)),
    )


def _paint_tree(
    rng: np.random.Generator, paint: Callable[[Outline, Surface], None]
) -> None:
    """Leaves are dark green to the eye and bright in the near-infrared."""
    shade = rng.uniform(0.4, 1.0)
    leaves = Surface(
        color=shade * np.array([0.07, 0.16, 0.04]),
        near_infrared=float(shade * 0.6),
        temperature=AIR - 0.03,
    )
    middle = np.array([rng.uniform(0, COLUMNS), rng.uniform(40, FLOOR_ROW + 20)])
    for _ in range(12):
        center = middle + rng.normal(0, 22, 2)
        turn = np.linspace(0, 2 * np.pi, 9)
        radius = rng.uniform(8, 24) * (1 + 0.2 * rng.standard_normal(9))
        outline = center + np.stack([radius * np.cos(turn), radius * np.sin(turn)], 1)
        paint(outline, leaves)


def _rectangle(left: float, top: float, right: float, bottom: float) -> Outline:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _cloud(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise (ROWS, COLUMNS) about 1, `cells` bumps across."""
    coarse = rng.uniform(0.75, 1.25, (max(cells // 2, 2), cells)).astype(np.float32)
    return cv2.resize(coarse, (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC)
