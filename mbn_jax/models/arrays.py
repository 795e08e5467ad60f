"""Arrays of weights from files of anybody, and what numbers a network can have."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from mbn_jax.errors import InputError
from mbn_jax.files import regular_size

Arrays = dict[str, np.ndarray]

_MOST_BYTES = 4 * 2**30


def read_safetensors(path: Path) -> Arrays:
    """The arrays of a safetensors file of up to 4 GiB by their names.

    Raises:
      InputError: the file is missing, not a regular one, larger, or damaged.
    """
    size = regular_size(path)
    if size > _MOST_BYTES:
        raise InputError(
            f"{path} has {size:,} bytes, expected no more than {_MOST_BYTES:,}; give a "
            "file with the weights of one network."
        )
    try:
        return safetensors.numpy.load_file(path)
    # AttributeError and KeyError are of types that NumPy does not have.
    except (SafetensorError, OSError, ValueError, AttributeError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read as safetensors ({error}); copy it again. PyTorch's "
            "own files, which can run code, have to be converted first."
        ) from error


def check_numbers(
    array: np.ndarray, name: str, source: str | Path, *, variance: bool
) -> None:
    """Refuses what would give features without meaning, and no error.

    Args:
      array: of any shape and type.
      name: of the array in its source, for the error.
      source: path or name of what holds it, for the error.
      variance: whether it holds variances.

    Raises:
      InputError: it is not of floating point, or holds NaN, infinity, a number beyond
        float32 or a variance below zero.
    """
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(
            f"{name} in {source} is {array.dtype}, but weights are floating point; "
            "give the file that the network was saved to."
        )
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float32, copy=False)
    if not np.isfinite(numbers).all():
        what = "NaN, infinity or a number beyond float32"
    elif variance and numbers.min(initial=0) < 0:
        what = "a variance below zero"
    else:
        return
    raise InputError(
        f"{name} in {source} holds {what}, which no trained network has; copy the file "
        "again, or look at what wrote it."
    )
