"""The layers that the networks consist of."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from mbn_jax.models import cpu
from mbn_jax.norm import ModalityBatchNorm

NORMS = ("mbn", "bn")  # to train with; "none" is a network that convert.fold made
# Where the normalizations of a network are, for `mbn_at`.
PLACES = ("stem", "stage1", "stage2", "stage3", "stage4", "neck")
NormFactory = Callable[..., nn.Module]
ConvolutionFactory = Callable[..., nn.Conv]


def convolution(features: int, size: int, stride: int, **arguments: Any) -> nn.Conv:
    """Returns a square convolution, padded so that stride 1 keeps the size."""
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding=size // 2,
        conv_general_dilated=cpu.convolve,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        **arguments,
    )


class MixedBatchNorm(nn.BatchNorm):
    """`flax.linen.BatchNorm` over the mixed batch: the baseline."""

    def __call__(  # type: ignore[override]
        self,
        x: jax.Array,
        modality: jax.Array,
        use_running_average: bool | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalizes `x` (B, …, C) by the statistics of the whole batch."""
        del modality
        return super().__call__(x, use_running_average, mask=mask)


class Identity(nn.Module):
    """Replaces a normalization that `mbn_jax.convert.fold` merged with a convolution.

    Attributes:
      scale_init: ignored.
    """

    scale_init: Callable[..., jax.Array] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *arguments: Any) -> jax.Array:
        """Returns `x`."""
        return x


class IBN(nn.Module):
    """Instance normalization of the first half of the channels, another of the rest.

    Reference: Pan et al., "Two at Once: Enhancing Learning and Generalization
    Capacities via IBN-Net", ECCV 2018, IBN-a.

    Attributes:
      norm: makes the normalization of the second half.
      dtype: of the result.
    """

    norm: NormFactory
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        modality: jax.Array,
        use_running_average: bool | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalizes `x` (B, H, W, C)."""
        first, second = jnp.split(x, [x.shape[-1] // 2], axis=-1)
        instance = nn.InstanceNorm(epsilon=1e-5, dtype=self.dtype, name="instance")
        batch = self.norm(name="batch")
        return jnp.concatenate(
            [instance(first), batch(second, modality, use_running_average, mask)], -1
        )


def norm_of(network: Any, norm: str) -> NormFactory:
    """Returns what makes normalizations by name.

    Args:
      network: with the attributes of `mbn_jax.models.resnet.ResNet`.
      norm: "mbn" for `ModalityBatchNorm`, "bn" for `flax.linen.BatchNorm`, "none" for
        no normalization.

    Raises:
      ValueError: for another name.
    """
    arguments = dict(
        momentum=network.momentum, dtype=network.dtype, axis_name=network.axis_name
    )
    if norm == "mbn":
        return partial(
            ModalityBatchNorm,
            num_modalities=len(network.modalities),
            share_affine=network.share_affine,
            **arguments,
        )
    if norm == "bn":
        return partial(MixedBatchNorm, **arguments)
    if norm == "none":
        return Identity
    raise ValueError(f"norm is {norm!r}, expected one of {', '.join(NORMS)}, none.")


def norm_at(network: Any, place: str, *, keep: bool = False) -> NormFactory:
    """Returns what makes the normalizations at a place of a network.

    Args:
      network: with the attributes of `mbn_jax.models.resnet.ResNet`.
      place: one of `PLACES`.
      keep: whether a network without normalizations has a plain batch normalization
        here, because there is no convolution to merge it with.
    """
    norm = network.norm
    if (norm == "none" and keep) or (norm == "mbn" and place not in network.mbn_at):
        norm = "bn"
    return norm_of(network, norm)


class SqueezeExcitation(nn.Module):
    """Weights channels by their means over the whole image.

    Reference: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018.

    Attributes:
      reduction: number of channels over the number of hidden units.
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
    """Adds to every position a mean over all positions, weighted by similarity.

    Reference: Wang et al., "Non-local Neural Networks", CVPR 2018, in its dot-product
    form: y_i = x_i + norm(W · mean_j θ(x_i)·φ(x_j) g(x_j)), with half the channels
    inside. The scale of the last normalization is 0 at first, so that a new block
    returns its input. AGW puts such blocks into a ResNet.

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
        # The sums over positions come first, so that the matrix of all pairs of
        # positions is never formed.
        context = jnp.einsum("bnc,bnd->bcd", key, value) / key.shape[1]
        y = jnp.einsum("bnc,bcd->bnd", query, context).reshape(*x.shape[:-1], inside)
        y = self.convolution(channels, 1, 1, name="conv")(y)
        zeros = nn.initializers.zeros
        return x + self.norm(name="norm", scale_init=zeros)(y, modality, not train)


class GeM(nn.Module):
    """Pools positions by a generalized mean of positive values, (mean xᵖ)^(1/p).

    Reference: Radenović et al., "Fine-tuning CNN Image Retrieval with No Human
    Annotation", TPAMI 2019.

    Attributes:
      power: p; 1 gives the mean, and infinity the maximum.
      learned: whether p is a parameter that starts at `power`.
      epsilon: smaller values are replaced by it.
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
