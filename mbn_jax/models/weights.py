"""Networks as files to share: a safetensors file and a JSON file, without Orbax."""

import dataclasses
import hashlib
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
from mbn_jax.files import (
    as_json_bytes,
    check_named,
    check_writable,
    read_json,
    regular_size,
    write_together,
)
from mbn_jax.modalities import DEFAULT
from mbn_jax.models.reid import ReID
from mbn_jax.text import one_line

Arrays = dict[str, np.ndarray]

WEIGHTS, NETWORK = "model.safetensors", "model.json"
_FORMAT = "mbn_jax.ReID/1"
_DESCRIBED = {"format", "network", "fingerprint"}
# They describe a module's place in a larger one and a mapped axis, not the network.
_LEFT_OUT = ("parent", "name", "axis_name")
_MOST_BYTES = 4 * 2**30
_MOST_PIXELS = 4096


def save_pretrained(
    folder: str | Path, model: ReID, variables: Mapping[str, Any]
) -> None:
    """Writes a network as `model.safetensors` and `model.json`.

    Args:
      folder: created if it does not exist. Files of these names in it are replaced,
        both or, if the disk is full, neither.
      model: as `mbn_jax.load` returns it.
      variables: of the model; their paths, such as `params/neck/scale`, are the names
        of the arrays.

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
    fields = {name: getattr(model, name) for name in _defaults()}
    fields["dtype"] = jnp.dtype(fields["dtype"]).name
    description = {
        "format": _FORMAT,
        "network": fields,
        "fingerprint": _fingerprints(fields, arrays),
    }
    try:
        write_together(
            {
                folder / WEIGHTS: safetensors.numpy.save(arrays),
                folder / NETWORK: as_json_bytes(description),
            }
        )
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written to ({error.strerror}); name another folder."
        ) from error


def check_folder(folder: str | Path) -> None:
    """Raises `InputError` if `save_pretrained` would not write to a folder.

    Call this before starting expensive work.
    """
    check_writable(folder)
    if (Path(folder) / "config.json").exists():
        raise InputError(
            f"{folder} is a work directory, whose network is in its checkpoints; name "
            "a folder of its own for the weights."
        )


def load_pretrained(folder: str | Path) -> tuple[ReID, dict[str, Any]]:
    """Reads a network that `save_pretrained` wrote.

    Args:
      folder: contains the two files.

    Returns:
      The model and its variables, NumPy arrays, for `mbn_jax.embed` and for
      `model.apply(variables, …)`.

    Raises:
      InputError: the folder has no name; a file is missing, damaged or of another
        version; the two do not fit each other; or they differ from what was written. A
        `model.json` without fingerprints is not compared with them.
    """
    check_named(folder)
    folder = Path(folder)
    path = folder / NETWORK
    written = read_json(path)
    model = _network(written, path)
    arrays = read_safetensors(folder / WEIGHTS)
    _check_fit(folder, _shapes(model, path), arrays)
    for name, array in arrays.items():
        check_numbers(array, name, folder / WEIGHTS, variance=name.endswith("/var"))
    if "fingerprint" in written:
        expected = written["fingerprint"]
        known = expected if isinstance(expected, dict) else {}
        found = _fingerprints(written["network"], arrays)
        differing = [name for name in found if known.get(name) != found[name]]
        if differing:
            raise InputError(
                f"{' and '.join(differing)} in {folder} differ from what was written, "
                f"according to the fingerprint in {NETWORK}; copy both files again."
            )
    return model, unflatten_dict(arrays, sep="/")


def read_safetensors(path: Path) -> Arrays:
    """Reads the arrays of a safetensors file of up to 4 GiB by their names.

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
    # AttributeError and KeyError are for types that NumPy does not have.
    except (SafetensorError, OSError, ValueError, AttributeError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read as safetensors ({error}); copy it again. PyTorch's "
            "own files, which can run code, have to be converted first."
        ) from error


