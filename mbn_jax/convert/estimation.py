"""Re-estimates running statistics from unlabeled images."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax

from mbn_jax import nnx as mbn_nnx
from mbn_jax.arguments import labels
from mbn_jax.context import current_modality, intercepted
from mbn_jax.convert.batch_norm import our_layers
from mbn_jax.convert.trees import (
    Network,
    find_norms_by_modality,
    flatten,
    join,
    unflatten,
)
from mbn_jax.functional import Moments, modality_moments
from mbn_jax.mesh import spec_of, takes_explicit_axes
from mbn_jax.nnx_graph import change_class, find_layers
from mbn_jax.norm import ModalityBatchNorm
from mbn_jax.numerics import promoted

_RECORD = "moments_of_one_pass"
_LAYER_CALL: Callable[..., Any] = inspect.unwrap(ModalityBatchNorm.__call__)


def estimate_statistics(
    apply: Callable[..., Any], variables: Network, batches: Iterable[Sequence[Any]]
) -> Network:
    r"""Re-estimates the running statistics from unlabeled images, as for a new camera.

    If batch $b$ has $n_b$ values of a modality in a layer, with mean $\mu_b$ and
    variance $\sigma_b^2$, the running statistics of the modality become

    $$ N = \sum_b n_b, \quad \mu = \frac{1}{N} \sum_b n_b \mu_b, \quad
       \sigma^2 = \frac{1}{N} \sum_b n_b \left(\sigma_b^2 + (\mu_b - \mu)^2\right), $$

    This average is cumulative instead of moving, so neither the order nor the size of
    the batches matters to the first layer. The inputs of deeper layers were normalized
    with the statistics of their batch, so batches should be large and similar. A
    modality that never occurs keeps its statistics.

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

    For an NNX model in training mode, `apply(model, *batch)` is called with a copy of
    the model, and the result is a copy with the new statistics:

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

    The moments of a batch are float32 sums, as in the layer; the batches are combined
    in float64 on the host. Reference: Wu, Johnson, "Rethinking 'Batch' in BatchNorm",
    arXiv 2105.07576, section 3 (PreciseBN).

    Args:
      apply: the `apply` of the model in training mode, such as
        `functools.partial(model.apply, train=True)`. It is called inside `jax.jit` as
        `apply(variables, *batch, mutable=[…])` and compiled once for every shape.
      variables: variables of an MBN network, or an NNX model. Layers may be stacked, as
        with `nn.scan`. Plain batch normalizations keep their statistics.
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
        return _estimate_nnx(apply, variables, batches)
    flat = flatten(variables)
    hint = "only ModalityBatchNorm is estimated; from_batch_norm makes an MBN network."
    norms = find_norms_by_modality(flat, ("…", "num_modalities", "C"), hint)
    records = {}
    for norm in norms:
        shape = flat["batch_stats", *norm, "mean"].shape
        records["batch_stats", *norm, _RECORD] = _Record.empty(shape)
    mutable = [name for name in variables if name != "params"]

    @jax.jit
    def observe(variables: Any, batch: Sequence[Any]) -> list[_Record]:
        # The records are in batch_stats, so that nn.scan, nn.vmap and nn.remat handle
        # them as they handle the statistics.
        start = unflatten_dict(flatten(variables) | records)
        with intercepted(_observe_layer):
            _, updates = apply(start, *batch, mutable=mutable)
        updated = flatten_dict(updates["batch_stats"])
        return [updated[*norm, _RECORD] for norm in norms]

    on_device = jax.device_put(variables)
    names = [join(("batch_stats", *norm)) for norm in norms]
    totals = _moments_of_batches(partial(observe, on_device), names, batches)
    for norm, total in zip(norms, totals, strict=True):
        for name in ("mean", "var"):
            path = ("batch_stats", *norm, name)
            flat[path] = _updated(flat[path], total, name)
    return unflatten(flat, variables)


