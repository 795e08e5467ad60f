"""The re-identification network: backbone → pooling → BN neck → classifier.

Reference for the neck: Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person
Re-identification", CVPR Workshops 2019. Pairwise losses act on the pooled feature,
retrieval uses the embedding after the neck.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from mbn_jax.models.resnet import ResNet, norm_factory


class ReIDOutput(NamedTuple):
    """What the network returns, all float32.

    Attributes:
      pooled: `(B, D)`, before the neck.
      embedding: `(B, D)`, after the neck, not normalised to unit length.
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
      depth: 18, 34, 50, 101 or 152.
      norm: "mbn" or "bn", for every normalisation, the neck's too; "none" is for
        inference with what `mbn_jax.convert.fold` makes of the variables: the backbone
        has no normalisation and the neck is a plain batch normalisation.
      width: multiplies the backbone's numbers of features.
      last_stride: of the backbone's last stage, 1 or 2.
      share_affine: of `ModalityBatchNorm`.
      momentum: decay of the running statistics.
      dtype: of the computation; parameters, statistics and outputs are float32.
      axis_name: mapped axis to normalise over, under pmap and shard_map.
      remat: see `ResNet`.
    """

    num_identities: int
    image_size: tuple[int, int] = (288, 144)
    depth: int = 50
    norm: str = "mbn"
    width: float = 1.0
    last_stride: int = 1
    share_affine: bool = True
    momentum: float = 0.9
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(
        self, images: jax.Array, modality: jax.Array, *, train: bool
    ) -> ReIDOutput:
        """Computes features and logits.

        Args:
          images: `(B, H, W, 3)`, floating point, normalised by the ImageNet moments.
          modality: `(B,)`, integer, 0 visible and 1 infrared.
          train: use and update the statistics of the batch.
        """
        feature_map = ResNet(
            depth=self.depth,
            norm=self.norm,
            width=self.width,
            last_stride=self.last_stride,
            share_affine=self.share_affine,
            momentum=self.momentum,
            dtype=self.dtype,
            axis_name=self.axis_name,
            remat=self.remat,
            name="backbone",
        )(images, modality, train=train)
        pooled = feature_map.astype(jnp.float32).mean((1, 2))
        # The pooling lies between, so no convolution can take the neck over.
        norm = norm_factory(
            "bn" if self.norm == "none" else self.norm,
            share_affine=self.share_affine,
            momentum=self.momentum,
            dtype=jnp.float32,
            axis_name=self.axis_name,
        )
        embedding = norm(use_bias=False, name="neck")(pooled, modality, not train)
        logits = nn.Dense(
            self.num_identities,
            use_bias=False,
            kernel_init=nn.initializers.normal(0.001),
            name="classifier",
        )(embedding)
        return ReIDOutput(pooled, embedding, logits)
