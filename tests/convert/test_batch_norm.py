"""Conversions keep the function that a network computes; misfits are named."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import freeze, unfreeze

from mbn_jax import convert

from .networks_linen import (
    MODALITY,
    SMALL,
    Net,
    assert_same_outputs,
    assert_same_trees,
    changed,
    evaluate,
    filled,
    shapes_of,
    small,
)


@pytest.mark.parametrize("share_affine", [True, False])
def test_a_pretrained_network_becomes_an_mbn_network_of_the_same_function(share_affine):
    variables = filled(shapes_of("bn"))
    mbn = convert.from_batch_norm(variables, 2, share_affine=share_affine)
    expected = shapes_of("mbn", share_affine)
    assert jax.tree.map(jnp.shape, mbn) == jax.tree.map(jnp.shape, expected)
    for modality in (MODALITY, 1 - MODALITY):
        assert_same_outputs(
            evaluate(mbn, "mbn", share_affine, modality), evaluate(variables, "bn")
        )


@pytest.mark.parametrize("share_affine", [True, False])
def test_one_modality_is_a_batch_norm_network_of_the_same_outputs(share_affine):
    variables = filled(shapes_of("mbn", share_affine))
    for m in (0, 1):
        plain = convert.to_batch_norm(variables, m)
        expected = evaluate(variables, "mbn", share_affine, np.full_like(MODALITY, m))
        assert_same_outputs(evaluate(plain, "bn"), expected)


@pytest.mark.parametrize("share_affine", [True, False])
def test_any_network_of_named_normalizations_is_converted_and_back(share_affine):
    variables, plain = small(kind="bn")
    _, mbn = small(num_modalities=3, share_affine=share_affine)
    converted = convert.from_batch_norm(variables, 3, share_affine=share_affine)
    actual = mbn(converted, np.array([0, 1, 2, 0], np.int32))
    np.testing.assert_allclose(actual, plain(variables), 1e-5, 1e-5)
    for m in range(3):
        assert_same_trees(convert.to_batch_norm(converted, m), variables)


def every_conversion(variables):
    yield convert.from_batch_norm(convert.to_batch_norm(variables, 1), 2)
    yield convert.to_batch_norm(variables, 1)
    yield convert.fold(variables, 1)
    yield convert.estimate_statistics(
        functools.partial(Net().apply, train=True), variables, [(SMALL, MODALITY)]
    )


def test_what_is_no_normalization_stays_as_it_is():
    """Frozen or not; other collections, types and the input itself."""
    variables = changed(
        small()[0], "params/head/kernel", jnp.ones((6, 3), jnp.bfloat16)
    )
    variables["other"] = {"anything": {"count": np.arange(3)}, "empty": {}}
    variables["batch_stats"]["spectral"] = {"sigma": np.ones(1)}
    before = jax.tree.map(np.array, variables)
    frozen = every_conversion(freeze(variables))
    for result, from_frozen in zip(every_conversion(variables), frozen, strict=True):
        assert_same_trees(result["other"], variables["other"])
        assert_same_trees(result["params"]["head"], variables["params"]["head"])
        assert result["params"]["head"]["kernel"].dtype == jnp.bfloat16
        assert result["batch_stats"]["spectral"] == variables["batch_stats"]["spectral"]
        assert isinstance(from_frozen, type(freeze({})))
        assert_same_trees(unfreeze(from_frozen), result)
    assert_same_trees(jax.tree.map(np.array, variables), before)


def test_stacked_layers_are_converted_under_vmap():
    trees = [
        filled(jax.eval_shape(lambda: small(kind="bn")[0]), seed) for seed in (1, 2)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    mbn = jax.vmap(convert.from_batch_norm)(stacked)
    for i, tree in enumerate(trees):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], mbn)
        assert_same_trees(one, convert.from_batch_norm(tree))


ONES = np.ones((2, 6), np.float32)
BOXED = nn.Partitioned(ONES[0], (None,))


def refuses(conversion, path, value, message):
    """That variables with one leaf replaced are refused with this message."""
    kind = "bn" if conversion is convert.from_batch_norm else "mbn"
    arguments = () if kind == "bn" else (1,)
    variables = changed(small(kind=kind)[0], path, value)
    with pytest.raises(ValueError, match="^" + re.escape(f"{path} {message}")):
        conversion(variables, *arguments)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "batch_stats/bn_b/mean",
            ONES,
            "has shape [2, 6], expected [C]: is this an MBN network already",
        ),
        ("batch_stats/bn_b/var", ONES, "has shape [2, 6], expected [6]"),
        ("batch_stats/bn_b/var", None, "does not exist"),
        ("batch_stats/bn_b/mean", None, "does not exist"),
        ("params/bn_b/scale", ONES, "has shape [2, 6], expected [6]"),
        ("params/last/bias", BOXED, "is a Partitioned, expected an array; flax.core"),
    ],
)
def test_a_tree_that_is_no_batch_norm_network_is_refused(path, value, message):
    refuses(convert.from_batch_norm, path, value, message)


@pytest.mark.parametrize("conversion", [convert.to_batch_norm, convert.fold])
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("batch_stats/last/mean", ONES[None], "has shape [1, 2, 6], expected [num_"),
        ("batch_stats/last/var", ONES[:, :5], "has shape [2, 5], expected [2, 6]"),
        ("batch_stats/last/var", ONES[0], "has shape [6], expected [2, 6]"),
        ("params/last/scale", ONES[:, :5], "has shape [2, 5], expected [2, 6] or [6]"),
    ],
)
def test_a_tree_that_is_no_mbn_network_is_refused(conversion, path, value, message):
    refuses(conversion, path, value, message)


@pytest.mark.parametrize("conversion", [convert.to_batch_norm, convert.fold])
def test_a_network_of_batch_norms_alone_has_no_modality_to_take_out(conversion):
    message = r"has shape \[6\], expected \[num_modalities, C\]: is this a BatchNorm"
    with pytest.raises(ValueError, match=message):
        conversion(small(kind="bn")[0], 1)


@pytest.mark.parametrize(
    ("path", "shape", "message"),
    [
        (
            "params/conv_b/kernel",
            (3, 3, 4, 5),
            "has shape [3, 3, 4, 5], expected […, 6] like batch_stats/bn_b",
        ),
        ("params/conv_b/bias", (2, 6), "has shape [2, 6], expected [6]"),
    ],
)
def test_a_convolution_that_does_not_fit_is_refused(path, shape, message):
    refuses(convert.fold, path, np.ones(shape), message)


def test_the_first_misfit_is_the_one_that_is_named():
    with pytest.raises(ValueError, match=r"^batch_stats/bn_b/mean has"):
        convert.from_batch_norm(small()[0])


@pytest.mark.parametrize("modality", [-1, 2])
def test_a_modality_that_does_not_exist_is_refused(modality):
    for conversion in (convert.to_batch_norm, convert.fold):
        with pytest.raises(
            ValueError, match=f"modality is {modality}, expected 0 to 1"
        ):
            conversion(small()[0], modality)


def test_arguments_of_other_kinds_are_refused():
    variables = small(kind="bn")[0]
    with pytest.raises(
        ValueError, match="num_modalities is 0, expected an integer from 1"
    ):
        convert.from_batch_norm(variables, 0)
    with pytest.raises(
        ValueError, match="num_modalities is 'two', expected an integer"
    ):
        convert.from_batch_norm(variables, "two")
    with pytest.raises(ValueError, match="variables are a list, expected the dict"):
        convert.from_batch_norm([])
    for tree in (variables["params"], {"params": variables["params"]}, {}):
        with pytest.raises(ValueError, match="batch_stats holds no normalization"):
            convert.from_batch_norm(tree)
