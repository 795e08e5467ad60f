"""A trained network of one modality in a file that needs JAX and flatbuffers alone.

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export

from mbn_jax import archive
from mbn_jax.errors import InputError
from mbn_jax.files import parse_json, write_atomically
from mbn_jax.models.weights import is_image_size

# JAX's own, which compares the size of a batch with what the program was written for.
_ALLOWED_CALL = "custom_call @shape_assertion("
_BATCH_SIZES = (1, 3)


@contextmanager
def without_source_paths() -> Iterator[None]:
    """Lets JAX trace and lower without the places in source files.

    They would name the folders of this machine to whoever gets the program.
    """
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def check_program(
    exported: jax_export.Exported, image_size: tuple[int, int], platforms: Any
) -> None:
    """Refuses a program that is not a function of images to features.

    Whether it gives the right features, or takes more time and memory than there is, no
    check can tell.

    Args:
      exported: the program.
      image_size: (height, width) in pixels that it should take.
      platforms: that it should be for.

    Raises:
      ValueError: it is not from (B, H, W, 3) uint8 to (B, D) float32 for any B, is for
        other platforms, has a loop, or calls something outside of it.
      Exception: JAX cannot read it; of many types.
    """
    height, width = image_size
    if list(exported.platforms) != platforms:
        raise ValueError(f"it is for {', '.join(exported.platforms)}")
    if exported.nr_devices != 1 or exported.disabled_safety_checks:
        raise ValueError("it is for several devices, or without JAX's checks")
    given = set()
    for count in _BATCH_SIZES:
        images = jax.ShapeDtypeStruct((count, height, width, 3), jnp.uint8)
        features: Any = jax.eval_shape(exported.call, images)
        shape: tuple[int, ...] = getattr(features, "shape", ())
        if (
            len(shape) != 2
            or shape[0] != count
            or shape[1] == 0
            or features.dtype != jnp.float32
        ):
            raise ValueError(f"of {count} images it gives {features}")
        given.add(shape[1])
    if len(given) > 1:
        raise ValueError("the length of its features depends on the number of images")
    # Above is what the file says of the program; this is the program itself.
    text = exported.mlir_module()
    main = re.search(r"func\.func public @main\((.*)", text)
    types = re.findall(r"tensor<(\S*?)>", main[1]) if main else []
    if [of for of in types if of != "i32"] != [
        f"?x{height}x{width}x3xui8",
        f"?x{given.pop()}xf32",
    ]:
        raise ValueError(f"it is a function of other types, {', '.join(types)}")
    if "stablehlo.while" in text:
        raise ValueError("it has a loop, which may never end")
    if text.count("custom_call") != text.count(_ALLOWED_CALL):
        raise ValueError("it calls something outside of it")


PLATFORMS = ("cpu", "cuda")
PROGRAM, DESCRIPTION = "network.stablehlo", "network.json"
_FORMAT = "mbn_jax.ExportedModel/4"
# Flatbuffers, in which JAX keeps programs, have no more.
_MOST_BYTES = {DESCRIPTION: 64 * 2**10, PROGRAM: 2**31}
_DESCRIBED = (
    "image_size",
    "jax",
    "modalities",
    "modality",
    "network",
    "platforms",
    "sixteen_bits",
)


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedModel:
    """A network that is complete in itself: no Flax, no weights beside it.

    Attributes:
      image_size: (height, width) in pixels that it takes.
      modality: of the images that it is for, an index into `modalities`.
      modalities: the names of all modalities of the network that it was made of.
      network: `mbn_jax.models.weights.fingerprint` of that network, which is the
        same in the exported models of all its modalities.
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
    """Writes an exported model as one file, whole or not at all."""
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
    with zipfile.ZipFile(buffer, "w") as archive:  # weights hardly compress
        archive.writestr(DESCRIPTION, json.dumps(description, indent=2))
        archive.writestr(PROGRAM, bytes(model.exported.serialize()))
    write_atomically(Path(path), buffer.getvalue())


def load_exported(path: str | Path) -> ExportedModel:
    """What `save_exported` wrote.

    Raises:
      InputError: the file is missing, is damaged, is not an exported model of this
        version, holds more than 2 GiB or what is compressed, or its program is not what
        its description says, see `check_program`.
    """
    try:
        # Of members that are not compressed, none has more bytes than the file.
        with archive.open_archive(path) as file:
            members = archive.members(file, _MOST_BYTES, compressed=False)
            missing = _MOST_BYTES.keys() - members
            if missing:
                raise ValueError(f"it lacks {' and '.join(sorted(missing))}")
            text = archive.read(file, members[DESCRIPTION])
            program = bytearray(archive.read(file, members[PROGRAM]))
    except InputError:  # a ValueError, which says all
        raise
    except archive.ERRORS as error:
        raise InputError(
            f"{path} cannot be read as an exported network ({error}); "
            "`python -m mbn_jax export` writes one."
        ) from error
    written = parse_json(text, f"{DESCRIPTION} in {path}")
    description = _checked_description(written, path)
    image_size = tuple(description["image_size"])
    try:
        exported = jax_export.deserialize(program)
        check_program(exported, image_size, description["platforms"])
    except Exception as error:  # of flatbuffers and JAX, too, of many types
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


def _checked_description(
    description: dict[str, Any], path: str | Path
) -> dict[str, Any]:
    # Files of earlier versions do not say how images of 16 bits were scaled.
    description = {"sixteen_bits": [], **description}
    if (
        description.keys() != {"format", *_DESCRIBED}
        or description["format"] != _FORMAT
    ):
        raise InputError(
            f"{DESCRIPTION} in {path} does not describe a network of this version of "
            f"mbn_jax, {_FORMAT} with {', '.join(_DESCRIBED)}; export it again, or use "
            "the version that wrote it."
        )
    size, network = description["image_size"], description["network"]
    modality, modalities = description["modality"], description["modalities"]
    if (
        not isinstance(modalities, list)
        or not all(isinstance(name, str) and name.isprintable() for name in modalities)
        or len(set(modalities)) < len(modalities)
        or modality not in modalities
        or not isinstance(network, str)
        or not is_image_size(size)
        or not isinstance(description["sixteen_bits"], list)
    ):
        raise InputError(
            f"{DESCRIPTION} in {path} is damaged (modality {modality!r}, modalities "
            f"{modalities!r}, image_size {size!r}, network {network!r}), but a modality"
            " of a list of names, a height and a width of up to 4096 pixels and a "
            "fingerprint are expected; export it again."
        )
    return description
