"""Moments of a layer's input over many forward passes, for `estimate_statistics`."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mbn_jax.arguments import labels
from mbn_jax.functional import Moments, modality_moments, promoted
from mbn_jax.mesh import spec_of, takes_explicit_axes


class Record(NamedTuple):
    """Moments in one forward pass of a layer; arrays have the shape of its mean."""

    origin: Any  # the means are relative to this value
    moments: Moments
    calls: Any  # number of calls of the layer
    strays: Any  # number of samples whose modality does not exist

    @classmethod
    def empty(cls, shape: Sequence[int]) -> "Record":
        """Returns the record before the first call; `shape` is that of the mean."""
        zeros: Any = np.zeros(shape, np.float32)
        return cls(zeros, Moments(zeros, zeros, zeros), zeros, zeros)

    def in_float64(self) -> Moments:
        """Returns the moments with the mean relative to 0."""
        origin, (mean, var, counts) = jax.tree.map(np.float64, self[:2])
        return Moments(origin + mean, var, counts)


def add_call(
    before: Record | None,
    layer: Any,
    where: str,
    x: jax.Array,
    modality: Any,
    mask: jax.Array | None,
) -> Record:
    """Returns the record after one more call of a layer.

    Args:
      before: the record before the call; None if the layer holds none.
      layer: a Linen or NNX `ModalityBatchNorm`.
      where: path of the layer, for messages.
      x: the input.
      modality: modality of the samples.
      mask: mask, in the form that the layer takes.

    Raises:
      ValueError: if the record does not belong to this layer.
    """
    modality = jnp.asarray(labels("modality", modality))
    moments_of = partial(
        modality_moments,
        modality=modality,
        num_modalities=layer.num_modalities,
        mask=mask,
        axis=layer.axis,
        axis_name=layer.axis_name,
        axis_index_groups=layer.axis_index_groups,
    )
    moments = moments_of(x)
    if before is None or before.calls.shape != moments.mean.shape:
        held = (
            "nothing" if before is None else f"mean of shape {list(before.calls.shape)}"
        )
        raise ValueError(
            f"{where} holds {held}, expected mean and var of shape "
            f"{list(moments.mean.shape)}: are these the variables of this network?"
        )
    stray = (modality < 0) | (modality >= layer.num_modalities)
    if mask is not None:
        seen = jnp.broadcast_to(mask, (len(stray), *jnp.shape(mask)[1:]))
        stray &= seen.reshape(len(stray), -1).any(1)
    strays = stray.sum()
    if layer.axis_name is not None:
        strays = lax.psum(
            strays, layer.axis_name, axis_index_groups=layer.axis_index_groups
        )
    dtype = promoted(before.calls.dtype, moments.mean.dtype)
    before, moments = jax.tree.map(lambda a: jnp.asarray(a, dtype), (before, moments))
    # Where mean/std is large, a float32 mean is off by a fraction of a standard
    # deviation, too much for the variance between batches. So the mean is computed
    # relative to a value near it.
    origin = jnp.where(before.moments.counts > 0, before.origin, moments.mean)
    moments = merge(before.moments, moments_of(_away(x, origin, modality, layer.axis)))
    strays = before.strays + strays.astype(dtype)
    return Record(origin, moments, before.calls + 1, strays)


@takes_explicit_axes(lambda x, *_: spec_of(x))
def _away(x: jax.Array, origin: jax.Array, modality: jax.Array, axis: int) -> jax.Array:
    """`x` minus the origin of the modality of each sample."""
    shape = [1] * x.ndim
    shape[0], shape[axis] = len(modality), origin.shape[-1]
    near = jnp.take(origin, modality, axis=0, mode="clip").reshape(shape)
    return x.astype(near.dtype) - near


def merge(a: Moments, b: Moments) -> Moments:
    """Merges the moments of two sets, JAX or NumPy, in the dtype of the arguments."""
    counts = a.counts + b.counts
    divisor = counts + (counts == 0).astype(counts.dtype)
    share_a, share_b = a.counts / divisor, b.counts / divisor
    delta = b.mean - a.mean
    return Moments(
        a.mean + delta * share_b,
        share_a * a.var + share_b * b.var + share_a * share_b * delta**2,
        counts,
    )


def moments_of_batches(
    observe: Callable[[tuple[Any, ...]], Sequence[Record]],
    names: Sequence[str],
    batches: Iterable[Sequence[Any]],
) -> list[Moments]:
    """Computes the moments of every layer over all batches, in float64.

    Args:
      observe: runs one forward pass and returns a record for every layer.
      names: paths of the layers, for messages.
      batches: tuples of what the network takes.

    Raises:
      ValueError: if there are no batches, if one is not a tuple of numbers, or if a
        record shows that the statistics would be wrong.
    """
    totals: list[Moments] = []
    number = -1
    for number, batch in enumerate(batches):
        if not isinstance(batch, tuple | list):
            raise ValueError(
                f"Batch {number} is a {type(batch).__name__}, expected a tuple of what "
                "the network takes after its variables, such as (images, modality)."
            )
        for leaf in jax.tree.leaves(batch):
            _check_leaf(leaf, number)
        records = jax.device_get(observe(tuple(batch)))
        _check_records(names, records, number)
        moments = [record.in_float64() for record in records]
        totals = list(map(merge, totals, moments)) if totals else moments
    if number < 0:
        raise ValueError(
            "There are no batches, expected at least one; an iterator is empty if it "
            "was read before."
        )
    return totals


def _check_leaf(leaf: Any, number: int) -> None:
    """Raises an error for what `jax.jit` does not take, or takes as another number."""
    if isinstance(leaf, jax.Array):
        return
    array = np.asarray(leaf)
    is_number = jnp.issubdtype(array.dtype, jnp.number)
    if not (is_number or array.dtype == bool):
        raise ValueError(
            f"Batch {number} holds {array.dtype}{list(array.shape)}, expected numbers."
        )
    # Without x64, JAX makes 0 of 2**32.
    taken = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    if jnp.issubdtype(array.dtype, jnp.integer) and not np.array_equal(taken, array):
        raise ValueError(
            f"Batch {number} holds the integer {array.flat[np.argmax(taken != array)]},"
            f" which {taken.dtype} does not hold; correct its labels."
        )


def _check_records(
    names: Sequence[str], records: Sequence[Record], number: int
) -> None:
    """Raises an error for layers and batches that would make the statistics wrong."""
    for where, record in zip(names, records, strict=True):
        if not record.calls.any():
            raise ValueError(
                f"{where} is a normalization that apply did not call as a "
                "ModalityBatchNorm, expected it to call all of them: are these the "
                "variables of this network, and does apply enter by_modality if the "
                "network has nn.BatchNorm?"
            )
        if record.strays.any():
            raise ValueError(
                f"Batch {number} brings {int(record.strays.max())} samples of a "
                f"modality outside 0 to {record.strays.shape[-2] - 1} to {where}; "
                "correct their labels or mask them."
            )
        if not all(
            np.isfinite(value).all() for value in (record.origin, *record.moments)
        ):
            raise ValueError(
                f"Batch {number} gives {where} moments that are not finite; look for "
                "NaN or infinity in its images, or mask those samples."
            )
