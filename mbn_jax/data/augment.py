"""Augmentation and normalisation of uint8 images, on the device, inside the train step.

Every image has a key of its own, split from the key of the step, and is treated by
itself. So the result does not depend on how the batch is laid over devices, and a step
that is run again sees the same pixels.
"""

import dataclasses

import dm_pix as pix
import jax
import jax.numpy as jnp

from mbn_jax.errors import InputError

# Mean and standard deviation of ImageNet's training images, RGB in [0, 1].
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

# Random erasing, Zhong et al. 2020: area as a fraction of the image, and height/width.
_ERASED_AREA = (0.02, 0.4)
_ERASED_ASPECT = (0.3, 1.0 / 0.3)
# The paper draws rectangles until one fits. Out of ten, at least one practically always
# does (in a 2:1 image a single one misses about once in five).
_ERASE_ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What `augment` does to an image; a part set to zero costs nothing.

    Attributes:
        pad: pixels of black added on each side before a crop of the original size is
            taken at random: a shift by up to ``pad`` pixels, after AGW.
        flip: probability of a left-right flip.
        erase: probability that a rectangle is replaced by the mean colour (zero after
            normalisation). Its area is 2 to 40 % of the image and its height/width
            0.3 to 3.3 (Zhong et al., `Random Erasing Data Augmentation
            <https://arxiv.org/abs/1708.04896>`_, 2020, who prefer random pixels by a
            small margin, which would cost a random number for every pixel).
        jitter: strength s of the colour jitter: s is the largest change of brightness,
            in units of the full range, and of the factors of contrast and saturation
            from 1. A grey image stays grey.

    Raises:
        InputError: a value is out of range.
    """

    pad: int = 10
    flip: float = 0.5
    erase: float = 0.5
    jitter: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "erase", "jitter"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(
                    f"Augmentation.{name} must lie in 0..1, but it is"
                    f" {getattr(self, name)}."
                )
        if self.pad < 0:
            raise InputError(
                f"Augmentation.pad must not be negative, but it is {self.pad}."
            )


def augment(key: jax.Array, images: jax.Array, augmentation: Augmentation) -> jax.Array:
    """Augments and normalises a batch of training images.

    Args:
        key: the key of the step.
        images: (B, H, W, 3) uint8.
        augmentation: what to do; static under ``jax.jit``.

    Returns:
        (B, H, W, 3) float32, normalised as by `normalise`. Image i is a function of
        ``key``, i, B and ``images[i]`` alone.
    """
    keys = jax.random.split(key, images.shape[0])
    return jax.vmap(lambda k, image: _augment_image(k, image, augmentation))(
        keys, images
    )


def normalise(images: jax.Array) -> jax.Array:
    """Returns ``(images / 255 - mean) / std`` with ImageNet's mean and deviation.

    Args:
        images: (..., 3) uint8.

    Returns:
        The same shape, float32.
    """
    return _standardise(_to_unit_range(images))


def _augment_image(
    key: jax.Array, image: jax.Array, augmentation: Augmentation
) -> jax.Array:
    """One image (H, W, 3), uint8 -> float32. The switches are Python's: static."""
    # Each part has its own key whether it is on or not, so that switching one off
    # changes nothing in the others.
    crop_key, flip_key, jitter_key, erase_key = jax.random.split(key, 4)
    if augmentation.pad:
        border = (augmentation.pad, augmentation.pad)
        padded = jnp.pad(image, (border, border, (0, 0)))
        image = pix.random_crop(crop_key, padded, image.shape)
    if augmentation.flip:
        image = pix.random_flip_left_right(
            flip_key, image, probability=augmentation.flip
        )
    if augmentation.jitter:
        colours = _jitter(jitter_key, image, augmentation.jitter)
    else:
        colours = _to_unit_range(image)
    result = _standardise(colours)
    if augmentation.erase:
        erased = _erased(erase_key, image.shape[:2], augmentation.erase)
        result = jnp.where(erased[:, :, None], 0.0, result)
    return result


def _jitter(key: jax.Array, image: jax.Array, strength: float) -> jax.Array:
    """Contrast, brightness and saturation of one image, uint8 -> float32 in [0, 1]."""
    brightness_key, contrast_key, saturation_key = jax.random.split(key, 3)
    low, high = 1.0 - strength, 1.0 + strength
    # Not dm-pix's contrast: it adds up floats, in an order that depends on how many
    # images a device holds, and so does the last digit. The sum of integers is exact.
    total = jnp.sum(image, axis=(0, 1), keepdims=True, dtype=jnp.int32)
    mean = total.astype(jnp.float32) / (255.0 * image.shape[0] * image.shape[1])
    contrast = jax.random.uniform(contrast_key, (), minval=low, maxval=high)
    colours = contrast * (_to_unit_range(image) - mean) + mean
    colours = pix.random_brightness(brightness_key, colours, strength)
    # Hue and saturation mean nothing outside of the RGB cube.
    colours = jnp.clip(colours, 0.0, 1.0)
    return pix.random_saturation(saturation_key, colours, low, high)


def _erased(key: jax.Array, shape: tuple[int, ...], probability: float) -> jax.Array:
    """The pixels to erase, (H, W) bool: a rectangle inside the image, or nothing."""
    height, width = shape
    on_key, area_key, aspect_key, top_key, left_key = jax.random.split(key, 5)
    attempts = (_ERASE_ATTEMPTS,)
    fraction = jax.random.uniform(
        area_key, attempts, minval=_ERASED_AREA[0], maxval=_ERASED_AREA[1]
    )
    area = fraction * height * width
    aspect = jax.random.uniform(
        aspect_key, attempts, minval=_ERASED_ASPECT[0], maxval=_ERASED_ASPECT[1]
    )
    heights = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    erased_height, erased_width = heights[first], widths[first]
    # randint's upper end is exclusive.
    top = jax.random.randint(top_key, (), 0, height - erased_height + 1)
    left = jax.random.randint(left_key, (), 0, width - erased_width + 1)
    y, x = jnp.arange(height), jnp.arange(width)
    rows = (y >= top) & (y < top + erased_height)
    columns = (x >= left) & (x < left + erased_width)
    on = jax.random.bernoulli(on_key, probability) & jnp.any(fits)
    return on & rows[:, None] & columns[None, :]


def _to_unit_range(image: jax.Array) -> jax.Array:
    return image.astype(jnp.float32) / 255.0


def _standardise(image: jax.Array) -> jax.Array:
    shape = (1,) * (image.ndim - 1) + (3,)
    return (image - jnp.reshape(jnp.array(_MEAN), shape)) / jnp.reshape(
        jnp.array(_STD), shape
    )