def check_numbers(
    array: np.ndarray, name: str, source: str | Path, *, variance: bool
) -> None:
    """Refuses numbers that would give meaningless features without an error.

    Args:
      array: of any shape and type.
      name: of the array in its source, for the error.
      source: path or name of what contains the array, for the error.
      variance: whether the array contains variances.

    Raises:
      InputError: the array is not of a floating-point type, or contains NaN, infinity,
        a number beyond float32 or a negative variance.
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


def fingerprint(variables: Mapping[str, Any]) -> str:
    """Computes a SHA-256 over the parameters, their names, types and shapes.

    The running statistics are left out because they are all that adapting a network to
    new cameras changes, and its features stay comparable with those from before.

    Args:
      variables: as `mbn_jax.load` returns them, of a network that is not folded.

    Returns:
      64 hexadecimal digits.
    """
    return _digest(flatten_dict(variables["params"], sep="/"))


def _digest(arrays: Mapping[str, Any]) -> str:
    total = hashlib.sha256()
    for name, leaf in sorted(arrays.items()):
        array = np.asarray(leaf, order="C")
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _fingerprints(
    fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Hashes of the fields and of each collection of variables, by name."""
    collections: dict[str, Arrays] = {}
    for name, array in sorted(arrays.items()):
        collection, _, path = name.partition("/")
        collections.setdefault(collection, {})[path] = array
    text = json.dumps(fields, sort_keys=True)
    return {
        "network": hashlib.sha256(text.encode()).hexdigest(),
        **{name: _digest(collection) for name, collection in collections.items()},
    }


def is_image_size(size: Any) -> bool:
    """Whether this is a height and a width in pixels, of up to 4096 each."""
    return (
        isinstance(size, list | tuple)
        and len(size) == 2
        and all(type(pixels) is int and 0 < pixels <= _MOST_PIXELS for pixels in size)
    )


def _defaults() -> dict[str, Any]:
    """The fields that `model.json` has of a network, and their defaults."""
    fields = dataclasses.fields(ReID)
    return {
        field.name: field.default for field in fields if field.name not in _LEFT_OUT
    }


def _network(written: Mapping[str, Any], path: Path) -> ReID:
    defaults = _defaults()
    fields = written.get("network")
    if isinstance(fields, dict):
        # Files from before modalities had names, and from before images of 16 bits had
        # scales, do not have these.
        fields = {"modalities": list(DEFAULT), "sixteen_bits": [], **fields}
    if (
        not isinstance(fields, dict)
        or fields.keys() != defaults.keys()
        or written.get("format") != _FORMAT
        or not written.keys() <= _DESCRIBED
    ):
        raise InputError(
            f"{path} does not describe a network of this version of mbn_jax, {_FORMAT} "
            f"with {', '.join(sorted(defaults))}; use the version that wrote it."
        )

    def damaged(reason: str) -> InputError:
        return InputError(f"{path} is damaged ({reason}); copy it again.")

    kinds = {name: type(default) for name, default in defaults.items()}
    kinds |= {"num_identities": int, "dtype": str}
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
    }
    for name, value in fields.items():
        kind = kinds[name]
        # JSON of other writers has 1 for 1.0.
        if type(value) is not kind and not (kind is float and type(value) is int):
            expected = "list" if kind is tuple else kind.__name__
            raise damaged(f"{name} is {value!r}, expected {expected}")
    if not is_image_size(fields["image_size"]):
        raise damaged(
            f"image_size is {fields['image_size']}, expected a height and a width of "
            f"up to {_MOST_PIXELS} pixels"
        )
    for name in fields["modalities"]:
        if not str(name).isprintable():
            raise damaged(f"a modality is named {name!r}")
    try:
        return ReID(**fields | {"dtype": jnp.dtype(fields["dtype"])})
    except TypeError as error:
        raise damaged(str(error)) from error


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
    folder: Path, shapes: Mapping[str, tuple[int, ...]], arrays: Arrays
) -> None:
    """Names every array that is missing, left over or of another shape."""
    expected = {name: list(shape) for name, shape in shapes.items()}
    found = {name: list(array.shape) for name, array in arrays.items()}
    misfits = [
        f"{name} is {found.get(name, 'absent')} and not {expected.get(name, 'absent')}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if misfits:
        raise InputError(
            f"{folder / WEIGHTS} does not fit {folder / NETWORK}: "
            f"{one_line(', '.join(misfits))}; take both files from one place."
        )
