"""Embeds images: the features after the neck, to be compared by inner products."""

import functools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from mbn_jax.data.images import resize
from mbn_jax.errors import InputError
from mbn_jax.evaluation.distances import l2_normalize
from mbn_jax.evaluation.features import batch_rows, extract
from mbn_jax.modalities import index
from mbn_jax.pixels import normalize

_EMBED_BATCH = 64


@runtime_checkable
class SingleModality(Protocol):
    """A network of one modality, such as `mbn_jax.deploy.exported.ExportedModel`.

    Attributes:
        image_size: (height, width) in pixels that it takes.
        modality: of the images that it is for, an index into ``modalities``.
        modalities: the names of all modalities of the network that it was made of.
    """

    image_size: tuple[int, int]
    modality: int
    modalities: tuple[str, ...]

    def features(self, images: jax.Array) -> jax.Array:
        """(B, H, W, 3) uint8 to (B, D) float32."""


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
        model: as `mbn_jax.load` returns it, of a work directory or a file alike.
        variables: as `mbn_jax.load` returns them.
        images_uint8: (N, H, W, 3) uint8 RGB, of any size; resized to that of the model.
        modality: one for all the images, as a name or as its index in
          ``model.modalities``; or (N,) indices.

    Returns:
        (N, D) float32: the embedding after the neck, rows of length one.

    Raises:
        InputError: type, shape or modality are not as above; the modality is not the
          one that an exported network is for; or the network gives features that are
          not finite, or cannot be run although it is an exported one.
    """
    images = _checked_images(images_uint8)
    modality = _checked_modality(modality, len(images), model.modalities)
    check_modality(model, modality)
    if images.shape[1:3] != tuple(model.image_size):
        size = tuple(model.image_size)
        images = np.stack([resize(image, size) for image in images])
    # A power of two: one picture does not pay for 64, and calls with different numbers
    # of pictures share at most seven compilations.
    batch_size = min(_EMBED_BATCH, 1 << (len(images) - 1).bit_length())
    try:
        features = extract(
            functools.partial(_embedding, model, variables),
            (images[rows] for rows in batch_rows(len(images), batch_size, None)),
            modality,
            batch_size=batch_size,
        )
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(model, SingleModality):
            raise
        # Its program is another one's, of which loading cannot check everything.
        raise InputError(
            f"The exported network cannot be run ({' '.join(str(error).split())[:300]})"
            "; export it again."
        ) from error
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise InputError(
            f"The network gives features of image {int(np.argmin(finite))} that are not"
            " finite, which no trained network does; look at where its weights come "
            "from."
        )
    return l2_normalize(features)


def check_modality(model: Any, modality: str | ArrayLike) -> None:
    """Raises `InputError` where a network is not for images of a modality.

    Args:
        model: as `mbn_jax.load` returns it.
        modality: of the images that it will get, a name or indices.
    """
    if isinstance(modality, str):
        modality = index(modality, model.modalities)
    if not isinstance(model, SingleModality):
        return
    others = np.setdiff1d(modality, model.modality)
    if others.size:
        names = " and ".join(model.modalities[other] for other in others)
        raise InputError(
            f"The images are {names}, but the network was exported for "
            f"{model.modalities[model.modality]} ones: load the one that was "
            "exported for these, or the network that both were made from."
        )


def numbered(modalities: Sequence[str]) -> str:
    """Returns the indices and names for a sentence: "0 (visible) or 1 (infrared)"."""
    *others, last = (f"{i} ({name})" for i, name in enumerate(modalities))
    return f"{', '.join(others)} or {last}" if others else last


@functools.partial(jax.jit, static_argnums=0)
def _embedding(
    model: Any, variables: Any, images: jax.Array, modality: jax.Array
) -> jax.Array:
    # The model is a static argument (Flax modules are hashable), so it is compiled
    # once per model and batch shape, not at each call of `embed`.
    if isinstance(model, SingleModality):
        return model.features(images)
    output = model.apply(variables, normalize(images), modality, train=False)
    return output.embedding.astype(jnp.float32)


def _checked_images(images: np.ndarray) -> np.ndarray:
    try:
        images = np.asarray(images)
    except ValueError as error:  # a list of arrays that differ in shape
        shapes = dict.fromkeys(
            str(getattr(image, "shape", "a list")) for image in images
        )
        raise InputError(
            f"The images have different shapes ({', '.join([*shapes][:3])}), but one "
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


def _checked_modality(
    modality: str | ArrayLike, count: int, modalities: Sequence[str]
) -> np.ndarray:
    """Returns the indices (count,) of modalities that are given in any way."""
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
    if modality.shape not in ((), (count,)):
        raise InputError(
            f"The modality has shape {modality.shape} for {count} images: give one "
            f"for all of them, or an array of shape ({count},)."
        )
    return np.broadcast_to(modality, (count,))
