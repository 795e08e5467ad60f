"""The context works through every transformation of Flax and JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mbn_jax.context import by_modality
from mbn_jax.norm import ModalityBatchNorm

from ..norm.layers import Linen, random_input, random_variables
from ..norm.reference import assert_close
from ..norm.spreads import batch
from ..norm.styles import STYLES, one_device, run
from .small_networks import MODALITY, X, assert_the_same_step


class Block(nn.Module):
    """The carry and the output that nn.scan asks for."""

    norm: type[nn.Module]

    @nn.compact
    def __call__(self, x, *modality):
        x = nn.Dense(3, name="dense")(x)
        return jnp.sin(self.norm(False, momentum=0.5, name="norm")(x, *modality)), None


STACKED = dict(
    variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}
)


def scan(block, count):
    """Three blocks, one after the other; `count` arguments beside the input."""
    return nn.scan(block, **STACKED, in_axes=(nn.broadcast,) * count, length=3)


LIFTED = {
    "scan": scan,
    "remat": lambda block, count: nn.remat(block),
    "scan of remat": lambda block, count: scan(nn.remat(block), count),
    "jit": lambda block, count: nn.jit(block),
    "vmap": lambda block, count: nn.vmap(
        block, **STACKED, in_axes=(None,) * (1 + count), axis_size=2
    ),
}


@functools.cache
def lifted_network(lift):
    def network(norm=nn.BatchNorm):
        plain = norm is nn.BatchNorm
        return LIFTED[lift](Block, 0 if plain else 1)(norm, name=None)

    return network


@pytest.mark.parametrize("lift", LIFTED)
def test_a_lifted_block_is_that_of_the_explicit_network(lift):
    assert_the_same_step(lifted_network(lift))


LIFTED_LAYERS = {
    "remat": nn.remat,
    "jit": nn.jit,
    "remat of jit": lambda layer: nn.remat(nn.jit(layer)),
    "vmap": functools.partial(nn.vmap, **STACKED, in_axes=None, axis_size=2),
}


@functools.cache
def network_of_lifted_layers(lift):
    class Network(nn.Module):
        norm: type[nn.Module] = nn.BatchNorm

        @nn.compact
        def __call__(self, x, *modality):
            layer = LIFTED_LAYERS[lift](self.norm)(False, name="norm")
            return jnp.sin(layer(nn.Dense(3, name="dense")(x), *modality))

    return Network


@pytest.mark.parametrize("lift", LIFTED_LAYERS)
def test_a_lifted_layer_is_by_modality(lift):
    assert_the_same_step(network_of_lifted_layers(lift))


class Scaled(nn.BatchNorm):
    @nn.jit
    @nn.compact
    def __call__(self, x):
        return super().__call__(2 * x)


@pytest.mark.parametrize("layer", [Scaled, nn.jit(Scaled), nn.remat(Scaled)])
def test_a_lifted_subclass_is_by_modality_in_every_call(layer):
    """The second call finds the trace of the first."""
    with by_modality(MODALITY):
        for _ in range(2):
            y, variables = layer(False).init_with_output(jax.random.key(0), X)
    expected = ModalityBatchNorm(False).apply(
        variables, 2 * X, MODALITY, mutable=["batch_stats"]
    )
    assert_close(y, expected[0], atol=1e-6)


def test_vmap_over_networks_and_over_modalities():
    """A batch of networks, of inputs and of modalities, each as by itself."""
    xs = random_input((2, *X.shape))
    modalities = np.stack([MODALITY, 1 - MODALITY])
    layer = nn.BatchNorm(False)
    rows = [random_variables(Linen(3, ()), seed) for seed in (0, 1)]

    def apply(variables, x, modality):
        with by_modality(modality):
            return layer.apply(variables, x, mutable=["batch_stats"])

    stack = jax.tree.map(lambda *tables: np.stack(tables), *rows)
    actual = jax.jit(jax.vmap(apply))(stack, xs, modalities)
    for i, one in enumerate(rows):
        expected = apply(one, xs[i], modalities[i])
        assert_close(jax.tree.map(lambda a, i=i: a[i], actual), expected, atol=1e-5)


def test_second_derivatives_are_those_of_the_explicit_network():
    variables = random_variables(Linen(3, ()))

    def hessian(apply):
        def loss(scale):
            params = {**variables["params"], "scale": scale}
            y, _ = apply({**variables, "params": params})
            return jnp.sum(jnp.sin(y))

        return jax.jit(jax.hessian(loss))(variables["params"]["scale"])

    def implicit(variables):
        with by_modality(MODALITY):
            return nn.BatchNorm(False).apply(variables, X, mutable=["batch_stats"])

    def explicit(variables):
        layer = ModalityBatchNorm(False)
        return layer.apply(variables, X, MODALITY, mutable=["batch_stats"])

    assert_close(hessian(implicit), hessian(explicit), rtol=1e-5, atol=1e-5)


class InContext(Linen):
    """`nn.BatchNorm` inside the context, where the other tests have our layer."""

    def train(self, variables, x, modality, mask=None):
        attributes = dict(self.attributes)
        share_affine = attributes.pop("share_affine")
        if mask is not None:
            mask = mask.reshape(-1, *[1] * (x.ndim - 1))
        with by_modality(modality, share_affine=share_affine):
            y, updates = nn.BatchNorm(**attributes).apply(
                variables, x, False, mask=mask, mutable=["batch_stats"]
            )
        return y, {**variables, **updates}


@pytest.mark.parametrize("style", STYLES)
def test_eight_devices_agree_with_one(style):
    """In jit with sharded arrays; shard_map and pmap with axis_name; unequal shards."""
    assert jax.device_count() == 8
    attributes = (("share_affine", False),)
    variables = random_variables(Linen(4, attributes))
    data = batch("empty by the mask")
    expected = one_device(Linen(4, attributes))(variables, data)
    actual = run(style, InContext(4, attributes), variables, data)
    assert_close(actual, jax.tree.map(np.asarray, expected), rtol=1e-5, atol=1e-5)


def test_groups_of_devices_normalize_separately():
    x, modality = random_input((4, 3, 2)), np.tile([0, 1, 0], (4, 1)).astype(np.int32)
    attributes = dict(axis_name="data", axis_index_groups=[[0, 1], [2, 3]])
    variables = random_variables(Linen(2, ()))

    def implicit(x, modality):
        with by_modality(modality):
            layer = nn.BatchNorm(False, **attributes)
            return layer.apply(variables, x, mutable=["batch_stats"])

    def explicit(x, modality):
        layer = ModalityBatchNorm(False, **attributes)
        return layer.apply(variables, x, modality, mutable=["batch_stats"])

    actual, expected = (
        jax.pmap(f, "data", devices=jax.devices()[:4])(x, modality)
        for f in (implicit, explicit)
    )
    assert_close(actual, expected, atol=1e-5)
    means = np.asarray(actual[1]["batch_stats"]["mean"])
    assert np.allclose(means[0], means[1])
    assert not np.allclose(means[1], means[2])
