"""NNX networks built as public ones are, small, and each modality by itself.

`norm` makes their normalizations: `nnx.BatchNorm`, or `Apart`, the reference. Both make
the same other weights.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mbn_jax.context import by_modality

from ..norm.layers import random_input

MODALITY = np.array([0, 1, 1, 0, 1], np.int32)
X = random_input((5, 8, 8, 3))


class Apart(nnx.Module):
    """The rows of each modality through an `nnx.BatchNorm` of its own.

    The two share scale and bias; `MODALITY` says which rows are whose.
    """

    def __init__(self, features, **arguments):
        first = nnx.BatchNorm(features, **arguments, use_fast_variance=False)
        second = nnx.clone(first)
        second.scale, second.bias = first.scale, first.bias
        self.each = nnx.List([first, second])

    def __call__(self, x, use_running_average=None):
        y = jnp.zeros_like(x)
        for m, norm in enumerate(self.each):
            (rows,) = np.nonzero(m == MODALITY)
            y = y.at[rows].set(norm(x[rows], use_running_average))
        return y


class ResNet(nnx.Module):
    """Lists of bottlenecks; normalizations are made in evaluation mode."""

    def __init__(self, norm, rngs):
        conv = functools.partial(nnx.Conv, use_bias=False, rngs=rngs)
        norm = functools.partial(norm, use_running_average=True, rngs=rngs)
        self.conv = conv(3, 4, (3, 3), strides=2)
        self.bn = norm(4)
        self.pool = functools.partial(nnx.max_pool, window_shape=(2, 2))
        self.blocks = nnx.List([Bottleneck(4, 8, conv, norm, rngs)])
        self.blocks.append(Bottleneck(8, 8, conv, norm, rngs))

    def __call__(self, x):
        x = self.pool(nnx.relu(self.bn(self.conv(x))))
        for block in self.blocks:
            x = block(x)
        return x.mean((1, 2))


class Bottleneck(nnx.Module):
    def __init__(self, inputs, outputs, conv, norm, rngs):
        self.conv0, self.bn0 = conv(inputs, 4, (1, 1)), norm(4)
        self.conv1, self.bn1 = conv(4, outputs, (3, 3)), norm(outputs, epsilon=1e-3)
        if inputs == outputs:
            self.shortcut = None
        else:
            self.shortcut = nnx.Sequential(conv(inputs, outputs, (1, 1)), norm(outputs))

    def __call__(self, x):
        y = nnx.relu(self.bn0(self.conv0(x)))
        y = self.bn1(self.conv1(y))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class MobileNet(nnx.Module):
    """Sequences of convolution, normalization and activation."""

    def __init__(self, norm, rngs):
        def unit(inputs, outputs, size=1, groups=1):
            return nnx.Sequential(
                nnx.Conv(
                    inputs,
                    outputs,
                    (size, size),
                    use_bias=False,
                    feature_group_count=groups,
                    rngs=rngs,
                ),
                norm(outputs, momentum=0.9, rngs=rngs),
                jax.nn.relu6,
            )

        self.layers = nnx.Sequential(
            unit(3, 4, 3), unit(4, 4, 3, groups=4), unit(4, 6), lambda x: x.mean((1, 2))
        )
        self.neck = norm(6, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.neck(self.layers(x))


class EfficientNet(nnx.Module):
    """A flag says at every call which statistics to use; some layers are None."""

    def __init__(self, norm, rngs):
        norm = functools.partial(norm, use_running_average=True, rngs=rngs)
        self.blocks = nnx.List(
            MBConv(*sizes, norm, rngs) for sizes in ((3, 4, 1), (4, 4, 2))
        )

    def __call__(self, x, training=False):
        for block in self.blocks:
            x = block(x, training)
        return x.mean((1, 2))


class MBConv(nnx.Module):
    def __init__(self, inputs, outputs, expand, norm, rngs):
        wide = inputs * expand
        conv = functools.partial(nnx.Conv, use_bias=False, rngs=rngs)
        if expand == 1:
            self.expand, self.bn0 = None, None
        else:
            self.expand, self.bn0 = conv(inputs, wide, (1, 1)), norm(wide)
        self.depthwise = conv(wide, wide, (3, 3), feature_group_count=wide)
        self.bn1 = norm(wide)
        self.project, self.bn2 = conv(wide, outputs, (1, 1)), norm(outputs)

    def __call__(self, x, training):
        running = not training
        y = x
        if self.expand is not None:
            y = nnx.silu(self.bn0(self.expand(y), use_running_average=running))
        y = nnx.silu(self.bn1(self.depthwise(y), use_running_average=running))
        y = self.bn2(self.project(y), running)
        return y + x if y.shape == x.shape else y


NETWORKS = (ResNet, MobileNet, EfficientNet)


def randomized(model, seed=0):
    """The model, with variables in its normalizations that no default looks like."""
    rng = np.random.default_rng(seed)
    for _, layer in nnx.iter_graph(model, graph=True):
        if isinstance(layer, nnx.BatchNorm):
            for variable in (layer.mean, layer.var, layer.scale, layer.bias):
                if variable is not None:
                    value = rng.uniform(0.5, 1.5, variable.shape)
                    variable[...] = jnp.asarray(value, variable.dtype)
    return model


def layers_of(model, kind):
    """The layers of a class by path, each once."""
    nodes = nnx.iter_graph(model, graph=True)
    return {"/".join(map(str, p)): node for p, node in nodes if isinstance(node, kind)}


def call(model, x, modality):
    """The model inside the context, as a step that is compiled would call it."""
    with by_modality(modality):
        return model(x)


def values(model, kind):
    """The values of the variables of a kind by path."""
    flat = nnx.to_flat_state(nnx.state(model, kind))
    return {path: np.asarray(variable[...]) for path, variable in flat}
