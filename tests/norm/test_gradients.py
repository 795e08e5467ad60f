"""Gradients by input, scale and bias: closed form and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from .layers import gradients, make, objective, random_input, random_variables
from .reference import assert_close, reference_gradient

MODALITY = np.array([0, 1, 1, 0, 1, 1], np.int32)
SHAPE = (6, 5, 4, 3)


def assert_closed_form(layer, x, modality, mask=None, atol=2e-5, **reference):
    variables = random_variables(layer, dtype=x.dtype)
    weights = random_input(x.shape, seed=9).astype(x.dtype)
    by_params, by_x = gradients(layer, variables, x, modality, weights, mask)
    expected = reference_gradient(x, modality, variables, weights, mask, **reference)
    assert_close(by_x, expected.x, atol=atol)
    # Sums of many terms: their error grows with their size.
    largest = np.abs(expected.scale).max() + np.abs(expected.bias).max()
    assert_close(by_params["scale"], expected.scale, atol=atol * largest)
    assert_close(by_params["bias"], expected.bias, atol=atol * largest)


@pytest.mark.parametrize(
    "shape", [(6, 3), (6, 7, 3), (6, 5, 4, 3), (6, 2, 4, 5, 3)], ids=str
)
def test_gradients_equal_the_closed_form(kind, shape):
    layer = make(kind, share_affine=False)
    assert_closed_form(layer, random_input(shape), MODALITY)


@pytest.mark.parametrize("share_affine", [True, False])
def test_gradients_in_float64_equal_the_closed_form_to_ten_digits(kind, share_affine):
    with jax.enable_x64(True):
        layer = make(kind, share_affine=share_affine)
        x = random_input(SHAPE).astype(np.float64)
        assert_closed_form(layer, x, MODALITY, atol=1e-10)


@pytest.mark.parametrize("alone", [0, 5])
def test_gradients_are_right_for_unequal_counts(kind, alone):
    modality = (np.arange(6) != alone).astype(np.int32)
    layer = make(kind, share_affine=False)
    assert_closed_form(layer, random_input(SHAPE), modality)


def test_gradients_are_right_where_a_modality_is_absent(kind):
    layer = make(kind, share_affine=False)
    assert_closed_form(layer, random_input(SHAPE), np.ones(6, np.int32))


def test_gradients_are_right_for_channels_on_another_axis(kind):
    layer = make(kind, axis=1)
    x = np.moveaxis(random_input(SHAPE), -1, 1)
    assert_closed_form(layer, x, MODALITY, axis=1)


def test_masked_samples_get_the_gradient_of_a_fixed_normalization(kind):
    layer = make(kind, share_affine=False)
    mask = np.array([1, 1, 0, 1, 1, 0], bool)
    assert_closed_form(layer, random_input(SHAPE), MODALITY, mask)


def test_masked_positions_get_the_gradient_of_a_fixed_normalization(kind):
    layer = make(kind, share_affine=False)
    mask = np.random.default_rng(1).random((6, 5, 4, 1)) < 0.3
    assert_closed_form(layer, random_input(SHAPE), MODALITY, mask)


def test_fully_masked_modality_gets_the_gradient_of_a_fixed_normalization(kind):
    layer = make(kind, share_affine=False)
    assert_closed_form(layer, random_input(SHAPE), MODALITY, MODALITY == 0)


def test_single_pixel_of_a_modality_has_no_gradient_by_the_input(kind):
    layer = make(kind, share_affine=False)
    x, modality = random_input((2, 1, 1, 3)), np.array([0, 1])
    variables, weights = random_variables(layer), np.ones_like(x)
    by_params, by_x = gradients(layer, variables, x, modality, weights)
    np.testing.assert_array_equal(by_x, np.zeros_like(x))
    np.testing.assert_array_equal(by_params["scale"], np.zeros((2, 3)))
    np.testing.assert_array_equal(by_params["bias"], np.ones((2, 3)))


def test_absent_modality_gives_finite_gradients_even_without_epsilon(kind):
    layer = make(kind, epsilon=0.0, share_affine=False)
    x, modality = random_input(SHAPE), np.zeros(6, np.int32)
    result = gradients(layer, random_variables(layer), x, modality, np.sin(x))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))
    np.testing.assert_array_equal(result[0]["scale"][1], np.zeros(3))
    np.testing.assert_array_equal(result[0]["bias"][1], np.zeros(3))


@pytest.mark.parametrize(("share_affine", "order"), [(True, 1), (False, 2)])
def test_derivatives_equal_finite_differences(kind, share_affine, order):
    """In forward and in reverse mode, and each over the other."""
    with jax.enable_x64(True):
        layer = make(kind, share_affine=share_affine)
        variables = random_variables(layer, dtype=np.float64)
        x = random_input((4, 2, 3)).astype(np.float64)
        modality = np.array([0, 1, 1, 0])

        @jax.jit
        def loss(params, x):
            new = {**variables, "params": params}
            return objective(layer, new, x, modality, jnp.sin(x))[0]

        check_grads(
            loss,
            (variables["params"], x),
            order=order,
            modes=["fwd", "rev"],
            atol=1e-6,
            rtol=1e-6,
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_gradient_keeps_the_input_and_rows_per_sample_only(kind, dtype):
    """No second array as large as the input, no float32 copy of a bfloat16 one."""
    layer = make(kind)
    variables, x = random_variables(layer), random_input((6, 32, 32, 3)).astype(dtype)
    x = jnp.asarray(x)

    def apply(params, x):
        return layer.train({**variables, "params": params}, x, MODALITY)[0]

    _, backward = jax.vjp(apply, variables["params"], x)
    kept = {id(leaf): leaf for leaf in jax.tree.leaves(backward)}.values()
    assert sum(leaf.size >= x.size for leaf in kept) == 1
    assert sum(leaf.nbytes for leaf in kept) < 1.1 * x.nbytes


def test_running_statistics_are_differentiable_in_linen_and_constant_in_nnx(kind):
    """Linen returns them; NNX writes them into variables, which outlive a gradient."""
    layer = make(kind, momentum=0.5)
    variables, x = random_variables(layer), random_input((6, 3))

    def third_mean(x):
        return layer.train(variables, x, MODALITY)[1]["batch_stats"]["mean"][1, 2]

    expected = np.zeros_like(x)
    if kind == "linen":
        expected[MODALITY == 1, 2] = 0.5 / 4
    assert_close(jax.jit(jax.grad(third_mean))(x), expected, atol=1e-6)
