"""What stays out of the statistics: masked values, and samples of no modality."""

import numpy as np
import pytest

from .layers import (
    evaluate,
    gradients,
    make,
    moments_of,
    random_input,
    random_variables,
    train,
)
from .reference import assert_close, reference

MODALITY = np.array([0, 1, 1, 0, 1, 1], np.int32)
SHAPE = (6, 5, 4, 3)
MASK = np.array([1, 1, 0, 1, 1, 0], bool)


def test_masked_samples_stay_out_of_the_statistics_and_are_normalized(kind):
    layer = make(kind)
    variables, x = random_variables(layer), random_input(SHAPE)
    y, after = train(layer, variables, x, MODALITY, MASK)
    expected = reference(x, MODALITY, variables, MASK)
    assert_close(y, expected.y, atol=1e-5)
    assert_close(after["batch_stats"], expected.batch_stats, rtol=1e-5)


def test_a_mask_is_as_if_the_samples_were_not_there(kind):
    layer = make(kind)
    variables, x = random_variables(layer), random_input(SHAPE)
    y, after = train(layer, variables, x, MODALITY, MASK)
    expected, alone = train(layer, variables, x[MASK], MODALITY[MASK])
    assert_close(y[MASK], expected, atol=1e-6)
    assert_close(after["batch_stats"], alone["batch_stats"], rtol=1e-6)


@pytest.mark.parametrize("ndim", [1, 4])
def test_a_mask_of_samples_may_have_the_rank_of_the_input(kind, ndim):
    layer = make(kind)
    variables, x = random_variables(layer), random_input(SHAPE)
    mask = MASK.reshape(-1, *[1] * (ndim - 1))
    y, _ = train(layer, variables, x, MODALITY, mask)
    assert_close(y, reference(x, MODALITY, variables, MASK).y, atol=1e-5)


def test_fully_masked_modality_is_normalized_by_its_running_statistics(kind):
    layer = make(kind)
    variables, x = random_variables(layer), random_input(SHAPE)
    y, after = train(layer, variables, x, MODALITY, MODALITY == 0)
    infrared = MODALITY == 1
    running = evaluate(layer, variables, x, MODALITY)
    assert_close(y[infrared], running[infrared], rtol=1e-5, atol=1e-5)
    for name, old in variables["batch_stats"].items():
        np.testing.assert_array_equal(after["batch_stats"][name][1], old[1])


