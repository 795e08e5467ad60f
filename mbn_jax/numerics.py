"""The layer's two passes over its input: the moments, and one multiply-add."""

import math
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jax import lax

from mbn_jax.reductions import per_modality, per_sample, spread, sums


def shifted_moments(
    x: jax.Array,
    member: jax.Array,
    mask: jax.Array | None,
    axis: int,
    *,
    axis_name: str | None,
    axis_index_groups: Sequence[Sequence[int]] | None,
    force_float32: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Pivot, mean minus pivot, variance and count, `(M, C)` each.

    * Sums are accumulated in float32 or wider, whatever the dtype of `x`, unless
      `force_float32` is false.
    * The data are read in one pass: every sample is summed over its own positions, and
      then the small `(B, C)` sums are added per modality. One pass per modality would
      read `num_modalities` times as much.
    * Var = E[d²] − E[d]² with d = x − pivot, so nothing cancels where |mean| ≫ std. The
      pivot of a modality is the mean of a few positions of each of its samples: it is
      within a fraction of a standard deviation of the mean and costs almost nothing.
      The gradient treats it as a constant, since the result does not depend on it.
    * There are two reductions across devices: one for the pivot and the counts, one for
      the sums. Sums are added; means are never averaged.
    * Samples are selected with `where`, not with a product with a one-hot matrix: this
      is exact on hardware that multiplies matrices in reduced precision, its gradient
      is deterministic (no scatter), and a NaN in one modality does not enter the
      statistics of the others.
    """
    # float16 cannot represent counts above 65,504.
    count_dtype = promoted(x.dtype, jnp.float32)
    dtype = count_dtype if force_float32 else x.dtype

    def over_devices(*tables: jax.Array) -> list[jax.Array]:
        """Sums tables (M, C) over devices, in one collective for all."""
        if axis_name is None:
            return list(tables)
        widths = np.cumsum([table.shape[1] for table in tables])[:-1]
        packed = jnp.concatenate([t.astype(count_dtype) for t in tables], axis=1)
        packed = lax.psum(packed, axis_name, axis_index_groups=axis_index_groups)
        return jnp.split(packed, widths, axis=1)

    positions = _positions(x, axis)
    # A mask that hides positions within a sample may hide exactly the few that the
    # pivot uses. With such a mask it uses every position, which costs a second pass.
    hides_positions = mask is not None and any(n != 1 for n in mask.shape[1:])
    few = (slice(None),) * x.ndim if hides_positions else _few_positions(x.shape, axis)
    sample = lax.stop_gradient(x[few]).astype(count_dtype)
    seen = jnp.ones_like(sample)
    if mask is not None:
        here = mask[few] if hides_positions else mask
        sample, seen = (jnp.where(here, a, 0) for a in (sample, seen))
    total, count = over_devices(*per_modality(member, sums([sample, seen], positions)))
    pivot = (total / jnp.maximum(count, 1)).astype(dtype)
    of_all, of_few = (math.prod(a.shape[i] for i in positions) for a in (x, sample))
    count = count * (of_all / max(1, of_few))

    origin = along(x, axis, per_sample(member, pivot)[0])
    first, second = over_devices(
        *per_modality(member, _shifted_sums(x, origin, mask, axis))
    )
    divisor = jnp.maximum(count, 1)
    first, second = (table.astype(count_dtype) / divisor for table in (first, second))
    # Rounding can make a variance of zero slightly negative.
    var = jnp.maximum(second - lax.square(first), 0)
    return pivot, first, var, count


# The backward pass recomputes the shift, so that only the input is kept between the
# passes, not the shifted input or a float32 copy of a bfloat16 input.
_recomputing = partial(jax.checkpoint, prevent_cse=False)


@partial(_recomputing, static_argnums=3)
def _shifted_sums(
    x: jax.Array, origin: jax.Array, mask: jax.Array | None, axis: int
) -> list[jax.Array]:
    """Σd and Σd² with d = x − origin, of every sample and channel, `(B, C)` each."""
    shifted = x.astype(origin.dtype) - origin
    if mask is not None:
        shifted = jnp.where(mask, shifted, 0)
    return sums([shifted, lax.square(shifted)], _positions(x, axis))


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def multiply_add(
    x: jax.Array,
    pivot: jax.Array,
    multiplier: jax.Array,
    constant: jax.Array,
    axis: int,
) -> jax.Array:
    """(x − pivot) · multiplier + constant; the last three have one row per sample.

    The derivative rule spreads the tangents of both rows at once, so that the gradient
    computes both of its sums in one pass. Without the rule, JAX would compute them one
    by one, on a CPU with a float32 copy of bfloat16 arrays for each.

    The recomputation is in the rule and not around this function: run outside jit, a
    rule within a recomputed function ends JAX's search for NaN (`jax_debug_nans`) in
    every compiled function of the thread.
    """
    return (x.astype(pivot.dtype) - pivot) * multiplier + constant


@multiply_add.defjvp
def _multiply_add_jvp(axis: int, primals: Any, tangents: Any) -> Any:
    return multiply_add(*primals, axis), _tangent(*primals[:3], *tangents, axis)


@partial(_recomputing, static_argnums=7)
def _tangent(
    x: jax.Array,
    pivot: jax.Array,
    multiplier: jax.Array,
    of_x: jax.Array,
    of_pivot: jax.Array,
    of_multiplier: jax.Array,
    of_constant: jax.Array,
    axis: int,
) -> jax.Array:
    """The tangent of `multiply_add`, from those of its arguments."""
    positions = _positions(x, axis)
    of_multiplier, of_constant = spread(
        [
            row.reshape(x.shape[0], x.shape[axis])
            for row in (of_multiplier, of_constant - of_pivot * multiplier)
        ],
        positions,
        [x.shape[i] for i in positions],
    )
    tangent = of_x.astype(pivot.dtype) * multiplier + of_constant
    away = x.astype(pivot.dtype) - pivot
    return tangent + away * of_multiplier


def _positions(x: jax.Array, axis: int) -> tuple[int, ...]:
    """The axes that hold neither samples nor channels."""
    return tuple(i for i in range(1, x.ndim) if i != axis)


def _few_positions(shape: Sequence[int], axis: int) -> tuple[slice, ...]:
    """Selects at most two positions along each axis except samples and channels."""
    return tuple(
        slice(None) if i in (0, axis) or n <= 2 else slice(n // 4, None, -(-n // 2))
        for i, n in enumerate(shape)
    )


def along(x: jax.Array, axis: int, row: jax.Array) -> jax.Array:
    """Reshapes one row per sample, (B, C), to the rank of `x`.

    The result varies over the `shard_map` axes that `x` varies over. Otherwise JAX
    would cast it where it is combined with `x`, after broadcasting, and the gradient
    would be summed across devices at the size of `x`.
    """
    missing = (
        jax.typeof(x).manual_axis_type.varying
        - jax.typeof(row).manual_axis_type.varying
    )
    row = lax.pcast(row, tuple(sorted(missing)), to="varying")
    shape = [1] * x.ndim
    shape[0], shape[axis] = x.shape[0], x.shape[axis]
    return row.reshape(shape)


def promoted(*dtypes: Dtype) -> Any:
    """Returns the common dtype, also under strict dtype promotion."""
    with jax.numpy_dtype_promotion("standard"):
        return reduce(jnp.promote_types, dtypes)
