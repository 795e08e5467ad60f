"""Eight devices agree with one: output, running statistics and all gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from .layers import make, random_input, random_variables
from .reference import assert_close, reference
from .spreads import SPREADS, batch
from .styles import AXIS, STYLES, one_device, place, program, run, step


def same(actual, expected):
    assert_close(actual, jax.tree.map(np.asarray, expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("style", STYLES)
def test_eight_devices_agree_with_one(kind, style, spread):
    assert jax.device_count() == 8
    layer = make(kind, features=4, share_affine=False)
    variables = random_variables(layer)
    expected = one_device(layer)(variables, batch(spread))
    same(run(style, layer, variables, batch(spread)), expected)


@pytest.mark.parametrize("spread", SPREADS)
def test_what_they_agree_on_is_the_reference(kind, spread):
    layer = make(kind, features=4, share_affine=False)
    variables = random_variables(layer)
    x, modality, _, mask = batch(spread)
    result = one_device(layer)(variables, batch(spread))
    expected = reference(x, modality, variables, mask)
    assert_close(result["y"], expected.y, atol=2e-5)
    assert_close(result["batch_stats"], expected.batch_stats, rtol=1e-5)


@pytest.mark.parametrize("spec", [P("data", "height"), P(None, "height", "data")])
def test_images_may_be_cut_in_space_too(kind, spec):
    layer = make(kind)
    variables, x = random_variables(layer), random_input((4, 8, 4, 3))
    data = x, np.array([0, 1, 1, 1]), random_input(x.shape, seed=9), None
    mesh = jax.make_mesh((2, 4), ("data", "height"), axis_types=(AxisType.Auto,) * 2)
    placed = (
        place(variables, mesh, P()),
        [
            None if a is None else place(a, mesh, spec if a.ndim == 4 else P())
            for a in data
        ],
    )
    result = program("jit", layer)(*placed)
    assert not result["y"].is_fully_replicated
    same(result, one_device(layer)(variables, list(data)))


def test_groups_of_devices_have_statistics_of_their_own_under_pmap(kind):
    groups = ((0, 2, 4, 6), (1, 3, 5, 7))
    layer = make(kind, features=4)
    grouped = layer.copy(axis_name=AXIS, axis_index_groups=groups)
    variables, data = random_variables(layer), batch("unequal")
    rows = jax.tree.map(lambda a: a.reshape(8, 4, *a.shape[1:]), data)

    def shard(variables, batch):
        return step(grouped, variables, batch)

    result = jax.pmap(shard, AXIS, in_axes=(None, 0))(variables, rows)
    result = jax.tree.map(np.asarray, result)
    for group in map(list, groups):
        part = jax.tree.map(lambda a, g=group: a[g].reshape(16, *a.shape[2:]), rows)
        expected = one_device(layer)(variables, part)
        for name in ("y", "by_x"):
            same(result[name][group].reshape(16, 3, 2, 4), expected[name])
        for name in ("loss", "by_params"):
            total = jax.tree.map(lambda a, g=group: a[g].sum(0), result[name])
            same(total, expected[name])
        for device in group:
            stats = jax.tree.map(lambda a, d=device: a[d], result["batch_stats"])
            same(stats, expected["batch_stats"])


@dataclasses.dataclass(frozen=True)
class MaskedBatchNorms:
    """The same layer put together from Flax: one nn.BatchNorm a modality, masked."""

    axis_name: str | None = None

    def copy(self, axis_name):
        return MaskedBatchNorms(axis_name)

    def train(self, variables, x, modality, mask=None):
        y, stats = jnp.zeros_like(x), []
        norm = nn.BatchNorm(
            use_running_average=False,
            axis_name=self.axis_name,
            use_fast_variance=False,
        )
        for m in (0, 1):
            here = (modality == m)[:, None, None, None]
            one = jax.tree.map(lambda table, m=m: table[m], variables)
            normalized, after = norm.apply(one, x, mask=here, mutable=["batch_stats"])
            y = jnp.where(here, normalized, y)
            stats.append(after["batch_stats"])
        stats = jax.tree.map(lambda *tables: jnp.stack(tables), *stats)
        return y, {**variables, "batch_stats": stats}


@pytest.mark.parametrize("style", ["shard_map", "pmap"])
def test_flax_batch_norm_with_a_mask_fails_the_same_comparison(style):
    """It averages the means of devices: why this layer reduces sums and counts."""
    layer = MaskedBatchNorms()
    variables = random_variables(make("linen", features=4, share_affine=False))

    def compare(spread):
        expected = one_device(layer)(variables, batch(spread))
        ours = one_device(make("linen", features=4, share_affine=False))
        same(expected, ours(variables, batch(spread)))  # on one device it is right
        return run(style, layer, variables, batch(spread)), expected

    same(*compare("balanced"))

    result, expected = compare("unequal")
    error = jax.tree.map(lambda a, b: np.abs(a - b).max(), result, expected)
    assert error["y"] > 0.05
    assert error["by_x"] > 0.01
    assert min(error["batch_stats"].values()) > 1e-3  # of which a step moves 1 %

    result, expected = compare("empty of a modality")
    assert np.isfinite(expected["y"]).all()
    assert np.isnan(result["y"]).all()
    assert np.isnan(result["batch_stats"]["mean"]).all()


def test_shard_map_takes_modalities_that_are_the_same_on_every_device(kind):
    layer = make(kind, features=4)
    variables, modality = random_variables(layer), np.array([0, 1], np.int32)
    x = random_input((16, 3, 4))
    named = layer.copy(axis_name=AXIS)

    def gradient(layer, x, total):
        def loss(params, x):
            new = {**variables, "params": params}
            y, _ = layer.train(new, x, np.tile(modality, len(x) // 2))
            return total(jnp.sum(jnp.sin(y)))

        return jax.grad(loss, argnums=(0, 1))(variables["params"], x)

    mesh = jax.make_mesh((8,), (AXIS,), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        lambda x: gradient(named, x, lambda loss: jax.lax.psum(loss, AXIS)),
        mesh=mesh,
        in_specs=P(AXIS),
        out_specs=(P(), P(AXIS)),
    )
    expected = jax.jit(lambda x: gradient(layer, x, lambda loss: loss))(x)
    same(jax.jit(mapped)(x), expected)