def _observe_layer(next_fun: Any, args: Any, kwargs: Any, call: Any) -> Any:
    """Adds the moments of a layer's input to its record, as a Flax interceptor."""
    layer = call.module
    # Compare the function, not the class: a lifted or inherited layer comes here more
    # than once, with other arguments.
    if getattr(call.orig_method, "func", None) is not _LAYER_CALL:
        return next_fun(*args, **kwargs)
    result = next_fun(*args, **kwargs)

    bound = inspect.signature(_LAYER_CALL).bind(layer, *args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    where = join(("batch_stats", *layer.path))
    if given["use_running_average"] or layer.use_running_average:
        raise _in_evaluation_mode(
            where, "pass an apply like functools.partial(model.apply, train=True)"
        )
    before: _Record | None = layer.get_variable("batch_stats", _RECORD)
    record = _add_call(
        before, layer, where, given["x"], given["modality"], given["mask"]
    )
    layer.put_variable("batch_stats", _RECORD, record)
    return result


def _in_evaluation_mode(where: str, remedy: str) -> ValueError:
    return ValueError(
        f"The layer {where} is in evaluation mode, expected training mode, in which it "
        f"normalizes with the statistics of its batch: {remedy}."
    )


def _updated(old: Any, total: Moments, name: str) -> jax.Array:
    """Returns the estimated "mean" or "var", or the old one where nothing was seen."""
    new = jnp.asarray(getattr(total, name), old.dtype)
    return jnp.where(total.counts > 0, new, old)


def _estimate_nnx(
    apply: Callable[..., Any], model: Any, batches: Iterable[Sequence[Any]]
) -> Any:
    """Returns a copy of an NNX model with re-estimated statistics."""
    estimated = nnx.clone(model, graph=True)
    layers = our_layers(estimated)
    observed = nnx.clone(model, graph=True)
    for path, layer in our_layers(observed).items():
        # A variable of the same type as the statistics, so that nnx.scan, nnx.vmap and
        # nnx.remat handle it as they handle the statistics.
        record = layer.mean.copy(_Record.empty(layer.mean.shape))
        change_class(layer, _observed(type(layer)), record=record, where=path)
    definition, state = nnx.split(observed, graph=True)

    @jax.jit
    def observe(state: nnx.State, batch: Sequence[Any]) -> list[_Record]:
        model = nnx.merge(definition, state)
        apply(model, *batch)
        found: dict[str, Any] = find_layers(model, _Observed)
        return [found[path].record.get_value() for path in layers]

    names = [path or type(model).__name__ for path in layers]
    totals = _moments_of_batches(partial(observe, state), names, batches)
    for layer, total in zip(layers.values(), totals, strict=True):
        for name in ("mean", "var"):
            variable = getattr(layer, name)
            variable[...] = _updated(variable[...], total, name)
    return estimated


class _Observed(mbn_nnx.ModalityBatchNorm):
    """A mixin for the class of a layer, which records the moments of its input.

    Attributes:
      record: a variable whose value is a `_Record`.
      where: the path of the layer.
    """

    record: Any
    where: str

    def _normalize(
        self, x: Any, modality: Any, use_running_average: Any, mask: Any, dtype: Any
    ) -> jax.Array:
        y = super()._normalize(x, modality, use_running_average, mask, dtype)
        if use_running_average is None:
            use_running_average = self.use_running_average
        if use_running_average:
            raise _in_evaluation_mode(
                self.where or "given",
                "call model.train() first, or pass an apply that sets "
                "use_running_average=False",
            )
        if modality is None:
            modality = current_modality()
        before = self.record.get_value()
        record = _add_call(before, self, self.where, x, modality, mask)
        self.record.set_value(record)
        return y


@cache
def _observed(
    kind: type[mbn_nnx.ModalityBatchNorm],
) -> type[mbn_nnx.ModalityBatchNorm]:
    return type(f"Observed{kind.__name__}", (_Observed, kind), {})


class _Record(NamedTuple):
    """Moments in one forward pass of a layer; arrays have the shape of its mean."""

    origin: Any  # the means are relative to this value
    moments: Moments
    calls: Any  # number of calls of the layer
    strays: Any  # number of samples whose modality does not exist

    @classmethod
    def empty(cls, shape: Sequence[int]) -> "_Record":
        """Returns the record before the first call; `shape` is that of the mean."""
        zeros: Any = np.zeros(shape, np.float32)
        return cls(zeros, Moments(zeros, zeros, zeros), zeros, zeros)

    def in_float64(self) -> Moments:
        """Returns the moments with the mean relative to 0."""
        origin, (mean, var, counts) = jax.tree.map(np.float64, self[:2])
        return Moments(origin + mean, var, counts)


def _add_call(
    before: _Record | None,
    layer: Any,
    where: str,
    x: jax.Array,
    modality: Any,
    mask: jax.Array | None,
) -> _Record:
    """Returns the record of a Linen or NNX layer after one more call."""
    modality = jnp.asarray(labels("modality", modality))
    groups = layer.axis_index_groups
    moments_of = partial(
        modality_moments,
        modality=modality,
        num_modalities=layer.num_modalities,
        mask=mask,
        axis=layer.axis,
        axis_name=layer.axis_name,
        axis_index_groups=groups,
    )
    moments = moments_of(x)
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
        strays = lax.psum(strays, layer.axis_name, axis_index_groups=groups)
    dtype = promoted(before.calls.dtype, moments.mean.dtype)
    before, moments = jax.tree.map(lambda a: jnp.asarray(a, dtype), (before, moments))
    # Where mean/std is large, a float32 mean is off by a fraction of a standard
    # deviation, too much for the variance between batches. So the mean is computed
    # relative to a value near it.
    origin = jnp.where(before.moments.counts > 0, before.origin, moments.mean)
    moments = _merge(before.moments, moments_of(_away(x, origin, modality, layer.axis)))
    strays = before.strays + strays.astype(dtype)
    return _Record(origin, moments, before.calls + 1, strays)


@takes_explicit_axes(lambda x, *_: spec_of(x))
def _away(x: jax.Array, origin: jax.Array, modality: jax.Array, axis: int) -> jax.Array:
    """`x` minus the origin of the modality of each sample."""
    shape = [1] * x.ndim
    shape[0], shape[axis] = len(modality), origin.shape[-1]
    near = jnp.take(origin, modality, axis=0, mode="clip").reshape(shape)
    return x.astype(near.dtype) - near


def _merge(a: Moments, b: Moments) -> Moments:
    """Merges the moments of two sets, JAX or NumPy, in the dtype of the arguments."""
    counts = a.counts + b.counts
    divisor = counts + (counts == 0).astype(counts.dtype)
    share_a, share_b = a.counts / divisor, b.counts / divisor
    delta = b.mean - a.mean
    return Moments(
        a.mean + delta * share_b,
        share_a * a.var + share_b * b.var + share_a * share_b * delta**2,
        counts,
    )


def _moments_of_batches(
    observe: Callable[[tuple[Any, ...]], Sequence[_Record]],
    names: Sequence[str],
    batches: Iterable[Sequence[Any]],
) -> list[Moments]:
    """Computes the moments of every layer over all batches, in float64."""
    totals: list[Moments] = []
    for number, batch in enumerate(batches):
        if not isinstance(batch, tuple | list):
            raise ValueError(
                f"Batch {number} is a {type(batch).__name__}, expected a tuple of what "
                "the network takes after its variables, such as (images, modality)."
            )
        for leaf in jax.tree.leaves(batch):
            _check_leaf(leaf, number)
        records = jax.device_get(observe(tuple(batch)))
        for where, record in zip(names, records, strict=True):
            _check_record(where, record, number)
        moments = [record.in_float64() for record in records]
        totals = list(map(_merge, totals, moments)) if totals else moments
    if not totals:
        raise ValueError(
            "There are no batches, expected at least one; an iterator is empty if it "
            "was read before."
        )
    return totals


def _check_leaf(leaf: Any, number: int) -> None:
    """Raises an error for what `jax.jit` does not take, or takes as another number."""
    if isinstance(leaf, jax.Array):
        return
    array = np.asarray(leaf)
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise ValueError(
            f"Batch {number} holds {array.dtype}{list(array.shape)}, expected numbers."
        )
    # Without x64, JAX makes 0 of 2**32.
    taken = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    if jnp.issubdtype(array.dtype, jnp.integer) and not np.array_equal(taken, array):
        raise ValueError(
            f"Batch {number} holds the integer {array.flat[np.argmax(taken != array)]},"
            f" which {taken.dtype} does not hold; correct its labels."
        )


def _check_record(where: str, record: _Record, number: int) -> None:
    """Raises an error for a layer or a batch that would make the statistics wrong."""
    if not record.calls.any():
        raise ValueError(
            f"{where} is a normalization that apply did not call as a "
            "ModalityBatchNorm, expected it to call all of them: are these the "
            "variables of this network, and does apply enter by_modality if the "
            "network has nn.BatchNorm?"
        )
    if record.strays.any():
        raise ValueError(
            f"Batch {number} has {int(record.strays.max())} samples at {where} whose "
            f"modality is outside 0 to {record.strays.shape[-2] - 1}; correct their "
            "labels or mask them."
        )
    if not all(np.isfinite(a).all() for a in (record.origin, *record.moments)):
        raise ValueError(
            f"Batch {number} gives {where} moments that are not finite; look for NaN "
            "or infinity in its images, or mask those samples."
        )
