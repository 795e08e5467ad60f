"""The re-identification network: backbone → pooling → BN neck → classifier.

Reference for the neck: Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person
Re-identification", CVPR Workshops 2019. Pairwise losses use the pooled feature, and
retrieval uses the embedding after the neck.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from mbn_jax import modalities as names
from mbn_jax.models.layers import PLACES, GeM, norm_at
from mbn_jax.models.resnet import ResNet

POOLINGS = ("average", "gem", "learned_gem")


class ReIDOutput(NamedTuple):
    """The output of the network, all float32.

    Attributes:
      pooled: `(B, D)`, before the neck.
      embedding: `(B, D)`, after the neck, not normalized to unit length.
      logits: `(B, num_identities)`.
    """

    pooled: jax.Array
    embedding: jax.Array
    logits: jax.Array


class ReID(nn.Module):
    """A ResNet that identifies persons across modalities.

    Attributes:
      num_identities: training identities, the classifier's classes.
      image_size: (height, width) in pixels that the network is trained at.
      pooling: "average"; "gem", a generalized mean with power 3; or "learned_gem",
        whose power is learned and starts at 3.
      neck_bias: whether the neck has a bias.
      norm: "mbn" or "bn"; "none" is for inference with the output of
        `mbn_jax.convert.fold`. The neck and other normalizations that cannot be merged
        with a convolution are then plain batch normalizations.
      sixteen_bits: how images of 16 bits were scaled in training, a text for each
        modality as in `mbn_jax.data.sixteen_bits`; empty if that is not known.
      depth, variant, stem, non_local, mbn_at, width, last_stride, share_affine,
        momentum, dtype, axis_name, remat, stride_in_1x1, modalities: see `ResNet`.
    """

    num_identities: int
    image_size: tuple[int, int] = (288, 144)
    pooling: str = "average"
    neck_bias: bool = False
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
    sixteen_bits: tuple[str, ...] = ()

    @nn.compact
    def __call__(
        self, images: jax.Array, modality: jax.Array, *, train: bool
    ) -> ReIDOutput:
        """Computes features and logits.

        Args:
          images: `(B, H, W, 3)`, floating point, normalized by the ImageNet moments.
          modality: `(B,)`, integer, indices into `modalities`.
          train: whether to use the statistics of the batch and update the running ones.

        Raises:
          ValueError: the pooling does not exist, and as `ResNet`.
        """
        if self.pooling not in POOLINGS:
            raise ValueError(
                f"pooling is {self.pooling!r}, expected one of {', '.join(POOLINGS)}."
            )
        fields = {field.name for field in dataclasses.fields(ResNet)}
        shared = {name: getattr(self, name) for name in fields - {"parent", "name"}}
        backbone = ResNet(**shared, name="backbone")
        feature_map = backbone(images, modality, train=train)
        if self.pooling == "average":
            pooled = feature_map.astype(jnp.float32).mean((1, 2))
        else:
            learned = self.pooling == "learned_gem"
            pooled = GeM(learned=learned, name="pooling")(feature_map)
        # There is no convolution to merge the neck with, because of the pooling.
        neck = norm_at(self, "neck", keep=True)(
            use_bias=self.neck_bias, dtype=jnp.float32, name="neck"
        )
        embedding = neck(pooled, modality, not train)
        logits = nn.Dense(
            self.num_identities,
            use_bias=False,
            kernel_init=nn.initializers.normal(0.001),
            name="classifier",
        )(embedding)
        return ReIDOutput(pooled, embedding, logits)
