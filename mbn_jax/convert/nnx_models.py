"""Conversions of NNX models, which the functions for variables call."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import canonicalize_dtype, promote_dtype

from mbn_jax.context import current_modality
from mbn_jax.convert.records import Record, add_call, moments_of_batches
from mbn_jax.functional import pooled_mean, pooled_moments
from mbn_jax.nnx import ModalityBatchNorm, ReplacedBatchNorm, replace_batch_norm
from mbn_jax.nnx_graph import (
    change_class,
    edit_variables,
    find_layers,
    keep_wide_statistics,
    own_method,
    with_value,
)

Model = TypeVar("Model", bound=nnx.Module)
# Attributes of our layer that nnx.BatchNorm does not have.
_OURS = (
    "num_modalities",
    "share_affine",
    "force_float32_reductions",
    "unknown",
    "pooled_weights",
)


def from_batch_norm(
    model: Model,
    num_modalities: int,
    share_affine: bool,
    at: Callable[[str], bool] | None,
) -> Model:
    """Returns a copy of the model after `replace_batch_norm`."""
    converted = nnx.clone(model, graph=True)
    replace_batch_norm(converted, num_modalities, share_affine, at)
    return converted


class OneModalityBatchNorm(nnx.BatchNorm):
    """A layer after `to_batch_norm`, in a network that passes the modality to it.

    It is called in the same way, with None as the modality.
    """

    def __call__(  # type: ignore[override]
        self,
        x: jax.Array,
        modality: None = None,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalizes `x`; the arguments are those of `mbn_jax.nnx.ModalityBatchNorm`.

        Raises:
          ValueError: if a modality is given.
        """
        if modality is not None:
            raise ValueError(
                "This layer holds one modality's statistics since to_batch_norm, but "
                "it was given a modality; call the network with None for the modality."
            )
        if mask is not None and jnp.ndim(mask) == 1:
            mask = jnp.reshape(mask, (-1, *[1] * (jnp.ndim(x) - 1)))
        y = super().__call__(x, use_running_average, mask=mask)
        affine = (None if v is None else v[...] for v in (self.scale, self.bias))
        with jax.numpy_dtype_promotion("standard"):
            return y.astype(canonicalize_dtype(x, *affine, dtype=self.dtype))


def to_batch_norm(
    model: Model, modality: int | str, pooled_weights: Sequence[float] | None = None
) -> Model:
    """Copies the model with one modality's `nnx.BatchNorm` for each of our layers.

    Args:
      model: the model.
      modality: index of the modality, or "pooled", the mixture.
      pooled_weights: weights of the mixture; None means those of each layer.

    Raises:
      ValueError: if there is no such layer or modality, or if a layer is of a subclass
        with methods of its own.
    """
    converted = nnx.clone(model, graph=True)
    layers = _our_layers(converted)
    for path, layer in layers.items():
        method = own_method(layer, ModalityBatchNorm)
        if method is not None and type(layer) is not ReplacedBatchNorm:
            raise ValueError(
                f"The layer {path or 'given'} is a {type(layer).__name__} with a "
                f"{method} of its own, expected a ModalityBatchNorm, because "
                "nnx.BatchNorm does not have it."
            )
        if isinstance(modality, int) and not 0 <= modality < layer.num_modalities:
            raise ValueError(
                f"modality is {modality}, expected 0 to {layer.num_modalities - 1}, "
                f"since the layer {path or 'given'} has a mean of shape "
                f"{list(layer.mean.shape)}."
            )

    def one(layer: Any, name: str, variable: nnx.Variable) -> nnx.Variable:
        affine = name in ("scale", "bias")
        if affine and layer.share_affine:
            return variable
        table = variable[...]
        if isinstance(modality, int):
            value = table[..., modality, :]
        else:
            given = layer.pooled_weights if pooled_weights is None else pooled_weights
            if affine:
                value = pooled_mean(table, given)
            else:
                pooled = pooled_moments(layer.mean[...], layer.var[...], given)
                value = pooled[("mean", "var").index(name)]
        return with_value(variable, value, lambda axes: [*axes[:-2], axes[-1]])

    edited = edit_variables(layers.values(), ("mean", "var", "scale", "bias"), one)
    for layer, variables in zip(layers.values(), edited, strict=True):
        replaced = isinstance(layer, ReplacedBatchNorm)
        change_class(
            layer,
            nnx.BatchNorm if replaced else OneModalityBatchNorm,
            remove=_OURS,
            **variables,
            param_dtype=getattr(layer, "param_dtype", jnp.float32),
            use_scale=layer.scale is not None,
            use_bias=layer.bias is not None,
            use_fast_variance=getattr(layer, "use_fast_variance", True),
            promote_dtype=promote_dtype
            if layer.dtype is None
            else keep_wide_statistics,
        )
    return converted


def estimate_statistics(
    apply: Callable[..., Any], model: Model, batches: Iterable[Sequence[Any]]
) -> Model:
    """Returns a copy of the model with re-estimated statistics."""
    estimated = nnx.clone(model, graph=True)
    layers = _our_layers(estimated)
    observed = nnx.clone(model, graph=True)
    for path, layer in _our_layers(observed).items():
        # A variable of the same type as the statistics, so that nnx.scan, nnx.vmap and
        # nnx.remat handle it as they handle the statistics.
        record = layer.mean.copy(Record.empty(layer.mean.shape))
        change_class(layer, _observed(type(layer)), record=record, where=path)
    definition, state = nnx.split(observed, graph=True)

    @jax.jit
    def observe(state: nnx.State, batch: tuple[Any, ...]) -> list[Record]:
        model = nnx.merge(definition, state)
        apply(model, *batch)
        found: dict[str, Any] = find_layers(model, _Observed)
        return [found[path].record.get_value() for path in layers]

    names = [path or type(model).__name__ for path in layers]
    totals = moments_of_batches(lambda batch: observe(state, batch), names, batches)
    for layer, total in zip(layers.values(), totals, strict=True):
        for variable, value in ((layer.mean, total.mean), (layer.var, total.var)):
            old = variable[...]
            new = jnp.asarray(value, old.dtype)
            variable[...] = jnp.where(total.counts > 0, new, old)
    return estimated


class _Observed(ModalityBatchNorm):
    """A mixin for the class of a layer, which records the moments of its input.

    Attributes:
      record: a variable whose value is a `Record`.
      where: the path of the layer.
    """

    record: Any
    where: str

    def _normalize(
        self, x: Any, modality: Any, use_running_average: Any, mask: Any, dtype: Any
    ) -> jax.Array:
        y = super()._normalize(x, modality, use_running_average, mask, dtype)
        if use_running_average or (
            use_running_average is None and self.use_running_average
        ):
            raise ValueError(
                f"The layer {self.where or 'given'} is in evaluation mode, expected "
                "training mode, in which it normalizes with the statistics of its "
                "batch: call model.train() first, or pass an apply that sets "
                "use_running_average=False."
            )
        if modality is None:
            modality = current_modality()
        before = self.record.get_value()
        record = add_call(before, self, self.where, x, modality, mask)
        self.record.set_value(record)
        return y


@cache
def _observed(kind: type[ModalityBatchNorm]) -> type[ModalityBatchNorm]:
    return type(f"Observed{kind.__name__}", (_Observed, kind), {})


def _our_layers(model: nnx.Module) -> dict[str, ModalityBatchNorm]:
    layers = find_layers(model, ModalityBatchNorm)
    if not layers:
        raise ValueError(
            f"There is no ModalityBatchNorm in the {type(model).__name__}; "
            "from_batch_norm gives a copy of a model with nnx.BatchNorm that has them."
        )
    return layers
