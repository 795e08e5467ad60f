"""NNX networks in which the modalities differ."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from mbn_jax import convert
from mbn_jax.nnx import ModalityBatchNorm

from ..by_modality.nnx_networks import (
    MobileNet,
    call,
    layers_of,
    randomized,
)


class Explicit(nnx.Module):
    """A network that gives its layers the modality, and one plain layer."""

    def __init__(self, rngs, **attributes):
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.bn = ModalityBatchNorm(4, **attributes, rngs=rngs)
        self.plain = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x, modality, mask=None):
        x = self.bn(self.dense(x), modality, mask=mask)
        return self.plain(jnp.sin(x))


def random_statistics(model, seed=1):
    """The model, in which the modalities differ."""
    rng = np.random.default_rng(seed)
    for layer in layers_of(model, ModalityBatchNorm).values():
        for variable in (layer.mean, layer.var, layer.scale, layer.bias):
            if variable is not None:
                value = rng.uniform(0.5, 1.5, variable.shape)
                variable[...] = jnp.asarray(value, variable.dtype)
    return model


def replaced(network=MobileNet, share_affine=True):
    """A model and its conversion, in which the modalities differ."""
    plain = randomized(network(nnx.BatchNorm, nnx.Rngs(0)))
    plain.eval()
    converted = convert.from_batch_norm(plain, share_affine=share_affine)
    return plain, random_statistics(converted)


forward = nnx.jit(lambda model, x: model(x))
forward_by_modality = nnx.jit(call)
