"""Statistics of NNX models are re-estimated in a copy."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mbn_jax import convert
from mbn_jax.context import by_modality
from mbn_jax.nnx import ModalityBatchNorm

from ..by_modality.nnx_networks import (
    MODALITY,
    ResNet,
    X,
    call,
    layers_of,
    values,
)
from ..norm.reference import assert_close
from .networks_nnx import Explicit, forward_by_modality, random_statistics, replaced


def layer_model(**attributes):
    return random_statistics(ModalityBatchNorm(3, **attributes, rngs=nnx.Rngs(0)))


def explicit(model, x, modality, mask=None):
    return model(x, modality, mask=mask)


def batches_of(sizes, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    for size in sizes:
        modality = rng.integers(0, 2, size)
        x = rng.normal(size=(size, 2, 3)) * (1 + modality[:, None, None]) + offset
        yield x.astype(np.float32), modality


@pytest.mark.parametrize("offset", [0.0, 10_000.0])
def test_unequal_batches_give_the_moments_of_all_images_at_once(offset):
    model = layer_model()
    _, before = nnx.split(model)
    batches = list(batches_of([5, 1, 8, 2], offset=offset))
    estimated = convert.estimate_statistics(explicit, model, iter(batches))
    assert_close(nnx.state(model), before)
    assert_close(values(estimated, nnx.Param), values(model, nnx.Param))
    assert nnx.graphdef(estimated) == nnx.graphdef(model)
    x, modality = map(np.concatenate, zip(*batches, strict=True))
    for m in (0, 1):
        seen = x[modality == m].astype(np.float64)
        np.testing.assert_allclose(estimated.mean[m], seen.mean((0, 1)), 1e-6, 1e-6)
        np.testing.assert_allclose(estimated.var[m], seen.var((0, 1)), 2e-5)


def test_a_replaced_network_gets_the_statistics_of_its_batch():
    _, model = replaced(ResNet)
    model.train()
    estimated = convert.estimate_statistics(call, model, [(X, MODALITY)])
    # With momentum 0 a step of training leaves the statistics of its batch.
    for layer in layers_of(model, ModalityBatchNorm).values():
        layer.momentum = 0.0
    forward_by_modality(model, X, MODALITY)
    expected = values(model, nnx.BatchStat)
    assert_close(values(estimated, nnx.BatchStat), expected, rtol=1e-4, atol=1e-5)


def test_a_modality_that_never_occurs_keeps_its_statistics():
    model = layer_model()
    x, modality = next(batches_of([4]))
    estimated = convert.estimate_statistics(explicit, model, [(x, 0 * modality)])
    for name in ("mean", "var"):
        new, old = getattr(estimated, name), getattr(model, name)
        np.testing.assert_array_equal(new[1], old[1])
        assert np.all(new[0] != old[0])


def test_masked_samples_do_not_count():
    model = layer_model()
    x, modality = next(batches_of([6]))
    mask = np.array([1, 1, 0, 1, 0, 1], bool)
    batch = (np.where(mask[:, None, None], x, np.nan), modality, mask)
    actual = convert.estimate_statistics(explicit, model, [batch])
    kept = [(x[mask], modality[mask])]
    expected = convert.estimate_statistics(explicit, model, kept)
    assert_close(nnx.state(actual), nnx.state(expected), rtol=1e-5, atol=1e-6)


def test_plain_layers_beside_the_others_keep_their_statistics():
    model = random_statistics(Explicit(nnx.Rngs(0)))
    x = X[:, 0, 0]
    estimated = convert.estimate_statistics(
        lambda model, *batch: model(*batch), model, [(x, MODALITY)]
    )
    np.testing.assert_array_equal(estimated.plain.mean[...], model.plain.mean[...])
    hidden = np.asarray(model.dense(x))[MODALITY == 1]
    np.testing.assert_allclose(estimated.bn.mean[1], hidden.mean(0), 1e-5, 1e-5)


def test_layers_in_a_scan_and_a_layer_called_twice_are_estimated():
    @nnx.vmap
    def make(rngs):
        return nnx.BatchNorm(3, momentum=0.0, rngs=rngs)

    stack = convert.from_batch_norm(make(nnx.Rngs(0).split(2)))
    model = nnx.Dict(stack=stack, twice=layer_model())

    def apply(model, x, modality):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def in_a_row(layer, x):
            return nnx.remat(lambda layer, x: jnp.sin(layer(x)))(layer, x)

        with by_modality(modality):
            first = in_a_row(model["stack"], x)
            second = model["twice"](first) + 1
            model["twice"](second)
        return first, second

    x, modality = next(batches_of([6]))
    estimated = convert.estimate_statistics(apply, model, [(x, modality)])
    inputs = np.concatenate(nnx.jit(apply)(model, x, modality))
    for name in ("mean", "var"):
        # With momentum 0 a step of training leaves the statistics of its batch.
        actual, expected = (getattr(m["stack"], name) for m in (estimated, model))
        np.testing.assert_allclose(actual[...], expected[...], 1e-4, 1e-5)
    for m in (0, 1):
        seen = inputs[np.tile(modality, 2) == m].reshape(-1, 3)
        np.testing.assert_allclose(estimated["twice"].mean[m], seen.mean(0), 1e-4, 1e-5)
        np.testing.assert_allclose(estimated["twice"].var[m], seen.var(0), 1e-4, 1e-5)


def evaluating(model, x, modality):
    model.eval()
    return model(x, modality)


@pytest.mark.parametrize(
    ("apply", "batches", "message"),
    [
        (evaluating, list(batches_of([3])), "The layer given is in evaluation mode"),
        (
            lambda *_: None,
            list(batches_of([3])),
            "is a normalization .* did not call",
        ),
        (explicit, [], "no batches"),
        (explicit, [X], "Batch 0 is a ndarray, expected a tuple"),
        (explicit, [(X, MODALITY + 1)], "Batch 0 has 3 samples at .* whose modality"),
        (explicit, [(X * np.nan, MODALITY)], "moments that are not finite"),
    ],
)
def test_estimation_that_would_go_wrong_is_refused(apply, batches, message):
    with pytest.raises(ValueError, match=message):
        convert.estimate_statistics(apply, layer_model(), batches)


def test_a_model_without_our_layers_is_not_estimated():
    model = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="no ModalityBatchNorm in the BatchNorm"):
        convert.estimate_statistics(explicit, model, batches_of([3]))
