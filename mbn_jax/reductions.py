"""Sums of several arrays in one pass over memory, and their transpose.

* XLA for CPU makes one pass over memory for each reduction, and writes what several
  reductions have in common to memory first. A reduction of a tuple makes one pass.
* JAX cannot differentiate a reduction of a tuple, and the transpose of several
  broadcasts is one reduction for each. Therefore `sums` and `spread` are primitives,
  and each is the transpose of the other. Forward mode, reverse mode and any composition
  of the two work, and each of them makes one pass.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def sums(arrays: Sequence[jax.Array], axes: Sequence[int]) -> list[jax.Array]:
    """Sums each array over `axes`, in one pass over all of them.

    Args:
      arrays: arrays of one shape and one dtype, which the sums have, too.
      axes: distinct, non-negative axes; without axes, the arrays are returned.
    """
    if not axes:
        return list(arrays)
    return list(_sums.bind(*arrays, axes=tuple(sorted(axes))))


def spread(
    arrays: Sequence[jax.Array], axes: Sequence[int], sizes: Sequence[int]
) -> list[jax.Array]:
    """Repeats each array along new `axes`; the transpose of `sums`.

    Args:
      arrays: arrays of one shape and one dtype.
      axes: indices of the new axes in the result, in ascending order; without axes, the
        arrays are returned.
      sizes: sizes of the new axes.
    """
    if not axes:
        return list(arrays)
    return list(_spread.bind(*arrays, axes=tuple(axes), sizes=tuple(sizes)))


def per_modality(member: jax.Array, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """Sums arrays `(B, C)` over the samples of each modality, to `(M, C)` each.

    Args:
      member: bool `(B, M)`, which modality each sample has.
      arrays: arrays of one dtype.
    """
    terms = spread(arrays, (1,), member.shape[1:])
    return sums([jnp.where(member[:, :, None], term, 0) for term in terms], (0,))


@jax.custom_jvp
def per_sample(member: jax.Array, *tables: jax.Array) -> list[jax.Array]:
    """Looks up the row of each sample in tables `(M, C)`, giving `(B, C)` each.

    * The tables have one dtype. The row of a sample without a modality is undefined.
    * For few modalities this is a selection, which XLA computes where it uses the row.
      It costs almost nothing, even less where a convolution's gradient recomputes the
      normalization with the axes in another order.
    * For more, `_finished_rows` computes the rows first, at a cost that does not grow
      with the number of modalities.
    * The derivative is that of `_finished_rows`, whose transpose is `per_modality`.
    """
    num_modalities = member.shape[1]
    if num_modalities > 3:
        return _finished_rows(member, *tables)
    rows = [table[:1] for table in tables]
    for i in range(1, num_modalities):
        here = member[:, i, None]
        pairs = zip(tables, rows, strict=True)
        rows = [jnp.where(here, table[i : i + 1], row) for table, row in pairs]
    return [jnp.broadcast_to(row, (member.shape[0], row.shape[1])) for row in rows]


def _finished_rows(member: jax.Array, *tables: jax.Array) -> list[jax.Array]:
    terms = spread(tables, (0,), member.shape[:1])
    return sums([jnp.where(member[:, :, None], term, 0) for term in terms], (1,))


@per_sample.defjvp
def _per_sample_jvp(primals: Any, tangents: Any) -> Any:
    return per_sample(*primals), _finished_rows(primals[0], *tangents[1:])


def _compute_sums(*arrays: jax.Array, axes: Sequence[int]) -> tuple[jax.Array, ...]:
    zeros = tuple(lax.full((), 0, a.dtype) for a in arrays)
    return tuple(
        lax.reduce(arrays, zeros, lambda a, b: tuple(map(lax.add, a, b)), axes)
    )


def _compute_sums_on_cpu(
    *arrays: jax.Array, axes: Sequence[int]
) -> tuple[jax.Array, ...]:
    """Sums one axis after another, the last axis first, and long axes in pieces.

    The terms of a sum are then close together in memory, and LLVM unrolls the loop over
    them; otherwise it does not use the vector units.
    """
    for axis in reversed(axes):
        shape = arrays[0].shape
        if not isinstance(shape[axis], int):  # a symbolic size of jax.export
            arrays = _compute_sums(*arrays, axes=(axis,))
            continue
        piece = max(d for d in range(1, _UNROLLED + 1) if shape[axis] % d == 0)
        if shape[axis] > _UNROLLED and piece > 1:
            pieces = (*shape[:axis], shape[axis] // piece, piece, *shape[axis + 1 :])
            arrays = _compute_sums(
                *(lax.reshape(a, pieces) for a in arrays), axes=(axis + 1,)
            )
        arrays = _compute_sums(*arrays, axes=(axis,))
    return arrays


def _compute_sums_over_devices(
    *arrays: jax.Array, axes: Sequence[int]
) -> tuple[jax.Array, ...]:
    """Sums with one reduction of one array, and therefore one sum across devices.

    For a reduction of a tuple, XLA would gather the operands on every device.
    """
    stacked = lax.concatenate([lax.expand_dims(a, (0,)) for a in arrays], 0)
    total = lax.reduce_sum(stacked, axes=tuple(axis + 1 for axis in axes))
    return tuple(lax.index_in_dim(total, i, keepdims=False) for i in range(len(arrays)))


def _lower_sums(ctx: Any, *arrays: Any, axes: Sequence[int], on_one_device: Any) -> Any:
    # The first axis holds the samples, which may be split across devices.
    may_be_split = getattr(ctx.module_context.axis_context, "num_devices", 0) != 1
    compute = (
        _compute_sums_over_devices if 0 in axes and may_be_split else on_one_device
    )
    return mlir.lower_fun(compute, multiple_results=True)(ctx, *arrays, axes=axes)


def _compute_spread(
    *arrays: jax.Array, axes: Sequence[int], sizes: Sequence[int]
) -> tuple[jax.Array, ...]:
    old = arrays[0].shape
    kept = tuple(i for i in range(len(old) + len(axes)) if i not in axes)
    by_axis = dict(zip((*kept, *axes), (*old, *sizes), strict=True))
    shape = tuple(by_axis[i] for i in range(len(by_axis)))
    return tuple(lax.broadcast_in_dim(a, shape, kept) for a in arrays)


def _transpose_sums(cotangents: Any, *arrays: Any, axes: Sequence[int]) -> Any:
    sizes = [arrays[0].aval.shape[axis] for axis in axes]
    return _of_those_not_zero(partial(spread, axes=axes, sizes=sizes), cotangents)


def _transpose_spread(cotangents: Any, *_: Any, axes: Sequence[int], sizes: Any) -> Any:
    return _of_those_not_zero(partial(sums, axes=axes), cotangents)


def _of_those_not_zero(function: Callable[..., Any], values: Sequence[Any]) -> Any:
    """Applies a linear function to the values; None in the result means zero."""
    there = [value for value in values if not isinstance(value, ad.Zero)]
    results = iter(function(there)) if there else iter(())
    return [None if isinstance(v, ad.Zero) else next(results) for v in values]


def _linear_primitive(
    name: str,
    bind: Callable[..., Any],
    compute: Callable[..., Any],
    transpose: Callable[..., Any],
) -> Primitive:
    """Makes a primitive with several results that is linear in all of its arguments."""
    primitive = Primitive(name)
    primitive.multiple_results = True
    compiled = jax.jit(primitive.bind, static_argnames=("axes", "sizes"))

    def run(*arrays: jax.Array, **params: Any) -> Any:
        # Where jit is disabled, `compiled` would call this function again, endlessly.
        with jax.disable_jit(False):
            return compiled(*arrays, **params)

    # Outside jit it runs as a compiled program, which JAX keeps.
    primitive.def_impl(run)
    # Trace `compute`, so that shardings and shard_map axes propagate as in it.
    primitive.def_abstract_eval(
        lambda *arrays, **params: (
            jax.make_jaxpr(partial(compute, **params))(*arrays).out_avals
        )
    )
    ad.primitive_jvps[primitive] = partial(_jvp, primitive)
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = partial(_batch, bind)
    return primitive


def _jvp(primitive: Primitive, primals: Any, tangents: Any, **params: Any) -> Any:
    results = primitive.bind(*primals, **params)
    along = _of_those_not_zero(lambda t: primitive.bind(*t, **params), tangents)
    return results, [
        ad.Zero(jax.typeof(r).to_tangent_aval()) if t is None else t
        for r, t in zip(results, along, strict=True)
    ]


def _batch(
    bind: Callable[..., Any], arrays: Any, where: Any, *, axes: Any, **sizes: Any
) -> Any:
    pairs = list(zip(arrays, where, strict=True))
    (size, *_) = (a.shape[i] for a, i in pairs if i is not None)
    arrays = [batching.bdim_at_front(a, i, size) for a, i in pairs]
    return bind(arrays, [axis + 1 for axis in axes], **sizes), [0] * len(arrays)


# The most terms of a sum in one piece; measured on an AMD EPYC with jax 0.10.2.
_UNROLLED = 18

_sums = _linear_primitive("sums", sums, _compute_sums, _transpose_sums)
mlir.register_lowering(_sums, partial(_lower_sums, on_one_device=_compute_sums))
mlir.register_lowering(
    _sums, partial(_lower_sums, on_one_device=_compute_sums_on_cpu), platform="cpu"
)
_spread = _linear_primitive("spread", spread, _compute_spread, _transpose_spread)
mlir.register_lowering(_spread, mlir.lower_fun(_compute_spread, multiple_results=True))
