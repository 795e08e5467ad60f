"""Modality Batch Normalization: every modality is normalised by its own statistics."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import canonicalize_dtype
from flax.typing import Dtype, Initializer
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


class ModalityBatchNorm(nn.Module):
    r"""Batch normalisation with one set of statistics per modality.

    A sample $x$ of modality $m$ becomes, channel by channel,

    $$ y = \gamma \, \frac{x - \mu_m}{\sqrt{\sigma_m^2 + \epsilon}} + \beta, $$

    where $\mu_m$ and $\sigma_m^2$ are the mean and the biased variance over the samples
    of modality $m$ alone, and, when `use_running_average`, their exponential moving
    averages. A plain batch normalisation pools the modalities, so that what one picture
    is normalised by depends on the share and the content of the other modality.

    Samples may come in any order and mix. `num_modalities=1` is `flax.linen.BatchNorm`.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from mbn_jax import ModalityBatchNorm
    >>> x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    >>> modality = jnp.array([0, 1, 1, 0])
    >>> layer = ModalityBatchNorm(momentum=0.9)
    >>> variables = layer.init(jax.random.key(1), x, modality, False)
    >>> jax.tree.map(jnp.shape, variables["batch_stats"])
    {'mean': (2, 3), 'var': (2, 3)}
    >>> y, updates = layer.apply(
    ...     variables, x, modality, False, mutable=["batch_stats"])

    ```

    Rules for the uncommon cases:

    * Masked samples do not enter the statistics and are normalised like the others.
      Values that are not finite stay so in a masked sample's own output and reach
      nothing else, neither in the value nor in the gradient.
    * A modality without a single unmasked sample in the (global) batch leaves its
      running statistics as they are; masked samples of it are normalised by these.
    * A modality index outside `[0, num_modalities)` gives NaN in that sample's output
      and touches no statistics, so that a labelling error cannot hide.
    * While initialising, the running statistics are not updated and `axis_name` need
      not exist.

    Under `jax.jit` with sharded arrays the statistics are those of the global batch
    without `axis_name`. Under `jax.pmap` and `jax.shard_map` give `axis_name`; counts
    and sums are reduced across devices, not means, so that devices may hold different
    numbers of a modality's samples, or none.

    Reference: Li, Qi, Chen, Zhou, "Bridging the Distribution Gap of Visible-Infrared
    Person Re-identification with Modality Batch Normalization", arXiv 2103.04778.

    Attributes:
      use_running_average: normalise by the stored statistics instead of the batch's.
      axis: the channel axis of the input; any but 0, which holds the samples.
      momentum: decay of the moving averages; 0.9 here is 0.1 in PyTorch.
      epsilon: added to the variance.
      dtype: of the result (default: inferred from input and parameters).
      param_dtype: of scale and bias.
      use_bias: add $\beta$.
      use_scale: multiply by $\gamma$.
      bias_init: initialiser of $\beta$.
      scale_init: initialiser of $\gamma$.
      axis_name: mapped axis to reduce over, for pmap and shard_map only.
      axis_index_groups: groups of indices within that axis to reduce over separately.
      force_float32_reductions: accumulate in float32 at least. If false, sums are in
        the type of the input.
      num_modalities: number of modalities.
      share_affine: one $\gamma$ and $\beta$ of shape `(C,)` for all modalities, or one
        per modality, `(num_modalities, C)`.
    """

    use_running_average: bool | None = None
    axis: int = -1
    momentum: float = 0.99
    epsilon: float = 1e-5
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones
    axis_name: str | None = None
    axis_index_groups: Any = None
    force_float32_reductions: bool = True
    num_modalities: int = 2
    share_affine: bool = True

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        modality: jax.Array,
        use_running_average: bool | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalises `x`.

        Args:
          x: `(B, …, C)`, floating point, channels at `axis`.
          modality: `(B,)`, integer.
          use_running_average: overrides the attribute; one of the two must be given.
          mask: bool, `(B,)` or broadcastable to `x` with the rank of `x`; False keeps
            a sample, or a position, out of the statistics.

        Returns:
          An array of the shape of `x`.

        Raises:
          ValueError: if shapes or types do not fit, or `axis` is the sample axis.
        """
        use_running_average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        x = jnp.asarray(x)
        axis = _channel_axis(x, self.axis)
        member = _membership(x, modality, self.num_modalities)
        table_shape = (self.num_modalities, x.shape[axis])

        ra_mean = self.variable(
            "batch_stats", "mean", jnp.zeros, table_shape, jnp.float32
        )
        ra_var = self.variable("batch_stats", "var", jnp.ones, table_shape, jnp.float32)

        hidden = None
        if mask is not None:
            mask = _expand_mask(x, mask)
            # A zero cotangent times NaN is NaN: the non-finite values of masked samples
            # must leave the computation here and come back at its end.
            hidden = ~mask & ~jnp.isfinite(x)
            x = jnp.where(hidden, 0, x)

        if use_running_average:
            pivot, offset, var = ra_mean.value, jnp.zeros(table_shape), ra_var.value
        else:
            pivot, offset, var, count = _shifted_moments(
                x,
                member,
                mask,
                axis,
                axis_name=None if self.is_initializing() else self.axis_name,
                axis_index_groups=self.axis_index_groups,
                force_float32=self.force_float32_reductions,
            )
            present = count > 0
            pivot = jnp.where(present, pivot, ra_mean.value)
            var = jnp.where(present, var, ra_var.value)
            if not self.is_initializing():
                keep = jnp.where(present, self.momentum, 1)
                ra_mean.value = _blend(keep, ra_mean.value, pivot + offset)
                ra_var.value = _blend(keep, ra_var.value, var)

        multiplier = lax.rsqrt(var + self.epsilon)
        affine = []
        affine_shape = table_shape[1:] if self.share_affine else table_shape
        if self.use_scale:
            scale = self.param("scale", self.scale_init, affine_shape, self.param_dtype)
            affine.append(scale)
            multiplier = multiplier * jnp.broadcast_to(scale, table_shape)
        constant = -offset * multiplier
        if self.use_bias:
            bias = self.param("bias", self.bias_init, affine_shape, self.param_dtype)
            affine.append(bias)
            constant = constant + jnp.broadcast_to(bias, table_shape)

        # One multiply-add in coordinates whose origin is near the mean: exact where
        # mean/std is large, where x * a + b would cancel, and two reductions in the
        # gradient, where (x - mean) * a + b takes three.
        per_sample = partial(_per_sample, member=member, ndim=x.ndim, axis=axis)
        y = (x - per_sample(pivot)) * per_sample(multiplier) + per_sample(constant)
        if hidden is not None:
            y = jnp.where(hidden, jnp.nan, y)
        return jnp.asarray(y, canonicalize_dtype(x, *affine, dtype=self.dtype))


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
    axis = _channel_axis(x, axis)
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
    if force_float32:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))

    # A float16 cannot count beyond 65,504.
    count_dtype = jnp.promote_types(x.dtype, jnp.float32)
    positions = tuple(i for i in range(1, x.ndim) if i != axis)

    def reduce(where: jax.Array | None, *values: jax.Array) -> jax.Array:
        """Arrays of the shape of x to their sums and the count, (K + 1, M, C)."""
        if where is None:
            sums = [jnp.sum(v, positions) for v in values]
            number = math.prod(values[0].shape[i] for i in positions)
            counts = jnp.full(sums[0].shape, number, count_dtype)
        else:
            where = jnp.broadcast_to(where, values[0].shape)
            sums = [jnp.sum(v, positions, where=where) for v in values]
            counts = jnp.sum(where, positions, dtype=count_dtype)
        per_sample = jnp.stack([*sums, counts])[:, :, None, :]  # (K + 1, B, 1, C)
        per_modality = jnp.where(member[None, :, :, None], per_sample, 0).sum(1)
        if axis_name is None:
            return per_modality
        return lax.psum(per_modality, axis_name, axis_index_groups=axis_index_groups)

    # A mask that hides positions within a sample may hide just those few that the pivot
    # looks at; then every position is looked at, which costs a second pass.
    hides_positions = mask is not None and mask.size > mask.shape[0]
    few = (slice(None),) * x.ndim if hides_positions else _few_positions(x.shape, axis)
    seen = None if mask is None else mask[few] if hides_positions else mask
    total, count = reduce(seen, lax.stop_gradient(x[few]))
    pivot = total / jnp.maximum(count, 1)

    shifted = x - _per_sample(pivot, member, x.ndim, axis)
    first, second, count = reduce(mask, shifted, lax.square(shifted))
    first, second = first / jnp.maximum(count, 1), second / jnp.maximum(count, 1)
    # Rounding can leave a variance of zero a little below it.
    var = jnp.maximum(second - lax.square(first), 0)
    return pivot, first, var, count


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


def _channel_axis(x: jax.Array, axis: int) -> int:
    """The channel axis counted from the front."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"The input is {x.dtype}, expected a floating-point type.")
    if not -x.ndim <= axis < x.ndim or axis % x.ndim == 0:
        raise ValueError(
            f"axis={axis} does not name a channel axis of an input of shape "
            f"{list(x.shape)}, expected an axis other than 0, which holds the samples."
        )
    return axis % x.ndim


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


def _per_sample(table: jax.Array, member: jax.Array, ndim: int, axis: int) -> jax.Array:
    """Table (M, C) to one row per sample, shaped to broadcast against the input."""
    rows = jnp.where(member[:, :, None], table[None], 0).sum(1)
    rows = jnp.where(member.any(1, keepdims=True), rows, jnp.nan)
    shape = [1] * ndim
    shape[0], shape[axis] = rows.shape
    return rows.reshape(shape)


def _blend(keep: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    """Moving average in the type of `old`; exactly `old` where `keep` is one."""
    return (keep * old + (1 - keep) * new).astype(old.dtype)
