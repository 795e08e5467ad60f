"""Between networks of `nn.BatchNorm` and of `ModalityBatchNorm`."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

from flax import nnx

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
    """Copies the statistics of a `nn.BatchNorm` network to every modality.

    The MBN network computes the same function in evaluation mode, whatever the
    modality, and is where fine-tuning of pretrained weights starts.

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
      variables: of a network of `nn.BatchNorm`, statistics of shape `(C,)`; or an NNX
        model, of which the result is a copy with `mbn_jax.nnx.replace_batch_norm`.
      num_modalities: of the MBN network.
      share_affine: as in `ModalityBatchNorm`: scale and bias stay `(C,)`, or are copied
        to every modality, too.
      at: whether the layer of a path, such as "backbone/norm1", is converted, as in
        `mbn_jax.by_modality`; None: all of them. The others stay as they are.

    Returns:
      The variables of the MBN network: statistics, and scale and bias where they are
      separate, of shape `(num_modalities, C)`.

    Raises:
      ValueError: if there is no normalization, if `at` chooses none, if the statistics,
        scale or bias of one have another shape, or if `num_modalities` is not a
        positive integer.
    """
    number = _integer("num_modalities", num_modalities)
    if number < 1:
        raise ValueError(f"num_modalities is {number}, expected 1 or more.")
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
    """Takes one modality's network out, as a network of plain `nn.BatchNorm`.

    It gives, without being told the modality, the evaluation-mode outputs that the MBN
    network gives that modality: for exporting, or for cameras of one kind. "pooled" is
    the network for images of unknown modality, the one that the MBN network with
    `unknown="pooled"` is for a modality of -1.

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
      variables: of an MBN network, statistics of shape `(num_modalities, C)`, scale and
        bias of shape `(C,)` or `(num_modalities, C)`. Where it has plain batch
        normalizations as well, they stay. Or an NNX model, of which the result is a
        copy with an `nnx.BatchNorm` for every `ModalityBatchNorm`; where the network
        passes a modality to its layers, give it None from then on.
      modality: which one, or "pooled" for their mixture
        (`mbn_jax.functional.pooled_moments`), with the weighted mean of scales and
        biases that are by modality.
      pooled_weights: of the modalities in the mixture, in their order; None: those of
        the layers of an NNX model, and else equal.

    Returns:
      The variables of a network of the same names with `nn.BatchNorm`; all of shape
      `(C,)`.

    Raises:
      ValueError: if there is no normalization, if the statistics, scale or bias of one
        have another shape, if there is no such modality, or if weights do not fit.
    """
    if modality != "pooled":
        modality = _integer("modality", modality)
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


def _integer(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}, expected an integer.") from None
