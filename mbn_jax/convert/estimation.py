"""Running statistics from unlabeled images."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, overload

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from mbn_jax.context import intercepted
from mbn_jax.convert import nnx_models
from mbn_jax.convert.nnx_models import Model
from mbn_jax.convert.records import Record, add_call, moments_of_batches
from mbn_jax.convert.trees import (
    Variables,
    find_norms_by_modality,
    flatten,
    join,
    unflatten,
)
from mbn_jax.norm import ModalityBatchNorm

_RECORD = "moments_of_one_pass"
_LAYER_CALL: Callable[..., Any] = inspect.unwrap(ModalityBatchNorm.__call__)


@overload
def estimate_statistics(
    apply: Callable[..., Any], variables: Model, batches: Iterable[Sequence[Any]]
) -> Model: ...
@overload
def estimate_statistics(
    apply: Callable[..., Any], variables: Variables, batches: Iterable[Sequence[Any]]
) -> dict[str, Any]: ...
def estimate_statistics(
    apply: Callable[..., Any], variables: Any, batches: Iterable[Sequence[Any]]
) -> Any:
    r"""Re-estimates the running statistics from unlabeled images, as for a new camera.

    If batch $b$ has $n_b$ values of a modality in a layer, with mean $\mu_b$ and
    variance $\sigma_b^2$, the running statistics of the modality become

    $$ N = \sum_b n_b, \quad \mu = \frac{1}{N} \sum_b n_b \mu_b, \quad
       \sigma^2 = \frac{1}{N} \sum_b n_b \left(\sigma_b^2 + (\mu_b - \mu)^2\right), $$

    This is a cumulative average instead of a moving one: the order of the batches does
    not matter, and for batches of any size, the result for the first layer is the
    moments of all images at once. The inputs of deeper layers were normalized with the
    statistics of their own batch, so batches should be large and have similar content.
    A modality that never occurs keeps its statistics.

    ```python
    >>> import functools, jax, jax.numpy as jnp
    >>> from mbn_jax import ModalityBatchNorm, convert
    >>> layer = ModalityBatchNorm()
    >>> images, modality = jnp.array([[1.0], [2.0], [6.0]]), jnp.array([0, 0, 0])
    >>> variables = layer.init(jax.random.key(0), images, modality, True)
    >>> train = functools.partial(layer.apply, use_running_average=False)
    >>> batches = [(images[:1], modality[:1]), (images[1:], modality[1:])]
    >>> adapted = convert.estimate_statistics(train, variables, batches)
    >>> adapted["batch_stats"]["mean"].tolist()
    [[3.0], [0.0]]

    ```

    For an NNX model, `apply` is called as `apply(model, *batch)` with a copy of the
    model, which must be in training mode, and the result is a copy with the new
    statistics:

    ```python
    >>> from flax import nnx
    >>> import mbn_jax
    >>> model = mbn_jax.nnx.ModalityBatchNorm(1, rngs=nnx.Rngs(0))
    >>> def train(model, images, modality):
    ...     with mbn_jax.by_modality(modality):
    ...         return model(images)
    >>> adapted = convert.estimate_statistics(train, model, batches)
    >>> adapted.mean[...].tolist()
    [[3.0], [0.0]]

    ```

    Reference: Wu, Johnson, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576, section
    3 (PreciseBN). The moments of a batch are float32 sums, as in the layer; the batches
    are combined in float64 on the host.

    Args:
      apply: the `apply` of the model in training mode, such as
        `functools.partial(model.apply, train=True)`. It is called inside `jax.jit` as
        `apply(variables, *batch, mutable=[…])` and compiled once for every shape. For
        an NNX model, any function that calls the model that is passed to it.
      variables: variables of an MBN network, or an NNX model in training mode. Layers
        may be stacked, as with `nn.scan`. Plain batch normalizations in the network
        keep their statistics.
      batches: tuples of what `apply` takes after the variables, such as `(images,
        modality)`; any iterable, which is read once.

    Returns:
      The variables, or a copy of the model, with new statistics and no other change.

    Raises:
      ValueError: if there are no batches or one is not a tuple, if no
        `ModalityBatchNorm` is found, if one is not called, is in evaluation mode or
        does not fit the variables, or if a batch contains a modality that does not
        exist or gives non-finite moments. The message names the layer or the batch.
    """
    if isinstance(variables, nnx.Module):
        return nnx_models.estimate_statistics(apply, variables, batches)
    flat = flatten(variables)
    hint = "only ModalityBatchNorm is estimated; from_batch_norm makes an MBN network."
    norms = find_norms_by_modality(flat, ("…", "num_modalities", "C"), hint)
    records = {}
    for norm in norms:
        shape = flat["batch_stats", *norm, "mean"].shape
        records["batch_stats", *norm, _RECORD] = Record.empty(shape)
    mutable = [name for name in variables if name != "params"]

    @jax.jit
    def observe(variables: Variables, batch: Sequence[Any]) -> list[Record]:
        # The records are in batch_stats, so that nn.scan, nn.vmap and nn.remat handle
        # them as they handle the statistics.
        start = unflatten_dict(flatten(variables) | records)
        with intercepted(_observe_layer):
            _, updates = apply(start, *batch, mutable=mutable)
        updated = flatten_dict(updates["batch_stats"])
        return [updated[*norm, _RECORD] for norm in norms]

    on_device = jax.device_put(variables)
    names = [join(("batch_stats", *norm)) for norm in norms]
    totals = moments_of_batches(partial(observe, on_device), names, batches)
    for norm, total in zip(norms, totals, strict=True):
        for name, value in (("mean", total.mean), ("var", total.var)):
            old = flat["batch_stats", *norm, name]
            new = jnp.asarray(value, old.dtype)
            flat["batch_stats", *norm, name] = jnp.where(total.counts > 0, new, old)
    return unflatten(flat, variables)


def _observe_layer(
    next_fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:
    """Adds the moments of a layer's input to its record, as a Flax interceptor."""
    layer = context.module
    # Compare the function, not the class: a lifted or inherited layer comes here more
    # than once, with other arguments.
    if getattr(context.orig_method, "func", None) is not _LAYER_CALL:
        return next_fun(*args, **kwargs)
    assert isinstance(layer, ModalityBatchNorm)
    result = next_fun(*args, **kwargs)

    call = inspect.signature(_LAYER_CALL).bind(layer, *args, **kwargs)
    call.apply_defaults()
    x, modality, mask = (call.arguments[name] for name in ("x", "modality", "mask"))
    where = join(("batch_stats", *layer.path))
    if call.arguments["use_running_average"] or layer.use_running_average:
        raise ValueError(
            f"The layer {where} is in evaluation mode, expected training mode, in "
            "which it normalizes with the statistics of its batch: pass an apply like "
            "functools.partial(model.apply, train=True)."
        )
    before: Record | None = layer.get_variable("batch_stats", _RECORD)
    record = add_call(before, layer, where, x, modality, mask)
    layer.put_variable("batch_stats", _RECORD, record)
    return result
