"""Conversions keep the function that a network computes; misfits are named."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import freeze, unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict

from mbn_jax import ModalityBatchNorm, convert
from mbn_jax.models.reid import ReID

IMAGES = np.random.default_rng(0).normal(size=(4, 32, 16, 3)).astype(np.float32)
MODALITY = np.array([0, 1, 1, 0], np.int32)


def reid(norm, share_affine=True):
    size = dict(depth=18, width=1 / 16)
    return ReID(5, (32, 16), norm=norm, share_affine=share_affine, **size)


def filled(shapes, seed=0):
    """Random variables under which activations stay near one, no moment 0 or 1."""
    rng = np.random.default_rng(seed)

    def value(path, leaf):
        size = leaf.shape
        if path[-1].key == "kernel":
            return rng.normal(size=size) * (2 / np.prod(size[:-1])) ** 0.5
        if path[-1].key in ("mean", "bias"):
            return rng.normal(size=size) * 0.3
        return rng.uniform(0.5, 2, size=size)

    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(value(path, leaf), leaf.dtype), shapes
    )


@functools.cache
def shapes_of(norm, share_affine=True):
    init = functools.partial(reid(norm, share_affine).init, train=False)
    return jax.eval_shape(init, jax.random.key(0), IMAGES, MODALITY)


@functools.cache
def compiled(norm, share_affine=True):
    """The network's evaluation, one program for all tests."""
    apply = functools.partial(reid(norm, share_affine).apply, train=False)
    arguments = shapes_of(norm, share_affine), IMAGES, MODALITY
    return jax.jit(apply).lower(*arguments).compile()


def evaluate(variables, norm, share_affine=True, modality=MODALITY):
    return compiled(norm, share_affine)(variables, IMAGES, modality)


def assert_same_outputs(actual, expected, tolerance=1e-5):
    assert float(jnp.abs(expected.logits).max()) > 0.1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance),
        actual,
        expected,
    )


def assert_same_trees(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


class Net(nn.Module):
    """Convolutions with and without normalization, a neck and a head."""

    kind: str = "mbn"  # "bn", "none"
    num_modalities: int = 2
    share_affine: bool = True
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, modality, train=False):
        def norm(x, name, **arguments):
            arguments |= dict(name=name, epsilon=self.epsilon, momentum=0.0)
            if self.kind != "mbn":
                return nn.BatchNorm(**arguments)(x, not train)
            table = self.num_modalities, self.share_affine
            arguments |= dict(
                zip(("num_modalities", "share_affine"), table, strict=True)
            )
            return ModalityBatchNorm(**arguments)(x, modality, not train)

        merged = self.kind == "none"
        x = nn.Conv(4, (3, 3), name="stem_conv", use_bias=merged)(x)
        x = x if merged else norm(x, "stem_norm", use_scale=False)
        x = nn.Conv(6, (3, 3), name="conv_b")(nn.relu(x))
        x = x if merged else norm(x, "bn_b", use_bias=False)
        x = nn.Conv(6, (1, 1), name="conv_alone")(nn.relu(x))
        x = norm(x.mean((1, 2)), "last")
        return nn.Dense(3, name="head")(x)


SMALL = IMAGES[:, :6, :6]


@functools.cache
def small(**fields):
    """Random variables of `Net` and its jitted evaluation."""
    net = Net(**fields)
    shapes = jax.eval_shape(net.init, jax.random.key(0), SMALL, MODALITY)
    return filled(shapes), jax.jit(lambda v, m=MODALITY: net.apply(v, SMALL, m))


def changed(variables, path, value):
    """The variables with one leaf replaced, or taken away by None."""
    flat = flatten_dict(unfreeze(variables)) | {tuple(path.split("/")): value}
    return unflatten_dict({k: v for k, v in flat.items() if v is not None})


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
