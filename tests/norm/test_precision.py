"""Rounding: float32 far from zero, and bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from mbn_jax import modality_moments

from .layers import (
    evaluate,
    gradients,
    make,
    moments_of,
    random_input,
    random_variables,
    train,
)
from .reference import assert_close, reference, reference_gradient

MODALITY = np.arange(8) % 2


def far_from_zero(shape, seed=0):
    """Mean/std of 1e4, with another sign and another scale in the other modality."""
    x = np.random.default_rng(seed).normal(1e4, 1.0, shape)
    x[1::2] *= -2
    return x.astype(np.float32)


@pytest.mark.parametrize("shape", [(8, 16, 8, 3), (64, 3)], ids=str)
def test_variance_is_right_where_the_mean_is_ten_thousand_deviations(kind, shape):
    modality = np.arange(shape[0]) % 2
    layer = make(kind, momentum=0.0)
    variables = layer.initialize(far_from_zero(shape), modality)
    for seed, tolerance in enumerate([1e-2, 1e-3, 1e-3]):
        x = far_from_zero(shape, seed)
        y, variables = train(layer, variables, x, modality)
        expected = reference(x, modality, variables, momentum=0.0)
        stats, exact = variables["batch_stats"], expected.batch_stats
        assert_close(stats["var"], exact["var"], rtol=tolerance)
        assert_close(stats["mean"], exact["mean"], rtol=1e-6)
        assert_close(y, expected.y, atol=5e-3)
        moments = moments_of(x, modality)
        assert_close(moments.var, exact["var"], rtol=1e-3)


def test_gradient_is_right_where_the_mean_is_ten_thousand_deviations(kind):
    layer = make(kind, share_affine=False)
    variables, x = random_variables(layer), far_from_zero((8, 16, 8, 3))
    weights = random_input(x.shape, seed=9)
    by_params, by_x = gradients(layer, variables, x, MODALITY, weights)
    expected = reference_gradient(x, MODALITY, variables, weights)
    assert_close(by_x, expected.x, atol=1e-2)
    assert_close(by_params["scale"], expected.scale, rtol=1e-2, atol=1.0)
    assert_close(by_params["bias"], expected.bias, rtol=1e-4)


def test_flax_fast_variance_is_lost_there():
    """Why the sums are taken around a pivot: E[x²] − E[x]² of raw values cancels."""
    x = np.abs(far_from_zero((8, 16, 8, 3))[0::2])
    layer = nn.BatchNorm(momentum=0.0, use_running_average=False)
    stats = {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)}
    _, after = layer.apply(
        {"params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}, "batch_stats": stats},
        x,
        mutable=["batch_stats"],
    )
    error = np.abs(after["batch_stats"]["var"] / x.astype(float).var((0, 1, 2)) - 1)
    assert error.max() > 0.1


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float32])
def test_bfloat16_input_is_accumulated_in_float32(kind, dtype):
    layer = make(kind, dtype=dtype, momentum=0.0)
    variables = random_variables(layer)
    x = jnp.asarray(random_input((8, 32, 16, 3)), jnp.bfloat16)
    y, after = train(layer, variables, x, MODALITY)
    exact = np.asarray(x, np.float64)
    expected = reference(exact, MODALITY, variables, momentum=0.0)
    # Statistics of what bfloat16 holds, to the precision of float32.
    assert_close(after["batch_stats"], expected.batch_stats, rtol=1e-5)
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {np.dtype(np.float32)}
    assert y.dtype == (dtype or jnp.float32)  # inferred as in Flax: by the parameters
    rounding = 1e-5 if y.dtype == jnp.float32 else 2**-8
    assert_close(np.asarray(y, np.float32), expected.y, rtol=rounding, atol=1e-5)


def test_moments_of_bfloat16_are_those_of_its_values():
    x = jnp.asarray(random_input((8, 32, 16, 3)), jnp.bfloat16)
    moments = moments_of(x, MODALITY)
    for m in (0, 1):
        values = np.asarray(x, np.float64)[m == MODALITY]
        assert_close(moments.mean[m], values.mean((0, 1, 2)), rtol=1e-5)
        assert_close(moments.var[m], values.var((0, 1, 2)), rtol=1e-5)


def test_sums_are_in_the_type_of_the_input_where_float32_is_not_forced():
    x = random_input((8, 16, 3)).astype(jnp.bfloat16)
    fine = modality_moments(x, MODALITY)
    coarse = modality_moments(x, MODALITY, force_float32_reductions=False)
    assert np.abs(coarse.var / fine.var - 1).max() > 1e-4
    np.testing.assert_allclose(coarse.var, fine.var, rtol=0.03)


def test_float16_counts_more_than_it_can_represent():
    x = jnp.ones((2, 300, 300, 1), jnp.float16)
    moments = moments_of(x, np.zeros(2, np.int32), num_modalities=1)
    np.testing.assert_array_equal(moments.counts, 180_000)
    assert moments.mean.item() == 1.0
    small = moments_of(
        x[:1, :, :250],
        np.zeros(1, np.int32),
        num_modalities=1,
        force_float32_reductions=False,
    )
    np.testing.assert_array_equal(small.counts, 75_000)


def test_variance_of_a_constant_is_never_negative():
    """Its root would be NaN."""
    constants = np.random.default_rng(0).normal(0.0, 1e3, 512).astype(np.float32)
    x = np.broadcast_to(constants, (7, 4, 512))
    moments = moments_of(x, np.zeros(7, np.int32), num_modalities=1)
    assert moments.var.min() >= 0
    assert moments.var.max() < 1e-6


def test_running_statistics_stay_float32_under_every_type(kind):
    layer = make(kind, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    x = jnp.asarray(random_input((8, 3)), jnp.bfloat16)
    variables = layer.initialize(x, MODALITY)
    y, after = train(layer, variables, x, MODALITY)
    for stats in (variables["batch_stats"], after["batch_stats"]):
        assert {a.dtype for a in jax.tree.leaves(stats)} == {np.dtype(np.float32)}
    assert y.dtype == evaluate(layer, after, x, MODALITY).dtype == jnp.bfloat16


def test_nnx_batch_norm_loses_the_statistics_in_bfloat16_and_this_layer_does_not():
    """A mean of 100 with a deviation of 1 is within bfloat16's rounding of 0.5."""
    x = np.random.default_rng(0).normal(100.2, 1.0, (8, 16, 8, 3)).astype(np.float32)
    expected = (x - x.mean((0, 1, 2))) / x.std((0, 1, 2))
    types = dict(dtype=jnp.bfloat16, param_dtype=jnp.float32)

    theirs = nnx.BatchNorm(3, momentum=0.0, **types, rngs=nnx.Rngs(0))
    theirs(x)
    error = np.abs(theirs(x, use_running_average=True).astype(np.float32) - expected)

    ours = make("nnx", momentum=0.0, num_modalities=1, **types).module()
    one = np.zeros(8, np.int32)
    ours(x, one)
    y = ours(x, one, use_running_average=True).astype(np.float32)
    our_error = np.abs(y - expected)
    assert ours.mean.dtype == ours.var.dtype == jnp.float32
    assert our_error.max() < 0.02  # half a unit in the last place of bfloat16 at 4
    assert error.max() > 0.1
