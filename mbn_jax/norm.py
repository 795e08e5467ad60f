"""Modality Batch Normalization: each modality is normalized with its own statistics."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from mbn_jax.arguments import channel_axis, input_array, integer
from mbn_jax.functional import modality_batch_norm


class ModalityBatchNorm(nn.Module):
    r"""Batch normalization with one set of statistics per modality.

    A sample $x$ of modality $m$ becomes, channel by channel,

    $$ y = \gamma \, \frac{x - \mu_m}{\sqrt{\sigma_m^2 + \epsilon}} + \beta, $$

    where $\mu_m$ and $\sigma_m^2$ are the mean and the biased variance over the samples
    of modality $m$ alone, or, with `use_running_average`, their exponential moving
    averages. Plain batch normalization pools the modalities, so that the statistics
    that normalize one image depend on the share and the content of the other modality.

    The modalities may be in any order and mix. With `num_modalities=1`, the layer
    computes the same as `flax.linen.BatchNorm`.

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

    Rules for special cases:

    * Masked samples do not enter the statistics and are normalized like the others. A
      non-finite value in a masked sample appears only in the output of that sample and
      affects no other value and no gradient.
    * If a modality has no unmasked sample in the (global) batch, its running statistics
      do not change, and its masked samples are normalized with them.
    * A modality index outside `[0, num_modalities)` gives NaN in that sample's output,
      and the sample enters no statistics, so that a labeling error is noticed.
    * During initialization, the running statistics are not updated and `axis_name` need
      not exist.

    Under `jax.jit` with sharded arrays, the statistics are those of the global batch
    without `axis_name`. Under `jax.pmap` and `jax.shard_map`, set `axis_name`. Counts
    and sums are reduced across devices, not means, so that devices may hold different
    numbers of samples of a modality, or none.

    Reference: Li, Qi, Chen, Zhou, "Bridging the Distribution Gap of Visible-Infrared
    Person Re-identification with Modality Batch Normalization", arXiv 2103.04778.

    Attributes:
      use_running_average: normalize with the running statistics instead of those of
        the batch.
      axis: the channel axis of the input; not axis 0, which holds the samples.
      momentum: decay of the moving averages; 0.9 here is 0.1 in PyTorch.
      epsilon: added to the variance.
      dtype: dtype of the result (default: inferred from input and parameters).
      param_dtype: dtype of scale and bias.
      use_bias: add $\beta$.
      use_scale: multiply by $\gamma$.
      bias_init: initializer of $\beta$.
      scale_init: initializer of $\gamma$.
      axis_name: mapped axis to reduce over, for pmap and shard_map only.
      axis_index_groups: groups of indices within that axis to reduce over separately,
        for pmap only.
      force_float32_reductions: accumulate in float32 or wider. If false, sums are in
        the dtype of the input.
      num_modalities: number of modalities.
      share_affine: one $\gamma$ and $\beta$ of shape `(C,)` for all modalities, or one
        per modality, `(num_modalities, C)`.
      unknown: what modality -1 means with running statistics. With "nan", the output
        is NaN, as for every index out of range. With "pooled", the sample is normalized
        with the statistics of the mixture of the modalities
        (`mbn_jax.functional.pooled_moments`) and, without `share_affine`, with the
        weighted mean of the scales and biases. With the statistics of the batch, the
        output is NaN in either case.
      pooled_weights: weights of the modalities in the mixture, in their order; None
        means equal.
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
    unknown: str = "nan"
    pooled_weights: Sequence[float] | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        modality: jax.Array,
        use_running_average: bool | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalizes `x`.

        Args:
          x: `(B, …, C)`, floating point, channels at `axis`.
          modality: `(B,)`, integer.
          use_running_average: like the attribute; exactly one of the two must be set.
          mask: bool, `(B,)` or broadcastable to `x` with the rank of `x`; False keeps
            a sample or a position out of the statistics.

        Returns:
          An array of the shape of `x`.

        Raises:
          ValueError: if shapes or dtypes do not fit, including those of the running
            statistics, if `axis` is the sample axis, or if `num_modalities` is not a
            positive integer.
        """
        use_running_average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        x = input_array(x)
        features = x.shape[channel_axis(x, self.axis)]
        number = integer("num_modalities", self.num_modalities, least=1)
        table_shape = (number, features)
        affine_shape = (features,) if self.share_affine else table_shape

        ra_mean = self.variable(
            "batch_stats", "mean", jnp.zeros, table_shape, jnp.float32
        )
        ra_var = self.variable("batch_stats", "var", jnp.ones, table_shape, jnp.float32)
        for name, table in (("mean", ra_mean.value), ("var", ra_var.value)):
            if jnp.shape(table) != table_shape:
                raise ValueError(
                    f"batch_stats/{'/'.join((*self.path, name))} has shape "
                    f"{list(jnp.shape(table))}, expected {list(table_shape)}: "
                    "[num_modalities, C]. Pass the num_modalities of the variables, "
                    "or convert those of a BatchNorm network with "
                    "mbn_jax.convert.from_batch_norm."
                )
        scale = bias = None
        if self.use_scale:
            scale = self.param("scale", self.scale_init, affine_shape, self.param_dtype)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, affine_shape, self.param_dtype)

        y, mean, var = modality_batch_norm(
            x,
            modality,
            ra_mean.value,
            ra_var.value,
            scale,
            bias,
            use_running_average=use_running_average,
            mask=mask,
            axis=self.axis,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=self.dtype,
            axis_name=None if self.is_initializing() else self.axis_name,
            axis_index_groups=self.axis_index_groups,
            force_float32_reductions=self.force_float32_reductions,
            unknown=self.unknown,
            pooled_weights=self.pooled_weights,
        )
        if not use_running_average and not self.is_initializing():
            ra_mean.value, ra_var.value = mean, var
        return y
