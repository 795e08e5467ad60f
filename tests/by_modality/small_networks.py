"""Networks that are written once for `nn.BatchNorm` and for `ModalityBatchNorm`.

`norm` is the class of their normalizations, `modality` what these are called with after
their input: nothing, or the modality. The names of the layers are the same.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mbn_jax.context import by_modality
from mbn_jax.norm import ModalityBatchNorm

from ..norm.layers import random_input
from ..norm.reference import assert_close

MODALITY = np.array([0, 1, 1, 0], np.int32)
X = random_input((4, 2, 3))


class Compact(nn.Module):
    norm: Any = nn.BatchNorm
    train: bool = True

    @nn.compact
    def __call__(self, x, *modality):
        x = nn.Dense(3, name="dense")(x)
        x = self.norm(not self.train, momentum=0.5, name="first")(x, *modality)
        x = jnp.sin(x)
        return self.norm(not self.train, use_bias=False, name="second")(x, *modality)


class Setup(nn.Module):
    norm: Any = nn.BatchNorm
    train: bool = True

    def setup(self):
        norm = functools.partial(self.norm, use_running_average=not self.train)
        self.dense = nn.Dense(3)
        self.norms = [norm(momentum=0.5), norm(epsilon=0.1)]

    def __call__(self, x, *modality):
        x = self.dense(x)
        for norm in self.norms:
            x = jnp.sin(norm(x, *modality))
        return x


class Shared(nn.Module):
    """One layer called twice: its statistics are updated twice."""

    norm: Any = nn.BatchNorm
    train: bool = True

    @nn.compact
    def __call__(self, x, *modality):
        norm = self.norm(not self.train, momentum=0.5, name="norm")
        return norm(jnp.sin(norm(x, *modality)) + x, *modality)


class Given(nn.Module):
    """The layer is made outside, and lies two modules deep."""

    norm: Any = nn.BatchNorm
    train: bool = True

    @nn.compact
    def __call__(self, x, *modality):
        return Around(Around(self.norm(not self.train, parent=None)))(x, *modality)


class Around(nn.Module):
    inner: nn.Module

    def __call__(self, x, *modality):
        return jnp.sin(self.inner(x, *modality))


NETWORKS = (Compact, Setup, Shared, Given)


def explicit(network, variables, x, modality, **attributes):
    """The network that is told the modality; output and updates."""
    model = network(functools.partial(ModalityBatchNorm, **attributes))
    return model.apply(variables, x, modality, mutable=["batch_stats"])


def implicit(network, variables, x, modality, **attributes):
    """The network that knows nothing of modalities, inside the context."""
    with by_modality(modality, **attributes):
        return network().apply(variables, x, mutable=["batch_stats"])


def random_like(variables, seed=0):
    """Variables of the shapes of others that no default can be mistaken for."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: rng.uniform(0.5, 1.5, a.shape).astype(a.dtype), variables
    )


def initialized(network, x, modality, **attributes):
    norm = functools.partial(ModalityBatchNorm, **attributes)
    return random_like(
        jax.eval_shape(network(norm).init, jax.random.key(0), x, modality)
    )


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames=("share_affine",))
def step(apply, network, variables, x, modality, **attributes):
    """Output, new statistics, gradients by the parameters and by the input."""

    def loss(params, x):
        both = {**variables, "params": params}
        y, updates = apply(network, both, x, modality, **attributes)
        y = jax.tree.leaves(y)[0]
        weights = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return jnp.sum(y * weights), (y, updates)

    by_both, after = jax.grad(loss, argnums=(0, 1), has_aux=True)(
        variables["params"], x
    )
    return after, by_both


def assert_the_same_step(network, x=X, modality=MODALITY, **attributes):
    """Inside the context the network does what the one that is told does."""
    variables = initialized(network, x, modality, **attributes)
    expected = step(explicit, network, variables, x, modality, **attributes)
    actual = step(implicit, network, variables, x, modality, **attributes)
    assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert jax.tree.leaves(expected[0][1]), "the network has no statistics"
