"""Running statistics from unlabelled images."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax

from mbn_jax.convert.trees import (
    Path,
    Variables,
    find_norms_by_modality,
    flatten,
    join,
    unflatten,
)
from mbn_jax.functional import Moments, modality_moments
from mbn_jax.norm import ModalityBatchNorm

_RECORD = "moments_of_one_pass"
_LAYER_CALL: Callable[..., Any] = inspect.unwrap(ModalityBatchNorm.__call__)


def estimate_statistics(
    apply: Callable[..., Any], variables: Variables, batches: Iterable[Sequence[Any]]
) -> dict[str, Any]:
    r"""Re-estimates the running statistics from unlabelled images: for new cameras.

    Over all batches $b$, of $n_b$ values of a modality with mean $\mu_b$ and variance
    $\sigma_b^2$ in a layer, its statistics become

    $$ N = \sum_b n_b, \quad \mu = \frac{1}{N} \sum_b n_b \mu_b, \quad
       \sigma^2 = \frac{1}{N} \sum_b n_b \left(\sigma_b^2 + (\mu_b - \mu)^2\right), $$

    a cumulative average instead of a moving one: the order of the batches does not
    matter, and however unequal they are, the result for the first layer is the moments
    of all images at once. Deeper layers see inputs that were normalised by their own
    batch, so batches should be large, and alike in what they hold. A modality that
    never occurs keeps its statistics.

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

    Reference: Wu, Johnson, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576, section
    3 (PreciseBN). Moments of a batch are float32 sums, as in the layer; batches are
    combined in float64 on the host.

    Args:
      apply: the model's, in training mode, such as
        `functools.partial(model.apply, train=True)`; it is called, inside `jax.jit`, as
        `apply(variables, *batch, mutable=[…])`, and compiled once for every shape.
      variables: of an MBN network; stacked layers, as of `nn.scan`, are no matter.
        Plain batch normalisations beside the others keep their statistics.
      batches: tuples of what `apply` takes after the variables, such as `(images,
        modality)`; any iterable, read once.

    Returns:
      The variables with new statistics; all else is as it was.

    Raises:
      ValueError: if there are no batches or one is not a tuple, if no
        `ModalityBatchNorm` is found, if one is not called, is in evaluation mode or
        does not fit the variables, or if a batch holds a modality that does not exist
        or gives moments that are not finite; the message names the layer or the batch.
    """
    flat = flatten(variables)
    hint = "only ModalityBatchNorm is estimated; from_batch_norm makes an MBN network."
    norms = find_norms_by_modality(flat, ("…", "num_modalities", "C"), hint)
    records = {}
    for norm in norms:
        zeros: Any = np.zeros(flat["batch_stats", *norm, "mean"].shape, np.float32)
        empty = _Record(zeros, Moments(zeros, zeros, zeros), zeros, zeros)
        records["batch_stats", *norm, _RECORD] = empty
    mutable = [name for name in variables if name != "params"]

    @jax.jit
    def observe(variables: Variables, batch: Sequence[Any]) -> list[_Record]:
        # The records travel in batch_stats, so that they go wherever the statistics do,
        # through nn.scan, nn.vmap and nn.remat as well.
        start = unflatten_dict(flatten(variables) | records)
        with nn.intercept_methods(_observe_layer):
            _, updates = apply(start, *batch, mutable=mutable)
        updated = flatten_dict(updates["batch_stats"])
        return [updated[*norm, _RECORD] for norm in norms]

    on_device = jax.device_put(variables)
    totals: list[Moments] = []
    number = -1
    for number, batch in enumerate(batches):
        if not isinstance(batch, tuple | list):
            raise ValueError(
                f"Batch {number} is a {type(batch).__name__}, expected a tuple of what "
                "the network takes after its variables, such as (images, modality)."
            )
        found = jax.device_get(observe(on_device, tuple(batch)))
        _check_records(norms, found, number)
        moments = [record.in_float64() for record in found]
        totals = list(map(_merge, totals, moments)) if totals else moments
    if number < 0:
        raise ValueError(
            "There are no batches, expected at least one; an iterator that was read "
            "before is empty."
        )
    for norm, total in zip(norms, totals, strict=True):
        for name, value in (("mean", total.mean), ("var", total.var)):
            old = flat["batch_stats", *norm, name]
            new = jnp.asarray(value, old.dtype)
            flat["batch_stats", *norm, name] = jnp.where(total.counts > 0, new, old)
    return unflatten(flat, variables)


class _Record(NamedTuple):
    """What one forward pass showed a layer; every array has the shape of its mean."""

    origin: Any  # what the means are counted from
    moments: Moments
    calls: Any  # how often it was called
    strays: Any  # samples whose modality does not exist

    def in_float64(self) -> Moments:
        origin, (mean, var, counts) = jax.tree.map(np.float64, self[:2])
        return Moments(origin + mean, var, counts)


def _observe_layer(
    next_fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:
    """Adds the moments of a layer's input to its record; an interceptor of Flax."""
    layer = context.module
    # The function itself, and not the class: a lifted or inherited layer passes here
    # more than once, with other arguments.
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
            f"The layer {where} is in evaluation mode, expected training mode, so that "
            "it normalises by its batch: give an apply such as "
            "functools.partial(model.apply, train=True)."
        )
    moments_of = partial(
        modality_moments,
        modality=modality,
        num_modalities=layer.num_modalities,
        mask=mask,
        axis=layer.axis,
        axis_name=layer.axis_name,
        axis_index_groups=layer.axis_index_groups,
    )
    moments = moments_of(x)
    before: _Record | None = layer.get_variable("batch_stats", _RECORD)
    if before is None or before.calls.shape != moments.mean.shape:
        held = (
            "nothing" if before is None else f"mean of shape {list(before.calls.shape)}"
        )
        raise ValueError(
            f"{where} holds {held}, expected mean and var of shape "
            f"{list(moments.mean.shape)}: are these the variables of this network?"
        )
    stray = (modality < 0) | (modality >= layer.num_modalities)
    if mask is not None:
        seen = jnp.broadcast_to(mask, (len(stray), *jnp.shape(mask)[1:]))
        stray &= seen.reshape(len(stray), -1).any(1)
    strays = stray.sum()
    if layer.axis_name is not None:
        strays = lax.psum(
            strays, layer.axis_name, axis_index_groups=layer.axis_index_groups
        )
    # A float32 mean is off by a part of a standard deviation where mean/std is large,
    # too much for the variance between batches: the mean is counted from a value near.
    origin = jnp.where(before.moments.counts > 0, before.origin, moments.mean)
    shape = [1] * x.ndim
    shape[0], shape[layer.axis] = len(modality), origin.shape[-1]
    near = jnp.take(origin, modality, axis=0, mode="clip").reshape(shape)
    moments = _merge(before.moments, moments_of(x.astype(near.dtype) - near))
    record = _Record(origin, moments, before.calls + 1, before.strays + strays)
    layer.put_variable("batch_stats", _RECORD, record)
    return result


