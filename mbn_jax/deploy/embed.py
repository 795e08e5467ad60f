"""Extracts features of images, from an array or from a folder of files."""

import functools
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from mbn_jax.data.images import (
    MAX_MEGAPIXELS,
    NARROW_REMEDY,
    SUFFIXES,
    decode,
    images_below,
    quiet_opencv,
    read_encoded,
    resize,
)
from mbn_jax.data.sixteen_bits import AUTO, Scale
from mbn_jax.deploy.exported import ExportedModel
from mbn_jax.errors import InputError
from mbn_jax.evaluation.distances import l2_normalize
from mbn_jax.evaluation.features import batch_rows, extract
from mbn_jax.modalities import index
from mbn_jax.pixels import normalize
from mbn_jax.text import progress

_EMBED_BATCH = 64
_READ_AT_ONCE = 256


def embed(
    model: Any, variables: Any, images_uint8: np.ndarray, modality: str | ArrayLike
) -> np.ndarray:
    """Extracts features of images, to be compared by their inner product.

    Example::

      model, variables = mbn_jax.load("runs/quick")
      query = mbn_jax.embed(model, variables, infrared_images, "infrared")
      gallery = mbn_jax.embed(model, variables, visible_images, "visible")
      best_first = np.argsort(-query @ gallery.T, axis=1)

    Args:
      model: as `mbn_jax.load` returns it.
      variables: as `mbn_jax.load` returns them.
      images_uint8: (N, H, W, 3) uint8 RGB, of any size; resized to that of the model.
      modality: one for all the images, as a name or as its index in `model.modalities`;
        or (N,) indices.

    Returns:
      (N, D) float32: the embedding after the neck, rows of length one.

    Raises:
      InputError: type, shape or modality are not as above; the modality is not the one
        that an exported network is for; or the network gives features that are not
        finite, or cannot be run although it is an exported one.
    """
    images = _checked_images(images_uint8)
    modality = modality_indices(model, modality, len(images))
    if images.shape[1:3] != tuple(model.image_size):
        images = np.stack([resize(image, tuple(model.image_size)) for image in images])
    # A power of two: a single image does not cost as much as 64, and calls with
    # different numbers of images share at most seven compilations.
    batch_size = min(_EMBED_BATCH, 1 << (len(images) - 1).bit_length())
    try:
        features = extract(
            functools.partial(_embedding, model, variables),
            (images[rows] for rows in batch_rows(len(images), batch_size, None)),
            modality,
            batch_size=batch_size,
        )
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(model, ExportedModel):
            raise
        # Loading cannot check everything in a program that somebody else wrote.
        raise InputError(
            f"The exported network cannot be run ({' '.join(str(error).split())[:300]})"
            "; export it again."
        ) from error
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise InputError(
            f"The network gives features of image {int(np.argmin(finite))} that are not"
            " finite, which no trained network does; check where its weights come from."
        )
    return l2_normalize(features)


@functools.partial(jax.jit, static_argnums=0)
def _embedding(
    model: Any, variables: Any, images: jax.Array, modality: jax.Array
) -> jax.Array:
    # The model is a static argument (Flax modules are hashable), so it is compiled
    # once per model and batch shape, not at each call of `embed`.
    if isinstance(model, ExportedModel):
        return model.features(images)
    output = model.apply(variables, normalize(images), modality, train=False)
    return output.embedding.astype(jnp.float32)


def numbered(modalities: Sequence[str]) -> str:
    """Returns the indices and names for a sentence: "0 (visible) or 1 (infrared)"."""
    *others, last = (f"{i} ({name})" for i, name in enumerate(modalities))
    return f"{', '.join(others)} or {last}" if others else last


def _checked_images(images: np.ndarray) -> np.ndarray:
    try:
        images = np.asarray(images)
    except ValueError as error:  # a list of arrays that differ in shape
        shapes = [*dict.fromkeys(str(getattr(i, "shape", "a list")) for i in images)]
        raise InputError(
            f"The images have different shapes ({', '.join(shapes[:3])}), but one "
            "array (N, height, width, 3) is expected: resize them to one size, or "
            "embed them one by one."
        ) from error
    if images.dtype != np.uint8:
        raise InputError(
            f"The images are {images.dtype}, but uint8 RGB from 0 to 255 is expected: "
            "give them as they were decoded, without scaling."
        )
    if images.ndim != 4 or images.shape[-1] != 3:
        raise InputError(
            f"The images have shape {images.shape}, but (N, height, width, 3) is "
            "expected: stack them, and repeat a gray channel three times."
        )
    if 0 in images.shape:
        raise InputError(
            f"The images have shape {images.shape}, so there is nothing to embed: "
            "give at least one image."
        )
    return images