def test_fully_masked_batch_changes_nothing(kind):
    layer = make(kind)
    variables, x = random_variables(layer), random_input(SHAPE)
    y, after = train(layer, variables, x, MODALITY, np.zeros(6, bool))
    assert_close(y, evaluate(layer, variables, x, MODALITY), rtol=1e-5, atol=1e-5)
    assert_close(after["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize("shape", [(6, 5, 4, 1), (1, 5, 4, 1), (6, 5, 4, 3)], ids=str)
def test_positions_can_be_masked(kind, shape):
    layer = make(kind)
    variables, x = random_variables(layer), random_input(SHAPE)
    mask = np.random.default_rng(1).random(shape) < 0.3
    y, after = train(layer, variables, x, MODALITY, mask)
    expected = reference(x, MODALITY, variables, mask)
    assert_close(y, expected.y, atol=1e-5)
    assert_close(after["batch_stats"], expected.batch_stats, rtol=1e-5)


def test_masked_positions_are_exact_far_from_zero():
    x = np.random.default_rng(0).normal(1e3, 1.0, (4, 6, 5, 3)).astype(np.float32)
    modality = np.array([0, 1, 0, 1])
    mask = np.random.default_rng(1).random((4, 6, 5, 1)) < 0.1
    moments = moments_of(x, modality, mask=mask)
    for m in (0, 1):
        values = x[modality == m][mask[modality == m][..., 0]].astype(np.float64)
        assert_close(moments.mean[m], values.mean(0), rtol=1e-6)
        assert_close(moments.var[m], values.var(0), rtol=1e-3)
        np.testing.assert_array_equal(moments.counts[m], len(values))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_masked_nan_leaks_neither_into_values_nor_into_gradients(kind, bad):
    layer = make(kind)
    variables, x = random_variables(layer), random_input(SHAPE)
    mask = np.array([1, 1, 0, 1, 1, 1], bool)
    dirty = x.copy()
    dirty[2, 1] = bad
    y, after = train(layer, variables, x, MODALITY, mask)
    dirty_y, dirty_after = train(layer, variables, dirty, MODALITY, mask)
    assert_close(dirty_after, after, rtol=1e-6)
    assert_close(dirty_y[mask], y[mask], rtol=1e-6)
    assert_close(dirty_y[2, 0], y[2, 0], rtol=1e-6)
    assert np.isnan(dirty_y[2, 1]).all()

    # A loss that leaves the masked sample out.
    weights = random_input(SHAPE, seed=9) * mask[:, None, None, None]
    clean = gradients(layer, variables, x, MODALITY, weights, mask)
    polluted = gradients(layer, variables, dirty, MODALITY, weights, mask)
    assert_close(polluted, clean, rtol=1e-6)


def test_masked_nan_does_not_leak_where_running_statistics_normalize(kind):
    layer = make(kind)
    variables, x = random_variables(layer), random_input(SHAPE)
    expected = evaluate(layer, variables, x, MODALITY, MASK)
    x[~MASK] = np.nan
    y = evaluate(layer, variables, x, MODALITY, MASK)
    np.testing.assert_array_equal(y[MASK], expected[MASK])
    assert np.isnan(y[~MASK]).all()


def test_masked_positions_holding_nan_do_not_leak(kind):
    layer = make(kind)
    variables, x = random_variables(layer), random_input(SHAPE)
    mask = np.random.default_rng(1).random((6, 5, 4, 1)) < 0.7
    weights = random_input(SHAPE, seed=9) * mask
    dirty = np.where(mask, x, np.float32(np.nan))
    y, after = train(layer, variables, x, MODALITY, mask)
    dirty_y, dirty_after = train(layer, variables, dirty, MODALITY, mask)
    assert_close(dirty_after, after, rtol=1e-6)
    assert_close(np.where(mask, dirty_y, 0), np.where(mask, y, 0), rtol=1e-6)
    clean = gradients(layer, variables, x, MODALITY, weights, mask)
    polluted = gradients(layer, variables, dirty, MODALITY, weights, mask)
    assert_close(polluted, clean, rtol=1e-6, atol=1e-9)


def test_nan_that_is_not_masked_stays_in_its_modality(kind):
    layer = make(kind)
    variables, x = random_variables(layer), random_input(SHAPE)
    x[0] = np.nan
    y, after = train(layer, variables, x, MODALITY)
    assert np.isfinite(y[MODALITY == 1]).all()
    assert np.isfinite(after["batch_stats"]["mean"][1]).all()
    assert np.isnan(after["batch_stats"]["mean"][0]).all()


@pytest.mark.parametrize("wrong", [-1, 2, 2**31 - 1, 2**32])
@pytest.mark.parametrize("content", [1.0, np.nan])
def test_wrong_modality_is_nan_and_touches_nothing_else(kind, wrong, content):
    layer = make(kind)
    variables, x = random_variables(layer), random_input(SHAPE)
    modality = MODALITY.astype(np.int64)
    modality[3], x[3] = wrong, content
    keep = np.arange(6) != 3
    # Not as an argument of jax.jit, which would cut 2**32 to 0.
    y, after = layer.train(variables, x, modality)
    expected = reference(x[keep], modality[keep], variables)
    assert np.isnan(y[3]).all()
    assert_close(y[keep], expected.y, atol=1e-5)
    assert_close(after["batch_stats"], expected.batch_stats, rtol=1e-5)
    assert np.isnan(layer.evaluate(variables, x, modality)[3]).all()
