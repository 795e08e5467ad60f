"""A trained network of one modality in a file that needs only JAX and flatbuffers.

The file is a zip archive, so that every byte has a checksum and Python's standard
library opens it: `network.stablehlo` is the program as `jax.export` serializes it,
weights included, and `network.json` says what the program takes. A program is code:
what a check can refuse is refused here, but run only those of people that you trust.
"""

import dataclasses
import io
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export

from mbn_jax import archive
from mbn_jax.errors import InputError
from mbn_jax.files import parse_json, write_atomically
from mbn_jax.models.weights import is_image_size

PROGRAM, DESCRIPTION = "network.stablehlo", "network.json"
_FORMAT = "mbn_jax.ExportedModel/4"
# Flatbuffers, in which JAX keeps programs, cannot be larger.
_MOST_BYTES = {DESCRIPTION: 64 * 2**10, PROGRAM: 2**31}
_DESCRIBED = (
    *("image_size", "jax", "modalities", "modality", "network", "platforms"),
    "sixteen_bits",
)
# JAX compares the size of a batch with the one that the program was written for.
_ALLOWED_CALL = "custom_call @shape_assertion("


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedModel:
    """A network that needs neither Flax nor weights in another file.

    Attributes:
      image_size: (height, width) in pixels that it takes.
      modality: of the images that it is for, an index into `modalities`.
      modalities: the names of all modalities of the network that it was made from.
      network: `mbn_jax.models.weights.fingerprint` of that network, the same in the
        exported models of all its modalities.
      exported: the program, from (B, H, W, 3) uint8 to (B, D) float32, for any B.
      sixteen_bits: see `mbn_jax.models.reid.ReID`.
    """

    image_size: tuple[int, int]
    modality: int
    modalities: tuple[str, ...]
    network: str
    exported: jax_export.Exported
    sixteen_bits: tuple[str, ...] = ()

    def features(self, images: jax.Array) -> jax.Array:
        """(B, H, W, 3) uint8 RGB of `image_size` to (B, D) float32 of unit length."""
        return self.exported.call(images)


