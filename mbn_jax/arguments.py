"""Checks of arguments that the layer has in all its forms."""

import operator
from typing import Any

import jax
import jax.numpy as jnp


def integer(name: str, value: Any, least: int | None = None) -> int:
    """Returns an argument as a Python integer.

    Args:
      name: of the argument, for the message.
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
