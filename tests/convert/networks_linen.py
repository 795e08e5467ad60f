"""Linen networks of both kinds, and what two of them must have in common."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict

from mbn_jax import ModalityBatchNorm
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
