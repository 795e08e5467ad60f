"""From a place and a painted figure to the image that a camera takes of them.

A place is drawn once in the three kinds of light that the sensors see. An image is made
in three steps, the same for every sensor: what leaves the scene toward the camera (for
visible and near-infrared light reflectance × light, for the thermal camera a
temperature), the lens and the pixels, and at last noise, tone curve and color.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

from mbn_jax.data.synthetic_vireid.config import Camera, Difficulty, Sensor
from mbn_jax.data.synthetic_vireid.parts import Label
from mbn_jax.data.synthetic_vireid.person import Material, Rng

ROWS, COLUMNS = 448, 768  # a place, in pixels of the canvas
FLOOR_ROW = 230  # where the floor begins
AIR = 0.15  # temperature of the air, on the scale where skin is 1
_OUTDOORS = {"street", "garden", "yard", "campus"}

Outline = np.ndarray | Sequence[tuple[float, float]]  # corners: column, row


@dataclasses.dataclass(frozen=True)
class Surface:
    """A thing of the place as the three kinds of sensor see it."""

    color: np.ndarray  # (3,) linear RGB
    near_infrared: float  # reflectance
    temperature: float


@functools.lru_cache(maxsize=16)
def draw_place(seed: int, place: str) -> dict[Sensor, np.ndarray]:
    """Draws a place, which the cameras that share it see each in its own light.

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


@dataclasses.dataclass(frozen=True)
class Light:
    """The light of one moment."""

    direction: tuple[float, float]  # (across, up) of the directed light, its strength
    exposure: float  # factor on everything
    gains: tuple[float, float, float]  # of red, green, blue
    lamp: tuple[float, float]  # column, row of the middle of the near-infrared lamp
    range: tuple[float, float]  # temperatures (air 0.15, skin 1) of black and white


def draw_light(rng: Rng, difficulty: Difficulty) -> Light:
    """Draws the light of one image."""
    turn = rng.uniform(0, 2 * math.pi)
    strength = difficulty.light * rng.uniform(0.3, 1.0)
    exposure = math.exp(difficulty.exposure * rng.standard_normal())
    red, green, blue = np.exp(difficulty.color_cast * rng.standard_normal(3)).tolist()
    return Light(
        direction=(strength * math.cos(turn), strength * (0.4 + 0.6 * math.sin(turn))),
        exposure=exposure,
        gains=(red, green, blue),
        lamp=(rng.uniform(34, 94), rng.uniform(60, 150)),
        range=(rng.uniform(-0.25, -0.05), rng.uniform(0.95, 1.1)),
    )


def appearance(materials: Mapping[Label, Material], camera: Camera) -> np.ndarray:
    """Returns what each label looks like to a sensor.

    Its (labels, bands) float32 are linear colors, reflectances or temperatures.
    """
    table = np.zeros((len(Label), 3 if camera.sensor == "visible" else 1), np.float32)
    for label, material in materials.items():
        if camera.sensor == "visible":
            table[label] = material.color
        elif camera.sensor == "near_infrared":
            table[label] = material.near_infrared
        else:
            table[label] = 1.0 - material.insulation * (1.0 - AIR)
    return table


def expose(
    labels: np.ndarray,
    relief: np.ndarray,
    folds: np.ndarray,
    table: np.ndarray,
    background: np.ndarray,
    camera: Camera,
    light: Light,
) -> np.ndarray:
    """Returns what leaves the scene toward the camera, (H, W, bands) linear float32.

    Args:
        labels: (H, W) uint8 materials, 0 where the background shows.
        relief: (H, W) uint8, grows toward the camera.
        folds: (H, W) float32 about 0, the creases of the garments.
        table: (labels, bands) float32 from `appearance`.
        background: (H, W, bands) float32.
        camera: decides the kind of light.
        light: of the moment.
    """
    surface = np.take(table, labels, axis=0)
    slope = cv2.GaussianBlur(relief, (9, 9), 2.2)
    across = cv2.Sobel(slope, cv2.CV_32F, 1, 0, scale=1 / 8)
    down = cv2.Sobel(slope, cv2.CV_32F, 0, 1, scale=1 / 8)
    person = (labels > 0)[..., None]
    if camera.sensor == "thermal":
        # Loose folds are cooler; the rim of a warm body is seen at a grazing angle.
        rim = 0.004 * (np.abs(across) + np.abs(down))
        surface = surface + (0.10 * folds - rim)[..., None]
        return np.where(person, surface, background)
    if camera.sensor == "near_infrared":
        # The lamp sits at the camera: faces turned away are dark, and so is the far
        # background. No shadow, no direction.
        shade = 1.0 - 0.012 * (np.abs(across) + np.abs(down)) + 0.25 * folds
        lamp = _lamp(labels.shape, light.lamp)
        far = np.float32(0.45) * background
        return np.where(person, surface * shade[..., None], far) * lamp
    x, y = light.direction
    shade = 1.0 + 0.02 * (x * across + y * down) + 0.3 * folds
    np.clip(shade, 0.25, 1.8, out=shade)
    return np.where(person, surface * shade[..., None], background)


