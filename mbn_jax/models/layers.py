"""What the networks are put together from, beside their normalizations."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from mbn_jax.models.norms import NormFactory

ConvolutionFactory = Callable[..., nn.Conv]


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Any,
    **arguments: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` of NHWC and HWIO, in the form a CPU is fast in.

    XLA for CPU computes a 1×1 convolution in one thread, and its weight gradient as a
    convolution with a kernel of the size of the image. It also computes a convolution
    in one thread, by a general loop, if the kernel is larger than the map, as in the
    last stage for small images. As products of two matrices, the 1×1 convolutions make
    a step of a ResNet-50 take 0.6 of the time, and those on small maps a step of a
    narrow ResNet-18 with last stride 2 for images of 96×48 take 0.45. The matrices have
    two axes, not (B, H, W, C) by one: the gradient would sum over three axes, and XLA
    would transpose for that. Elsewhere the convolution stays: accelerators are made for
    it, and flattening positions moves data where they are tiled, as on a TPU.
    """
    size = kernel.shape[:2]
    out = [
        (n + sum(pad) - k) // stride + 1
        for n, pad, k, stride in zip(x.shape[1:3], padding, size, strides, strict=True)
    ]
    # The input's gradient is a convolution of the output's, so the output counts.
    is_small = any(n < k for n, k in zip(out, size, strict=True))
    if jax.default_backend() != "cpu" or not (size == (1, 1) or is_small):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **arguments)
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


def max_pool(x: jax.Array) -> jax.Array:
    """Largest of 3×3 positions, stride 2, of (B, H, W, C).

    The gradient of `nn.max_pool` is a search through windows, which XLA for CPU does
    with four arrays of indices in memory; this one, maxima of shifted pictures, takes a
    quarter of the time there. Where several positions are largest, they share the
    gradient instead of the first having all of it.
    """
    if jax.default_backend() != "cpu":
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    for axis in (2, 1):
        half = (x.shape[axis] + 1) // 2
        border = [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)]
        padded = jnp.pad(x, border, constant_values=-jnp.inf)
        first, second, third = (
            jax.lax.slice_in_dim(padded, i, i + 2 * half - 1, 2, axis) for i in range(3)
        )
        x = jnp.maximum(jnp.maximum(first, second), third)
    return x


def convolution(features: int, size: int, stride: int, **arguments: Any) -> nn.Conv:
    """A square convolution, padded so that stride 1 keeps the size."""
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding=size // 2,
        conv_general_dilated=convolve,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        **arguments,
    )


def relu_of_sum(x: jax.Array, y: jax.Array) -> jax.Array:
    """`nn.relu(x + y)`, as a selection between two.

    XLA for CPU computes a maximum again in its readers, and so, from block to block,
    sums of blocks before. So written, a step of a ResNet-50 accesses 6 % fewer bytes.
    """
    total = x + y
    return jnp.where(total <= 0, 0, total)


class SqueezeExcitation(nn.Module):
    """Weighs channels by what the whole picture holds.

    Reference: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018.

    Attributes:
      reduction: channels over the channels in between.
      dtype: of the computation.
    """

    reduction: int = 16
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, C) to the same shape."""
        channels = x.shape[-1]
        weight = x.astype(jnp.float32).mean((1, 2)).astype(x.dtype)
        weight = nn.Dense(
            max(1, channels // self.reduction), dtype=self.dtype, name="squeeze"
        )(weight)
        weight = nn.Dense(channels, dtype=self.dtype, name="excite")(nn.relu(weight))
        return x * nn.sigmoid(weight)[:, None, None, :]


class NonLocal(nn.Module):
    """Adds to every position what is alike at all positions of the picture.

    Reference: Wang et al., "Non-local Neural Networks", CVPR 2018, in its dot-product
    form: y_i = x_i + norm(W · mean_j θ(x_i)·φ(x_j) g(x_j)), with half the channels
    inside. The last normalization has scale 0 at the start, so that a new block passes
    on its input. AGW puts such blocks into a ResNet.

    Attributes:
      convolution: makes the convolutions.
      norm: makes the normalization.
    """

    convolution: ConvolutionFactory
    norm: NormFactory

    @nn.compact
    def __call__(self, x: jax.Array, modality: jax.Array, train: bool) -> jax.Array:
        """Maps (B, H, W, C) to the same shape."""
        channels = x.shape[-1]
        inside = max(1, channels // 2)
        query, key, value = (
            self.convolution(inside, 1, 1, use_bias=True, name=name)(x).reshape(
                x.shape[0], -1, inside
            )
            for name in ("query", "key", "value")
        )
        # (query key') value in the other order: the sums over positions come first,
        # and the matrix of all pairs is never formed.
        context = jnp.einsum("bnc,bnd->bcd", key, value) / key.shape[1]
        y = jnp.einsum("bnc,bcd->bnd", query, context).reshape(*x.shape[:-1], inside)
        y = self.convolution(channels, 1, 1, name="conv")(y)
        zeros = nn.initializers.zeros
        return x + self.norm(name="norm", scale_init=zeros)(y, modality, not train)


class GeneralisedMean(nn.Module):
    """Pools positions by a generalized mean, (mean xᵖ)^(1/p), of values above zero.

    Reference: Radenović et al., "Fine-tuning CNN Image Retrieval with No Human
    Annotation", TPAMI 2019.

    Attributes:
      power: p; 1 is the mean, and toward infinity it is the maximum.
      learned: whether p is a parameter, which starts there.
      epsilon: values below are taken for it.
    """

    power: float = 3.0
    learned: bool = False
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, C) to (B, C), float32."""
        power: float | jax.Array = self.power
        if self.learned:
            power = self.param("power", nn.initializers.constant(self.power), ())
        x = jnp.maximum(x.astype(jnp.float32), self.epsilon)
        # Relative to the largest, so that no power overflows.
        largest = jax.lax.stop_gradient(x.max((1, 2), keepdims=True))
        mean = ((x / largest) ** power).mean((1, 2))
        return largest[:, 0, 0] * mean ** (1 / power)
