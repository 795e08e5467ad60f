"""A trained network of one modality in a file that needs JAX alone, and back.

The file is a zip archive, so that every byte has a checksum and Python's standard
library opens it: `network.stablehlo` is the program as `jax.export` serialises it,
weights included, and `artefact.json` says what the program takes.
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

from mbn_jax.data.records import MODALITIES
from mbn_jax.deploy.inference import inference_function
from mbn_jax.errors import InputError
from mbn_jax.evaluation.features import embed
from mbn_jax.files import write_atomically
from mbn_jax.models.reid import ReID

PLATFORMS = ("cpu", "cuda")
PROGRAM, DESCRIPTION = "network.stablehlo", "artefact.json"
_FORMAT = "mbn_jax.Artefact/1"


@dataclasses.dataclass(frozen=True, eq=False)
class Artefact:
    """A network that is complete in itself: no Flax, no weights beside it.

    Attributes:
      image_size: (height, width) in pixels that it takes.
      modality: of the pictures that it is for, 0 visible, 1 infrared.
      exported: the program, from (B, H, W, 3) uint8 to (B, D) float32, for any B.
    """

    image_size: tuple[int, int]
    modality: int
    exported: jax_export.Exported

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
    """The network for pictures of one modality, its normalisations folded away.

    Args:
      model: as `mbn_jax.load` returns it.
      variables: of it.
      modality: 0 visible, 1 infrared.
      platforms: that the program is lowered for, as `jax.export` names them.

    Raises:
      InputError: as `inference_function`.
    """
    features = jax.jit(inference_function(model, variables, modality))
    (batch,) = jax_export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *model.image_size, 3), jnp.uint8)
    exported = jax_export.export(features, platforms=platforms)(images)
    return Artefact(model.image_size, modality, exported)


def save_artefact(path: str | Path, artefact: Artefact) -> None:
    """Writes an artefact as one file, whole or not at all."""
    description = {
        "format": _FORMAT,
        "modality": MODALITIES[artefact.modality],
        "image_size": artefact.image_size,
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
      InputError: the file is not there, is damaged, or is no artefact of this version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            description = json.loads(archive.read(DESCRIPTION))
            program = bytearray(archive.read(PROGRAM))
    # KeyError is of an archive without these members.
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as an exported network ({error}); "
            "experiments/export.py writes one."
        ) from error
    if description.get("format") != _FORMAT:
        raise InputError(
            f"{path} has the format {description.get('format')!r} and not {_FORMAT!r}; "
            "read it with the version of mbn_jax that wrote it."
        )
    try:
        exported = jax_export.deserialize(program)
    except Exception as error:  # of flatbuffers and JAX: the bytes are as written
        raise InputError(
            f"{path} was written by jax {description['jax']}, and jax "
            f"{jax.__version__} cannot read its program ({error}); export it again."
        ) from error
    modality = MODALITIES.index(description["modality"])
    return Artefact(tuple(description["image_size"]), modality, exported)


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
