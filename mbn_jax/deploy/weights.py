"""Weights to share: a safetensors file and a JSON file, without Orbax."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError

from mbn_jax.errors import InputError
from mbn_jax.files import check_writable, write_atomically, write_json
from mbn_jax.modalities import DEFAULT
from mbn_jax.models.reid import ReID

WEIGHTS, NETWORK = "model.safetensors", "model.json"
_FORMAT = "mbn_jax.ReID/1"
# Of a place in a larger module, and of a mapped axis: not of the network.
_LEFT_OUT = ("parent", "name", "axis_name")


def save_pretrained(
    folder: str | Path, model: ReID, variables: Mapping[str, Any]
) -> None:
    """Writes a network as `model.safetensors` and `model.json`.

    Args:
      folder: made if need be; files of these names in it are replaced.
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
    names = (field.name for field in dataclasses.fields(model))
    fields = {name: getattr(model, name) for name in names if name not in _LEFT_OUT}
    fields["dtype"] = jnp.dtype(fields["dtype"]).name
    flat = flatten_dict(variables, sep="/")
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in flat.items()}
    try:
        write_atomically(folder / WEIGHTS, safetensors.numpy.save(arrays))
        write_json(folder / NETWORK, {"format": _FORMAT, "network": fields})
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
      InputError: a file is missing, damaged or of another version, or the two do not
        fit each other.
    """
    folder = Path(folder)
    model = _read_network(folder / NETWORK)
    try:
        arrays = safetensors.numpy.load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{folder / WEIGHTS} cannot be read ({error}); copy it again."
        ) from error
    _check_fit(folder, _shapes(model, folder / NETWORK), arrays)
    return model, unflatten_dict(arrays, sep="/")


def _read_network(path: Path) -> ReID:
    try:
        written = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); give a folder that "
            "mbn_jax.save_pretrained wrote."
        ) from error
    known = {field.name for field in dataclasses.fields(ReID)} - set(_LEFT_OUT)
    fields = written.get("network") if isinstance(written, dict) else None
    if isinstance(fields, dict):
        # Networks that were saved before modalities had names have these two.
        fields = {"modalities": DEFAULT, **fields}
    if (
        not isinstance(fields, dict)
        or fields.keys() != known
        or written.get("format") != _FORMAT
    ):
        raise InputError(
            f"{path} does not describe a network of this version of mbn_jax, {_FORMAT} "
            f"with {', '.join(sorted(known))}; use the version that wrote it."
        )
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
    }
    try:
        return ReID(**fields | {"dtype": jnp.dtype(fields["dtype"])})
    except TypeError as error:
        raise InputError(f"{path} is damaged ({error}); copy it again.") from error


def _shapes(model: ReID, path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the network's variables by their names; nothing is computed."""

    def init() -> Any:
        images = jnp.zeros((1, *model.image_size, 3))
        modality = jnp.zeros(1, jnp.int32)
        return model.init(jax.random.key(0), images, modality, train=False)

    try:
        shapes = jax.eval_shape(init)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path} describes a network that cannot be built ({error}); copy it again."
        ) from error
    return {name: leaf.shape for name, leaf in flatten_dict(shapes, sep="/").items()}


def _check_fit(
    folder: Path, expected: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Names every array that is missing, left over or of another shape."""
    found = {name: array.shape for name, array in arrays.items()}
    misfits = [
        f"{name} is {_words(found, name)} and not {_words(expected, name)}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if misfits:
        raise InputError(
            f"{folder / WEIGHTS} does not fit {folder / NETWORK}: {', '.join(misfits)};"
            " take both files from one place."
        )


def _words(shapes: Mapping[str, Any], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "absent"
