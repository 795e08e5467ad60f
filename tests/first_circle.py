"""A program: a forward pass of all that needs jax, flax and NumPy only.

It prints the files of the package that were loaded. Each result is compared with plain
NumPy, or with the plain Flax layer.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import mbn_jax
from mbn_jax import convert, functional

RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, (6, 2, 3)).astype(np.float32)
MODALITY = np.array([0, 1, 1, 0, 1, 0])


def normalized_by_rows():
    y = np.empty_like(X)
    for m in (0, 1):
        here = np.equal(MODALITY, m)
        rows = X[here]
        mean, var = rows.mean((0, 1)), rows.var((0, 1))
        y[here] = (rows - mean) / np.sqrt(var + 1e-5)
    return y


def linen_layer():
    layer = mbn_jax.ModalityBatchNorm()
    y, variables = layer.init_with_output(jax.random.key(0), X, MODALITY, False)
    assert variables["batch_stats"]["mean"].shape == (2, 3)
    return y


def nnx_layer():
    return mbn_jax.nnx.ModalityBatchNorm(3, rngs=nnx.Rngs(0))(X, MODALITY)


def function():
    mean, var = jnp.zeros((2, 3)), jnp.ones((2, 3))
    return functional.modality_batch_norm(
        X, MODALITY, mean, var, use_running_average=False
    )[0]


def network_as_it_is():
    layer = nn.BatchNorm(use_running_average=False)
    with mbn_jax.by_modality(MODALITY):
        return layer.init_with_output(jax.random.key(0), X)[0]


def converted():
    plain, layer = nn.BatchNorm(use_running_average=True), mbn_jax.ModalityBatchNorm()
    variables = plain.init(jax.random.key(0), X)
    variables["batch_stats"]["mean"] = jnp.array([1.0, 2.0, 3.0])
    by_modality = convert.from_batch_norm(variables)
    back = convert.to_batch_norm(by_modality, 1)
    y = layer.apply(by_modality, X, MODALITY, True)
    np.testing.assert_allclose(y, plain.apply(variables, X), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(back["batch_stats"]["mean"], [1.0, 2.0, 3.0])

    def train(*args, **kwargs):
        return layer.apply(*args, use_running_average=False, **kwargs)

    estimated = convert.estimate_statistics(train, by_modality, [(X, MODALITY)])
    return layer.apply(estimated, X, MODALITY, True)


for forward in (linen_layer, nnx_layer, function, network_as_it_is, converted):
    np.testing.assert_allclose(
        forward(), normalized_by_rows(), rtol=1e-3, atol=1e-3, err_msg=forward.__name__
    )
for name, module in sorted(sys.modules.items()):
    if name.partition(".")[0] == "mbn_jax":
        print(module.__file__)
