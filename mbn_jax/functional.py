"""Modality batch normalization as pure functions, which the layers call."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jax import lax
from jax.sharding import PartitionSpec

from mbn_jax.arguments import (
    channel_axis,
    input_array,
    integer,
    labels,
    layer_settings,
    modality_weights,
    sample_mask,
)
from mbn_jax.mesh import spec_of, takes_explicit_axes
from mbn_jax.numerics import along, multiply_add, promoted, shifted_moments
from mbn_jax.reductions import per_sample


class Moments(NamedTuple):
    """Statistics of one layer's input, per modality.

    Attributes:
      mean: `(num_modalities, C)`.
      var: `(num_modalities, C)`, biased (divided by the count), never negative.
      counts: `(num_modalities, C)`, the number of values; where it is 0, the mean and
        the variance are 0.
    """

    mean: jax.Array
    var: jax.Array
    counts: jax.Array


class Normalized(NamedTuple):
    """The result of `modality_batch_norm`.

    Attributes:
      y: the normalized input, of the shape of the input.
      mean: `(num_modalities, C)`, the running mean after this batch.
      var: `(num_modalities, C)`, the running variance after this batch.
    """

    y: jax.Array
    mean: jax.Array
    var: jax.Array


@takes_explicit_axes(lambda *_, **__: Moments._make([PartitionSpec()] * 3))
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
    """Computes mean, biased variance and count of every modality and channel.

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
      modality: `(B,)`, integer; a sample whose index is outside `[0, num_modalities)`
        is left out.
      num_modalities: number of modalities.
      mask: bool, `(B,)` or broadcastable to `x` with the rank of `x`; False leaves
        out a sample or a position.
      axis: the channel axis, which must not be 0.
      axis_name: mapped axis to reduce over, under pmap and shard_map.
      axis_index_groups: groups of indices within that axis.
      force_float32_reductions: accumulate in float32 or wider.

    Returns:
      `Moments`, each of shape `(num_modalities, C)`.

    Raises:
      ValueError: if shapes or dtypes do not fit, if `axis` is the sample axis, or if
        `num_modalities` is not a positive integer.
    """
    x = input_array(x)
    axis = channel_axis(x, axis)
    num_modalities = integer("num_modalities", num_modalities, least=1)
    pivot, offset, var, count = shifted_moments(
        x,
        _membership(x, modality, range(num_modalities)),
        None if mask is None else sample_mask(mask, x),
        axis,
        axis_name=axis_name,
        axis_index_groups=axis_index_groups,
        force_float32=force_float32_reductions,
    )
    return Moments(pivot + offset, var, count)


@takes_explicit_axes(
    lambda x, modality, mean, var, *_, **__: Normalized._make(
        map(spec_of, (x, mean, var))
    )
)
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
    unknown: str = "nan",
    pooled_weights: Sequence[float] | None = None,
) -> Normalized:
    """Computes `mbn_jax.ModalityBatchNorm` as a pure function, without a module.

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
      scale: `(C,)` or `(num_modalities, C)`; None means 1.
      bias: `(C,)` or `(num_modalities, C)`; None means 0.
      use_running_average: normalize with `mean` and `var`, which are returned
        unchanged, instead of the statistics of the batch.
      mask: as in `modality_moments`; it does not change what is normalized.
      axis: the channel axis, which must not be 0.
      momentum: decay of the running statistics.
      epsilon: added to the variance.
      dtype: dtype of the result (default: inferred from input, scale and bias).
      axis_name: as in `modality_moments`.
      axis_index_groups: as in `modality_moments`.
      force_float32_reductions: as in `modality_moments`.
      unknown: what modality -1 means with running statistics, "nan" or "pooled", as in
        `mbn_jax.ModalityBatchNorm`.
      pooled_weights: weights of the modalities in the mixture; None means equal.

    Returns:
      `Normalized`: the result and the running statistics after this batch.

    Raises:
      ValueError: if shapes or dtypes do not fit, or `axis` is the sample axis.
    """
    x, mean, var = input_array(x), jnp.asarray(mean), jnp.asarray(var)
    axis = channel_axis(x, axis)
    if mean.shape[1:] != (x.shape[axis],) or var.shape != mean.shape:
        raise ValueError(
            f"mean and var have shapes {list(mean.shape)} and {list(var.shape)}, "
            f"expected [num_modalities, {x.shape[axis]}] for an input of shape "
            f"{list(x.shape)} with channels on axis {axis}."
        )
    layer_settings(len(mean), unknown, pooled_weights)
    affine = [None if a is None else jnp.asarray(a) for a in (scale, bias)]
    given = [a.dtype for a in (x, *affine) if a is not None]
    if dtype is None:
        dtype = promoted(*given)
    # The dtype of the arithmetic. Everything is cast to it, because JAX would promote
    # most operands, but not those of a reduction.
    wide = promoted(jnp.float32, mean.dtype, *given)
    scale, bias = (None if a is None else a.astype(wide) for a in affine)

    hidden = None
    if mask is not None:
        mask = sample_mask(mask, x)
        # A zero cotangent times NaN is NaN, so the non-finite values of masked samples
        # are removed from the computation here and restored at its end.
        hidden = ~mask & ~jnp.isfinite(x)
        restored = lax.stop_gradient(x).astype(wide) * 0
        x = jnp.where(hidden, 0, x)

    indices = list(range(mean.shape[0]))
    if use_running_average:
        pivot, batch_var, offset = mean.astype(wide), var.astype(wide), None
        if unknown == "pooled":
            # Every table gets one more row, for the samples of modality -1.
            indices.append(-1)
            pooled = pooled_moments(pivot, batch_var, pooled_weights)
            pivot, batch_var = (
                jnp.concatenate([table, row[None]])
                for table, row in zip((pivot, batch_var), pooled, strict=True)
            )
            scale, bias = (
                jnp.concatenate([a, pooled_mean(a, pooled_weights)[None]])
                if a is not None and a.ndim == 2
                else a
                for a in (scale, bias)
            )
        member = _membership(x, modality, indices)
    else:
        member = _membership(x, modality, indices)
        *moments, count = shifted_moments(
            x,
            member,
            mask,
            axis,
            axis_name=axis_name,
            axis_index_groups=axis_index_groups,
            force_float32=force_float32_reductions,
        )
        pivot, offset, batch_var = (table.astype(wide) for table in moments)
        present = count > 0
        pivot = jnp.where(present, pivot, mean.astype(wide))
        batch_var = jnp.where(present, batch_var, var.astype(wide))
        mean = _blend(present, momentum, mean, pivot + offset)
        var = _blend(present, momentum, var, batch_var)

    multiplier = lax.rsqrt(batch_var + jnp.asarray(epsilon, wide))
    if scale is not None:
        multiplier = multiplier * jnp.broadcast_to(scale, multiplier.shape)
    constant = jnp.zeros_like(pivot) if offset is None else -offset * multiplier
    if bias is not None:
        constant = constant + jnp.broadcast_to(bias, constant.shape)

    # One multiply-add in coordinates whose origin is near the mean. It is exact where
    # mean/std is large; there, x * a + b would suffer from cancellation.
    pivot, multiplier, constant = per_sample(member, pivot, multiplier, constant)
    # A constant NaN would itself raise under `jax_debug_nans` where jit is disabled.
    known = jnp.where(member.any(1, keepdims=True), 1, -1)
    multiplier = multiplier * jnp.sqrt(known.astype(wide))
    rows = [along(x, axis, row) for row in (pivot, multiplier, constant)]
    y = multiply_add(x, *rows, axis)
    if hidden is not None:
        y = jnp.where(hidden, restored, y)
    return Normalized(y.astype(dtype), mean, var)


def pooled_moments(
    mean: Any, var: Any, weights: Sequence[float] | None = None
) -> tuple[Any, Any]:
    r"""Computes mean and variance of a mixture of the modalities, with weights $w_m$.

    $$ \mu = \sum_m w_m \mu_m, \quad
       \sigma^2 = \sum_m w_m \left(\sigma_m^2 + (\mu_m - \mu)^2\right) $$

    ```python
    >>> import numpy as np
    >>> from mbn_jax.functional import pooled_moments
    >>> mean, var = pooled_moments(np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]]))
    >>> mean.tolist(), var.tolist()
    ([1.0], [3.0])

    ```

    Args:
      mean: `(…, num_modalities, C)`, NumPy or JAX.
      var: same shape as `mean`.
      weights: weights of the modalities, in their order, which are scaled to a sum of
        1; None means equal.

    Returns:
      The mean and the variance of the mixture, `(…, C)`.

    Raises:
      ValueError: if the tables are not numbers of one shape, or if the weights are not
        one non-negative number per modality.
    """
    mean, var = _table(mean), _table(var)
    if mean.shape != var.shape:
        raise ValueError(
            f"mean and var have shapes {list(mean.shape)} and {list(var.shape)}, "
            "expected the same."
        )
    pooled = pooled_mean(mean, weights)
    away = mean - pooled[..., None, :]
    return pooled, pooled_mean(var + away * away, weights)


def pooled_mean(table: Any, weights: Sequence[float] | None = None) -> Any:
    """Computes the mean of `pooled_moments` alone, also for scales and biases."""
    table = _table(table)
    shares = modality_weights(weights, table.shape[-2]).astype(table.dtype)
    return (shares[:, None] * table).sum(-2)


def _table(table: Any) -> Any:
    """Returns a table of the modalities, NumPy or JAX, in floating point."""
    array = table if isinstance(table, jax.Array) else np.asarray(table)
    if array.ndim < 2 or not jnp.issubdtype(array.dtype, jnp.number):
        raise ValueError(
            f"A table of the modalities is {array.dtype}{list(array.shape)}, expected "
            "numbers of shape […, num_modalities, C]."
        )
    # Weights as integers would be 0.
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def _blend(
    present: jax.Array, momentum: float, old: jax.Array, new: jax.Array
) -> jax.Array:
    """Moving average in the dtype of `old`; exactly `old` where nothing is present."""
    keep = jnp.asarray(momentum, new.dtype)
    blended = keep * old.astype(new.dtype) + (1 - keep) * new
    return jnp.where(present, blended.astype(old.dtype), old)


def _membership(x: jax.Array, modality: Any, indices: Sequence[int]) -> jax.Array:
    """Bool (B, L): which index each sample has; a row without True has none."""
    modality, columns = labels("modality", modality, x), np.array(indices)
    if isinstance(modality, np.ndarray):
        return jnp.asarray(modality[:, None] == columns[None, :])
    # Compare in the dtype of the modality: JAX would wrap an index that does not fit.
    limits = jnp.iinfo(modality.dtype)
    possible = (limits.min <= columns) & (columns <= limits.max)
    found = modality[:, None] == columns.astype(modality.dtype)[None, :]
    return found & possible[None, :]
