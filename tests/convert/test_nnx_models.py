"""The conversions of NNX models: copies that compute the same, and re-estimation."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mbn_jax import convert
from mbn_jax.context import by_modality
from mbn_jax.nnx import ModalityBatchNorm, replace_batch_norm

from ..by_modality.nnx_networks import (
    MODALITY,
    MobileNet,
    ResNet,
    X,
    call,
    layers_of,
    randomized,
    values,
)
from ..norm.layers import random_input
from ..norm.reference import assert_close


class Explicit(nnx.Module):
    """A network that gives its layers the modality, and one plain layer."""

    def __init__(self, rngs, **attributes):
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.bn = ModalityBatchNorm(4, **attributes, rngs=rngs)
        self.plain = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x, modality, mask=None):
        x = self.bn(self.dense(x), modality, mask=mask)
        return self.plain(jnp.sin(x))


def random_statistics(model, seed=1):
    """The model, in which the modalities differ."""
    rng = np.random.default_rng(seed)
    for layer in layers_of(model, ModalityBatchNorm).values():
        for variable in (layer.mean, layer.var, layer.scale, layer.bias):
            if variable is not None:
                value = rng.uniform(0.5, 1.5, variable.shape)
                variable[...] = jnp.asarray(value, variable.dtype)
    return model


def replaced(network=MobileNet, share_affine=True):
    """A model and its conversion, in which the modalities differ."""
    plain = randomized(network(nnx.BatchNorm, nnx.Rngs(0)))
    plain.eval()
    converted = convert.from_batch_norm(plain, share_affine=share_affine)
    return plain, random_statistics(converted)


forward = nnx.jit(lambda model, x: model(x))
forward_by_modality = nnx.jit(call)


# From and to nnx.BatchNorm.


def test_from_batch_norm_converts_a_copy():
    plain = randomized(MobileNet(nnx.BatchNorm, nnx.Rngs(0)))
    definition, before = nnx.split(plain)
    converted = convert.from_batch_norm(plain, 3, share_affine=False)
    assert nnx.graphdef(plain) == definition
    assert_close(nnx.state(plain), before)
    expected = nnx.clone(plain)
    replace_batch_norm(expected, 3, share_affine=False)
    assert nnx.graphdef(converted) == nnx.graphdef(expected)
    assert_close(nnx.state(converted), nnx.state(expected))


def test_at_chooses_the_layers_of_the_copy():
    plain = MobileNet(nnx.BatchNorm, nnx.Rngs(0))
    converted = convert.from_batch_norm(plain, at=lambda path: path == "neck")
    assert layers_of(converted, ModalityBatchNorm).keys() == {"neck"}


@pytest.mark.parametrize("network", [MobileNet, ResNet])
@pytest.mark.parametrize("share_affine", [True, False])
def test_to_batch_norm_is_the_evaluation_of_one_modality(network, share_affine):
    plain, model = replaced(network, share_affine)
    _, before = nnx.split(model)
    for m in (0, 1):
        alone = convert.to_batch_norm(model, m)
        assert nnx.graphdef(alone) == nnx.graphdef(plain)
        expected = forward_by_modality(model, X, np.full(len(X), m))
        np.testing.assert_allclose(forward(alone, X), expected, 1e-5, 1e-5)
    assert_close(nnx.state(model), before)


def test_there_and_back_is_the_same_network():
    plain = randomized(MobileNet(nnx.BatchNorm, nnx.Rngs(0)))
    back = convert.to_batch_norm(convert.from_batch_norm(plain, 3), 2)
    assert nnx.graphdef(back) == nnx.graphdef(plain)
    assert_close(nnx.state(back), nnx.state(plain))


@pytest.mark.parametrize("share_affine", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_pooled_is_the_evaluation_of_an_unknown_modality(share_affine, given):
    model = randomized(nnx.Sequential(nnx.BatchNorm(3, rngs=nnx.Rngs(0))))
    weights = (0.2, 0.8)
    replace_batch_norm(
        model, share_affine=share_affine, unknown="pooled", pooled_weights=weights
    )
    random_statistics(model).eval()
    expected = call(model, X, np.full(len(X), -1))
    if given:
        model.layers[0].pooled_weights = None
    pooled = convert.to_batch_norm(
        model, "pooled", pooled_weights=weights if given else None
    )
    assert type(pooled.layers[0]) is nnx.BatchNorm
    np.testing.assert_allclose(pooled(X), expected, rtol=1e-5, atol=1e-5)


def test_a_bfloat16_network_keeps_its_statistics_in_float32():
    x = 100 + random_input((6, 3))
    layer = nnx.BatchNorm(3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    layer.mean[...], layer.var[...] = x.mean(0), x.var(0)
    model = convert.from_batch_norm(layer)
    model.eval()
    expected = call(model, x, np.zeros(6, int)).astype(jnp.float32)
    alone = convert.to_batch_norm(model, 0)
    y = alone(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y.astype(jnp.float32), expected)
    again = convert.from_batch_norm(alone)
    y = call(again, x, np.ones(6, int)).astype(jnp.float32)
    np.testing.assert_array_equal(y, expected)


def test_layers_that_nnx_has_stacked_are_converted():
    @nnx.vmap
    def make(rngs):
        return nnx.BatchNorm(3, rngs=rngs)

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def in_a_row(layer, x):
        return jnp.sin(layer(x))

    stack = convert.from_batch_norm(make(nnx.Rngs(0).split(2)), share_affine=False)
    random_statistics(stack).eval()
    with by_modality(np.ones(len(X), int)):
        expected = in_a_row(stack, X)
    alone = convert.to_batch_norm(stack, 1)
    assert alone.mean.shape == alone.scale.shape == (2, 3)
    np.testing.assert_allclose(in_a_row(alone, X), expected, 1e-5, 1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_network_that_passes_the_modality_passes_none_afterwards(dtype):
    model = random_statistics(Explicit(nnx.Rngs(0), param_dtype=dtype))
    model.eval()
    x = X[:, 0, 0]
    mask = MODALITY == 1
    expected = model(x, np.ones(len(x), int), mask)
    alone = convert.to_batch_norm(model, 1)
    assert isinstance(alone.bn, nnx.BatchNorm)
    y = alone(x, None, mask)
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"since to_batch_norm.*None for the modality"):
        alone(x, MODALITY)


class Louder(ModalityBatchNorm):
    def __call__(self, *args, **kwargs):
        return 2 * super().__call__(*args, **kwargs)


@pytest.mark.parametrize(
    ("make", "modality", "message"),
    [
        (lambda: replaced()[1], 2, r"expected 0 to 1, since the layer layers/.* mean"),
        (lambda: replaced()[1], -1, "modality is -1, expected 0 to 1"),
        (lambda: replaced()[1], 0.5, "modality is 0.5, expected an integer"),
        (lambda: replaced()[0], 0, "no ModalityBatchNorm in the MobileNet.*from_batch"),
        (
            lambda: nnx.List([Louder(3, rngs=nnx.Rngs(0))]),
            0,
            "layer 0 is a Louder with a __call__ of its own",
        ),
    ],
)
def test_what_cannot_become_batch_norm_is_refused(make, modality, message):
    with pytest.raises(ValueError, match=message):
        convert.to_batch_norm(make(), modality)


@pytest.mark.parametrize("number", [0, 1.5])
def test_a_number_of_modalities_that_is_none_is_refused(number):
    with pytest.raises(ValueError, match="num_modalities is"):
        convert.from_batch_norm(replaced()[0], number)


def test_folding_is_refused_and_says_what_to_use_instead():
    model = replaced()[1]
    with pytest.raises(ValueError, match=r"an NNX model, MobileNet.*to_batch_norm"):
        convert.fold(model, 0)
    with pytest.raises(ValueError, match=r"an NNX model, MobileNet.*to_batch_norm"):
        convert.find_convolutions(lambda *_: None, model)


# Re-estimation.


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
        (explicit, [(X, MODALITY + 1)], "Batch 0 brings 3 samples of a modality outs"),
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
