"""The conversions and the context choose layers alike, and meet in the variables."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn

from mbn_jax import convert
from mbn_jax.context import by_modality
from mbn_jax.norm import ModalityBatchNorm

from ..norm.layers import random_input
from ..norm.reference import assert_close
from .small_networks import MODALITY, NETWORKS, Compact, X, implicit, random_like

CHOICES = {
    "all": None,
    "some": lambda path: path.endswith("first") or path == "norms_1",
}


def plain_variables(network, x=X):
    return random_like(network().init(jax.random.key(0), x))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("share_affine", [True, False])
def test_a_converted_network_computes_the_same_for_every_modality(
    network, share_affine
):
    variables = plain_variables(network)
    converted = convert.from_batch_norm(variables, 3, share_affine=share_affine)
    expected = network(train=False).apply(variables, X)
    for modality in (np.zeros(4, int), np.full(4, 2), np.array([2, 0, 1, 1])):
        with by_modality(modality, 3, share_affine=share_affine):
            assert_close(network(train=False).apply(converted, X), expected, atol=1e-6)


@pytest.mark.parametrize("choice", CHOICES)
def test_the_variables_fit_the_context_of_the_same_choice(choice):
    variables, at = plain_variables(Compact), CHOICES[choice]
    converted = convert.from_batch_norm(variables, at=at)
    with by_modality(MODALITY, at=at):
        shapes = jax.eval_shape(Compact().init, jax.random.key(0), X)
    assert jax.tree.map(np.shape, converted) == jax.tree.map(np.shape, shapes)
    assert converted["batch_stats"]["first"]["mean"].shape == (2, 3)
    left_out = variables["batch_stats"]["second"]["mean"].shape
    after = converted["batch_stats"]["second"]["mean"].shape
    assert (after == left_out) == (choice == "some")

    expected = Compact(train=False).apply(variables, X)
    with by_modality(MODALITY, at=at):
        actual = Compact(train=False).apply(converted, X)
    assert_close(actual, expected, atol=1e-6)


@pytest.mark.parametrize("choice", CHOICES)
def test_one_modality_taken_out_is_a_plain_network_again(choice):
    variables, at = plain_variables(Compact), CHOICES[choice]
    converted = convert.from_batch_norm(variables, at=at)
    assert_close(convert.to_batch_norm(converted, 1), variables)
    # After training, the plain network is what the context gives that modality.
    _, updates = implicit(Compact, converted, X, MODALITY, at=at)
    trained = {**converted, **updates}
    with by_modality(np.ones(4, int), at=at):
        expected = Compact(train=False).apply(trained, X)
    actual = Compact(train=False).apply(convert.to_batch_norm(trained, 1), X)
    assert_close(actual, expected, atol=1e-6)


def test_a_network_that_is_the_layer_has_the_empty_path():
    layer = nn.BatchNorm(False)
    variables = layer.init(jax.random.key(0), X)
    converted = convert.from_batch_norm(variables, at=lambda path: path == "")
    with by_modality(MODALITY, at=lambda path: path == ""):
        layer.apply(converted, X, mutable=["batch_stats"])


def test_a_choice_of_no_layer_is_refused():
    variables = plain_variables(Compact)
    message = "at chooses none of the 2 normalizations, .* such as 'first'"
    with pytest.raises(ValueError, match=message):
        convert.from_batch_norm(variables, at=lambda path: path == "norm")


class Convolutional(nn.Module):
    """Normalizations behind convolutions, in two of them."""

    norm: type[nn.Module] | None = nn.BatchNorm
    train: bool = True

    @nn.compact
    def __call__(self, x, *modality):
        for i in (1, 2):
            x = nn.Conv(3, (1, 3), name=f"conv{i}", use_bias=self.norm is None)(x)
            if self.norm is not None:
                x = self.norm(not self.train, name=f"norm{i}")(x, *modality)
            x = nn.relu(x)
        return x


IMAGES = random_input((4, 1, 4, 3))


def in_context(train):
    """The network's apply, with the modality as its last argument."""

    def apply(variables, x, modality, **keywords):
        with by_modality(modality):
            return Convolutional(train=train).apply(variables, x, **keywords)

    return apply


@pytest.fixture(scope="module")
def of_images():
    return convert.from_batch_norm(plain_variables(Convolutional, IMAGES))


def test_statistics_are_estimated_as_those_of_the_explicit_network(of_images):
    batches = [(IMAGES, MODALITY), (2 * IMAGES + 1, 1 - MODALITY)]
    explicit = functools.partial(Convolutional(ModalityBatchNorm).apply)
    expected = convert.estimate_statistics(explicit, of_images, batches)
    actual = convert.estimate_statistics(in_context(True), of_images, batches)
    assert_close(actual, expected, rtol=1e-6, atol=1e-6)
    for before, after in zip(*map(jax.tree.leaves, (of_images, actual)), strict=True):
        assert before.ndim != 2 or np.all(np.asarray(before) != after)


def test_convolutions_are_found_and_folded(of_images):
    pairs = convert.find_convolutions(in_context(False), of_images, IMAGES, MODALITY)
    assert pairs == {"norm1": "conv1", "norm2": "conv2"}
    statistics = random_like(of_images["batch_stats"], seed=1)
    trained = {**of_images, "batch_stats": statistics}
    for m in (0, 1):
        folded = convert.fold(trained, m, convolutions=pairs)
        actual = Convolutional(norm=None).apply(folded, IMAGES)
        expected = in_context(False)(trained, IMAGES, np.full(4, m))
        assert_close(actual, expected, rtol=1e-5, atol=1e-5)
