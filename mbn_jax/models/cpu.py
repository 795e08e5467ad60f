"""Forms that only XLA for CPU wants, chosen when a program is lowered.

Each function has two forms of one result: one for CPUs, and the plain operation for all
other platforms. JAX traces both and keeps the one of the platform that it lowers for,
so that a program which is exported for a GPU on a machine without one has the plain
operations. docs/benchmarks.md has the measurements.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import cache, partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}
_IS_CHOSEN = ContextVar("is_chosen", default=False)


def with_cpu_forms(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function, not jitted, whose trace has the forms for CPUs only.

    Converters to other formats read the trace and do not know a choice by platform.
    """

    @wraps(function)
    def traced(*arguments: Any, **named: Any) -> Any:
        token = _IS_CHOSEN.set(True)
        try:
            return function(*arguments, **named)
        finally:
            _IS_CHOSEN.reset(token)

    return traced


def _choose(
    on_cpu: Callable[..., Any], elsewhere: Callable[..., Any], *arrays: Any
) -> Any:
    if _IS_CHOSEN.get():
        return on_cpu(*arrays)
    return jax.lax.platform_dependent(*arrays, cpu=on_cpu, default=elsewhere)


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Any,
    **arguments: Any,
) -> jax.Array:
    """Computes `jax.lax.conv_general_dilated` of NHWC and HWIO.

    XLA for CPU computes a 1×1 convolution in one thread, and its weight gradient as a
    convolution with a kernel of the size of the image. It also computes a convolution
    in one thread, by a general loop, if the kernel is larger than the map, as in the
    last stage for small images. Both are products of two matrices here. The matrices
    have two axes, because XLA transposes for the gradient of (B, H, W, C) by a matrix.
    Other platforms are made for convolutions, and flattening positions moves data where
    they are tiled, as on a TPU.
    """

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **arguments)

    size = kernel.shape[:2]
    out = [
        (n + sum(pad) - k) // stride + 1
        for n, pad, k, stride in zip(x.shape[1:3], padding, size, strides, strict=True)
    ]
    # The input's gradient is a convolution of the output's, so the output counts.
    is_small = any(n < k for n, k in zip(out, size, strict=True))
    if not (size == (1, 1) or is_small):
        return plain(x, kernel)

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        rows, columns = (
            [slice(i, i + n * stride, stride) for i in range(k)]
            for n, k, stride in zip(out, size, strides, strict=True)
        )
        shifted = [x[:, row, column] for row in rows for column in columns]
        patches = jnp.concatenate(shifted, axis=-1).reshape(-1, kernel[..., 0].size)
        flat = kernel.reshape(patches.shape[1], -1)
        y = jnp.dot(patches, flat, precision=arguments["precision"])
        return y.reshape(x.shape[0], *out, -1)

    return _choose(product, plain, x, kernel)


def max_pool(x: jax.Array) -> jax.Array:
    """Takes the maximum of 3×3 positions of (B, H, W, C) with stride 2.

    The gradient of `nn.max_pool` is a search through windows, for which XLA for CPU
    writes four arrays of indices to memory; that of maxima of shifted images takes a
    quarter of the time. There, equal maxima share the gradient, whereas the first has
    all of it on other platforms.
    """
    plain = partial(
        nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1))
    )
    return _choose(_maxima_of_shifted, plain, x)


def _maxima_of_shifted(x: jax.Array) -> jax.Array:
    for axis in (2, 1):
        half = (x.shape[axis] + 1) // 2
        border = [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)]
        padded = jnp.pad(x, border, constant_values=-jnp.inf)
        first, second, third = (
            jax.lax.slice_in_dim(padded, i, i + 2 * half - 1, 2, axis) for i in range(3)
        )
        x = jnp.maximum(jnp.maximum(first, second), third)
    return x


def relu_of_sum(x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes `nn.relu(x + y)`.

    XLA for CPU computes a maximum again in each of its readers, and therefore the sums
    of the blocks before. It does not do so for a selection, with which a step of a
    ResNet-50 accesses 6 % fewer bytes.
    """
    return _choose(_positive, nn.relu, x + y)


def _positive(x: jax.Array) -> jax.Array:
    return jnp.where(x <= 0, 0, x)


def scan(
    body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, inputs: Any
) -> tuple[Any, Any]:
    """Computes `jax.lax.scan`, unrolled on a CPU.

    A loop saves memory, but in a loop XLA for CPU takes ten times as long for
    convolutions.
    """
    unrolled = partial(jax.lax.scan, body, unroll=True)
    return _choose(unrolled, partial(jax.lax.scan, body), carry, inputs)


def compiler_options(mesh: Mesh) -> dict[str, str] | None:
    """Returns XLA's options for programs on a mesh, or None.

    On a CPU they choose Eigen instead of YNNPACK, which takes longer for a step of a
    ResNet-50. Options that this version of XLA does not know are left out.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return None
    return {name: value for name, value in _OPTIONS.items() if _is_known(name, value)}


@cache
def _is_known(name: str, value: str) -> bool:
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return False
    return True
