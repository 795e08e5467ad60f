"""Augmentation of uint8 images, on the device, inside the train step.

The key of the step gives every image its own random numbers, and an image is treated by
itself. So the result does not depend on how the batch is laid over devices, and a step
that is run again sees the same pixels.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import dm_pix as pix
import jax
import jax.numpy as jnp
import numpy as np

from mbn_jax.errors import InputError
from mbn_jax.mesh import spec_of, takes_explicit_axes
from mbn_jax.pixels import standardize, to_unit_range

# Random erasing, Zhong et al. 2020: area as a fraction of the image, and height/width.
_ERASED_AREA = (0.02, 0.4)
_ERASED_ASPECT = (0.3, 1.0 / 0.3)
# The paper draws rectangles until one fits. Out of ten, at least one practically always
# does (in a 2:1 image a single one misses about once in five).
_ERASE_ATTEMPTS = 10

# What CAJ's public code fills the channels of an erased rectangle with, in a normalized
# image: CIFAR-10's mean color.
_CHANNEL_FILL = (0.4914, 0.4822, 0.4465)
# Of red, green, blue in the luminance (ITU-R BT.601), in thousandths.
_LUMINANCE = (299, 587, 114)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What `augment` does to an image; a part set to zero costs nothing.

    Attributes:
        pad: pixels of black added on each side before a crop of the original size is
            taken at random: a shift by up to ``pad`` pixels, after AGW.
        flip: probability of a left-right flip.
        erase: probability that a rectangle is replaced by the mean color (zero after
            normalization). Its area is 2 to 40 % of the image and its height/width
            0.3 to 3.3 (Zhong et al., `Random Erasing Data Augmentation
            <https://arxiv.org/abs/1708.04896>`_, 2020, who prefer random pixels by a
            small margin, which would cost a random number for every pixel).
        jitter: strength s of the color jitter: s is the largest change of brightness,
            in units of the full range, and of the factors of contrast and saturation
            from 1. A gray image stays gray, and the saturation changes for modalities
            with color only.
        exchange: probability that an image of a modality with color has one of its
            channels, drawn at random, in all three (Ye et al., "Channel Augmented
            Joint Learning for Visible-Infrared Recognition", CAJ, ICCV 2021, which
            trains on both, the image and one so changed).
        gray: probability that an image of a modality with color turns gray.
        infrared_gray: probability that an image of a modality without color, such as
            infrared, has one of its channels, or half as often their weighted sum, in
            all three (CAJ's channel-adaptive gray). Like the exchange, and as in CAJ's
            code, it applies to the normalized image, in which the three channels of a
            gray image differ.
        channel_erase: as ``erase``, but every channel of the rectangle is filled with a
            value of its own (CAJ's channel random erasing); as in CAJ, in images of
            every modality.

    Raises:
        InputError: a value is out of range.
    """

    pad: int = 10
    flip: float = 0.5
    erase: float = 0.5
    jitter: float = 0.0
    exchange: float = 0.0
    gray: float = 0.0
    infrared_gray: float = 0.0
    channel_erase: float = 0.0

    def __post_init__(self) -> None:
        for name in dataclasses.asdict(self).keys() - {"pad"}:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(
                    f"Augmentation.{name} must lie in 0..1, but it is"
                    f" {getattr(self, name)}."
                )
        if self.pad < 0:
            raise InputError(
                f"Augmentation.pad must not be negative, but it is {self.pad}."
            )


