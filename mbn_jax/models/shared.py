"""A network in a folder of two files: weights, and what they are the weights of."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from mbn_jax.errors import InputError
from mbn_jax.files import read_json
from mbn_jax.modalities import DEFAULT
from mbn_jax.models.arrays import Arrays, check_numbers, read_safetensors
from mbn_jax.models.reid import ReID
from mbn_jax.text import one_line

WEIGHTS, NETWORK = "model.safetensors", "model.json"
_FORMAT = "mbn_jax.ReID/1"
_DESCRIBED = ("format", "network", "fingerprint")
# Of a place in a larger module, and of a mapped axis: not of the network.
_LEFT_OUT = ("parent", "name", "axis_name")
_MOST_PIXELS = 4096


def describe(model: ReID, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What `model.json` says of a network.

    Args:
      model: the network.
      arrays: its variables, by paths such as `params/neck/scale`.
    """
    names = (field.name for field in dataclasses.fields(model))
    fields = {name: getattr(model, name) for name in names if name not in _LEFT_OUT}
    fields["dtype"] = jnp.dtype(fields["dtype"]).name
    return {
        "format": _FORMAT,
        "network": fields,
        "fingerprint": _fingerprints(fields, arrays),
    }


def read_shared(folder: Path) -> tuple[ReID, Arrays]:
    """The network in a folder, and its variables by their paths.

    Raises:
      InputError: a file is missing, damaged or of another version, the two do not fit
        each other, or they are not as they were written. A folder from before
        `model.json` had fingerprints is not compared with them.
    """
    path = folder / NETWORK
    written = read_json(path)
    model = _network(written, path)
    arrays = read_safetensors(folder / WEIGHTS)
    _check_fit(folder, _shapes(model, path), arrays)
    for name, array in arrays.items():
        check_numbers(array, name, folder / WEIGHTS, variance=name.endswith("/var"))
    if "fingerprint" in written:
        _check_fingerprints(folder, written, arrays)
    return model, arrays


def digest(arrays: Mapping[str, Any]) -> str:
    """SHA-256 over arrays, their names, types and shapes, as 64 hexadecimal digits."""
    found = hashlib.sha256()
    for name, leaf in sorted(arrays.items()):
        array = np.asarray(leaf, order="C")
        found.update(f"{name} {array.dtype} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def is_image_size(size: Any) -> bool:
    """Whether it is a height and a width in pixels, of up to 4096 each."""
    return (
        isinstance(size, list | tuple)
        and len(size) == 2
        and all(type(pixels) is int and 0 < pixels <= _MOST_PIXELS for pixels in size)
    )


def _fingerprints(
    fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Hashes of the fields and of each collection of variables, by name."""
    collections: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        collection, _, path = name.partition("/")
        collections.setdefault(collection, {})[path] = array
    text = json.dumps(fields, sort_keys=True)
    return {"network": hashlib.sha256(text.encode()).hexdigest()} | {
        collection: digest(of) for collection, of in sorted(collections.items())
    }


def _check_fingerprints(
    folder: Path, written: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    found, expected = _fingerprints(written["network"], arrays), written["fingerprint"]
    differing = [
        name
        for name in found
        if not isinstance(expected, dict) or expected.get(name) != found[name]
    ]
    if differing:
        raise InputError(
            f"{' and '.join(differing)} in {folder} differ from what was written, by "
            f"the fingerprint in {NETWORK}; copy both files again."
        )


def _network(written: Mapping[str, Any], path: Path) -> ReID:
    known = {
        field.name: field.default
        for field in dataclasses.fields(ReID)
        if field.name not in _LEFT_OUT
    }
    fields = written.get("network")
    if isinstance(fields, dict):
        # Those that were saved before modalities had names have these two, and those
        # from before images of 16 bits had scales do not say theirs.
        fields = {"modalities": list(DEFAULT), "sixteen_bits": [], **fields}
    if (
        not isinstance(fields, dict)
        or fields.keys() != known.keys()
        or written.get("format") != _FORMAT
        or not written.keys() <= set(_DESCRIBED)
    ):
        raise InputError(
            f"{path} does not describe a network of this version of mbn_jax, {_FORMAT} "
            f"with {', '.join(sorted(known))}; use the version that wrote it."
        )
    kinds = {name: type(default) for name, default in known.items()}
    kinds |= {"num_identities": int, "dtype": str}
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
    }
    for name, value in fields.items():
        kind = kinds[name]
        # JSON of other writers has 1 for 1.0.
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise InputError(
                f"{path} is damaged ({name} is {value!r}, expected "
                f"{'list' if kind is tuple else kind.__name__}); copy it again."
            )
    if not is_image_size(fields["image_size"]):
        raise InputError(
            f"{path} is damaged (image_size is {fields['image_size']}, expected a "
            f"height and a width of up to {_MOST_PIXELS} pixels); copy it again."
        )
    for name in fields["modalities"]:
        if not str(name).isprintable():
            raise InputError(
                f"{path} is damaged (a modality is named {name!r}); copy it again."
            )
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
    except (TypeError, ValueError, ArithmeticError) as error:
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
            f"{folder / WEIGHTS} does not fit {folder / NETWORK}: "
            f"{one_line(', '.join(misfits))}; take both files from one place."
        )


def _words(shapes: Mapping[str, Any], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "absent"
