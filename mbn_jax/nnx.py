"""The layer for `flax.nnx`, over the same functions as the Linen one."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer
from jax import lax

from mbn_jax.functional import channel_axis, modality_batch_norm


class ModalityBatchNorm(nnx.Module):
    r"""Batch normalisation with one set of statistics per modality, as an NNX module.

    A sample $x$ of modality $m$ becomes, channel by channel,
    $\gamma (x - \mu_m) / \sqrt{\sigma_m^2 + \epsilon} + \beta$ with the mean and the
    biased variance over the samples of modality $m$ alone. Arguments are those of
    `flax.nnx.BatchNorm`, by the same names and defaults, without `use_fast_variance`,
    `promote_dtype` and the metadata, and with `num_modalities`, `share_affine`,
    `unknown`, `pooled_weights` and `force_float32_reductions`; `model.train()`,
    `model.eval()` and `nnx.view` switch between the statistics of the batch and the running ones.

    * Masked samples stay out of the statistics and are normalised like the others; what
      is not finite in them reaches nothing else.
    * A modality that is absent from the (global) batch keeps its running statistics.
    * A modality index outside `[0, num_modalities)` gives NaN in that sample's output.
    * Under `jax.jit` with sharded arrays statistics are global; under `jax.pmap` and
      `jax.shard_map` give `axis_name`.

    The running statistics are `nnx.BatchStat` variables in float32 whatever `dtype`,
    so that a bfloat16 network evaluates with exact ones.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from mbn_jax.nnx import ModalityBatchNorm
    >>> layer = ModalityBatchNorm(3, momentum=0.9, rngs=nnx.Rngs(0))
    >>> x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    >>> modality = jnp.array([0, 1, 1, 0])
    >>> y = layer(x, modality)
    >>> layer.mean.shape, layer.var.dtype
    ((2, 3), dtype('float32'))
    >>> layer.eval()
    >>> y = layer(x, modality)

    ```

    Reference: Li, Qi, Chen, Zhou, "Bridging the Distribution Gap of Visible-Infrared
    Person Re-identification with Modality Batch Normalization", arXiv 2103.04778.

    Attributes:
      mean: `nnx.BatchStat` `(num_modalities, num_features)`, float32.
      var: `nnx.BatchStat` `(num_modalities, num_features)`, float32.
      scale: `nnx.Param` `(num_features,)`, or `(num_modalities, num_features)` without
        `share_affine`; None without `use_scale`.
      bias: likewise, None without `use_bias`.
    """

    def __init__(
        self,
        num_features: int,
        *,
        num_modalities: int = 2,
        share_affine: bool = True,
        use_running_average: bool | None = False,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-5,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Initializer = jax.nn.initializers.zeros,
        scale_init: Initializer = jax.nn.initializers.ones,
        axis_name: str | None = None,
        axis_index_groups: Sequence[Sequence[int]] | None = None,
        force_float32_reductions: bool = True,
        unknown: str = "nan",
        pooled_weights: Sequence[float] | None = None,
        rngs: nnx.Rngs,
    ):
        """Creates the variables.

        Args:
          num_features: channels, C.
          num_modalities: number of modalities.
          share_affine: one $\\gamma$ and $\\beta$ for all modalities, or one each.
          use_running_average: normalise by the stored statistics instead of the
            batch's; None: to be given at every call.
          axis: the channel axis of the input; any but 0, which holds the samples.
          momentum: decay of the moving averages; 0.9 here is 0.1 in PyTorch.
          epsilon: added to the variance.
          dtype: of the result (default: inferred from input and parameters).
          param_dtype: of scale and bias.
          use_bias: add $\\beta$.
          use_scale: multiply by $\\gamma$.
          bias_init: initialiser of $\\beta$.
          scale_init: initialiser of $\\gamma$.
          axis_name: mapped axis to reduce over, for pmap and shard_map only.
          axis_index_groups: groups of indices within that axis, for pmap only.
          force_float32_reductions: accumulate in float32 at least.
          unknown: what a modality of -1 means with running statistics: "nan", or
            "pooled", the mixture of the modalities (see `mbn_jax.ModalityBatchNorm`).
          pooled_weights: of the modalities in the mixture; None: equal.
          rngs: its `params` stream initialises scale and bias.
        """
        table_shape = (num_modalities, num_features)
        affine_shape = (num_features,) if share_affine else table_shape
        self.mean = nnx.BatchStat(jnp.zeros(table_shape, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(table_shape, jnp.float32))
        self.scale = nnx.data(
            nnx.Param(scale_init(rngs.params(), affine_shape, param_dtype))
            if use_scale
            else None
        )
        self.bias = nnx.data(
            nnx.Param(bias_init(rngs.params(), affine_shape, param_dtype))
            if use_bias
            else None
        )
        self.num_features = num_features
        self.num_modalities = num_modalities
        self.share_affine = share_affine
        self.use_running_average = use_running_average
        self.axis = axis
        self.momentum = momentum
        self.epsilon = epsilon
        self.dtype = dtype
        self.axis_name = axis_name
        self.axis_index_groups = axis_index_groups
        self.force_float32_reductions = force_float32_reductions
        self.unknown = unknown
        # A tuple: it is part of the graph's static, hashable definition.
        self.pooled_weights = None if pooled_weights is None else tuple(pooled_weights)

    def __call__(
        self,
        x: jax.Array,
        modality: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalises `x`; by the batch's statistics, also updates the running ones.

        Args:
          x: `(B, …, C)`, floating point, channels at `axis`.
          modality: `(B,)`, integer, in `[0, num_modalities)`.
          use_running_average: overrides the attribute.
          mask: bool, `(B,)` or broadcastable to `x` with the rank of `x`; False keeps
            a sample, or a position, out of the statistics.

        Returns:
          An array of the shape of `x`.

        Raises:
          ValueError: if shapes or types do not fit, `axis` is the sample axis, or
            nothing says which statistics to use.
        """
        if use_running_average is None:
            use_running_average = self.use_running_average
        if use_running_average is None:
            raise ValueError(
                "use_running_average is None here and in the module, expected True or "
                "False in one of the two."
            )
        x = jnp.asarray(x)
        features = x.shape[channel_axis(x, self.axis)]
        if features != self.num_features:
            raise ValueError(
                f"The input of shape {list(x.shape)} has {features} channels on axis "
                f"{self.axis}, expected {self.num_features}."
            )
        y, mean, var = modality_batch_norm(
            x,
            modality,
            self.mean[...],
            self.var[...],
            None if self.scale is None else self.scale[...],
            None if self.bias is None else self.bias[...],
            use_running_average=use_running_average,
            mask=mask,
            axis=self.axis,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=self.dtype,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
            force_float32_reductions=self.force_float32_reductions,
            unknown=self.unknown,
            pooled_weights=self.pooled_weights,
        )
        if not use_running_average:
            # They are state: no gradient flows into the statistics of the next call.
            self.mean[...], self.var[...] = lax.stop_gradient((mean, var))
        return y

    def set_view(self, use_running_average: bool | None = None) -> None:
        """What `nnx.view(model, use_running_average=…)` calls.

        Args:
          use_running_average: as the attribute; None leaves it.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average
