"""Samples of unknown modality: NaN, or normalized by the mixture of the modalities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import mbn_jax
from mbn_jax import ModalityBatchNorm, convert
from mbn_jax.arguments import modality_weights
from mbn_jax.functional import pooled_moments

from .layers import evaluate, make, random_input, random_variables, train
from .reference import assert_close

X = random_input((6, 2, 3))
MODALITY = np.array([0, -1, 2, 1, -1, 0])
WEIGHTS = {
    "equal": (None, (1 / 3, 1 / 3, 1 / 3)),
    "given": ((2, 0, 6), (0.25, 0, 0.75)),
}


def by_hand(x, variables, weights):
    """What a plain normalization by the statistics of the mixture gives."""
    stats, params = variables["batch_stats"], variables["params"]
    mean = sum(w * m for w, m in zip(weights, stats["mean"], strict=True))
    square = sum(
        w * (v + m**2)
        for w, m, v in zip(weights, stats["mean"], stats["var"], strict=True)
    )
    scale, bias = (
        sum(w * row for w, row in zip(weights, np.broadcast_to(a, (3, 3)), strict=True))
        for a in (params["scale"], params["bias"])
    )
    return (x - mean) / np.sqrt(square - mean**2 + 1e-5) * scale + bias


@pytest.mark.parametrize("share_affine", [True, False])
@pytest.mark.parametrize(("given", "weights"), WEIGHTS.values(), ids=list(WEIGHTS))
def test_unknown_samples_are_normalized_by_the_mixture(
    kind, given, weights, share_affine
):
    plain = make(kind, num_modalities=3, share_affine=share_affine)
    layer = plain.copy(unknown="pooled", pooled_weights=given)
    variables = random_variables(layer)
    y = evaluate(layer, variables, X, MODALITY)
    unknown = MODALITY == -1
    assert_close(y[unknown], by_hand(X[unknown], variables, weights), atol=1e-5)
    expected = evaluate(plain, variables, X, MODALITY)
    np.testing.assert_array_equal(y[~unknown], expected[~unknown])
    assert np.isnan(expected[unknown]).all()


def test_unknown_samples_are_nan_in_training(kind):
    """A modality that is not known cannot be trained on, and is hidden by nothing."""
    layer = make(kind, num_modalities=3, unknown="pooled")
    variables = random_variables(layer)
    y, after = train(layer, variables, X, MODALITY)
    known = MODALITY != -1
    assert np.isnan(y[~known]).all()
    expected, same = train(layer, variables, X[known], MODALITY[known])
    assert_close(y[known], expected, atol=1e-5)
    assert_close(after, same, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stray", [-2, 3, 2**32 - 1])
def test_other_indices_stay_nan(kind, stray):
    layer = make(kind, num_modalities=3, unknown="pooled")
    modality = np.array([0, stray, 2, 1, -1, 0])
    y = np.asarray(layer.evaluate(random_variables(layer), X, modality))
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[modality != stray]).all()


def test_the_largest_unsigned_index_is_not_minus_one(kind):
    layer = make(kind, unknown="pooled")
    variables = random_variables(layer)
    y = evaluate(layer, variables, X, jnp.array([0, 255, 1, 0, 1, 0], jnp.uint8))
    assert np.isnan(y[1]).all()
    y = evaluate(layer, variables, X, jnp.array([0, -1, 1, 0, 1, 0], jnp.int8))
    assert np.isfinite(y).all()


def test_more_labels_than_the_type_of_the_index_holds(kind):
    layer = make(kind, num_modalities=200)
    y = evaluate(layer, random_variables(layer), X, jnp.full(6, -56, jnp.int8))
    assert np.isnan(y).all()


def test_the_gradient_by_an_unknown_sample_is_that_of_the_mixture(kind):
    layer = make(kind, num_modalities=3, unknown="pooled")
    variables = random_variables(layer)
    by_x = jax.grad(lambda x: layer.evaluate(variables, x, MODALITY).sum())(X)
    _, var = pooled_moments(**variables["batch_stats"])
    expected = variables["params"]["scale"] / np.sqrt(var + 1e-5)
    assert_close(by_x[1], np.broadcast_to(expected, (2, 3)), rtol=1e-5)


def test_the_moments_of_a_mixture_take_lists_and_integers():
    mean, var = pooled_moments([[0], [2]], np.array([[1], [3]]), [3, 1])
    assert (mean.tolist(), var.tolist()) == ([0.5], [2.25])


@pytest.mark.parametrize(
    ("mean", "var", "message"),
    [
        (np.zeros(2), np.ones(2), r"table of the modalities is float64\[2\], expected"),
        (jnp.zeros(2), jnp.ones(2), r"is float32\[2\], expected"),
        ([["a"], ["b"]], [[1], [1]], r"is <U1\[2, 1\], expected numbers"),
        (None, None, r"is object\[\], expected numbers"),
        (np.zeros((2, 3)), np.ones((2, 4)), r"shapes \[2, 3\] and \[2, 4\], expected"),
    ],
)
def test_what_is_no_table_has_no_mixture(mean, var, message):
    with pytest.raises(ValueError, match=message):
        pooled_moments(mean, var)


class Net(nn.Module):
    """Two normalizations, one of which is told the modality by nobody."""

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True, name="norm1")(x)
        x = nn.relu(nn.Dense(4)(x))
        return nn.BatchNorm(use_running_average=True, name="norm2")(x)


@pytest.mark.parametrize("share_affine", [True, False])
@pytest.mark.parametrize("weights", [None, (1.0, 3.0)])
def test_the_pooled_network_is_the_plain_one_for_unknown_modalities(
    share_affine, weights
):
    variables = jax.tree.map(np.asarray, Net().init(jax.random.key(0), X))
    mbn = convert.from_batch_norm(variables, share_affine=share_affine)
    rng = np.random.default_rng(0)
    mbn = jax.tree.map(
        lambda a: a + rng.uniform(0.0, 1.0, a.shape).astype(a.dtype), mbn
    )
    plain = convert.to_batch_norm(mbn, "pooled", pooled_weights=weights)
    assert {type(leaf) for leaf in jax.tree.leaves(plain)} == {np.ndarray}
    assert jax.tree.map(np.shape, plain) == jax.tree.map(np.shape, variables)
    with mbn_jax.by_modality(
        np.full(6, -1),
        share_affine=share_affine,
        unknown="pooled",
        pooled_weights=weights,
    ):
        expected = Net().apply(mbn, X)
    assert_close(Net().apply(plain, X), expected, atol=1e-5)


def test_settings_that_do_not_fit_are_refused(kind):
    variables = random_variables(make(kind))
    with pytest.raises(ValueError, match=r"unknown is 'mean', expected"):
        make(kind, unknown="mean").evaluate(variables, X, MODALITY % 2)
    for weights in [(1.0,), (0.0, 0.0), (-1.0, 2.0), (np.nan, 1.0), (np.inf, 1.0)]:
        with pytest.raises(ValueError, match="expected 2 non-negative numbers"):
            modality_weights(weights, 2)
        layer = make(kind, unknown="pooled", pooled_weights=weights)
        with pytest.raises(ValueError, match="expected 2 non-negative numbers"):
            layer.evaluate(variables, X, MODALITY % 2)
    layer = ModalityBatchNorm()
    mbn = layer.init(jax.random.key(0), X, MODALITY % 2, True)
    with pytest.raises(ValueError, match='expected 0 to 1, or "pooled"'):
        convert.to_batch_norm(mbn, 2)
    with pytest.raises(ValueError, match='expected an integer or "pooled"'):
        convert.to_batch_norm(mbn, "mixed")
