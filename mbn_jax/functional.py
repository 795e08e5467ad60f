"""Modality batch normalisation as pure functions, the arithmetic under the layers."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jax import lax


class Moments(NamedTuple):
    """Statistics of one layer's input, per modality.

    Attributes:
      mean: `(num_modalities, C)`.
      var: `(num_modalities, C)`, biased (divided by the count), never negative.
      counts: `(num_modalities, C)`, how many values entered; where it is 0 the mean
        and the variance are 0.
    """

    mean: jax.Array
    var: jax.Array
    counts: jax.Array


class Normalised(NamedTuple):
    """What `modality_batch_norm` returns.

    Attributes:
      y: the normalised input, of its shape.
      mean: `(num_modalities, C)`, the running mean after this batch.
      var: `(num_modalities, C)`, the running variance after this batch.
    """

    y: jax.Array
    mean: jax.Array
    var: jax.Array


def modality_moments(
    x: jax.Array,
    modality: jax.Array,
    num_modalities: int = 2,
    *,
    mask: jax.Array | None = None,
    axis: int = -1,
    axis_name: str | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    force_float32_reductions: bool = True,
) -> Moments:
    """Mean, biased variance and count of every modality and channel.

    ```python
    >>> import jax.numpy as jnp
    >>> from mbn_jax import modality_moments
    >>> x = jnp.array([[1.0], [3.0], [10.0]])
    >>> mean, var, counts = modality_moments(x, jnp.array([0, 0, 1]))
    >>> mean.tolist(), var.tolist(), counts.tolist()
    ([[2.0], [10.0]], [[1.0], [0.0]], [[2.0], [1.0]])

    ```

    Args:
      x: `(B, …, C)`, floating point, channels at `axis`.
      modality: `(B,)`, integer; a sample outside `[0, num_modalities)` is left out.
      num_modalities: number of modalities.
      mask: bool, `(B,)` or broadcastable to `x` with the rank of `x`; False leaves a
        sample, or a position, out.
      axis: the channel axis; any but 0.
      axis_name: mapped axis to reduce over, under pmap and shard_map.
      axis_index_groups: groups of indices within that axis.
      force_float32_reductions: accumulate in float32 at least.

    Returns:
      `Moments`, each of shape `(num_modalities, C)`.

    Raises:
      ValueError: if shapes or types do not fit, or `axis` is the sample axis.
    """
    x = jnp.asarray(x)
    axis = channel_axis(x, axis)
    pivot, offset, var, count = _shifted_moments(
        x,
        _membership(x, modality, num_modalities),
        None if mask is None else _expand_mask(x, mask),
        axis,
        axis_name=axis_name,
        axis_index_groups=axis_index_groups,
        force_float32=force_float32_reductions,
    )
    return Moments(pivot + offset, var, count)


def modality_batch_norm(
    x: jax.Array,
    modality: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    *,
    use_running_average: bool,
    mask: jax.Array | None = None,
    axis: int = -1,
    momentum: float = 0.99,
    epsilon: float = 1e-5,
    dtype: Dtype | None = None,
    axis_name: str | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    force_float32_reductions: bool = True,
    forward_mode: bool = False,
) -> Normalised:
    """`mbn_jax.ModalityBatchNorm` without a module: statistics in, statistics out.

    ```python
    >>> import jax.numpy as jnp
    >>> from mbn_jax.functional import modality_batch_norm
    >>> x, modality = jnp.array([[1.0], [3.0], [10.0]]), jnp.array([0, 0, 1])
    >>> y, mean, var = modality_batch_norm(
    ...     x, modality, jnp.zeros((2, 1)), jnp.ones((2, 1)),
    ...     use_running_average=False, momentum=0.5)
    >>> y.round(2).tolist(), mean.tolist()
    ([[-1.0], [1.0], [0.0]], [[1.0], [5.0]])

    ```

    Args:
      x: `(B, …, C)`, floating point, channels at `axis`.
      modality: `(B,)`, integer, in `[0, num_modalities)`.
      mean: `(num_modalities, C)`, running means.
      var: `(num_modalities, C)`, running variances.
      scale: `(C,)` or `(num_modalities, C)`; none: 1.
      bias: `(C,)` or `(num_modalities, C)`; none: 0.
      use_running_average: normalise by `mean` and `var`, which come back unchanged,
        instead of by the batch.
      mask: bool, `(B,)` or broadcastable to `x` with the rank of `x`; False keeps a
        sample, or a position, out of the statistics.
      axis: the channel axis; any but 0.
      momentum: decay of the running statistics.
      epsilon: added to the variance.
      dtype: of the result (default: inferred from input, scale and bias).
      axis_name: mapped axis to reduce over, under pmap and shard_map.
      axis_index_groups: groups of indices within that axis.
      force_float32_reductions: accumulate in float32 at least.
      forward_mode: allow forward-mode differentiation (`jax.jvp`, `jax.linearize`) with
        the statistics of the batch, at the price of a slower gradient on CPUs. With
        running statistics it always works.

    Returns:
      `Normalised`: the result and the running statistics after this batch.

    Raises:
      ValueError: if shapes or types do not fit, or `axis` is the sample axis.
    """
    x, mean, var = map(jnp.asarray, (x, mean, var))
    axis = channel_axis(x, axis)
    if mean.shape[1:] != (x.shape[axis],) or var.shape != mean.shape:
        raise ValueError(
            f"mean and var have shapes {list(mean.shape)} and {list(var.shape)}, "
            f"expected [num_modalities, {x.shape[axis]}] for an input of shape "
            f"{list(x.shape)} with channels on axis {axis}."
        )
    member = _membership(x, modality, mean.shape[0])
    if dtype is None:
        dtype = jnp.result_type(x, *(a for a in (scale, bias) if a is not None))

    hidden = None
    if mask is not None:
        mask = _expand_mask(x, mask)
        # A zero cotangent times NaN is NaN: the non-finite values of masked samples
        # must leave the computation here and come back at its end.
        hidden = ~mask & ~jnp.isfinite(x)
        x = jnp.where(hidden, 0, x)

    if use_running_average:
        pivot, offset, batch_var = mean, jnp.zeros_like(mean), var
    else:
        pivot, offset, batch_var, count = _shifted_moments(
            x,
            member,
            mask,
            axis,
            axis_name=axis_name,
            axis_index_groups=axis_index_groups,
            force_float32=force_float32_reductions,
        )
        present = count > 0
        pivot = jnp.where(present, pivot, mean)
        batch_var = jnp.where(present, batch_var, var)
        keep = jnp.where(present, momentum, 1)
        mean = _blend(keep, mean, pivot + offset)
        var = _blend(keep, var, batch_var)

    multiplier = lax.rsqrt(batch_var + epsilon)
    if scale is not None:
        multiplier = multiplier * jnp.broadcast_to(scale, multiplier.shape)
    constant = -offset * multiplier
    if bias is not None:
        constant = constant + jnp.broadcast_to(bias, constant.shape)

    # One multiply-add in coordinates whose origin is near the mean: exact where
    # mean/std is large, where x * a + b would cancel.
    rows = _per_sample(member, x, axis, pivot, multiplier, constant)
    if use_running_average or forward_mode:
        y = _multiply_add(x, *rows)
    else:
        # Under shard_map the arguments of a function with a gradient of its own must
        # vary over devices alike; rows do not where the modalities are the same on all.
        # Of a selection between equals XLA keeps nothing.
        corner = x[(slice(None), *[slice(1)] * (x.ndim - 1))] == 0
        rows = [jnp.where(corner, row, row) for row in rows]
        y = _multiply_add_in_training(axis, x, *rows)
    if hidden is not None:
        y = jnp.where(hidden, jnp.nan, y)
    return Normalised(y.astype(dtype), mean, var)


def channel_axis(x: jax.Array, axis: int) -> int:
    """The channel axis counted from the front.

    Raises:
      ValueError: if `x` is not floating point, or `axis` is not one of its axes, or is
        axis 0.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"The input is {x.dtype}, expected a floating-point type.")
    if not -x.ndim <= axis < x.ndim or axis % x.ndim == 0:
        raise ValueError(
            f"axis={axis} does not name a channel axis of an input of shape "
            f"{list(x.shape)}, expected an axis other than 0, which holds the samples."
        )
    return axis % x.ndim


