"""Equal to Flax's batch norm where the two mean the same."""

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from .layers import make, random_input, random_variables, train
from .reference import assert_close
from .styles import one_device

MODALITY = np.array([0, 1, 1, 0, 1, 1], np.int32)
SHAPE = (6, 5, 4, 3)


class FlaxLayer:
    """`nn.BatchNorm` behind the interface of this folder, with tables of one row."""

    def __init__(self, **attributes):
        self.norm = nn.BatchNorm(
            use_running_average=False, use_fast_variance=False, **attributes
        )

    def train(self, variables, x, modality, mask=None):
        plain = jax.tree.map(lambda a: a.reshape(-1), variables)
        if mask is not None:
            mask = mask.reshape(-1, *[1] * (x.ndim - 1))
        y, after = self.norm.apply(plain, x, mask=mask, mutable=["batch_stats"])
        return y, jax.tree.map(lambda a: a[None], after)


@pytest.mark.parametrize("mask", [None, np.arange(6) > 1], ids=["all", "masked"])
@pytest.mark.parametrize("shape", [(6, 3), SHAPE], ids=str)
def test_one_modality_is_batch_norm_in_value_statistics_and_gradient(kind, shape, mask):
    layer = make(kind, num_modalities=1, momentum=0.9)
    x = random_input(shape)
    batch = x, np.zeros(6, np.int32), np.cos(x), mask
    ours = one_device(layer)(random_variables(layer), batch)
    theirs = one_device(FlaxLayer(momentum=0.9))(random_variables(layer), batch)
    # The loss and the sums of the parameters' gradients are of the size of the batch.
    assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_one_modality_is_nnx_batch_norm():
    x = random_input(SHAPE)
    layer = make("nnx", num_modalities=1, momentum=0.9)
    variables = random_variables(layer)
    y, after = train(layer, variables, x, np.zeros(6, np.int32))

    theirs = nnx.BatchNorm(3, momentum=0.9, use_fast_variance=False, rngs=nnx.Rngs(0))
    for name, value in variables["params"].items():
        getattr(theirs, name)[...] = value
    for name, table in variables["batch_stats"].items():
        getattr(theirs, name)[...] = table[0]
    assert_close(y, nnx.jit(lambda layer, x: layer(x))(theirs, x), atol=1e-5)
    assert_close(after["batch_stats"]["mean"][0], theirs.mean[...], rtol=1e-5)
    assert_close(after["batch_stats"]["var"][0], theirs.var[...], rtol=1e-5)


def test_a_batch_split_by_modality_gives_the_same_through_one_batch_norm_each(kind):
    layer = make(kind, momentum=0.9, share_affine=False)
    variables, x = random_variables(layer), random_input(SHAPE)
    weights = np.cos(x)
    ours = one_device(layer)(variables, (x, MODALITY, weights, None))
    for m in (0, 1):
        here = m == MODALITY
        one = jax.tree.map(lambda table, m=m: table[m : m + 1], variables)
        batch = x[here], np.zeros(here.sum(), np.int32), weights[here], None
        theirs = one_device(FlaxLayer(momentum=0.9))(one, batch)
        for name in ("y", "by_x"):
            assert_close(ours[name][here], theirs[name], atol=2e-5)
        for name in ("batch_stats", "by_params"):
            row = jax.tree.map(lambda a, m=m: a[m], ours[name])
            peer = jax.tree.map(lambda a: a[0], theirs[name])
            assert_close(row, peer, rtol=1e-4, atol=1e-5)


def test_attributes_and_defaults_are_those_of_flax(kind):
    """Ours add the modalities; the variance is never the fast one."""
    names = ["use_running_average", "axis", "momentum", "epsilon", "dtype", "axis_name"]
    names += ["axis_index_groups"]
    if kind == "linen":
        ours, theirs = make(kind).module(), nn.BatchNorm()
        names += ["force_float32_reductions", "param_dtype", "use_bias", "use_scale"]
    else:
        ours, theirs = make(kind).module(), nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    for name in names:
        assert getattr(ours, name) == getattr(theirs, name), name
