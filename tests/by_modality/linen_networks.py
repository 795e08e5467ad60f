"""Networks as others write them, in the ways that public Flax code does, but tiny."""

import functools
from collections.abc import Callable
from typing import Any

import jax_resnet
from flax import linen as nn


class Residual(nn.Module):
    """As in Flax's ImageNet example: `conv` and `norm` come from outside, prepared."""

    features: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    strides: tuple[int, int]

    @nn.compact
    def __call__(self, x):
        y = self.conv(self.features, (1, 1))(x)
        y = nn.relu(self.norm()(y))
        y = self.conv(self.features, (3, 3), self.strides)(y)
        y = nn.relu(self.norm()(y))
        y = self.conv(2 * self.features, (1, 1))(y)
        y = self.norm(scale_init=nn.initializers.zeros_init())(y)
        if x.shape != y.shape:
            x = self.conv(2 * self.features, (1, 1), self.strides, name="projection")(x)
            x = self.norm(name="projection_norm")(x)
        return nn.relu(x + y)


class Bottlenecks(nn.Module):
    """A residual network of bottlenecks, compact, with automatic names."""

    @nn.compact
    def __call__(self, x, train: bool = True):
        conv = functools.partial(nn.Conv, use_bias=False)
        norm = functools.partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5
        )
        x = conv(4, (3, 3), name="stem")(x)
        x = nn.relu(norm(name="stem_norm")(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = Residual(4, conv, norm, strides=(2, 2))(x)
        return nn.Dense(3)(x.mean((1, 2)))


class ConvNormAct(nn.Module):
    """A convolution and what follows it, by `setup`."""

    features: int
    kernel: int = 1
    groups: int = 1
    activation: Callable[..., Any] = nn.silu

    def setup(self):
        self.conv = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            feature_group_count=self.groups,
            use_bias=False,
        )
        self.bn = nn.BatchNorm(momentum=0.99, epsilon=1e-3)

    def __call__(self, x, train):
        return self.activation(self.bn(self.conv(x), use_running_average=not train))


class InvertedBottleneck(nn.Module):
    """Expansion, a depthwise convolution, squeeze and excitation, projection."""

    features: int

    def setup(self):
        wide = 2 * self.features
        self.expand = ConvNormAct(wide)
        self.depthwise = ConvNormAct(wide, kernel=3, groups=wide)
        self.squeeze = nn.Sequential([nn.Dense(2), nn.silu, nn.Dense(wide)])
        self.project = ConvNormAct(self.features, activation=lambda x: x)

    def __call__(self, x, train):
        y = self.depthwise(self.expand(x, train), train)
        y = y * nn.sigmoid(self.squeeze(y.mean((1, 2), keepdims=True)))
        return x + self.project(y, train)


class InvertedBottlenecks(nn.Module):
    """A mobile network: modules in `setup`, in lists, three deep, and a neck of 1-D."""

    def setup(self):
        self.stem = ConvNormAct(4, kernel=3)
        self.blocks = [InvertedBottleneck(4) for _ in range(2)]
        self.neck = nn.BatchNorm(use_bias=False)
        self.classifier = nn.Dense(3)

    def __call__(self, x, train: bool = True):
        x = self.stem(x, train)
        for block in self.blocks:
            x = block(x, train)
        return self.classifier(self.neck(x.mean((1, 2)), not train))


def by_mutability(model):
    """The networks of jax_resnet train where `batch_stats` may be written."""

    def apply(variables, x, train=True, **keywords):
        return model.apply(variables, x, **keywords)

    return model.init, apply


def by_argument(model):
    return functools.partial(model.init, train=False), model.apply


def public(**parts):
    return jax_resnet.ResNet(
        **parts,
        stem_cls=functools.partial(jax_resnet.ResNetDStem, stem_width=2),
        stage_sizes=(1,),
        hidden_sizes=(2,),
        n_classes=3,
    )


# Of every network: init(key, x), and apply(variables, x, train=…, mutable=…).
NETWORKS = {
    "jax_resnet's ResNet-D": by_mutability(public(block_cls=jax_resnet.ResNetDBlock)),
    "jax_resnet's ResNeSt": by_mutability(
        public(block_cls=jax_resnet.ResNeStBottleneckBlock)
    ),
    "bottlenecks": by_argument(Bottlenecks()),
    "inverted bottlenecks": by_argument(InvertedBottlenecks()),
}
