"""Public kinds of NNX networks: replaced, they do what each modality does by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mbn_jax.context import by_modality
from mbn_jax.nnx import ModalityBatchNorm, replace_batch_norm

from .nnx_networks import (
    MODALITY,
    NETWORKS,
    Apart,
    EfficientNet,
    X,
    call,
    layers_of,
    randomized,
    values,
)

by_network = pytest.mark.parametrize("network", NETWORKS)


def network_and_reference(network):
    """The replaced network, and one of `Apart` with the same weights."""
    model = randomized(network(nnx.BatchNorm, nnx.Rngs(0)))
    reference = network(Apart, nnx.Rngs(0))
    for path, apart in layers_of(reference, Apart).items():
        plain = layers_of(model, nnx.BatchNorm)[path]
        for norm in apart.each:
            norm.mean[...], norm.var[...] = plain.mean[...], plain.var[...]
            for mine, other in ((norm.scale, plain.scale), (norm.bias, plain.bias)):
                if other is not None:
                    mine[...] = other[...]
    replace_batch_norm(model)
    return model, reference


@nnx.jit
def step(model, x, modality):
    """Loss, output and gradients; the model gets its new statistics."""

    def loss(model):
        arguments = {"training": True} if isinstance(model, EfficientNet) else {}
        with by_modality(modality):
            y = model(x, **arguments)
        weights = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return jnp.sum(y * weights), y

    model.train()
    return nnx.value_and_grad(loss, has_aux=True)(model)


@by_network
@pytest.mark.parametrize("share_affine", [True, False])
def test_a_replaced_network_computes_the_same_in_evaluation(network, share_affine):
    model = randomized(network(nnx.BatchNorm, nnx.Rngs(0)))
    model.eval()
    expected = nnx.jit(lambda model, x: model(x))(model, X)
    paths = layers_of(model, nnx.BatchNorm).keys()
    replace_batch_norm(model, share_affine=share_affine)
    assert layers_of(model, ModalityBatchNorm).keys() == paths
    assert not layers_of(model, nnx.BatchNorm)
    evaluate = nnx.jit(call)
    for modality in (np.zeros_like(MODALITY), np.ones_like(MODALITY), MODALITY):
        y = evaluate(model, X, modality)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@by_network
def test_a_training_step_is_that_of_each_modality_by_itself(network):
    model, reference = network_and_reference(network)
    (loss, y), gradients = step(model, X, MODALITY)
    (expected_loss, expected_y), expected_gradients = step(reference, X, MODALITY)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(y, expected_y, rtol=1e-4, atol=1e-4)

    actual = dict(nnx.to_flat_state(gradients))
    for path, other in nnx.to_flat_state(expected_gradients):
        if "each" in path:  # bn/each/0/scale, which the two layers share
            path = (*path[:-3], path[-1])
        gradient = actual.pop(path)
        np.testing.assert_allclose(
            gradient[...], other[...], rtol=1e-3, atol=1e-4, err_msg=str(path)
        )
    assert not actual

    aparts = layers_of(reference, Apart)
    for path, layer in layers_of(model, ModalityBatchNorm).items():
        for m, norm in enumerate(aparts[path].each):
            for name in ("mean", "var"):
                new, other = getattr(layer, name)[m], getattr(norm, name)[...]
                np.testing.assert_allclose(new, other, 1e-4, 1e-5, err_msg=path)


@by_network
def test_a_modality_that_is_absent_from_a_step_keeps_its_statistics(network):
    model, _ = network_and_reference(network)
    before = values(model, nnx.BatchStat)
    step(model, X, np.zeros_like(MODALITY))
    for path, after in values(model, nnx.BatchStat).items():
        np.testing.assert_array_equal(after[1], before[path][1])
        assert np.all(after[0] != before[path][0])


def test_steps_of_an_optimizer_train_the_replaced_network():
    model = randomized(NETWORKS[0](nnx.BatchNorm, nnx.Rngs(0)))
    optimizer = nnx.Optimizer(model, optax.adam(0.01), wrt=nnx.Param)
    replace_batch_norm(model)  # shared scale and bias: the optimizer still fits
    losses = []
    for _ in range(3):
        (loss, _), gradients = step(model, X, MODALITY)
        optimizer.update(model, gradients)
        losses.append(float(loss))
    assert losses == sorted(losses, reverse=True)


def test_a_network_compiled_with_jax_jit_takes_the_modality():
    model = randomized(NETWORKS[0](nnx.BatchNorm, nnx.Rngs(0)))
    replace_batch_norm(model)
    layers_of(model, ModalityBatchNorm)["bn"].mean[1] += 1.0
    forward = jax.jit(lambda model, x: model(x))  # the model as a tree of arrays
    results = []
    for modality in (MODALITY, 1 - MODALITY, MODALITY):
        with by_modality(modality):
            results.append(forward(model, X))
            np.testing.assert_allclose(results[-1], model(X), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(results[0], results[2])
    assert np.all(np.any(results[0] != results[1], axis=1))
