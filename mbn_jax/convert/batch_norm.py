"""Converts between networks of `nn.BatchNorm` and of `ModalityBatchNorm`."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

from flax import nnx

from mbn_jax.arguments import integer
from mbn_jax.convert import nnx_models
from mbn_jax.convert.nnx_models import Model
from mbn_jax.convert.trees import (
    Variables,
    chosen_norms,
    find_norms,
    find_norms_by_modality,
    flatten,
    join,
    norm_leaves,
    unflatten,
)
from mbn_jax.functional import pooled_mean, pooled_moments


@overload
def from_batch_norm(
    variables: Model,
    num_modalities: int = 2,
    *,
    share_affine: bool = True,
    at: Callable[[str], bool] | None = None,
) -> Model: ...
@overload
def from_batch_norm(
    variables: Variables,
    num_modalities: int = 2,
    *,
    share_affine: bool = True,
    at: Callable[[str], bool] | None = None,
) -> dict[str, Any]: ...
def from_batch_norm(
    variables: Any,
    num_modalities: int = 2,
    *,
    share_affine: bool = True,
    at: Callable[[str], bool] | None = None,
) -> Any:
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
        converted, as in `mbn_jax.by_modality`; None means all layers. The others do not
        change.

    Returns:
      The variables of the MBN network. The statistics have shape `(num_modalities, C)`,
      and so do scale and bias if they are not shared.

    Raises:
      ValueError: if there is no normalization, if `at` selects none, if the statistics,
        scale or bias of one have another shape, or if `num_modalities` is not a
        positive integer.
    """
    number = integer("num_modalities", num_modalities, least=1)
    if isinstance(variables, nnx.Module):
        return nnx_models.from_batch_norm(variables, number, share_affine, at)
    flat = flatten(variables)
    for norm in find_norms(
        chosen_norms(flat, at),
        ("C",),
        "is this an MBN network already, or stacked by nn.scan (then use jax.vmap)?",
    ):
        for path in norm_leaves(flat, norm):
            if path[0] == "batch_stats" or not share_affine:
                flat[path] = flat[path][None].repeat(number, axis=0)
    return unflatten(flat, variables)


@overload
def to_batch_norm(
    variables: Model,
    modality: int | Literal["pooled"],
    *,
    pooled_weights: Sequence[float] | None = None,
) -> Model: ...
@overload
def to_batch_norm(
    variables: Variables,
    modality: int | Literal["pooled"],
    *,
    pooled_weights: Sequence[float] | None = None,
) -> dict[str, Any]: ...
def to_batch_norm(
    variables: Any,
    modality: int | Literal["pooled"],
    *,
    pooled_weights: Sequence[float] | None = None,
) -> Any:
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
      variables: variables of an MBN network, with statistics of shape
        `(num_modalities, C)` and scale and bias of shape `(C,)` or
        `(num_modalities, C)`; plain batch normalizations in it do not change. Or an NNX
        model; the result is then a copy with an `nnx.BatchNorm` for every
        `ModalityBatchNorm`. If the network passes a modality to its layers, pass None
        as the modality to the copy.
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
        have another shape, if the modality does not exist, or if the weights do not
        fit.
    """
    if not isinstance(modality, str):
        modality = integer("modality", modality)
    elif modality != "pooled":
        raise ValueError(f'modality is {modality!r}, expected an integer or "pooled".')
    if isinstance(variables, nnx.Module):
        return nnx_models.to_batch_norm(variables, modality, pooled_weights)
    flat = flatten(variables)
    hint = "is this a BatchNorm network already? from_batch_norm makes an MBN one."
    for norm in find_norms_by_modality(flat, ("num_modalities", "C"), hint):
        mean = ("batch_stats", *norm, "mean")
        var = ("batch_stats", *norm, "var")
        tables = [path for path in norm_leaves(flat, norm) if flat[path].ndim == 2]
        if modality == "pooled":
            moments = pooled_moments(flat[mean], flat[var], pooled_weights)
            rows = {path: pooled_mean(flat[path], pooled_weights) for path in tables}
            rows |= dict(zip((mean, var), moments, strict=True))
        elif 0 <= modality < len(flat[mean]):
            rows = {path: flat[path][modality] for path in tables}
        else:
            raise ValueError(
                f"modality is {modality}, expected 0 to {len(flat[mean]) - 1}, or "
                f'"pooled", since {join(mean)} has shape {list(flat[mean].shape)}.'
            )
        flat.update(rows)
    return unflatten(flat, variables)