def _shifted_moments(
    x: jax.Array,
    member: jax.Array,
    mask: jax.Array | None,
    axis: int,
    *,
    axis_name: str | None,
    axis_index_groups: Sequence[Sequence[int]] | None,
    force_float32: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Pivot, mean minus pivot, variance and count, each `(M, C)`.

    * Float32 accumulation at least, whatever the type of `x`, unless told otherwise.
    * One pass over the data: every sample is summed over its own positions, and the
      small `(B, C)` sums go to their modality. A pass per modality would read
      `num_modalities` times as much.
    * Var = E[d²] − E[d]² with d = x − pivot, so nothing cancels where |mean| ≫ std. The
      pivot of a modality is the mean of a few positions of each of its samples: within
      a fraction of a standard deviation of the mean, and almost free. It is constant to
      the gradient, since the result does not depend on it.
    * Two reductions across devices, one for the pivot, one for sums and counts. Sums
      are added, never means averaged.
    * Selection by `where` and not by a product with a one-hot matrix: exact on hardware
      that multiplies matrices in reduced precision, deterministic in the gradient (no
      scatter), and a NaN of one modality stays out of the other's statistics.
    """
    # A float16 cannot count beyond 65,504.
    count_dtype = jnp.promote_types(x.dtype, jnp.float32)
    dtype = count_dtype if force_float32 else x.dtype

    def across_samples(*per_sample: jax.Array) -> jax.Array:
        """K arrays (B, C) to (K, M, C), over all devices."""
        stacked = jnp.stack(per_sample)[:, :, None, :]
        per_modality = jnp.where(member[None, :, :, None], stacked, 0).sum(1)
        if axis_name is None:
            return per_modality
        return lax.psum(per_modality, axis_name, axis_index_groups=axis_index_groups)

    def counts(x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Unmasked positions of every sample and channel, (B, C)."""
        if mask is None:
            shape = (x.shape[0], x.shape[axis])
            return jnp.full(shape, x.size // max(1, shape[0] * shape[1]), count_dtype)
        mask = jnp.broadcast_to(mask, x.shape)
        return jnp.sum(mask, _positions(x, axis), dtype=count_dtype)

    # A mask that hides positions within a sample may hide just those few that the pivot
    # looks at; then every position is looked at, which costs a second pass.
    hides_positions = mask is not None and mask.size > mask.shape[0]
    few = (slice(None),) * x.ndim if hides_positions else _few_positions(x.shape, axis)
    sample = lax.stop_gradient(x[few]).astype(dtype)
    seen = None if mask is None else mask[few] if hides_positions else mask
    if seen is not None:
        sample = jnp.where(seen, sample, 0)
    total, count = across_samples(
        jnp.sum(sample, _positions(sample, axis)), counts(sample, seen)
    )
    pivot = (total / jnp.maximum(count, 1)).astype(dtype)

    (origin,) = _per_sample(member, x, axis, pivot)
    first, second, count = across_samples(
        *_shifted_sums(x, origin, mask, axis, dtype), counts(x, mask)
    )
    first, second = first / jnp.maximum(count, 1), second / jnp.maximum(count, 1)
    # Rounding can leave a variance of zero a little below it.
    var = jnp.maximum(second - lax.square(first), 0)
    return pivot, first, var, count


# The backward pass computes the shift again, so that between the passes the input alone
# is kept: not the shifted one as well, nor a float32 copy of a bfloat16 one.
@partial(jax.checkpoint, prevent_cse=False, static_argnums=(3, 4))
def _shifted_sums(
    x: jax.Array, origin: jax.Array, mask: jax.Array | None, axis: int, dtype: Dtype
) -> list[jax.Array]:
    """Σd and Σd² with d = x − origin, of every sample and channel, `(B, C)` each."""
    shifted = x.astype(dtype) - origin
    if mask is not None:
        shifted = jnp.where(mask, shifted, 0)
    return _sums([shifted, lax.square(shifted)], _positions(x, axis))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _sums(arrays: Sequence[jax.Array], axes: Sequence[int]) -> list[jax.Array]:
    """Sums over `axes` of arrays of one shape, in one pass over all of them.

    * One reduction of a tuple, since on a CPU several reductions are several passes,
      with what they have in common written to memory in between.
    * One axis after the other, the last first, so that what is added up lies close
      together in memory.
    * JAX has no derivative for such a reduction. The rule below serves forward and
      reverse mode, and any order.
    """
    zeros = tuple(jnp.zeros((), a.dtype) for a in arrays)
    for axis in reversed(axes):
        arrays = lax.reduce(
            tuple(arrays), zeros, lambda a, b: tuple(map(lax.add, a, b)), (axis,)
        )
    return list(arrays)


@_sums.defjvp
def _sums_jvp(axes: Sequence[int], primals: Any, tangents: Any) -> Any:
    return _sums(*primals, axes), [jnp.sum(t, axes) for t in tangents[0]]


def _multiply_add(
    x: jax.Array, pivot: jax.Array, multiplier: jax.Array, constant: jax.Array
) -> jax.Array:
    """(x − pivot) · multiplier + constant, the last three one row per sample."""
    return (x - pivot) * multiplier + constant


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _multiply_add_in_training(axis: int, *arguments: jax.Array) -> jax.Array:
    """`_multiply_add` whose gradient takes both its sums in one pass.

    JAX would take them one by one, on a CPU with a float32 copy of bfloat16 arrays for
    each. The price is forward-mode differentiation, which JAX has only for functions
    without a gradient of their own.
    """
    return _multiply_add(*arguments)


def _multiply_add_forward(axis: int, *arguments: jax.Array) -> Any:
    return _multiply_add(*arguments), arguments[:3]


def _multiply_add_backward(axis: int, saved: Any, gradient: jax.Array) -> Any:
    x, pivot, multiplier = saved
    sums = _sums([gradient, gradient * (x - pivot)], _positions(x, axis))
    of_constant, of_multiplier = (rows.reshape(pivot.shape) for rows in sums)
    of_x = (gradient * multiplier).astype(x.dtype)
    return of_x, -of_constant * multiplier, of_multiplier, of_constant


_multiply_add_in_training.defvjp(_multiply_add_forward, _multiply_add_backward)


def _positions(x: jax.Array, axis: int) -> tuple[int, ...]:
    """The axes that are neither samples nor channels."""
    return tuple(i for i in range(1, x.ndim) if i != axis)


def _few_positions(shape: Sequence[int], axis: int) -> tuple[slice, ...]:
    """At most three positions along every axis but samples and channels."""
    return tuple(
        slice(None) if i in (0, axis) or n <= 3 else slice(n // 6, None, -(-n // 3))
        for i, n in enumerate(shape)
    )


def _membership(x: jax.Array, modality: jax.Array, num_modalities: int) -> jax.Array:
    """Bool (B, M): the modality of each sample; out of range is a row without True."""
    if not isinstance(modality, jax.Array):
        # Compared in NumPy: JAX would wrap 64-bit indices, and 2**32 would be visible.
        modality = np.asarray(modality)
    if modality.shape != x.shape[:1] or not jnp.issubdtype(modality.dtype, jnp.integer):
        raise ValueError(
            f"modality is {modality.dtype}{list(modality.shape)}, expected one integer "
            f"per sample, of shape {list(x.shape[:1])}, for an input of shape "
            f"{list(x.shape)}."
        )
    return jnp.asarray(modality[:, None] == np.arange(num_modalities)[None, :])


def _expand_mask(x: jax.Array, mask: jax.Array) -> jax.Array:
    """The mask with the rank of x."""
    mask = jnp.asarray(mask)
    fits = mask.ndim == x.ndim and all(
        m in (1, n) for m, n in zip(mask.shape, x.shape, strict=True)
    )
    if mask.dtype != bool or not (mask.shape == x.shape[:1] or fits):
        raise ValueError(
            f"mask is {mask.dtype}{list(mask.shape)}, expected bool{list(x.shape[:1])} "
            f"or one that broadcasts to the input's shape {list(x.shape)}."
        )
    if fits:
        return jnp.broadcast_to(mask, x.shape[:1] + mask.shape[1:])
    return mask.reshape(-1, *[1] * (x.ndim - 1))


def _per_sample(
    member: jax.Array, x: jax.Array, axis: int, *tables: jax.Array
) -> list[jax.Array]:
    """Tables (M, C) to one row per sample each, shaped to broadcast against x.

    Without a modality a row is NaN.

    * Of two modalities, a selection that XLA does where it uses the row: it costs next
      to nothing, and least where a convolution's gradient computes the normalisation
      again in another order of the axes.
    * Of more, finished rows, whose cost does not grow with their number. All in one
      reduction: XLA for CPU would hand a single one to a library that writes the row
      out for every position.
    """
    num_modalities = member.shape[1]
    if num_modalities <= 2:
        wide, tall = [1] * x.ndim, [1] * x.ndim
        wide[axis], tall[0] = x.shape[axis], x.shape[0]
        rows = [jnp.full(wide, jnp.nan, table.dtype) for table in tables]
        for m in range(num_modalities):
            here = member[:, m].reshape(tall)
            rows = [
                jnp.where(here, table[m].reshape(wide), row)
                for table, row in zip(tables, rows, strict=True)
            ]
        return rows
    shape = [1] * x.ndim
    shape[0], shape[axis] = x.shape[0], x.shape[axis]
    selected = [jnp.where(member[:, :, None], table[None], 0) for table in tables]
    rows = _sums(selected, (1,))
    nowhere = ~member.any(1, keepdims=True)
    return [jnp.where(nowhere, jnp.nan, row).reshape(shape) for row in rows]


def _blend(keep: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    """Moving average in the type of `old`; exactly `old` where `keep` is one."""
    return (keep * old + (1 - keep) * new).astype(old.dtype)