def save_exported(path: str | Path, model: ExportedModel) -> None:
    """Writes an exported model to a file, whole or not at all."""
    description = {
        "format": _FORMAT,
        "modality": model.modalities[model.modality],
        "modalities": model.modalities,
        "image_size": model.image_size,
        "network": model.network,
        "sixteen_bits": model.sixteen_bits,
        "platforms": model.exported.platforms,
        "jax": jax.__version__,
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:  # weights hardly compress
        file.writestr(DESCRIPTION, json.dumps(description, indent=2))
        file.writestr(PROGRAM, bytes(model.exported.serialize()))
    write_atomically(Path(path), buffer.getvalue())


def load_exported(path: str | Path) -> ExportedModel:
    """Reads an exported model from a file that `save_exported` wrote.

    Raises:
      InputError: the file is missing, is damaged, is not an exported model of this
        version, is compressed or larger than 2 GiB, or its program is not what its
        description says (`check_program`).
    """
    try:
        # A member that is not compressed has no more bytes than the file.
        with archive.open_archive(path) as file:
            members = archive.members(file, _MOST_BYTES, compressed=False)
            missing = _MOST_BYTES.keys() - members
            if missing:
                raise ValueError(f"it lacks {' and '.join(sorted(missing))}")
            text = archive.read(file, members[DESCRIPTION])
            program = bytearray(archive.read(file, members[PROGRAM]))
    except InputError:  # a ValueError with a complete message
        raise
    except archive.ERRORS as error:
        raise InputError(
            f"{path} cannot be read as an exported network ({error}); "
            "`python -m mbn_jax export` writes one."
        ) from error
    name = f"{DESCRIPTION} in {path}"
    description = _checked_description(parse_json(text, name), name)
    image_size = tuple(description["image_size"])
    try:
        exported = jax_export.deserialize(program)
        check_program(exported, image_size, description["platforms"])
    except Exception as error:  # JAX and flatbuffers raise errors of many types
        raise InputError(
            f"{PROGRAM} in {path}, written by jax {description['jax']!r}, is not a "
            f"program for {description['platforms']}, from uint8 images {image_size} "
            f"to float32 features, that jax {jax.__version__} can read "
            f"({' '.join(str(error).split())[:300]}); export it again."
        ) from error
    modalities = tuple(description["modalities"])
    return ExportedModel(
        image_size,
        modalities.index(description["modality"]),
        modalities,
        description["network"],
        exported,
        tuple(description["sixteen_bits"]),
    )


def _checked_description(description: dict[str, Any], name: str) -> dict[str, Any]:
    # Files of earlier versions do not say how images of 16 bits were scaled.
    description = {"sixteen_bits": [], **description}
    if (
        description.keys() != {"format", *_DESCRIBED}
        or description["format"] != _FORMAT
    ):
        raise InputError(
            f"{name} does not describe a network of this version of mbn_jax, {_FORMAT} "
            f"with {', '.join(_DESCRIBED)}; export it again, or use the version that "
            "wrote it."
        )
    size, network = description["image_size"], description["network"]
    modality, modalities = description["modality"], description["modalities"]
    if (
        not isinstance(modalities, list)
        or not all(isinstance(each, str) and each.isprintable() for each in modalities)
        or len(set(modalities)) < len(modalities)
        or modality not in modalities
        or not isinstance(network, str)
        or not is_image_size(size)
        or not isinstance(description["sixteen_bits"], list)
    ):
        raise InputError(
            f"{name} is damaged (modality {modality!r}, modalities {modalities!r}, "
            f"image_size {size!r}, network {network!r}), but a modality of a list of "
            "names, a height and a width of up to 4096 pixels and a fingerprint are "
            "expected; export it again."
        )
    return description


def check_program(
    exported: jax_export.Exported, image_size: Sequence[int], platforms: Any
) -> None:
    """Refuses a program that is not a function of images to features.

    No check can tell whether the features are right, or whether the program takes more
    time and memory than there is.

    Raises:
      ValueError: it is not from (B, *image_size, 3) uint8 to (B, D) float32 for any B,
        is for other platforms, has a loop, or calls something outside of it.
    """
    height, width = image_size
    if list(exported.platforms) != platforms:
        raise ValueError(f"it is for {', '.join(exported.platforms)}")
    if exported.nr_devices != 1 or exported.disabled_safety_checks:
        raise ValueError("it is for several devices, or without JAX's checks")
    lengths = {_length_of_features(exported, count, *image_size) for count in (1, 3)}
    if len(lengths) > 1:
        raise ValueError("the length of its features depends on the number of images")
    # Above is what the file says about the program; this is the program itself.
    text = exported.mlir_module()
    main = re.search(r"func\.func public @main\((.*)", text)
    types = re.findall(r"tensor<(\S*?)>", main[1]) if main else []
    expected = [f"?x{height}x{width}x3xui8", f"?x{lengths.pop()}xf32"]
    if [name for name in types if name != "i32"] != expected:
        raise ValueError(f"it is a function of other types, {', '.join(types)}")
    if "stablehlo.while" in text:
        raise ValueError("it has a loop, which may never end")
    if text.count("custom_call") != text.count(_ALLOWED_CALL):
        raise ValueError("it calls something outside of it")


def _length_of_features(
    exported: jax_export.Exported, count: int, height: int, width: int
) -> int:
    images = jax.ShapeDtypeStruct((count, height, width, 3), jnp.uint8)
    features: Any = jax.eval_shape(exported.call, images)
    shape: tuple[int, ...] = getattr(features, "shape", ())
    if len(shape) != 2 or shape[0] != count or not shape[1] or features.dtype != "f4":
        raise ValueError(f"of {count} images it gives {features}")
    return int(shape[1])
