"""Moments that a layer sees over many forward passes, for `estimate_statistics`."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mbn_jax.functional import Moments, modality_moments


class Record(NamedTuple):
    """What one forward pass showed a layer; every array has the shape of its mean."""

    origin: Any  # what the means are counted from
    moments: Moments
    calls: Any  # how often it was called
    strays: Any  # samples whose modality does not exist

    @classmethod
    def empty(cls, shape: Sequence[int]) -> "Record":
        """Before the first call of a layer whose mean has this shape."""
        zeros: Any = np.zeros(shape, np.float32)
        return cls(zeros, Moments(zeros, zeros, zeros), zeros, zeros)

    def in_float64(self) -> Moments:
        """The moments, counted from 0."""
        origin, (mean, var, counts) = jax.tree.map(np.float64, self[:2])
        return Moments(origin + mean, var, counts)


def add_call(
    before: Record | None,
    layer: Any,
    where: str,
    x: jax.Array,
    modality: jax.Array,
    mask: jax.Array | None,
) -> Record:
    """The record after one more call of a layer.

    Args:
      before: the record before it; None: the layer holds none.
      layer: a Linen or NNX `ModalityBatchNorm`.
      where: its path, for messages.
      x: the input.
      modality: of its samples.
      mask: as the layer takes it.

    Raises:
      ValueError: if the record is not one of this layer.
    """
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
    # A float32 mean is off by a part of a standard deviation where mean/std is large,
    # too much for the variance between batches: the mean is counted from a value near.
    origin = jnp.where(before.moments.counts > 0, before.origin, moments.mean)
    shape = [1] * x.ndim
    shape[0], shape[layer.axis] = len(modality), origin.shape[-1]
    near = jnp.take(origin, modality, axis=0, mode="clip").reshape(shape)
    moments = merge(before.moments, moments_of(x.astype(near.dtype) - near))
    return Record(origin, moments, before.calls + 1, before.strays + strays)


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of two sets together, of JAX or NumPy, in the type of the arguments."""
    counts = a.counts + b.counts
    divisor = counts + (counts == 0)
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
    """The moments of every layer over all batches, in float64.

    Args:
      observe: one forward pass: a record for every layer.
      names: paths of the layers, for messages.
      batches: tuples of what the network takes.

    Raises:
      ValueError: if there are no batches, one is not a tuple, or a record shows that
        statistics would be wrong.
    """
    totals: list[Moments] = []
    number = -1
    for number, batch in enumerate(batches):
        if not isinstance(batch, tuple | list):
            raise ValueError(
                f"Batch {number} is a {type(batch).__name__}, expected a tuple of what "
                "the network takes after its variables, such as (images, modality)."
            )
        records = jax.device_get(observe(tuple(batch)))
        _check_records(names, records, number)
        moments = [record.in_float64() for record in records]
        totals = list(map(merge, totals, moments)) if totals else moments
    if number < 0:
        raise ValueError(
            "There are no batches, expected at least one; an iterator that was read "
            "before is empty."
        )
    return totals


def _check_records(
    names: Sequence[str], records: Sequence[Record], number: int
) -> None:
    """Refuses layers and batches that would leave statistics wrong unnoticed."""
    for where, record in zip(names, records, strict=True):
        if not record.calls.any():
            raise ValueError(
                f"{where} is a normalization that apply did not call as a "
                "ModalityBatchNorm, expected all of them to be: are these the "
                "variables of this network?"
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
