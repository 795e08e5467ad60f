"""Converts between networks of `nn.BatchNorm` and of `ModalityBatchNorm`."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import canonicalize_dtype, promote_dtype

from mbn_jax.arguments import integer
from mbn_jax.convert.trees import (
    Network,
    chosen_norms,
    find_norms,
    find_norms_by_modality,
    flatten,
    join,
    norm_leaves,
    unflatten,
)
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

# Attributes of our NNX layer that nnx.BatchNorm does not have.
_OURS = (
    *("num_modalities", "share_affine", "force_float32_reductions"),
    *("unknown", "pooled_weights"),
)


def from_batch_norm(
    variables: Network,
    num_modalities: int = 2,
    *,
    share_affine: bool = True,
    at: Callable[[str], bool] | None = None,
) -> Network:
    """Copies the statistics of an `nn.BatchNorm` network to every modality.

    The MBN network computes the same function in evaluation mode, whatever the
    modality. Fine-tuning of pretrained weights starts from it.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from flax import linen as nn
    >>> from mbn_jax import ModalityBatchNorm, convert
    >>> x, modality = jnp.ones((2, 3)), jnp.array([0, 1])
    >>> plain = nn.BatchNorm(use_running_average=True)
    >>> variables = plain.init(jax.random.key(0), x)
    >>> mbn = convert.from_batch_norm(variables)
    >>> jax.tree.map(jnp.shape, mbn["batch_stats"])
    {'mean': (2, 3), 'var': (2, 3)}
    >>> y = ModalityBatchNorm(use_running_average=True).apply(mbn, x, modality)
    >>> bool(jnp.array_equal(y, plain.apply(variables, x)))
    True

    ```

    Args:
      variables: variables of a network of `nn.BatchNorm`, with statistics of shape
        `(C,)`; or an NNX model, of which `mbn_jax.nnx.replace_batch_norm` then changes
        a copy.
      num_modalities: number of modalities of the MBN network.
      share_affine: as in `ModalityBatchNorm`. If true, scale and bias stay `(C,)`;
        otherwise they are copied to every modality too.
      at: function from the path of a layer, such as "backbone/norm1", to whether it is
        converted, as in `mbn_jax.by_modality`; None means all layers.

    Returns:
      The variables of the MBN network. The statistics have shape `(num_modalities, C)`,
      and so do scale and bias if they are not shared.

    Raises:
      ValueError: if there is no normalization, if `at` selects none, if the statistics,
        scale or bias of one have another shape, or if `num_modalities` is not a
        positive integer.
    """
    if isinstance(variables, nnx.Module):
        model = nnx.clone(variables, graph=True)
        replace_batch_norm(model, num_modalities, share_affine, at)
        return model
    number = integer("num_modalities", num_modalities, least=1)
    flat = flatten(variables)
    hint = "is this an MBN network already, or stacked by nn.scan (then use jax.vmap)?"
    for norm in find_norms(chosen_norms(flat, at), ("C",), hint):
        for path in norm_leaves(flat, norm).values():
            if path[0] == "batch_stats" or not share_affine:
                flat[path] = flat[path][None].repeat(number, axis=0)
    return unflatten(flat, variables)


def to_batch_norm(
    variables: Network,
    modality: int | Literal["pooled"],
    *,
    pooled_weights: Sequence[float] | None = None,
) -> Network:
    """Extracts one modality's network, as a network of plain `nn.BatchNorm`.

    In evaluation mode it returns what the MBN network returns for that modality, but it
    does not take the modality as an argument. Use it for exporting, or for cameras of
    one kind. With "pooled", it is the network for images of unknown modality: it
    returns what the MBN network with `unknown="pooled"` returns for modality -1.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from mbn_jax import ModalityBatchNorm, convert
    >>> layer = ModalityBatchNorm(use_running_average=True)
    >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 3)), jnp.array([0, 1]))
    >>> infrared = convert.to_batch_norm(variables, modality=1)
    >>> jax.tree.map(jnp.shape, infrared["batch_stats"])
    {'mean': (3,), 'var': (3,)}

    ```

    Args:
      variables: variables of an MBN network, in which plain batch normalizations do not
        change; or an NNX model. The result is then a copy with an `nnx.BatchNorm` for
        every `ModalityBatchNorm`; if the model passes a modality to its layers, pass
        None to the copy.
      modality: index of the modality, or "pooled" for the mixture of all
        (`mbn_jax.functional.pooled_moments`), with the weighted mean of the scales and
        biases if each modality has its own.
      pooled_weights: weights of the modalities in the mixture, in their order; None
        means those of the layers for an NNX model, and equal weights otherwise.

    Returns:
      The variables of a network with the same names and `nn.BatchNorm`, each of shape
      `(C,)`.

    Raises:
      ValueError: if there is no normalization, if the statistics, scale or bias of one
        have another shape, if the modality does not exist, if the weights do not fit,
        or if a layer of an NNX model has methods of its own.
    """
    if not isinstance(modality, str):
        modality = integer("modality", modality)
    elif modality != "pooled":
        raise ValueError(f'modality is {modality!r}, expected an integer or "pooled".')
    if isinstance(variables, nnx.Module):
        return _to_nnx_batch_norm(variables, modality, pooled_weights)
    flat = flatten(variables)
    hint = "is this a BatchNorm network already? from_batch_norm makes an MBN one."
    for norm in find_norms_by_modality(flat, ("num_modalities", "C"), hint):
        paths = norm_leaves(flat, norm)
        shape = flat[paths["mean"]].shape
        if modality != "pooled" and not 0 <= modality < shape[0]:
            raise ValueError(
                f"modality is {modality}, expected 0 to {shape[0] - 1}, or "
                f'"pooled", since {join(paths["mean"])} has shape {list(shape)}.'
            )
        tables = {n: flat[path] for n, path in paths.items() if flat[path].ndim == 2}
        for name, row in _rows(tables, modality, pooled_weights).items():
            flat[paths[name]] = row
    return unflatten(flat, variables)


def _rows(
    tables: dict[str, Any], modality: int | str, weights: Sequence[float] | None
) -> dict[str, Any]:
    """Takes one modality's row of the tables `(…, num_modalities, C)` of a layer."""
    if isinstance(modality, int):
        return {name: table[..., modality, :] for name, table in tables.items()}
    rows = {name: pooled_mean(table, weights) for name, table in tables.items()}
    rows["mean"], rows["var"] = pooled_moments(tables["mean"], tables["var"], weights)
    return rows