@takes_explicit_axes(lambda key, images, *_, **__: spec_of(images))
def augment(
    key: jax.Array,
    images: jax.Array,
    modality: jax.Array,
    augmentation: Augmentation,
    *,
    color: tuple[bool, ...] = (True, False),
    axis_name: str | None = None,
) -> jax.Array:
    """Augments and normalizes a batch of training images.

    Args:
        key: the key of the step.
        images: (B, H, W, 3) uint8.
        modality: (B,) integers, indices into ``color``.
        augmentation: what to do; static under ``jax.jit``.
        color: for each modality, whether its images have color, as
            `mbn_jax.modalities.has_color` says by name; static under ``jax.jit``.
            ``exchange``, ``gray`` and the saturation of ``jitter`` apply to those that
            do, ``infrared_gray`` to the others, and all else to all. The default is
            that of visible and infrared.
        axis_name: mapped axis under pmap and shard_map, over which the batch is cut.

    Returns:
        (B, H, W, 3) float32, normalized as by `normalize`. Image i of the global batch
        is a function of ``key``, i, ``images[i]`` and ``modality[i]`` alone.
    """
    batch = images.shape[0]
    if axis_name is None:
        draws = _draw(key, batch)
    else:
        first = jax.lax.axis_index(axis_name) * batch
        draws = jax.tree.map(
            lambda everyone: jax.lax.dynamic_slice_in_dim(everyone, first, batch),
            _draw(key, batch * jax.lax.axis_size(axis_name)),
        )
    # By comparison: a lookup by sharded indices might cause communication.
    in_color = jnp.zeros(batch, bool)
    for index, has_color in enumerate(color):
        if has_color:
            in_color |= modality == index
    return jax.vmap(partial(_augment_image, augmentation))(draws, images, in_color)


class _Draws(NamedTuple):
    """Random numbers, uniform in [0, 1), for one image or a batch of them.

    All are drawn whatever is switched on, so that switching one part off changes
    nothing in the others, and drawn at once: the generator is the largest part of the
    program, and a copy of it at each use made compilation take several times as long.
    """

    crop: jax.Array  # (2,): row, column
    flip: jax.Array  # (1,)
    jitter: jax.Array  # (3,): brightness, contrast, saturation
    erase: jax.Array  # (1,)
    erased_corner: jax.Array  # (2,): row, column
    erased_area: jax.Array  # (attempts,)
    erased_aspect: jax.Array  # (attempts,)
    exchange: jax.Array  # (2,): whether, channel
    gray: jax.Array  # (1,)
    channel_erase: jax.Array  # (1,)


def _draw(key: jax.Array, batch: int) -> _Draws:
    sizes = (2, 1, 3, 1, 2, _ERASE_ATTEMPTS, _ERASE_ATTEMPTS, 2, 1, 1)
    uniform = jax.random.uniform(key, (batch, sum(sizes)), jnp.float32)
    return _Draws(*jnp.split(uniform, np.cumsum(sizes)[:-1], axis=1))


def _augment_image(
    augmentation: Augmentation, draws: _Draws, image: jax.Array, in_color: jax.Array
) -> jax.Array:
    """One image (H, W, 3), uint8 -> float32. The switches are Python's: static."""
    if augmentation.pad:
        border = (augmentation.pad, augmentation.pad)
        padded = jnp.pad(image, (border, border, (0, 0)))
        row, column = _below(2 * augmentation.pad + 1, draws.crop)
        image = jax.lax.dynamic_slice(padded, (row, column, jnp.int32(0)), image.shape)
    if augmentation.flip:
        flipped = draws.flip[0] < augmentation.flip
        image = jnp.where(flipped, pix.flip_left_right(image), image)
    if augmentation.gray:
        gray = in_color & (draws.gray[0] < augmentation.gray)
        image = jnp.where(gray, _luminance(image), image)
    if augmentation.jitter:
        colors = _jitter(draws, image, augmentation.jitter, in_color)
    else:
        colors = to_unit_range(image)
    result = standardize(colors)
    # Both erase the same rectangle; where both fall, it is the second that is seen.
    for fill, draw, probability in (
        ((0.0, 0.0, 0.0), draws.erase, augmentation.erase),
        (_CHANNEL_FILL, draws.channel_erase, augmentation.channel_erase),
    ):
        if probability:
            erased = _erased(draws, image.shape[:2]) & (draw[0] < probability)
            color = jnp.array(fill, jnp.float32).reshape(1, 1, 3)
            result = jnp.where(erased[:, :, None], color, result)
    if augmentation.exchange or augmentation.infrared_gray:
        result = _exchanged(augmentation, draws, result, in_color)
    return result


