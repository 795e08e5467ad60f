"""Layers of the networks against their definitions in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from mbn_jax import ModalityBatchNorm
from mbn_jax.models.layers import IBN, GeM, NonLocal, convolution

IMAGES = np.random.default_rng(0).normal(size=(6, 32, 16, 3)).astype(np.float32)
MODALITY = np.array([0, 1, 0, 1, 1, 0])


def test_half_the_channels_are_normalized_by_image():
    norm = partial(ModalityBatchNorm, epsilon=1e-5)
    layer = IBN(norm)
    x = 3 * IMAGES[..., [0, 1, 2, 0]] + 2
    y, _ = layer.init_with_output(jax.random.key(0), x, MODALITY, False)
    first = x[..., :2]
    moments = dict(axis=(1, 2), keepdims=True)
    deviation = np.sqrt(first.var(**moments) + 1e-5)
    np.testing.assert_allclose(
        y[..., :2], (first - first.mean(**moments)) / deviation, atol=1e-5
    )
    rest, _ = norm(name="batch").init_with_output(
        jax.random.key(0), x[..., 2:], MODALITY, False
    )
    np.testing.assert_allclose(y[..., 2:], rest, atol=1e-6)


def test_the_generalized_mean_lies_between_mean_and_maximum():
    x = jnp.asarray(np.abs(IMAGES))

    def pool(power):
        return GeM(power).apply({}, x)

    np.testing.assert_allclose(pool(1.0), x.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(pool(3.0), (x**3).mean((1, 2)) ** (1 / 3), rtol=1e-5)
    np.testing.assert_allclose(pool(200.0), x.max((1, 2)), rtol=0.05)


@pytest.mark.parametrize("scale", [0.0, 1e-8, 1e30])
def test_the_generalized_mean_has_a_gradient_at_every_scale(scale):
    def loss(x, power):
        variables = {"params": {"power": power}}
        return GeM(learned=True).apply(variables, x).sum() / (scale or 1)

    gradients = jax.grad(loss, argnums=(0, 1))(scale * jnp.asarray(IMAGES), 3.0)
    assert all(np.all(np.isfinite(g)) for g in gradients)


def test_a_non_local_block_begins_as_the_identity_and_looks_at_all_pairs():
    norm = partial(ModalityBatchNorm, epsilon=0.0)
    block = NonLocal(partial(convolution, use_bias=False), norm)
    x = IMAGES[:2, :4, :3]
    modality = MODALITY[:2]
    variables = block.init(jax.random.key(0), x, modality, False)
    np.testing.assert_array_equal(block.apply(variables, x, modality, False), x)

    params = flatten_dict(variables["params"])
    params["norm", "scale"] = jnp.ones(3)
    params = {k: v + 0.1 for k, v in params.items()}
    y = block.apply({**variables, "params": unflatten_dict(params)}, x, modality, False)

    params = {path: np.asarray(leaf) for path, leaf in params.items()}
    rows = x.reshape(2, 12, 3)
    query, key, value = (
        rows @ params[name, "kernel"][0, 0] + params[name, "bias"]
        for name in ("query", "key", "value")
    )
    pairs = np.einsum("bic,bjc->bij", query, key) / 12
    inside = (pairs @ value) @ params["conv", "kernel"][0, 0]
    expected = rows + inside * params["norm", "scale"] + params["norm", "bias"]
    np.testing.assert_allclose(y.reshape(2, 12, 3), expected, rtol=1e-4, atol=1e-5)
