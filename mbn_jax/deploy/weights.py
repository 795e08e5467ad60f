"""Weights to share: a safetensors file and a JSON file, without Orbax."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from mbn_jax.errors import InputError
from mbn_jax.files import as_json_bytes, check_named, check_writable, write_together
from mbn_jax.models.reid import ReID
from mbn_jax.models.shared import NETWORK, WEIGHTS, describe, read_shared


def save_pretrained(
    folder: str | Path, model: ReID, variables: Mapping[str, Any]
) -> None:
    """Writes a network as `model.safetensors` and `model.json`.

    Args:
      folder: made if need be; files of these names in it are replaced, both or neither
        where the disk is full.
      model: as `mbn_jax.load` returns it.
      variables: of it; their paths, such as `params/neck/scale`, are the names of the
        arrays.

    Raises:
      InputError: the folder has no name, cannot be written to or is a work directory,
        or the model is an exported one.
    """
    check_folder(folder)
    folder = Path(folder)
    if not isinstance(model, ReID):
        raise InputError(
            f"The network is a {type(model).__name__}, which cannot be shared as "
            "weights, but a ReID is expected: load the one that it was made from."
        )
    flat = flatten_dict(variables, sep="/")
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in flat.items()}
    try:
        write_together(
            {
                folder / WEIGHTS: safetensors.numpy.save(arrays),
                folder / NETWORK: as_json_bytes(describe(model, arrays)),
            }
        )
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written to ({error.strerror}); name another folder."
        ) from error


def check_folder(folder: str | Path) -> None:
    """Raises `InputError` where `save_pretrained` would not write, before any work."""
    check_writable(folder)
    if (Path(folder) / "config.json").exists():
        raise InputError(
            f"{folder} is a work directory, whose network is in its checkpoints; name "
            "a folder of its own for the weights."
        )


def load_pretrained(folder: str | Path) -> tuple[ReID, dict[str, Any]]:
    """A network that `save_pretrained` wrote.

    Args:
      folder: with the two files.

    Returns:
      The model and its variables, NumPy arrays, for `mbn_jax.embed` and for
      `model.apply(variables, …)`.

    Raises:
      InputError: as `mbn_jax.models.shared.read_shared`, or the folder has no name.
    """
    check_named(folder)
    model, arrays = read_shared(Path(folder))
    return model, unflatten_dict(arrays, sep="/")
