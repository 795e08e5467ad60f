"""The normalizations of the networks: by modality, over the mixed batch, or none."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from mbn_jax.norm import ModalityBatchNorm

NORMS = ("mbn", "bn")  # to train with; "none" is a network that convert.fold made
# Where they are, for `mbn_at`.
PLACES = ("stem", "stage1", "stage2", "stage3", "stage4", "neck")
NormFactory = Callable[..., nn.Module]


class MixedBatchNorm(nn.BatchNorm):
    """`flax.linen.BatchNorm` over the mixed batch: the baseline, deaf to modality."""

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


class Unnormalized(nn.Module):
    """The place of a normalization that its convolution has taken over.

    Attributes:
      scale_init: of the normalization that was there.
    """

    scale_init: Callable[..., jax.Array] = nn.initializers.ones

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        modality: jax.Array,
        use_running_average: bool | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Returns `x`."""
        return x


class HalfInstanceNorm(nn.Module):
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


def norm_factory(
    norm: str,
    *,
    share_affine: bool = True,
    momentum: float = 0.9,
    dtype: Dtype | None = None,
    axis_name: str | None = None,
    num_modalities: int = 2,
) -> NormFactory:
    """What makes a network's normalizations, by name.

    Args:
      norm: "mbn" for `ModalityBatchNorm`, "bn" for `flax.linen.BatchNorm`, "none" for
        no normalization.
      share_affine: of `ModalityBatchNorm`.
      momentum: decay of the running statistics; 0.9 is PyTorch's 0.1.
      dtype: of the results.
      axis_name: mapped axis under pmap and shard_map.
      num_modalities: of `ModalityBatchNorm`.

    Raises:
      ValueError: for another name.
    """
    arguments: dict[str, Any] = dict(
        momentum=momentum, dtype=dtype, axis_name=axis_name
    )
    if norm == "mbn":
        return partial(
            ModalityBatchNorm,
            num_modalities=num_modalities,
            share_affine=share_affine,
            **arguments,
        )
    if norm == "bn":
        return partial(MixedBatchNorm, **arguments)
    if norm == "none":
        return Unnormalized
    raise ValueError(f"norm is {norm!r}, expected one of {', '.join(NORMS)}, none.")


def norm_at(module: Any, place: str, *, keep: bool = False) -> NormFactory:
    """What makes the normalizations at a place of a network.

    Args:
      module: a network with the attributes of `mbn_jax.models.resnet.ResNet`.
      place: one of `PLACES`.
      keep: of a network without normalizations: give a plain batch normalization, since
        no convolution can take this one over.
    """
    norm = module.norm
    if (norm == "none" and keep) or (norm == "mbn" and place not in module.mbn_at):
        norm = "bn"
    return norm_factory(
        norm,
        share_affine=module.share_affine,
        momentum=module.momentum,
        dtype=module.dtype,
        axis_name=module.axis_name,
        num_modalities=len(module.modalities),
    )