def _lamp(shape: tuple[int, ...], center: tuple[float, float]) -> np.ndarray:
    """The cone (H, W, 1) of the near-infrared lamp."""
    x = ((np.arange(shape[1], dtype=np.float32) - center[0]) / 150) ** 2
    y = ((np.arange(shape[0], dtype=np.float32) - center[1]) / 190) ** 2
    return (1.2 / (1.0 + x[None, :] + y[:, None]))[..., None]


def develop(
    radiance: np.ndarray,
    size: tuple[int, int],
    camera: Camera,
    light: Light,
    difficulty: Difficulty,
    rng: Rng,
) -> np.ndarray:
    """Applies lens, pixels, noise and tone curve.

    Args:
        radiance: (H, W, bands) float32 from `expose`.
        size: (height, width) of the image.
        camera: its properties.
        light: exposure and gains of the moment.
        difficulty: strength of noise and blur.
        rng: source of the noise.

    Returns:
        (height, width, 3) uint8 RGB; the three channels are equal for infrared.
    """
    height, width = size
    image = cv2.resize(radiance, (width, height), interpolation=cv2.INTER_AREA)
    image = image.reshape(height, width, -1)
    if camera.blur * difficulty.blur > 0:
        image = cv2.GaussianBlur(image, (5, 5), camera.blur * difficulty.blur)
        image = image.reshape(height, width, -1)
    if camera.sensor == "thermal":
        low, high = light.range
        image = (image - low) * np.float32(235 / (high - low))
    else:
        gains = np.array([camera.exposure * light.exposure], np.float32)
        if camera.sensor == "visible":
            gains = gains * np.multiply(camera.cast, light.gains).astype(np.float32)
            gray = image.mean(axis=2, keepdims=True)
            image = gray + np.float32(camera.saturation) * (image - gray)
        image = 255 * np.sqrt(np.maximum(image * gains, 0))
    noise = rng.standard_normal(image.shape, np.float32)
    image = image + np.float32(difficulty.noise * camera.noise) * noise
    levels = np.clip(image, 0, 255).astype(np.uint8)
    levels = cv2.LUT(levels, _tone_curve(camera.contrast)).reshape(height, width, -1)
    return np.broadcast_to(levels, (height, width, 3)).copy()


def _tone_curve(contrast: float) -> np.ndarray:
    """An S-curve (256,) uint8 that keeps black, white and the middle."""
    x = np.linspace(-1.0, 1.0, 256)
    y = np.tanh(contrast * 1.2 * x) / np.tanh(contrast * 1.2)
    return np.round(127.5 * (1 + 0.5 * (x + y))).astype(np.uint8)


def _surface(rng: Rng, saturation: float) -> Surface:
    gray = rng.uniform(0.08, 0.75)
    tint = 1 + saturation * rng.uniform(-0.7, 0.7, 3)
    return Surface(
        color=np.clip(gray * tint, 0.02, 0.95) ** 1.5,
        near_infrared=float(rng.uniform(0.05, 0.5)),
        temperature=AIR + float(rng.normal(0.0, 0.1)),
    )


def _paint_tree(rng: Rng, paint: Callable[[Outline, Surface], None]) -> None:
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


def _cloud(rng: Rng, cells: int) -> np.ndarray:
    """Smooth noise (ROWS, COLUMNS) about 1, `cells` bumps across."""
    coarse = rng.uniform(0.75, 1.25, (max(cells // 2, 2), cells)).astype(np.float32)
    return cv2.resize(coarse, (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC)
