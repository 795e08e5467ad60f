"""Inside the context a network does what one does that is told the modality."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mbn_jax.context import by_modality
from mbn_jax.norm import ModalityBatchNorm

from ..norm.layers import random_input
from ..norm.reference import assert_close
from .small_networks import (
    MODALITY,
    NETWORKS,
    Compact,
    X,
    assert_the_same_step,
    initialized,
    random_like,
)

by_network = pytest.mark.parametrize("network", NETWORKS)


@by_network
def test_init_gives_the_variables_of_the_explicit_network(network):
    key = jax.random.key(0)
    expected = network(ModalityBatchNorm).init(key, X, MODALITY)
    with by_modality(MODALITY):
        actual = network().init(key, X)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    assert_close(actual, expected)


@by_network
def test_a_training_step_is_that_of_the_explicit_network(network):
    assert_the_same_step(network)


def test_the_compiled_program_is_that_of_the_explicit_network():
    """So the context costs nothing once it is compiled."""
    variables = initialized(Compact, X, MODALITY)

    def loss(network, params, stats, x, modality):
        variables = {"params": params, "batch_stats": stats}
        y, updates = network(variables, x, modality, mutable=["batch_stats"])
        return (y**3).sum(), updates

    def in_context(variables, x, modality, **settings):
        with by_modality(modality):
            return Compact().apply(variables, x, **settings)

    def program(network):
        step = jax.jit(jax.grad(functools.partial(loss, network), has_aux=True))
        lowered = step.lower(variables["params"], variables["batch_stats"], X, MODALITY)
        text = lowered.compile().as_text()
        text = text[text.index("ENTRY") :]
        return re.sub(r", metadata=\{[^}]*\}", "", text)

    explicit = program(Compact(ModalityBatchNorm).apply)
    assert explicit.count("fusion") > 5
    assert program(in_context) == explicit


def test_a_scale_and_bias_of_each_of_three_modalities():
    modality = np.array([2, 0, 2, 0], np.int32)
    attributes = dict(num_modalities=3, share_affine=False)
    variables = initialized(Compact, X, modality, **attributes)
    assert variables["params"]["first"]["scale"].shape == (3, 3)
    train = functools.partial(Compact().apply, mutable=["batch_stats"])
    with by_modality(modality, **attributes):
        y, updates = train(variables, X)
    norm = functools.partial(ModalityBatchNorm, **attributes)
    expected, stats = Compact(norm).apply(
        variables, X, modality, mutable=["batch_stats"]
    )
    assert_close(y, expected, atol=1e-6)
    assert_close(updates, stats, atol=1e-6)
    for name, before in variables["batch_stats"]["first"].items():
        after = updates["batch_stats"]["first"][name]
        assert_close(after[1], before[1])
        assert np.all(after[2] != before[2])


@by_network
def test_evaluation_is_by_the_running_statistics_of_each_modality(network):
    variables = initialized(network, X, MODALITY)
    expected = network(ModalityBatchNorm, train=False).apply(variables, X, MODALITY)
    with by_modality(MODALITY):
        actual = network(train=False).apply(variables, X)
    assert_close(actual, expected, atol=1e-6)
    with by_modality(1 - MODALITY):
        assert not np.allclose(network(train=False).apply(variables, X), expected)


def test_forward_mode_is_that_of_the_explicit_network():
    variables = initialized(Compact, X, MODALITY)
    tangent = np.cos(X)

    def explicit(x):
        model = Compact(ModalityBatchNorm)
        return model.apply(variables, x, MODALITY, mutable=["batch_stats"])[0]

    def implicit(x):
        with by_modality(MODALITY):
            return Compact().apply(variables, x, mutable=["batch_stats"])[0]

    actual, expected = (
        jax.jit(lambda x, f=f: jax.jvp(f, (x,), (tangent,)))(X)
        for f in (implicit, explicit)
    )
    assert_close(actual, expected, rtol=1e-5, atol=1e-5)


# Values that are not the default ones. axis_name and axis_index_groups are tested on
# devices; use_fast_variance has no counterpart.
ATTRIBUTES = {
    "use_running_average": True,
    "axis": 1,
    "momentum": 0.3,
    "epsilon": 0.5,
    "dtype": jnp.bfloat16,
    "param_dtype": jnp.float16,
    "use_bias": False,
    "use_scale": False,
    "bias_init": nn.initializers.constant(0.7),
    "scale_init": nn.initializers.uniform(2.0),
    "force_float32_reductions": False,
}
OTHER_ATTRIBUTES = {"axis_name", "axis_index_groups", "use_fast_variance"}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_attribute_of_the_layer_is_carried_over(name):
    attributes = {"use_running_average": False, name: ATTRIBUTES[name]}
    # In bfloat16, sums in float32 differ from sums in the type of the input.
    x = jnp.asarray(X, jnp.bfloat16 if name.startswith("force") else jnp.float32)
    explicit = ModalityBatchNorm(**attributes)
    expected = explicit.init(jax.random.key(0), x, MODALITY)
    with by_modality(MODALITY):
        actual = nn.BatchNorm(**attributes).init(jax.random.key(0), x)
        assert jax.tree.map(jnp.result_type, actual) == jax.tree.map(
            jnp.result_type, expected
        )
        assert_close(actual, expected)
        variables = random_like(expected)
        actual = nn.BatchNorm(**attributes).apply(variables, x, mutable=["batch_stats"])
    expected = explicit.apply(variables, x, MODALITY, mutable=["batch_stats"])
    assert actual[0].dtype == expected[0].dtype
    assert_close(actual, expected)


def test_no_attribute_of_the_layer_is_forgotten():
    fields = {field.name for field in dataclasses.fields(nn.BatchNorm)}
    assert fields - {"name", "parent"} == ATTRIBUTES.keys() | OTHER_ATTRIBUTES


def test_one_channel_axis_may_be_a_tuple():
    with by_modality(MODALITY):
        one, other = (
            nn.BatchNorm(False, axis=axis).init_with_output(jax.random.key(0), X)
            for axis in (1, (1,))
        )
    assert_close(one, other)


MASKS = {
    "samples": np.array([1, 0, 1, 1], bool).reshape(4, 1, 1),
    "positions": random_input((4, 3, 1), seed=3) > 1,
    "positions of every sample": np.array([1, 0, 1], bool).reshape(3, 1),
    "channels": np.array([1, 1, 0, 1], bool),
    "numbers": np.array([1, 0, 2, 0.5], np.float32).reshape(4, 1, 1),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_means_what_it_means_to_the_plain_layer(name):
    """The mask (4,) is of channels, though there are as many samples."""
    x, mask = random_input((4, 3, 4)), MASKS[name]
    layer = nn.BatchNorm(False, momentum=0.5, use_fast_variance=False)
    variables = random_like(layer.init(jax.random.key(0), x))
    train = functools.partial(layer.apply, x=x, mask=mask, mutable=["batch_stats"])
    # The plain layer leaves it to NumPy's rules to find the axes of the mask.
    with jax.numpy_rank_promotion("allow"):
        _, expected = train(variables)
    table = jax.tree.map(lambda a: a[None], variables["batch_stats"])
    with by_modality(np.zeros(4, np.int32), num_modalities=1):
        _, actual = train({**variables, "batch_stats": table})
    seen = np.broadcast_to(mask.astype(bool), x.shape).any((0, 1))
    for statistic, value in expected["batch_stats"].items():
        after = actual["batch_stats"][statistic][0]
        assert_close(after[seen], value[seen], rtol=1e-5)


@by_network
def test_of_one_modality_the_network_is_what_it_was(network):
    plain = functools.partial(nn.BatchNorm, use_fast_variance=False)
    variables = random_like(network(plain).init(jax.random.key(0), X))
    train = functools.partial(network(plain).apply, mutable=["batch_stats"])
    expected, stats = train(variables, X)
    table = jax.tree.map(lambda a: a[None], variables["batch_stats"])
    with by_modality(np.zeros(4, np.int32), num_modalities=1):
        y, updates = train({**variables, "batch_stats": table}, X)
    assert_close(y, expected, atol=1e-5)
    assert_close(updates, jax.tree.map(lambda a: a[None], stats), rtol=1e-5)


class Doubled(nn.BatchNorm):
    """Changes what goes in and what comes out, and has an attribute of its own."""

    factor: float = 2.0

    @nn.compact
    def __call__(self, x, use_running_average=None, *, mask=None):
        shift = self.param("shift", nn.initializers.ones, x.shape[-1:])
        y = super().__call__(self.factor * x, use_running_average, mask=mask)
        return y + shift[None, None]


def test_a_subclass_that_calls_its_base_is_by_modality():
    layer = Doubled(False, factor=3.0)
    with by_modality(MODALITY):
        variables = layer.init(jax.random.key(0), X)
        y, updates = layer.apply(variables, X, mutable=["batch_stats"])
    base = {"params": {k: variables["params"][k] for k in ("scale", "bias")}}
    expected, stats = ModalityBatchNorm(False).apply(
        {**variables, **base}, 3 * X, MODALITY, mutable=["batch_stats"]
    )
    assert_close(y, expected + 1, atol=1e-6)
    assert_close(updates, stats)


@pytest.mark.parametrize("attributes", [{}, {"dtype": jnp.bfloat16}])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_integers_are_inputs_as_of_the_plain_layer(dtype, attributes):
    x = np.arange(12).reshape(4, 3).astype(dtype)
    layer = nn.BatchNorm(False, **attributes)
    with by_modality(MODALITY):
        y, _ = layer.init_with_output(jax.random.key(0), x)
    for m in (0, 1):
        rows = x[m == MODALITY]
        expected, _ = layer.init_with_output(jax.random.key(0), rows)
        assert y.dtype == expected.dtype
        actual, expected = (a.astype(np.float32) for a in (y[m == MODALITY], expected))
        assert_close(actual, expected, atol=1e-2 if attributes else 1e-5)


def test_our_own_layer_keeps_the_modality_that_it_is_given():
    layer = ModalityBatchNorm(False)
    variables = layer.init(jax.random.key(0), X, MODALITY)
    expected = layer.apply(variables, X, MODALITY, mutable=["batch_stats"])
    with by_modality(1 - MODALITY, num_modalities=5):
        actual = layer.apply(variables, X, MODALITY, mutable=["batch_stats"])
    assert_close(actual, expected)


def test_an_unknown_modality_is_pooled_where_asked():
    unknown = np.full(4, -1)
    attributes = dict(unknown="pooled", pooled_weights=[1, 3], share_affine=False)
    variables = initialized(Compact, X, MODALITY, share_affine=False)
    norm = functools.partial(ModalityBatchNorm, **attributes)
    expected = Compact(norm, train=False).apply(variables, X, unknown)
    assert np.isfinite(expected).all()
    with by_modality(unknown, **attributes):
        actual = Compact(train=False).apply(variables, X)
    assert_close(actual, expected)
    with by_modality(unknown, share_affine=False):
        assert np.isnan(Compact(train=False).apply(variables, X)).all()


def test_a_64_bit_index_does_not_wrap_into_a_modality():
    modality = np.array([2**32, 1, 0, 2**32 + 1])
    with by_modality(modality):
        y, _ = nn.BatchNorm(False).init_with_output(jax.random.key(0), X)
    assert np.isnan(y).all((1, 2)).tolist() == [True, False, False, True]


def test_lists_and_arrays_of_every_integer_type_are_modalities():
    with by_modality(MODALITY):
        expected = nn.BatchNorm(False).init_with_output(jax.random.key(0), X)
    kinds = (MODALITY.tolist(), MODALITY.astype(np.uint8), jnp.asarray(MODALITY))
    for modality in kinds:
        with by_modality(modality):
            actual = nn.BatchNorm(False).init_with_output(jax.random.key(0), X)
        assert_close(actual, expected)
