"""A trained network of one modality in a file that needs JAX and flatbuffers alone.

The file is a zip archive, so that every byte has a checksum and Python's standard
library opens it: `network.stablehlo` is the program as `jax.export` serializes it,
weights included, and `artefact.json` says what the program takes. A program is code:
what a check can refuse is refused here, but run only those of people that you trust.
"""

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from mbn_jax import archive
from mbn_jax.deploy.inference import inference_function
from mbn_jax.deploy.program import check_program, without_source_paths
from mbn_jax.errors import InputError
from mbn_jax.evaluation.features import embed
from mbn_jax.files import parse_json, write_atomically
from mbn_jax.models.reid import ReID
from mbn_jax.models.shared import fingerprint, is_image_size

PLATFORMS = ("cpu", "cuda")
PROGRAM, DESCRIPTION = "network.stablehlo", "artefact.json"
_FORMAT = "mbn_jax.Artefact/3"
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
class Artefact:
    """A network that is complete in itself: no Flax, no weights beside it.

    Attributes:
      image_size: (height, width) in pixels that it takes.
      modality: of the images that it is for, an index into `modalities`.
      modalities: the names of all modalities of the network that it was made of.
      network: `mbn_jax.models.shared.fingerprint` of that network, which is the
        same in the artefacts of all its modalities.
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


def export(
    model: ReID,
    variables: Any,
    modality: int,
    *,
    platforms: tuple[str, ...] = PLATFORMS,
) -> Artefact:
    """Exports the network for images of one modality, its normalizations folded away.

    Args:
      model: as `mbn_jax.load` returns it.
      variables: of it.
      modality: an index into `model.modalities`.
      platforms: that the program is lowered for, as `jax.export` names them.

    Raises:
      InputError: as `inference_function`.
    """
    features = jax.jit(inference_function(model, variables, modality))
    (batch,) = jax_export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *model.image_size, 3), jnp.uint8)
    with without_source_paths():
        exported = jax_export.export(features, platforms=platforms)(images)
    return Artefact(
        model.image_size,
        modality,
        tuple(model.modalities),
        fingerprint(variables),
        exported,
        tuple(model.sixteen_bits),
    )


def save_artefact(path: str | Path, artefact: Artefact) -> None:
    """Writes an artefact as one file, whole or not at all."""
    description = {
        "format": _FORMAT,
        "modality": artefact.modalities[artefact.modality],
        "modalities": artefact.modalities,
        "image_size": artefact.image_size,
        "network": artefact.network,
        "sixteen_bits": artefact.sixteen_bits,
        "platforms": artefact.exported.platforms,
        "jax": jax.__version__,
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # weights hardly compress
        archive.writestr(DESCRIPTION, json.dumps(description, indent=2))
        archive.writestr(PROGRAM, bytes(artefact.exported.serialize()))
    write_atomically(Path(path), buffer.getvalue())


def load_artefact(path: str | Path) -> Artefact:
    """What `save_artefact` wrote.

    Raises:
      InputError: the file is missing, is damaged, is not an artefact of this version,
        holds more than 2 GiB or what is compressed, or its program is not what its
        description says, see `check_program`.
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
    return Artefact(
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


def largest_difference(
    artefact: Artefact, model: ReID, variables: Any, images: np.ndarray
) -> float:
    """Largest difference between an artefact's features and those of its network.

    Args:
      artefact: of the network.
      model: as `export` was given it; compared in float32.
      variables: of it.
      images: (B, H, W, 3) uint8 of its size.
    """
    model = model.copy(dtype=jnp.float32)
    expected = embed(model, variables, images, artefact.modality)
    found = artefact.features(jnp.asarray(images))
    return float(np.abs(np.asarray(found) - expected).max())
