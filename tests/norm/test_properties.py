"""Properties over shapes, counts, masks and values that Hypothesis draws.

Six samples always, so that few programs are compiled.
"""

import jax
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from .layers import gradients, make, random_variables, train
from .reference import assert_close, reference, reference_gradient
from .styles import one_device
from .test_flax_peers import FlaxLayer

# The same command gives the same result; the first example of a shape compiles.
settings.register_profile(
    "norm", derandomize=True, deadline=None, max_examples=20, database=None
)
small = settings.get_profile("norm")

shapes = st.sampled_from([(6, 2), (6, 3, 2), (6, 2, 3, 2)])
modalities = st.lists(st.integers(0, 2), min_size=6, max_size=6).map(np.array)
masks = st.lists(st.booleans(), min_size=6, max_size=6).map(np.array)
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([1e-2, 1.0, 1e3])
offsets = st.floats(-20, 20, width=32)


@st.composite
def inputs(draw, shapes=shapes):
    """Normal values of any scale, with an offset in units of it."""
    values = np.random.default_rng(draw(seeds)).normal(size=draw(shapes))
    return ((values + draw(offsets)) * draw(scales)).astype(np.float32)


def layer_of(kind):
    layer = make(kind, features=2, num_modalities=3, share_affine=False)
    return layer, random_variables(layer)


@small
@given(inputs(), modalities, masks)
def test_output_and_statistics_equal_the_reference(kind, x, modality, mask):
    layer, variables = layer_of(kind)
    y, after = train(layer, variables, x, modality, mask)
    expected = reference(x, modality, variables, mask)
    assert_close(after["batch_stats"], expected.batch_stats, rtol=1e-4, atol=1e-5)
    largest = max(1.0, np.abs(expected.y).max())
    assert_close(y, expected.y, rtol=1e-3, atol=1e-4 * largest)


@small
@given(inputs(), modalities, masks)
def test_gradients_equal_the_closed_form(kind, x, modality, mask):
    layer, variables = layer_of(kind)
    weights = np.sin(np.arange(x.size, dtype=np.float32)).reshape(x.shape)
    by_params, by_x = gradients(layer, variables, x, modality, weights, mask)
    expected = reference_gradient(x, modality, variables, weights, mask)
    largest = np.abs(expected.x).max()
    assert_close(by_x, expected.x, rtol=1e-3, atol=2e-3 * largest)
    largest = max(1.0, np.abs(expected.scale).max())
    assert_close(by_params["scale"], expected.scale, rtol=1e-3, atol=1e-4 * largest)
    assert_close(by_params["bias"], expected.bias, rtol=1e-4, atol=1e-5)


@small
@given(inputs(), modalities, masks, st.permutations(range(6)).map(list))
def test_permuting_samples_permutes_outputs(kind, x, modality, mask, order):
    layer, variables = layer_of(kind)
    y, after = train(layer, variables, x, modality, mask)
    moved, moved_after = train(layer, variables, x[order], modality[order], mask[order])
    largest = max(1.0, np.abs(y).max())
    assert_close(moved, y[np.array(order)], rtol=1e-4, atol=1e-4 * largest)
    assert_close(moved_after, after, rtol=1e-5, atol=1e-5)


@small
@given(inputs(), modalities, masks, st.permutations(range(3)).map(np.array))
def test_renaming_modalities_renames_their_rows(kind, x, modality, mask, name):
    layer, variables = layer_of(kind)
    y, after = train(layer, variables, x, modality, mask)
    renamed = jax.tree.map(lambda table: table[np.argsort(name)], variables)
    same, renamed_after = train(layer, renamed, x, name[modality], mask)
    np.testing.assert_array_equal(same, y)
    back = jax.tree.map(lambda table: table[name], renamed_after)
    assert_close(back, after)


@small
@given(inputs(), modalities, masks, st.sampled_from([0.0, 1e30, np.nan, -np.inf]))
def test_content_of_masked_samples_reaches_nothing(kind, x, modality, mask, content):
    layer, variables = layer_of(kind)
    y, after = train(layer, variables, x, modality, mask)
    x = np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, np.float32(content))
    other_y, other_after = train(layer, variables, x, modality, mask)
    np.testing.assert_array_equal(other_y[mask], y[mask])
    assert_close(other_after, after)


@small
@given(inputs(), modalities, masks, inputs())
def test_a_modality_does_not_see_the_others(kind, x, modality, mask, other):
    assume(x.shape == other.shape)
    layer, variables = layer_of(kind)
    here = modality == 0
    y, after = train(layer, variables, x, modality, mask)
    x = np.where(here.reshape(-1, *[1] * (x.ndim - 1)), x, other)
    other_y, other_after = train(layer, variables, x, modality, mask)
    np.testing.assert_array_equal(other_y[here], y[here])
    for name, table in after["batch_stats"].items():
        np.testing.assert_array_equal(other_after["batch_stats"][name][0], table[0])


@small
@given(inputs(), masks)
def test_one_modality_equals_batch_norm(kind, x, mask):
    assume(mask.any())  # Flax gives NaN
    layer = make(kind, features=2, num_modalities=1)
    variables = random_variables(layer)
    batch = x, np.zeros(6, np.int32), np.ones_like(x), mask
    ours, theirs = (one_device(one)(variables, batch) for one in (layer, FLAX))
    largest = max(1.0, np.abs(theirs["y"]).max())
    assert_close(ours["y"], theirs["y"], rtol=1e-3, atol=1e-4 * largest)
    stats = ours["batch_stats"], theirs["batch_stats"]
    assert_close(*stats, rtol=1e-4, atol=1e-5)


@small
@given(inputs(shapes=st.just((6, 2))), modalities)
def test_splitting_by_modality_gives_the_same_through_batch_norm(kind, x, modality):
    layer, variables = layer_of(kind)
    y, after = train(layer, variables, x, modality)
    for m in np.unique(modality):
        here = modality == m
        one = jax.tree.map(lambda table, m=m: table[m : m + 1], variables)
        theirs = split_step(one, x[here])
        largest = max(1.0, np.abs(theirs[0]).max())
        assert_close(y[here], theirs[0], rtol=1e-3, atol=1e-4 * largest)
        row = jax.tree.map(lambda table, m=m: table[m : m + 1], after["batch_stats"])
        assert_close(row, theirs[1]["batch_stats"], rtol=1e-4, atol=1e-5)


FLAX = FlaxLayer()
split_step = jax.jit(lambda variables, x: FLAX.train(variables, x, None))
