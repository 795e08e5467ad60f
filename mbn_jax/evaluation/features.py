"""Features of images: the embedding after the neck."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from mbn_jax.errors import InputError
from mbn_jax.evaluation.distances import l2_normalize
from mbn_jax.mesh import process_rows, replicated, shard
from mbn_jax.modalities import index

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


def batch_rows(num_images: int, batch_size: int, mesh: Mesh | None) -> list[np.ndarray]:
    """Which images this process reads for every batch of all processes.

    Args:
        num_images: N, of all processes together.
        batch_size: of all of them, rounded up to a multiple of the mesh's devices.
        mesh: the batches are cut over its axis ``data``; None for one device.

    Returns:
        For every batch the indices, rising, int64; none where the last batch has no
        image left for this process.
    """
    if mesh is None:
        rows = np.arange(batch_size)
    else:
        batch_size += -batch_size % mesh.size
        rows = process_rows(batch_size, mesh)
    batches = [start + rows for start in range(0, num_images, batch_size)]
    return [batch[batch < num_images] for batch in batches]


def extract(
    apply_fn: Callable[[jax.Array, jax.Array], jax.Array],
    images: Iterable[np.ndarray],
    modality: np.ndarray,
    *,
    batch_size: int,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Applies a network to many images, batch by batch, in evaluation mode.

    Every batch has the same size on the device, so that the network is compiled once:
    what is missing is filled up with black images, and what they give is dropped.

    Args:
        apply_fn: ``apply_fn(images uint8 (b, H, W, 3), modality int32 (b,))`` ->
          (b, D), jitted, without an effect of one image on another.
        images: for every entry of ``batch_rows`` those images, (n, H, W, 3) uint8.
        modality: (N,) int, of all the images in their order.
        batch_size: b, rounded up to a multiple of the mesh's devices.
        mesh: the batch is sharded over its axis ``data``; on one device if None.

    Returns:
        (N, D) float32, as the network gives them, the same in every process.

    Raises:
        InputError: there is no image, or the modality is not one integer for each.
    """
    modality = np.asarray(modality)
    if modality.size == 0:
        raise InputError("There is no image to embed: give at least one.")
    if modality.ndim != 1 or not jnp.issubdtype(modality.dtype, jnp.integer):
        raise InputError(
            f"The modality is {modality.dtype}{list(modality.shape)}, but one integer "
            "for each image is expected."
        )
    # A wrapped index would name another modality; -1 is one that does not exist.
    narrow = modality.astype(np.int32)
    modality = np.where(narrow == modality, narrow, np.int32(-1))
    if mesh is None:
        place: Any = jax.device_put
        collect, rows_here = (lambda x: x), batch_size
    else:
        batch_size += -batch_size % mesh.size
        rows_here = len(process_rows(batch_size, mesh))
        place = functools.partial(shard, mesh)
        collect = jax.jit(lambda x: x, out_shardings=replicated(mesh))

    def padded(values: np.ndarray) -> np.ndarray:
        missing = rows_here - len(values)
        return np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))

    features: list[Any] = []
    all_rows = batch_rows(len(modality), batch_size, mesh)
    for batch, rows in zip(images, all_rows, strict=True):
        placed = place({"images": padded(batch), "modality": padded(modality[rows])})
        features.append(collect(apply_fn(placed["images"], placed["modality"])))
        # The device works on this batch while the host fetches the one before it;
        # without the wait all batches would be queued in device memory.
        features[-2:-1] = jax.device_get(features[-2:-1])
    together = np.concatenate(jax.device_get(features))
    return together[: len(modality)].astype(np.float32)


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
        from mbn_jax.data.images import resize

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
    from mbn_jax.data.augment import normalize

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