def _to_nnx_batch_norm(
    model: Any, modality: int | str, pooled_weights: Sequence[float] | None
) -> Any:
    """Copies an NNX model, with an `nnx.BatchNorm` for each of our layers."""
    converted = nnx.clone(model, graph=True)
    layers = our_layers(converted)
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
        if name in ("scale", "bias") and layer.share_affine:
            return variable
        weights = layer.pooled_weights if pooled_weights is None else pooled_weights
        tables = {"mean": layer.mean[...], "var": layer.var[...], name: variable[...]}
        row = _rows(tables, modality, weights)[name]
        return with_value(variable, row, lambda axes: [*axes[:-2], axes[-1]])

    edited = edit_variables(layers.values(), ("mean", "var", "scale", "bias"), one)
    for layer, variables in zip(layers.values(), edited, strict=True):
        replaced = isinstance(layer, ReplacedBatchNorm)
        narrow = layer.dtype is not None
        change_class(
            layer,
            nnx.BatchNorm if replaced else OneModalityBatchNorm,
            remove=_OURS,
            **variables,
            param_dtype=getattr(layer, "param_dtype", jnp.float32),
            use_scale=layer.scale is not None,
            use_bias=layer.bias is not None,
            use_fast_variance=getattr(layer, "use_fast_variance", True),
            promote_dtype=keep_wide_statistics if narrow else promote_dtype,
        )
    return converted


def our_layers(model: nnx.Module) -> dict[str, ModalityBatchNorm]:
    """Returns the layers of an NNX model that normalize by modality, by path.

    Raises:
      ValueError: if there are none.
    """
    layers = find_layers(model, ModalityBatchNorm)
    if not layers:
        raise ValueError(
            f"There is no ModalityBatchNorm in the {type(model).__name__}; "
            "from_batch_norm gives a copy of a model with nnx.BatchNorm that has them."
        )
    return layers


class OneModalityBatchNorm(nnx.BatchNorm):
    """A layer after `to_batch_norm`, in a network that passes the modality to it.

    It is called like `mbn_jax.nnx.ModalityBatchNorm`, with None as the modality.
    """

    def __call__(  # type: ignore[override]
        self,
        x: jax.Array,
        modality: None = None,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalizes `x`; raises a `ValueError` if a modality is given."""
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