def _luminance(image: jax.Array) -> jax.Array:
    """(H, W, 1) uint8. In integers: a sum of floats is rounded as devices share it."""
    weights = jnp.array(_LUMINANCE, jnp.int32).reshape(1, 1, 3)
    total = jnp.sum(image.astype(jnp.int32) * weights, -1, keepdims=True)
    return ((total + 500) // 1000).astype(jnp.uint8)


def _exchanged(
    augmentation: Augmentation, draws: _Draws, image: jax.Array, in_color: jax.Array
) -> jax.Array:
    """The image with one channel in all three, or as it is, by modality."""
    channels = [image[:, :, i : i + 1] for i in range(3)]
    gray = sum(w / 1000 * c for w, c in zip(_LUMINANCE, channels, strict=True))
    choices = jnp.stack([*channels, gray])
    probability = jnp.where(in_color, augmentation.exchange, augmentation.infrared_gray)
    # Of seven equal parts, two for each channel and one for gray.
    channel = jnp.where(
        in_color, _below(3, draws.exchange[1]), _below(7, draws.exchange[1]) // 2
    )
    chosen = choices[channel]
    return jnp.where(draws.exchange[0] < probability, chosen, image)


def _jitter(
    draws: _Draws, image: jax.Array, strength: float, in_color: jax.Array
) -> jax.Array:
    """Contrast, brightness and saturation of one image, uint8 -> float32 in [0, 1]."""
    brightness, contrast, saturation = _between(-strength, strength, draws.jitter)
    # Not dm-pix's contrast: it adds up floats, in an order that depends on how many
    # images a device holds, and so does the last digit. The sum of integers is exact.
    total = jnp.sum(image, axis=(0, 1), keepdims=True, dtype=jnp.int32)
    mean = total.astype(jnp.float32) / (255.0 * image.shape[0] * image.shape[1])
    colors = (1.0 + contrast) * (to_unit_range(image) - mean) + mean
    colors = pix.adjust_brightness(colors, brightness)
    # Hue and saturation mean nothing outside of the RGB cube.
    colors = jnp.clip(colors, 0.0, 1.0)
    saturation = jnp.where(in_color, saturation, 0.0)
    with jax.numpy_dtype_promotion("standard"):  # of what happens in dm-pix
        return pix.adjust_saturation(colors, 1.0 + saturation)


def _erased(draws: _Draws, shape: tuple[int, ...]) -> jax.Array:
    """The pixels to erase, (H, W) bool: a rectangle inside the image."""
    height, width = shape
    area = _between(*_ERASED_AREA, draws.erased_area) * height * width
    aspect = _between(*_ERASED_ASPECT, draws.erased_aspect)
    heights = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    # An empty rectangle in the rare case that none fits.
    erased_height = jnp.where(fits[first], heights[first], 0)
    erased_width = widths[first]
    top = _below(height - erased_height + 1, draws.erased_corner[0])
    left = _below(width - erased_width + 1, draws.erased_corner[1])
    y, x = (jnp.arange(size, dtype=jnp.int32) for size in shape)
    rows = (y >= top) & (y < top + erased_height)
    columns = (x >= left) & (x < left + erased_width)
    return rows[:, None] & columns[None, :]


def _between(low: float, high: float, uniform: jax.Array) -> jax.Array:
    return low + (high - low) * uniform


def _below(size: int | jax.Array, uniform: jax.Array) -> jax.Array:
    """Integers in 0..size-1."""
    size = jnp.asarray(size, uniform.dtype)
    return jnp.floor(uniform * size).astype(jnp.int32)
