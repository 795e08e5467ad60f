"""The layer for `flax.nnx`, and its use in an existing network."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import canonicalize_dtype
from flax.typing import Dtype, Initializer
from jax import lax

from mbn_jax.arguments import channel_axis, input_array, integer, layer_settings
from mbn_jax.context import current_modality
from mbn_jax.functional import modality_batch_norm
from mbn_jax.nnx_graph import (
    change_class,
    edit_variables,
    find_layers,
    obstacle,
    with_value,
)


class ModalityBatchNorm(nnx.Module):
    """Batch normalization with one set of statistics per modality, as an NNX module.

    It computes the same as `mbn_jax.ModalityBatchNorm`, also in special cases and
    across devices. The arguments have the names and defaults of `flax.nnx.BatchNorm`,
    without `use_fast_variance`, `promote_dtype` and the metadata, and with
    `num_modalities`, `share_affine`, `unknown`, `pooled_weights` and
    `force_float32_reductions`. `model.train()`, `model.eval()` and `nnx.view` switch
    between the statistics of the batch and the running ones.

    The running statistics are `nnx.BatchStat` variables in float32, whatever `dtype`,
    so that a bfloat16 network evaluates with exact statistics.

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

    Attributes:
      mean: `nnx.BatchStat` `(num_modalities, num_features)`, float32.
      var: `nnx.BatchStat` `(num_modalities, num_features)`, float32.
      scale: `nnx.Param` `(num_features,)`, or `(num_modalities, num_features)` without
        `share_affine`; None without `use_scale`.
      bias: like `scale`; None without `use_bias`.
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

        `mbn_jax.ModalityBatchNorm` says more about the arguments.

        Args:
          num_features: number of channels, C.
          num_modalities: number of modalities.
          share_affine: one scale and bias for all modalities, or one each.
          use_running_average: normalize with the running statistics instead of those
            of the batch; if None, every call must set it.
          axis: the channel axis of the input; not axis 0, which holds the samples.
          momentum: decay of the moving averages; 0.9 here is 0.1 in PyTorch.
          epsilon: added to the variance.
          dtype: dtype of the result (default: inferred from input and parameters).
          param_dtype: dtype of scale and bias.
          use_bias: add a bias.
          use_scale: multiply by a scale.
          bias_init: initializer of the bias.
          scale_init: initializer of the scale.
          axis_name: mapped axis to reduce over, for pmap and shard_map only.
          axis_index_groups: groups of indices within that axis, for pmap only.
          force_float32_reductions: accumulate in float32 or wider.
          unknown: what modality -1 means with running statistics, "nan" or "pooled".
          pooled_weights: weights of the modalities in the mixture; None means equal.
          rngs: its `params` stream initializes scale and bias.

        Raises:
          ValueError: if `num_features`, `num_modalities`, `unknown` or `pooled_weights`
            is not valid.
        """
        num_modalities, weights = layer_settings(
            num_modalities, unknown, pooled_weights
        )
        num_features = integer("num_features", num_features, least=0)
        table_shape = (num_modalities, num_features)
        affine_shape = (num_features,) if share_affine else table_shape
        self.mean = nnx.BatchStat(jnp.zeros(table_shape, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(table_shape, jnp.float32))

        def parameter(init: Initializer) -> nnx.Param:
            return nnx.Param(init(rngs.params(), affine_shape, param_dtype))

        self.scale = nnx.data(parameter(scale_init) if use_scale else None)
        self.bias = nnx.data(parameter(bias_init) if use_bias else None)
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
        self.pooled_weights = weights

    def __call__(
        self,
        x: jax.Array,
        modality: jax.Array | None = None,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalizes `x`; with batch statistics, it also updates the running ones.

        Args:
          x: `(B, …, C)`, floating point, channels at `axis`.
          modality: `(B,)`, integer, in `[0, num_modalities)`; None means that of the
            active `mbn_jax.by_modality`.
          use_running_average: overrides the attribute.
          mask: bool, `(B,)` or broadcastable to `x` with the rank of `x`; False keeps
            a sample or a position out of the statistics.

        Returns:
          An array of the shape of `x`.

        Raises:
          ValueError: if shapes or dtypes do not fit, if `axis` is the sample axis, or
            if `use_running_average` or the modality of the samples is set nowhere.
        """
        return self._normalize(x, modality, use_running_average, mask, self.dtype)

    def _normalize(
        self,
        x: jax.Array,
        modality: jax.Array | None,
        use_running_average: bool | None,
        mask: jax.Array | None,
        dtype: Dtype | None,
    ) -> jax.Array:
        """Does the work of `__call__`, whose signature a subclass may change."""
        if use_running_average is None:
            use_running_average = self.use_running_average
        if use_running_average is None:
            raise ValueError(
                "use_running_average is None in the call and in the module, expected "
                "True or False in one of the two."
            )
        x = input_array(x)
        if modality is None:
            modality = _active_modality(x)
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
            dtype=dtype,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
            force_float32_reductions=self.force_float32_reductions,
            unknown=self.unknown,
            pooled_weights=self.pooled_weights,
        )
        if not use_running_average:
            # No gradient flows into the statistics of the next call: they are state.
            self.mean[...], self.var[...] = lax.stop_gradient((mean, var))
        return y

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Sets the attribute for `nnx.view(model, use_running_average=…)`.

        Args:
          use_running_average: new value of the attribute; None leaves it unchanged.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average


