"""Conversions of NNX models are copies that compute the same."""

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
)
from ..norm.layers import random_input
from ..norm.reference import assert_close
from .networks_nnx import (
    Explicit,
    forward,
    forward_by_modality,
    random_statistics,
    replaced,
)


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
