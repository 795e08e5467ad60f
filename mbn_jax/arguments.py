"""Checks of arguments, each of which returns the argument in one form."""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def integer(name: str, value: Any, least: int | None = None) -> int:
    """Returns an argument as a Python integer.

    Args:
      name: name of the argument, for the message.
      value: an integer of any type, also as an array without dimensions; not a bool.
      least: the smallest integer that is allowed; None means that all are.

    Raises:
      ValueError: if it is something else, or does not fit 32 bits.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least) or number >= 2**31:
        bound = "" if least is None else f" from {least} to 2147483647"
        found = " ".join(repr(value).split())  # an array has several lines
        raise ValueError(f"{name} is {found}, expected an integer{bound}.")
    return number


def input_array(x: Any) -> jax.Array:
    """Returns the input of a layer as an array.

    Raises:
      ValueError: if it is not an array of numbers.
    """
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError):
        raise ValueError(
            f"The input is a {type(x).__name__} that is not an array of numbers, "
            "expected one of a floating-point type."
        ) from None


def channel_axis(x: jax.Array, axis: int) -> int:
    """Returns the channel axis as a non-negative index.

    Raises:
      ValueError: if `x` is not floating point of at least 16 bits, or if `axis` is 0 or
        not an axis of `x`.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.itemsize < 2:
        raise ValueError(
            f"The input is {x.dtype}, expected a floating-point type of at least 16 "
            "bits."
        )
    axis = integer("axis", axis)
    if not -x.ndim <= axis < x.ndim or axis % x.ndim == 0:
        raise ValueError(
            f"axis={axis} does not name a channel axis of an input of shape "
            f"{list(x.shape)}, expected an axis other than 0, which holds the samples."
        )
    return axis % x.ndim


def labels(name: str, values: Any, x: jax.Array | None = None) -> Any:
    """Returns integer labels of the samples, such as modalities, as an array.

    Values that are not on the device become a NumPy array, because JAX would wrap
    64-bit integers, and 2**32 would become 0.

    Args:
      name: name of the argument, for the message.
      values: `(B,)`, integer.
      x: an array with one row per sample; None means any number of samples.

    Returns:
      A JAX or NumPy array.

    Raises:
      ValueError: if the values are not one integer per sample.
    """
    array, leaves = values, jax.tree.leaves(values)
    try:
        if not isinstance(values, jax.Array):
            traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
            array = jnp.asarray(values) if traced else np.array(values)
        found = f"{array.dtype}{list(array.shape)}"
        fits = array.ndim == 1 and jnp.issubdtype(array.dtype, jnp.integer)
    except (ValueError, TypeError):  # such as lists of different lengths
        found, fits = repr(values), False
    if not fits or (x is not None and array.shape != x.shape[:1]):
        rows = "B" if x is None else x.shape[0]
        where = "" if x is None else f", for an input of shape {list(x.shape)}"
        raise ValueError(
            f"{name} is {found}, expected one integer per sample, of shape [{rows}]"
            f"{where}."
        )
    return array


def sample_mask(mask: Any, x: jax.Array) -> jax.Array:
    """Returns a mask of samples or positions with the rank of `x`.

    Raises:
      ValueError: if it is not bool, or neither has one element per sample nor
        broadcasts to the shape of `x`.
    """
    mask = jnp.asarray(mask)
    fits = mask.ndim == x.ndim and all(
        m in (1, n) for m, n in zip(mask.shape, x.shape, strict=True)
    )
    if mask.dtype != bool or not (mask.shape == x.shape[:1] or fits):
        raise ValueError(
            f"mask is {mask.dtype}{list(mask.shape)}, expected bool{list(x.shape[:1])} "
            f"or one that broadcasts to the input's shape {list(x.shape)}."
        )
    if fits:
        return jnp.broadcast_to(mask, x.shape[:1] + mask.shape[1:])
    return mask.reshape(-1, *[1] * (x.ndim - 1))


def modality_weights(weights: Sequence[float] | None, number: int) -> np.ndarray:
    """Returns the modalities' weights, `(number,)`, with sum 1; None means equal.

    Raises:
      ValueError: if the weights are not one non-negative number per modality.
    """
    try:
        array = np.ones(number) if weights is None else np.asarray(weights, float)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.shape != (number,) or not (array.min() >= 0 and 0 < array.sum() < np.inf):
        raise ValueError(
            f"The weights of the modalities are {weights!r}, expected {number} "
            "non-negative numbers, one per modality, not all of them 0."
        )
    return array / array.sum()


def layer_settings(
    num_modalities: Any, unknown: str, pooled_weights: Sequence[float] | None
) -> tuple[int, tuple[float, ...] | None]:
    """Checks the settings that all forms of the layer share.

    Returns:
      The number of modalities, and the weights as a hashable tuple with sum 1, or None.

    Raises:
      ValueError: if one of the settings is not valid.
    """
    number = integer("num_modalities", num_modalities, least=1)
    if unknown not in ("nan", "pooled"):
        raise ValueError(f'unknown is {unknown!r}, expected "nan" or "pooled".')
    if pooled_weights is None:
        return number, None
    return number, tuple(modality_weights(pooled_weights, number).tolist())
