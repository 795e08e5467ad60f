"""The Linen and the NNX layer behind one pure interface: a test is written once.

Variables are `{"params": {scale, bias}, "batch_stats": {mean, var}}` for both, so that
`jax.grad` by the parameters reads the same. A layer is hashable, so that a program is
compiled once for all tests that share its shapes.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import mbn_jax.nnx
from mbn_jax.functional import modality_moments
from mbn_jax.norm import ModalityBatchNorm


@dataclasses.dataclass(frozen=True)
class Layer:
    """A configured layer; `attributes` are sorted pairs of name and value.

    Each kind has `initialize(x, modality)`, giving variables, `train(variables, x,
    modality, mask)`, giving the output and the variables afterwards, and `evaluate`,
    giving the output by the running statistics.
    """

    features: int
    attributes: tuple[tuple[str, Any], ...]

    def copy(self, **attributes):
        pairs = {**dict(self.attributes), **attributes}
        return dataclasses.replace(self, attributes=tuple(sorted(pairs.items())))


class Linen(Layer):
    def module(self):
        return ModalityBatchNorm(**dict(self.attributes))

    def train(self, variables, x, modality, mask=None):
        y, updates = self.module().apply(
            variables, x, modality, False, mask, mutable=["batch_stats"]
        )
        return y, {**variables, **updates}

    def evaluate(self, variables, x, modality, mask=None):
        return self.module().apply(variables, x, modality, True, mask)

    def initialize(self, x, modality):
        init = partial(self.module().init, use_running_average=False)
        return jax.jit(init)(jax.random.key(0), x, modality)


class Nnx(Layer):
    def module(self, variables=None):
        """A module, holding `variables` if given."""
        module = mbn_jax.nnx.ModalityBatchNorm(
            self.features, rngs=nnx.Rngs(0), **dict(self.attributes)
        )
        if variables is None:
            return module
        definition, state = nnx.split(module)
        values = {**variables.get("params", {}), **variables["batch_stats"]}
        # As JAX arrays: a variable would write into a NumPy array in place.
        nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, values))
        return nnx.merge(definition, state)

    def variables(self, module):
        params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
        stats = nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))
        return (
            {"params": params, "batch_stats": stats}
            if params
            else {"batch_stats": stats}
        )

    def train(self, variables, x, modality, mask=None):
        module = self.module(variables)
        y = module(x, modality, mask=mask)
        return y, self.variables(module)

    def evaluate(self, variables, x, modality, mask=None):
        return self.module(variables)(x, modality, use_running_average=True, mask=mask)

    def initialize(self, x, modality):
        return self.variables(self.module())


def make(kind, features=3, **attributes):
    """The layer of kind "linen" or "nnx"."""
    return {"linen": Linen, "nnx": Nnx}[kind](features, ()).copy(**attributes)


def random_variables(layer, seed=0, dtype=np.float32):
    """Variables that no default value can be mistaken for."""
    rng = np.random.default_rng([seed, 1])
    attributes = dict(layer.attributes)
    table = attributes.get("num_modalities", 2), layer.features
    affine = table[1:] if attributes.get("share_affine", True) else table

    def draw(low, high, shape):
        return rng.uniform(low, high, shape).astype(dtype)

    return {
        "params": {"scale": draw(0.5, 2.0, affine), "bias": draw(-1.0, 1.0, affine)},
        "batch_stats": {"mean": draw(-2.0, 2.0, table), "var": draw(0.5, 3.0, table)},
    }


def random_input(shape, seed=0):
    x = np.random.default_rng([seed, 2]).normal(2.0, 3.0, shape)
    return x.astype(np.float32)


moments_of = jax.jit(
    modality_moments, static_argnames=("num_modalities", "force_float32_reductions")
)


@partial(jax.jit, static_argnums=0)
def train(layer, variables, x, modality, mask=None):
    return layer.train(variables, x, modality, mask)


@partial(jax.jit, static_argnums=0)
def evaluate(layer, variables, x, modality, mask=None):
    return layer.evaluate(variables, x, modality, mask)


def objective(layer, variables, x, modality, weights, mask=None):
    """A loss whose gradient is `weights`, with the output and the new statistics."""
    y, after = layer.train(variables, x, modality, mask)
    return (y * weights).sum(), (y, after["batch_stats"])


@partial(jax.jit, static_argnums=0)
def gradients(layer, variables, x, modality, weights, mask=None):
    """The gradient of `objective` by the parameters and by the input."""

    def loss(params, x):
        new = {**variables, "params": params}
        return objective(layer, new, x, modality, weights, mask)[0]

    return jax.grad(loss, argnums=(0, 1))(variables["params"], x)
