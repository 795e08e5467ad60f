"""From the painted figure to the picture that a camera delivers.

Three steps, the same for every sensor: what leaves the scene toward the camera (for
visible and near-infrared light reflectance × light, for the thermal camera a
temperature), the lens and the pixels, and at last noise, tone curve and color.
"""

import dataclasses
import math
from collections.abc import Mapping

import cv2
import numpy as np

from mbn_jax.data.synthetic_vireid.config import Camera, Difficulty
from mbn_jax.data.synthetic_vireid.identity import Material
from mbn_jax.data.synthetic_vireid.parts import Label
from mbn_jax.data.synthetic_vireid.scene import AIR


@dataclasses.dataclass(frozen=True)
class Light:
    """The light of one moment.

    Attributes:
      direction: (across, up) of the directed light, with its strength.
      exposure: factor on everything.
      gains: of red, green, blue.
      lamp: canvas position (column, row) of the middle of the near-infrared lamp.
      range: the temperatures, air 0.15 and skin 1, shown as black and as white.
    """

    direction: tuple[float, float]
    exposure: float
    gains: tuple[float, float, float]
    lamp: tuple[float, float]
    range: tuple[float, float]


def draw_light(rng: np.random.Generator, difficulty: Difficulty) -> Light:
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
    """What each label looks like to a sensor.

    Returns:
      (labels, bands) float32: linear color, reflectance or temperature, by label.
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
    """What leaves the scene toward the camera.

    Args:
      labels: (H, W) uint8 materials, 0 where the background shows.
      relief: (H, W) uint8, grows toward the camera.
      folds: (H, W) float32 about 0, the creases of the garments.
      table: (labels, bands) float32 from `appearance`.
      background: (H, W, bands) float32.
      camera: decides the kind of light.
      light: the light of the moment.

    Returns:
      (H, W, bands) float32, linear.
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
    rng: np.random.Generator,
) -> np.ndarray:
    """Lens, pixels, noise and tone curve.

    Args:
      radiance: (H, W, bands) float32 from `expose`.
      size: (height, width) of the picture.
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
