"""Value and running statistics against one NumPy loop per modality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbn_jax.functional import modality_batch_norm, modality_moments

from .layers import evaluate, make, random_input, random_variables, train
from .reference import assert_close, reference

MODALITY = np.array([0, 1, 1, 0, 1, 1], np.int32)
SHAPES = [(6, 3), (6, 7, 3), (6, 5, 4, 3), (6, 2, 4, 5, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_statistics_equal_one_loop_per_modality(kind, shape):
    layer = make(kind, share_affine=False)
    variables, x = random_variables(layer), random_input(shape)
    y, after = train(layer, variables, x, MODALITY)
    expected = reference(x, MODALITY, variables)
    assert_close(y, expected.y, atol=1e-5)
    assert_close(after["batch_stats"], expected.batch_stats, rtol=1e-5)
    assert_close(after["params"], variables["params"])


@pytest.mark.parametrize("alone", [0, 5])
def test_counts_may_be_as_unequal_as_one_to_five(kind, alone):
    modality = (np.arange(6) != alone).astype(np.int32)
    layer = make(kind, share_affine=False)
    variables, x = random_variables(layer), random_input((6, 5, 4, 3))
    y, after = train(layer, variables, x, modality)
    expected = reference(x, modality, variables)
    assert_close(y, expected.y, atol=1e-5)
    assert_close(after["batch_stats"], expected.batch_stats, rtol=1e-5)


def test_there_may_be_more_modalities_than_two(kind):
    modality = np.array([4, 0, 2, 4, 2, 1])
    layer = make(kind, num_modalities=5, share_affine=False, epsilon=0.1)
    variables, x = random_variables(layer), random_input((6, 7, 3))
    y, after = train(layer, variables, x, modality)
    expected = reference(x, modality, variables, epsilon=0.1)
    assert_close(y, expected.y, atol=1e-5)
    assert_close(after["batch_stats"], expected.batch_stats, rtol=1e-5)


def test_running_statistics_are_the_moving_average_of_the_biased_moments(kind):
    layer = make(kind, momentum=0.9)
    variables = random_variables(layer)
    expected = variables
    for seed in range(4):
        x = random_input((6, 5, 4, 3), seed)
        _, variables = train(layer, variables, x, MODALITY)
        stats = reference(x, MODALITY, expected, momentum=0.9).batch_stats
        expected = {**expected, "batch_stats": stats}
    assert_close(variables["batch_stats"], stats, rtol=1e-5)

    y = evaluate(layer, variables, x, MODALITY)
    mean, var = (stats[name][MODALITY][:, None, None] for name in ("mean", "var"))
    scale, bias = (np.asarray(variables["params"][name]) for name in ("scale", "bias"))
    assert_close(y, (x - mean) / np.sqrt(var + 1e-5) * scale + bias, atol=1e-5)


def test_evaluating_changes_nothing(kind):
    layer = make(kind)
    variables, x = random_variables(layer), random_input((6, 3))
    if kind == "linen":
        _, after = layer.module().apply(variables, x, MODALITY, True, mutable=True)
    else:
        module = layer.module(variables)
        module(x, MODALITY, use_running_average=True)
        after = layer.variables(module)
    assert_close(after, variables)


def test_initializing_leaves_the_running_statistics_and_needs_no_axis(kind):
    layer = make(kind, axis_name="nowhere")
    assert layer.module().axis_name == "nowhere"
    variables = layer.initialize(random_input((6, 5, 4, 3)), MODALITY)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros((2, 3)))
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones((2, 3)))
    np.testing.assert_array_equal(variables["params"]["scale"], np.ones(3))
    np.testing.assert_array_equal(variables["params"]["bias"], np.zeros(3))


@pytest.mark.parametrize("share_affine", [True, False])
def test_scale_and_bias_are_shared_or_one_per_modality(kind, share_affine):
    layer = make(
        kind,
        share_affine=share_affine,
        scale_init=jax.nn.initializers.normal(1.0),
        bias_init=jax.nn.initializers.normal(2.0),
        param_dtype=jnp.bfloat16,
    )
    x = random_input((6, 5, 4, 3))
    variables = layer.initialize(x, MODALITY)
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    assert scale.shape == bias.shape == ((3,) if share_affine else (2, 3))
    assert scale.dtype == bias.dtype == jnp.bfloat16
    assert np.unique(np.concatenate([scale, bias])).size == scale.size + bias.size
    y, _ = train(layer, variables, x, MODALITY)
    assert_close(y, reference(x, MODALITY, variables).y, atol=1e-5)


@pytest.mark.parametrize("left_out", [("scale",), ("bias",), ("scale", "bias")])
def test_scale_and_bias_can_be_left_out(kind, left_out):
    layer = make(kind, **{f"use_{name}": False for name in left_out})
    x = random_input((6, 5, 4, 3))
    fresh = layer.initialize(x, MODALITY)
    assert set(fresh.get("params", {})) == {"scale", "bias"} - set(left_out)
    assert ("params" in fresh) == (len(left_out) < 2)
    variables = random_variables(layer)
    for name in left_out:
        del variables["params"][name]
    if not variables["params"]:
        del variables["params"]
    y, _ = train(layer, variables, x, MODALITY)
    assert_close(y, reference(x, MODALITY, variables).y, atol=1e-5)


@pytest.mark.parametrize("axis", [1, 2, -2])
def test_channels_may_lie_on_another_axis(kind, axis):
    layer = make(kind, axis=axis, share_affine=False)
    variables = random_variables(layer)
    x = np.moveaxis(random_input((6, 5, 4, 3)), -1, axis)
    y, after = train(layer, variables, x, MODALITY)
    expected = reference(x, MODALITY, variables, axis=axis)
    assert_close(y, expected.y, atol=1e-5)
    assert_close(after["batch_stats"], expected.batch_stats, rtol=1e-5)


@pytest.mark.parametrize("absent", [0, 1])
def test_absent_modality_keeps_its_running_statistics_to_the_bit(kind, absent):
    layer = make(kind, features=64, momentum=0.9)
    variables, x = random_variables(layer), random_input((6, 64))
    y, after = train(layer, variables, x, np.full(6, 1 - absent, np.int32))
    assert np.isfinite(y).all()
    for name, old in variables["batch_stats"].items():
        np.testing.assert_array_equal(after["batch_stats"][name][absent], old[absent])
        assert np.all(after["batch_stats"][name][1 - absent] != old[1 - absent])


def test_single_pixel_of_a_modality_normalizes_to_the_bias(kind):
    layer = make(kind, share_affine=False)
    variables, modality = random_variables(layer), np.array([0, 1])
    x = 1e4 + random_input((2, 1, 1, 3))
    y, after = train(layer, variables, x, modality)
    np.testing.assert_array_equal(y, variables["params"]["bias"][:, None, None])
    expected = reference(x, modality, variables).batch_stats
    assert_close(after["batch_stats"], expected, rtol=1e-5)


def test_an_empty_batch_changes_nothing(kind):
    layer = make(kind)
    variables = random_variables(layer)
    x = np.zeros((0, 5, 4, 3), np.float32)
    y, after = train(layer, variables, x, np.zeros(0, np.int32))
    assert y.shape == x.shape
    assert_close(after, variables)


def test_moments_are_mean_biased_variance_and_count():
    x = random_input((6, 5, 4, 3))
    moments = modality_moments(x, MODALITY)
    for m in (0, 1):
        values = x[m == MODALITY].astype(np.float64).reshape(-1, 3)
        assert_close(moments.mean[m], values.mean(0), rtol=1e-5)
        assert_close(moments.var[m], values.var(0), rtol=1e-5)
        np.testing.assert_array_equal(moments.counts[m], len(values))


def test_the_layer_is_the_function(kind):
    layer = make(kind, momentum=0.9)
    variables, x = random_variables(layer), random_input((6, 5, 4, 3))
    y, after = train(layer, variables, x, MODALITY)
    stats, params = variables["batch_stats"], variables["params"]
    result = modality_batch_norm(
        x,
        MODALITY,
        *(stats["mean"], stats["var"], params["scale"], params["bias"]),
        use_running_average=False,
        momentum=0.9,
    )
    assert_close(result.y, y, atol=1e-6)
    for name in ("mean", "var"):
        assert_close(getattr(result, name), after["batch_stats"][name], rtol=1e-6)