class ReplacedBatchNorm(ModalityBatchNorm):
    """A layer after `replace_batch_norm`; it is called like `nnx.BatchNorm`.

    The network around it passes no modality, so the modality always comes from the
    active `mbn_jax.by_modality`. Masks and the dtype of the result follow
    `nnx.BatchNorm`.
    """

    def __call__(  # type: ignore[override]
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalizes `x` by the modality of the active `mbn_jax.by_modality`.

        Args:
          x: `(B, …, C)`, channels at `axis`.
          use_running_average: overrides the attribute.
          mask: bool, broadcastable to `x`, also from a lower rank: a mask of rank 1
            masks channels, unlike in `ModalityBatchNorm`.

        Returns:
          An array of the shape of `x`.

        Raises:
          ValueError: as for `ModalityBatchNorm`.
        """
        x = input_array(x)
        variables = (self.mean, self.var, self.scale, self.bias)
        with jax.numpy_dtype_promotion("standard"):
            dtype = canonicalize_dtype(
                x, *(None if v is None else v[...] for v in variables), dtype=self.dtype
            )
        if not jnp.issubdtype(x.dtype, jnp.floating):
            x = x.astype(dtype)
        if mask is not None and jnp.ndim(mask) < x.ndim:
            mask = jnp.expand_dims(mask, range(x.ndim - jnp.ndim(mask)))
        return self._normalize(x, None, use_running_average, mask, dtype)


def replace_batch_norm(
    model: nnx.Module,
    num_modalities: int = 2,
    share_affine: bool = True,
    at: Callable[[str], bool] | None = None,
    *,
    unknown: str = "nan",
    pooled_weights: Sequence[float] | None = None,
) -> None:
    """Replaces every `nnx.BatchNorm` of a model with a `ModalityBatchNorm`, in place.

    The statistics are copied to every modality, so that the model computes the same
    function in evaluation as before. Its code does not change: the layers take the
    modality of each sample from the active `mbn_jax.by_modality`, whose other arguments
    have no effect on them.

    ```python
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> import mbn_jax
    >>> rngs = nnx.Rngs(0)
    >>> model = nnx.Sequential(nnx.Linear(2, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs))
    >>> mbn_jax.nnx.replace_batch_norm(model)
    >>> with mbn_jax.by_modality(jnp.array([0, 1, 1, 0])):
    ...     y = model(jnp.ones((4, 2)))
    >>> model.layers[1].mean.shape
    (2, 3)

    ```

    * The layers stay the same objects, wherever the graph of the model holds them, and
      a shared layer or variable stays shared. A layer that NNX does not see, such as
      one in a closure, is not found.
    * Variables keep their type, metadata and dtype. In layers that `nnx.vmap` or
      `nnx.scan` has stacked along the first axis, the modalities are on the
      second-to-last axis.
    * With `share_affine`, the parameters stay the same variables, so that an existing
      optimizer still fits. Without it, create the optimizer after the replacement.
    * All layers are checked before the first one is replaced.

    Args:
      model: the model, which may itself be an `nnx.BatchNorm`.
      num_modalities: number of modalities.
      share_affine: one scale and bias for all modalities, or a copy for each.
      at: function from the path of a layer, such as "blocks/0/bn", to whether to
        replace it; None means all layers. For a shared layer it is called once, with
        the first of its paths in the order of `nnx.iter_graph`.
      unknown: as in `ModalityBatchNorm`.
      pooled_weights: as in `ModalityBatchNorm`.

    Raises:
      ValueError: if there is nothing to replace, if a layer cannot be replaced (a
        subclass with methods of its own, a custom `promote_dtype`, an axis that is not
        one channel axis), or if `num_modalities` or `pooled_weights` is not valid.
    """
    number, weights = layer_settings(num_modalities, unknown, pooled_weights)
    found = find_layers(model, nnx.BatchNorm)
    layers = {path: layer for path, layer in found.items() if at is None or at(path)}
    if not layers:
        held = "it has none, or they are ModalityBatchNorm layers already"
        if found:
            held = f"at chooses none of its layers {', '.join(found)}"
        raise ValueError(
            f"There is no nnx.BatchNorm to replace in the {type(model).__name__}: "
            f"{held}."
        )
    for path, layer in layers.items():
        if problem := obstacle(layer):
            raise ValueError(
                f"The layer {path or 'given'} {problem}, which cannot be replaced; "
                f"leave it out with at=lambda path: path != {path!r}."
            )

    def by_modality(layer: Any, name: str, variable: nnx.Variable) -> nnx.Variable:
        return with_value(
            variable,
            jnp.stack([variable[...]] * number, axis=-2),
            lambda axes: [*axes[:-1], None, axes[-1]],
        )

    tables = ("mean", "var") if share_affine else ("mean", "var", "scale", "bias")
    edited = edit_variables(layers.values(), tables, by_modality)
    for layer, variables in zip(layers.values(), edited, strict=True):
        change_class(
            layer,
            ReplacedBatchNorm,
            **variables,
            num_modalities=number,
            share_affine=share_affine,
            force_float32_reductions=True,
            unknown=unknown,
            pooled_weights=weights,
        )


def _active_modality(x: jax.Array) -> Any:
    """Returns the modality of the active `by_modality`; it must fit the rows of `x`."""
    modality = current_modality()
    if modality is None:
        raise ValueError(
            "A ModalityBatchNorm has no modality: pass it to the layer, or call the "
            "network inside `with mbn_jax.by_modality(modality):`."
        )
    if jnp.shape(modality) != x.shape[:1]:
        raise ValueError(
            f"The input of a ModalityBatchNorm has shape {list(x.shape)}, but the "
            f"modality of the active by_modality has shape {list(jnp.shape(modality))},"
            " expected one per row: pass the modality of every row to by_modality "
            "(jnp.repeat), or leave the layer out with `at` of replace_batch_norm."
        )
    return modality
