"""Features of many images: a network applied batch by batch."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mbn_jax.errors import InputError
from mbn_jax.mesh import process_rows, replicated, shard


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
