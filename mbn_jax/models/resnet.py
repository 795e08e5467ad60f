"""ResNets of torchvision's topology whose normalizations take the modality.

Reference: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016. The
stride of a bottleneck is in its 3×3 convolution, as in torchvision, or in its first.
"""

from collections.abc import Sequence
from functools import partial
from urllib.parse import quote

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from mbn_jax import modalities as names
from mbn_jax.models import cpu
from mbn_jax.models.layers import (
    IBN,
    PLACES,
    ConvolutionFactory,
    NonLocal,
    NormFactory,
    SqueezeExcitation,
    convolution,
    norm_at,
    norm_of,
)

VARIANTS = ("resnet", "se_resnet", "resnet_ibn_a")
STEMS = ("shared", "separate")


def stem_name(modality: str) -> str:
    """Returns the name of a modality's first convolution if the stems are separate.

    "visible" gives "conv1_visible", and "cam/1" gives "conv1_cam%2F1": the name is
    percent-encoded as in a URL, and "." as well, because files join the names of
    parameters by "/" and ".", where different modalities must stay different.
    """
    return "conv1_" + quote(modality, safe="").replace(".", "%2E")


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut.

    Attributes:
      features: number of features inside the block.
      stride: of the first 3×3 convolution.
      convolution: makes the convolutions.
      norm: makes the normalizations.
      instance_norm: makes the batch normalization of an `IBN`, which then is the first
        normalization; None for no IBN.
      squeeze_excitation: whether the branch ends in squeeze and excitation.
      stride_in_1x1: of a bottleneck, see `ResNet`.
    """

    features: int
    stride: int
    convolution: ConvolutionFactory
    norm: NormFactory
    instance_norm: NormFactory | None = None
    squeeze_excitation: bool = False
    stride_in_1x1: bool = False
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, modality: jax.Array, train: bool) -> jax.Array:
        """Maps (B, H, W, C) to (B, H/stride, W/stride, expansion · features)."""
        y = self.branch(x, modality, train)
        if self.squeeze_excitation:
            y = SqueezeExcitation(dtype=y.dtype, name="squeeze_excitation")(y)
        if x.shape != y.shape:
            x = self.convolution(y.shape[-1], 1, self.stride, name="shortcut_conv")(x)
            x = self.norm(name="shortcut_norm")(x, modality, not train)
        return cpu.relu_of_sum(x, y)

    def branch(self, x: jax.Array, modality: jax.Array, train: bool) -> jax.Array:
        """Computes what is added to the shortcut."""
        y = self.first(x, 3, self.stride, modality, train)
        y = self.convolution(self.features, 3, 1, name="conv2")(y)
        return self.norm(name="norm2")(y, modality, not train)

    def first(
        self, x: jax.Array, size: int, stride: int, modality: jax.Array, train: bool
    ) -> jax.Array:
        """The first convolution of the branch, normalized, and a ReLU."""
        convolution, norm = self.convolution, self.norm
        if self.instance_norm is not None:
            convolution = partial(convolution, use_bias=False)
            norm = partial(IBN, self.instance_norm, x.dtype)
        x = convolution(self.features, size, stride, name="conv1")(x)
        return nn.relu(norm(name="norm1")(x, modality, not train))


class BottleneckBlock(BasicBlock):
    """1×1, 3×3, 1×1 to four times the features, and a shortcut."""

    expansion = 4

    def branch(self, x: jax.Array, modality: jax.Array, train: bool) -> jax.Array:
        """Computes what is added to the shortcut."""
        strides = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        y = self.first(x, 1, strides[0], modality, train)
        y = self.convolution(self.features, 3, strides[1], name="conv2")(y)
        y = nn.relu(self.norm(name="norm2")(y, modality, not train))
        y = self.convolution(self.features * self.expansion, 1, 1, name="conv3")(y)
        return self.norm(name="norm3")(y, modality, not train)


STAGES: dict[int, tuple[type[BasicBlock], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (BottleneckBlock, (3, 4, 6, 3)),
    101: (BottleneckBlock, (3, 4, 23, 3)),
    152: (BottleneckBlock, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """A ResNet without its pooling and classifier.

    Attributes:
      depth: 18, 34, 50, 101 or 152.
      variant: "resnet"; "se_resnet", whose blocks end in `SqueezeExcitation`; or
        "resnet_ibn_a", where `IBN` is the first normalization of the blocks in stages 1
        to 3.
      stem: "shared", or "separate" for a first convolution and normalization of each
        modality, as in AGW. All of them are computed for all images, and the one of the
        image's modality is used.
      non_local: number of non-local blocks in each stage, after its last blocks; AGW
        has (0, 2, 3, 0).
      norm: "mbn" or "bn"; "none" is for inference with the output of
        `mbn_jax.convert.fold`: the convolutions have biases instead.
      mbn_at: the `PLACES` where norm "mbn" is by modality; elsewhere it is "bn". (The
        one of separate stems is always by modality.)
      width: factor of every number of features; 1 is the original.
      last_stride: of the last stage: 2 is the original, and 1, which keeps a finer map,
        is common in re-identification.
      share_affine: of `ModalityBatchNorm`.
      momentum: decay of the running statistics; 0.9 is PyTorch's 0.1.
      dtype: of the computation; parameters and statistics are float32.
      axis_name: mapped axis to normalize over, under pmap and shard_map.
      remat: whether to keep only the input of every block and compute its inside again
        in the backward pass: less memory, more time, the same result.
      stride_in_1x1: whether the stride of a bottleneck is in its first convolution, as
        in the weights of Caffe and Keras.
      modalities: names in the order of their indices. There are as many rows of
        statistics, and separate stems are named after them (see `stem_name`).
    """

    depth: int = 50
    variant: str = "resnet"
    stem: str = "shared"
    non_local: Sequence[int] = (0, 0, 0, 0)
    norm: str = "mbn"
    mbn_at: Sequence[str] = PLACES
    width: float = 1.0
    last_stride: int = 1
    share_affine: bool = True
    momentum: float = 0.9
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False
    stride_in_1x1: bool = False
    modalities: tuple[str, ...] = names.DEFAULT

    @nn.compact
    def __call__(
        self, images: jax.Array, modality: jax.Array, *, train: bool
    ) -> jax.Array:
        """Computes the feature map.

        Args:
          images: `(B, H, W, 3)`, floating point, normalized.
          modality: `(B,)`, integer, indices into `modalities`.
          train: whether to use the statistics of the batch and update the running ones.

        Returns:
          `(B, ⌈H/s⌉, ⌈W/s⌉, features)` of `dtype`, where s is 32, or 16 with
          `last_stride` 1, and features is `width` times 512, or 2048 from depth 50 on.

        Raises:
          ValueError: a depth, variant, stem or norm does not exist, the modalities are
            not distinct names, or a stage has fewer blocks than non-local blocks.
        """
        for name, value, allowed in (
            ("depth", self.depth, tuple(STAGES)),
            ("variant", self.variant, VARIANTS),
            ("stem", self.stem, STEMS),
        ):
            if value not in allowed:
                raise ValueError(
                    f"ResNet {name} is {value!r}, expected one of "
                    f"{', '.join(map(str, allowed))}."
                )
        if (
            not self.modalities
            or isinstance(self.modalities, str)
            or not all(isinstance(name, str) and name for name in self.modalities)
            or len(set(self.modalities)) < len(self.modalities)
        ):
            raise ValueError(
                f"ResNet modalities is {self.modalities!r}, expected a tuple of one or "
                "more names, each once."
            )
        block, repeats = STAGES[self.depth]
        if any(n > repeat for n, repeat in zip(self.non_local, repeats, strict=True)):
            raise ValueError(
                f"ResNet non_local is {tuple(self.non_local)}, expected no more than "
                f"the stages have blocks, {repeats}."
            )
        if self.remat:
            block = nn.remat(block, static_argnums=(3,))  # train; self is 0
        convolve = partial(convolution, use_bias=self.norm == "none", dtype=self.dtype)
        features = max(1, round(64 * self.width))
        x = self._stem(images.astype(self.dtype), modality, train, features, convolve)
        x = cpu.max_pool(x)
        for stage, repeat in enumerate(repeats, start=1):
            place = f"stage{stage}"
            norm = norm_at(self, place)
            has_instance_norm = self.variant == "resnet_ibn_a" and stage < 4
            for j in range(1, repeat + 1):
                x = block(
                    features * 2 ** (stage - 1),
                    (1, 2, 2, self.last_stride)[stage - 1] if j == 1 else 1,
                    convolve,
                    norm,
                    norm_at(self, place, keep=True) if has_instance_norm else None,
                    squeeze_excitation=self.variant == "se_resnet",
                    stride_in_1x1=self.stride_in_1x1,
                    name=f"{place}_block{j}",
                )(x, modality, train)
                if j > repeat - self.non_local[stage - 1]:
                    name = f"{place}_non_local{j}"
                    x = NonLocal(convolve, norm, name=name)(x, modality, train)
        return x

    def _stem(
        self,
        x: jax.Array,
        modality: jax.Array,
        train: bool,
        features: int,
        convolve: ConvolutionFactory,
    ) -> jax.Array:
        """The first convolution, normalized, and a ReLU."""
        if self.stem == "shared":
            x = convolve(features, 7, 2, name="conv1")(x)
            return nn.relu(norm_at(self, "stem")(name="norm1")(x, modality, not train))
        *others, x = (
            convolve(features, 7, 2, use_bias=False, name=stem_name(name))(x)
            for name in self.modalities
        )
        for index, other in enumerate(others):
            x = jnp.where((modality == index)[:, None, None, None], other, x)
        # A normalization for each stem, whatever the others are.
        norm = (
            norm_of(self, "bn")
            if self.norm == "none"
            else partial(norm_of(self, "mbn"), share_affine=False)
        )
        return nn.relu(norm(name="norm1")(x, modality, not train))
