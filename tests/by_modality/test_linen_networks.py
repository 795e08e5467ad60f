"""Networks that nobody here wrote, converted and trained on mixed batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from mbn_jax import convert
from mbn_jax.context import by_modality

from ..norm.layers import random_input
from ..norm.reference import assert_close
from .linen_networks import NETWORKS

MODALITY = np.array([1, 0, 0, 1, 0, 1, 1], np.int32)
LABELS = np.array([0, 1, 2, 2, 1, 0, 1], np.int32)
X = random_input((7, 8, 8, 3))


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]


@functools.cache
def pretrained(init):
    """Variables as if trained: no parameter and no statistic is at its default."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        positive = path[-1].key in ("var", "scale")
        low, high = (0.5, 1.5) if positive else (-0.5, 0.5)
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(init, jax.random.key(0), X)
    return jax.tree.map_with_path(draw, nn.unbox(shapes))


def test_a_converted_network_computes_the_same_for_every_modality(network):
    init, apply = network
    variables = pretrained(init)
    converted = convert.from_batch_norm(variables)
    expected = jax.jit(lambda v, x: apply(v, x, train=False))(variables, X)

    @jax.jit
    def evaluate(variables, x, modality):
        with by_modality(modality):
            return apply(variables, x, train=False)

    for modality in (MODALITY, np.zeros_like(MODALITY), np.ones_like(MODALITY)):
        assert_close(evaluate(converted, X, modality), expected, rtol=1e-4, atol=1e-4)


def test_a_training_step_normalizes_the_rows_of_every_modality_separately(network):
    """In float64, so that deep networks do not blow rounding up."""
    init, apply = network
    with jax.enable_x64(True):
        variables = convert.from_batch_norm(pretrained(init), share_affine=False)
        variables = jax.tree.map(lambda a: np.asarray(a, np.float64), variables)
        x = X.astype(np.float64)
        expected = training_step(apply, variables, x, separately)
        actual = training_step(apply, variables, x, in_context)
        assert_close(actual, expected, rtol=1e-6, atol=1e-9)
        # Neither is a plain step: every layer finds two modalities.
        flat = flatten_dict({**actual[1], "params": actual[2][0]})
        for path, leaf in flat.items():
            if path[-1] in ("mean", "var", "scale"):
                assert not np.allclose(leaf[0], leaf[1]), path


def training_step(apply, variables, x, way):
    """The loss, the running statistics after it, and all gradients."""

    def loss(params, x):
        with way():
            logits, updates = apply(
                {**variables, "params": params}, x, mutable=["batch_stats"]
            )
        rows = jnp.arange(len(LABELS))
        return -jax.nn.log_softmax(logits)[rows, LABELS].mean(), updates

    # Without optimization, which takes longer than the step.
    step = jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1), has_aux=True),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    (value, updates), gradients = step(variables["params"], x)
    return value, updates, gradients


def in_context():
    return by_modality(MODALITY, share_affine=False)


def separately():
    return nn.intercept_methods(normalize_separately)


def normalize_separately(next_fun, args, kwargs, call):
    """`nn.BatchNorm` by its formula, for the rows of one modality after the other."""
    layer = call.module
    if not isinstance(layer, nn.BatchNorm):
        return next_fun(*args, **kwargs)
    (x, *_), y = args, jnp.zeros_like(args[0])
    running = {
        name: layer.get_variable("batch_stats", name) for name in ("mean", "var")
    }
    after = jax.tree.map(jnp.asarray, running)
    for m in (0, 1):
        of_m = np.flatnonzero(m == MODALITY)
        rows, axes = x[of_m], tuple(range(x.ndim - 1))
        mean = rows.mean(axes, keepdims=True)
        var = ((rows - mean) ** 2).mean(axes, keepdims=True)
        rows = (rows - mean) / jnp.sqrt(var + layer.epsilon)
        if layer.use_scale:
            rows = rows * layer.get_variable("params", "scale")[m].reshape(mean.shape)
        if layer.use_bias:
            rows = rows + layer.get_variable("params", "bias")[m].reshape(mean.shape)
        y = y.at[of_m].set(rows)
        for name, new in (("mean", mean), ("var", var)):
            old = running[name][m]
            step = (1 - layer.momentum) * (new.reshape(old.shape) - old)
            after[name] = after[name].at[m].add(step)
    for name, table in after.items():
        layer.put_variable("batch_stats", name, table)
    return y
