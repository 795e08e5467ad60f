"""A folded network has the same outputs; convolutions are found by tracing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mbn_jax import ModalityBatchNorm, convert

from .networks_linen import (
    IMAGES,
    MODALITY,
    SMALL,
    assert_same_outputs,
    assert_same_trees,
    changed,
    compiled,
    evaluate,
    filled,
    reid,
    shapes_of,
    small,
)


@pytest.mark.parametrize("share_affine", [True, False])
@pytest.mark.parametrize("modality", [0, 1])
def test_the_folded_network_has_the_same_outputs(share_affine, modality):
    variables = filled(shapes_of("mbn", share_affine))
    folded = convert.fold(variables, modality)
    shapes = functools.partial(jax.tree.map, lambda leaf: (leaf.shape, leaf.dtype))
    assert shapes(folded) == shapes(shapes_of("none"))
    whole = np.full_like(MODALITY, modality)
    expected = evaluate(variables, "mbn", share_affine, whole)
    assert_same_outputs(evaluate(folded, "none"), expected, 1e-4)


def test_the_folded_network_takes_fewer_bytes_and_operations():
    cost = {norm: compiled(norm).cost_analysis() for norm in ("mbn", "bn", "none")}
    for key in ("bytes accessed", "flops"):
        assert cost["none"][key] < min(cost["bn"][key], cost["mbn"][key]), key


@pytest.mark.parametrize("share_affine", [True, False])
@pytest.mark.parametrize("modality", [0, 1])
def test_biases_missing_affines_and_epsilon_are_folded(share_affine, modality):
    """And a convolution and a neck of their own stay as they are."""
    variables, mbn = small(share_affine=share_affine, epsilon=0.1)
    _, merged = small(kind="none", epsilon=0.1)
    folded = convert.fold(variables, modality, epsilon=0.1)
    assert set(folded["batch_stats"]) == {"last"}
    alone = "conv_alone"
    assert_same_trees(folded["params"][alone], variables["params"][alone])
    expected = mbn(variables, np.full_like(MODALITY, modality))
    np.testing.assert_allclose(merged(folded), expected, 1e-4, 1e-5)


def test_a_batch_norm_network_is_folded_by_way_of_one_modality():
    variables, plain = small(kind="bn")
    folded = convert.fold(convert.from_batch_norm(variables, 1), 0)
    actual = small(kind="none")[1](folded)
    np.testing.assert_allclose(actual, plain(variables), 1e-4, 1e-5)


def test_folding_keeps_the_type_of_kernels():
    variables = small()[0]
    kernel = variables["params"]["conv_b"]["kernel"]
    for cast in (np.asarray, lambda leaf: leaf.astype(jnp.bfloat16)):
        half = convert.fold(changed(variables, "params/conv_b/kernel", cast(kernel)), 0)
        assert half["params"]["conv_b"]["kernel"].dtype == cast(kernel).dtype
        assert half["params"]["conv_b"]["bias"].dtype == np.float32


class Automatic(nn.Module):
    """Automatic names, by which Conv_1 and the second normalization seem to belong."""

    folded: bool = False

    @nn.compact
    def __call__(self, x, modality):
        def norm(x):
            return ModalityBatchNorm(use_running_average=True)(x, modality)

        maybe = (lambda x: x) if self.folded else norm
        x = maybe(nn.Conv(4, (3, 3))(x))
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        return maybe(nn.Dense(4)(x))


def test_convolutions_are_given_or_found_where_names_do_not_tell():
    shapes = jax.eval_shape(Automatic().init, jax.random.key(0), SMALL, MODALITY)
    variables = filled(shapes)
    with pytest.raises(
        ValueError, match=r"batch_stats/ModalityBatchNorm_0, has a conv"
    ):
        convert.fold(variables, 1)
    found = convert.find_convolutions(Automatic().apply, variables, SMALL, MODALITY)
    assert found == {"ModalityBatchNorm_0": "Conv_0", "ModalityBatchNorm_1": "Dense_0"}
    whole = np.ones_like(MODALITY)
    expected = Automatic().apply(variables, SMALL, whole)
    for given in (found, found.get):
        folded = convert.fold(variables, 1, convolutions=given)
        actual = Automatic(folded=True).apply(folded, SMALL, whole)
        np.testing.assert_allclose(actual, expected, 1e-4, 1e-5)
    partly = convert.fold(variables, 1, convolutions={"ModalityBatchNorm_1": "Dense_0"})
    assert set(partly["batch_stats"]) == {"ModalityBatchNorm_0"}


def test_finding_agrees_with_the_names_of_this_library():
    for norm in ("mbn", "bn"):
        apply = functools.partial(reid(norm).apply, train=False)
        found = convert.find_convolutions(apply, shapes_of(norm), IMAGES, MODALITY)
        assert len(found) == 20
        assert all(value == key.replace("norm", "conv") for key, value in found.items())


class Tempting(nn.Module):
    """Where merging would be wrong although shapes and names fit."""

    @nn.compact
    def __call__(self, x, modality):
        def norm(x, name):
            return ModalityBatchNorm(use_running_average=True, name=name)(x, modality)

        class Scaled(nn.Conv):
            pass

        x = nn.Conv(3, (1, 1), name="conv1")(norm(x, "norm1"))  # normalized before
        shared = nn.Conv(3, (1, 1), name="conv2")
        x = norm(shared(x), "norm2") + shared(x + 1.0)
        x = norm(Scaled(3, (1, 1), name="conv3")(x), "norm3")
        x = norm(nn.relu(nn.Conv(3, (1, 1), name="conv4")(x)), "norm4")
        twice = ModalityBatchNorm(use_running_average=True, name="norm5")
        x = twice(nn.Conv(3, (1, 1), name="conv5")(x), modality)
        x = twice(nn.Conv(3, (1, 1), name="conv6")(x), modality)
        x = nn.ConvTranspose(3, (1, 1), transpose_kernel=True, name="conv7")(x)
        x = norm(x, "norm7")
        return norm(nn.ConvTranspose(3, (1, 1), name="conv8")(x), "norm8")


def test_only_what_directly_follows_a_convolution_of_its_own_is_found():
    shapes = jax.eval_shape(Tempting().init, jax.random.key(0), SMALL, MODALITY)
    found = convert.find_convolutions(Tempting().apply, shapes, SMALL, MODALITY)
    assert found == {"norm8": "conv8"}


@pytest.mark.parametrize(
    ("convolutions", "message"),
    [
        ({"bn_c": "conv_b"}, "names 'bn_c', which is not a normaliz.* bn_b, last"),
        ({"bn_b": "conv_c"}, "params/conv_c/kernel does not exist"),
        ({"bn_b": "conv_b", "last": "conv_b"}, "conv_b/kernel .* of its own"),
        ({}, "No normalization, such as batch_stats/.*, has a convolution"),
    ],
)
def test_convolutions_that_do_not_fit_are_refused(convolutions, message):
    with pytest.raises(ValueError, match=message):
        convert.fold(small()[0], 0, convolutions=convolutions)