def _merge(a: Moments, b: Moments) -> Moments:
    """Moments of two sets together, of JAX or NumPy, in the type of the arguments."""
    counts = a.counts + b.counts
    divisor = counts + (counts == 0)
    share_a, share_b = a.counts / divisor, b.counts / divisor
    delta = b.mean - a.mean
    return Moments(
        a.mean + delta * share_b,
        share_a * a.var + share_b * b.var + share_a * share_b * delta**2,
        counts,
    )


def _check_records(norms: list[Path], records: list[_Record], number: int) -> None:
    """Refuses layers and batches that would leave statistics wrong unnoticed."""
    for norm, record in zip(norms, records, strict=True):
        where = join(("batch_stats", *norm))
        if not record.calls.any():
            raise ValueError(
                f"{where} is a normalisation that apply did not call as a "
                "ModalityBatchNorm, expected all of them to be: are these the "
                "variables of this network?"
            )
        if record.strays.any():
            raise ValueError(
                f"Batch {number} brings {int(record.strays.max())} samples of a "
                f"modality outside 0 to {record.strays.shape[-2] - 1} to {where}; "
                "correct their labels or mask them."
            )
        if not all(
            np.isfinite(value).all() for value in (record.origin, *record.moments)
        ):
            raise ValueError(
                f"Batch {number} gives {where} moments that are not finite; look for "
                "NaN or infinity in its images, or mask those samples."
            )
