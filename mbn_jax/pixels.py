"""ImageNet's normalization, from the pixels of an image to a network's input."""

import jax
import jax.numpy as jnp

# Mean and standard deviation of ImageNet's training images, RGB in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(images: jax.Array) -> jax.Array:
    """Computes `(images / 255 - mean) / std` with ImageNet's mean and deviation.

    Args:
      images: `(…, 3)`, uint8.

    Returns:
      The same shape, float32.
    """
    return standardize(to_unit_range(images))


def to_unit_range(images: jax.Array) -> jax.Array:
    """Returns uint8 images as float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255.0


def standardize(images: jax.Array) -> jax.Array:
    """Returns images `(…, 3)` in [0, 1] minus ImageNet's mean, over its deviation."""
    shape = (1,) * (images.ndim - 1) + (3,)
    mean, std = (
        jnp.reshape(jnp.array(values, jnp.float32), shape)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (images - mean) / std