def modality_indices(
    model: Any, modality: str | ArrayLike, num_images: int
) -> np.ndarray:
    """Returns the indices (num_images,) of modalities that are given in any way.

    Raises:
      InputError: they are not modalities of the network, or not the one that it was
        exported for.
    """
    modalities = model.modalities
    if isinstance(modality, str):
        modality = index(modality, modalities)
    modality = np.asarray(modality)
    if (
        not np.issubdtype(modality.dtype, np.integer)
        or not np.isin(modality, np.arange(len(modalities))).all()
    ):
        found = " ".join(str(modality).split())  # an array has several lines
        raise InputError(
            f"The modality is {found}, but a name or the integer "
            f"{numbered(modalities)} is expected."
        )
    if modality.shape not in ((), (num_images,)):
        raise InputError(
            f"The modality has shape {modality.shape} for {num_images} images: give "
            f"one for all of them, or an array of shape ({num_images},)."
        )
    if isinstance(model, ExportedModel) and (modality != model.modality).any():
        others = np.setdiff1d(modality, model.modality)
        raise InputError(
            f"The images are {' and '.join(modalities[i] for i in others)}, but the "
            f"network was exported for {modalities[model.modality]} ones: load the one "
            "that was exported for these, or the network that both were made from."
        )
    return np.broadcast_to(modality, (num_images,))


class Reading(NamedTuple):
    """How the images of a folder are read."""

    scale: Scale = AUTO  # of images of 16 bits
    max_megapixels: float = MAX_MEGAPIXELS  # that an image may have


DEFAULT_READING = Reading()


def find_images(folder: str | Path) -> list[str]:
    """Returns the sorted relative paths of the images in a folder and in those below.

    Raises:
      InputError: the folder holds no image, or as `mbn_jax.data.images.images_below`.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in images_below(folder))
    if not names:
        raise InputError(
            f"{folder} holds no image: one of {', '.join(SUFFIXES)} is expected, "
            "there or in a folder below it."
        )
    return names


def read_images(
    folder: str | Path,
    names: Sequence[str],
    image_size: tuple[int, int],
    reading: Reading = DEFAULT_READING,
    *,
    narrow: list[str] | None = None,
) -> np.ndarray:
    """Decodes images of a folder and resizes them to (n, H, W, 3) uint8.

    The list `narrow` receives a phrase for each that its scale makes nearly uniform.

    Raises:
      InputError: an image cannot be read or decoded, or is too large.
    """
    images = np.empty((len(names), *image_size, 3), np.uint8)
    for image, name in zip(images, names, strict=True):
        path = Path(folder, name)
        try:
            encoded = read_encoded(path, reading.max_megapixels)
        except OSError as error:
            raise InputError(
                f"The image {path} cannot be read ({error.strerror or error}): make it "
                "a file that you may read, or remove it."
            ) from error
        with quiet_opencv():
            decode(
                encoded,
                image_size,
                str(path),
                **reading._asdict(),
                narrow=narrow,
                out=image,
            )
    return images


def warn_of_narrow(narrow: Collection[str], num_images: int) -> None:
    """Prints that some of the images are nearly uniform (`read_images`), and one."""
    if narrow:
        print(
            f"warning: {len(narrow)} of {num_images} images are nearly uniform. "
            f"{min(narrow)}; {NARROW_REMEDY}.",
            file=sys.stderr,
        )


class EmbeddedFolder(NamedTuple):
    """The images of a folder and their features."""

    folder: str | Path
    names: list[str]  # N sorted relative paths
    features: np.ndarray  # (N, D) float32, rows of length one
    reading: Reading


def embed_folder(
    model: Any,
    variables: Any,
    folder: str | Path,
    modality: str | int,
    reading: Reading = DEFAULT_READING,
) -> EmbeddedFolder:
    """Embeds all images of a folder, which have one modality, and shows the progress.

    Raises:
      InputError: as `find_images`, `read_images` and `embed`.
    """
    names = find_images(folder)
    narrow: list[str] = []
    features = []
    with progress("Embedding", "Embedded", str(folder), len(names)) as advance:
        for start in range(0, len(names), _READ_AT_ONCE):
            part = names[start : start + _READ_AT_ONCE]
            images = read_images(folder, part, model.image_size, reading, narrow=narrow)
            features.append(embed(model, variables, images, modality))
            for _ in part:
                advance()
    warn_of_narrow(narrow, len(names))
    return EmbeddedFolder(folder, names, np.concatenate(features), reading)
