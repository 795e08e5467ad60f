"""ModalityBatchNorm against plain NumPy, against Flax, and across devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from mbn_jax.functional import modality_moments
from mbn_jax.norm import ModalityBatchNorm

EPSILON = 1e-5


def reference(x, modality, mask=None, scale=1.0, bias=0.0):
    """One loop per modality, float64: output, means, variances."""
    x = np.asarray(x, np.float64)
    seen = np.ones(len(x), bool) if mask is None else np.asarray(mask)
    y = np.full_like(x, np.nan)
    means, variances = np.zeros((2, x.shape[-1])), np.ones((2, x.shape[-1]))
    for m in (0, 1):
        rows = x[(modality == m) & seen]
        if len(rows):
            means[m] = rows.mean(tuple(range(x.ndim - 1)))
            variances[m] = rows.var(tuple(range(x.ndim - 1)))
        y[modality == m] = (x[modality == m] - means[m]) / np.sqrt(
            variances[m] + EPSILON
        )
    return y * scale + bias, means, variances


def make(shape=(6, 5, 4, 3), modality=(0, 1, 1, 0, 1, 1), seed=0, **attributes):
    x = np.random.default_rng(seed).normal(2.0, 3.0, shape).astype(np.float32)
    modality = np.asarray(modality, np.int32)
    layer = ModalityBatchNorm(**attributes)
    variables = layer.init(jax.random.key(0), x, modality, False)
    return layer, variables, x, modality


def train(layer, variables, x, modality, mask=None):
    y, updates = layer.apply(
        variables, x, modality, False, mask, mutable=["batch_stats"]
    )
    return y, {**variables, **updates}


@pytest.mark.parametrize(
    "shape", [(6, 3), (6, 7, 3), (6, 5, 4, 3), (6, 2, 4, 5, 3)], ids=str
)
def test_output_equals_one_loop_per_modality(shape):
    layer, variables, x, modality = make(shape)
    y, _ = train(layer, variables, x, modality)
    np.testing.assert_allclose(y, reference(x, modality)[0], atol=1e-5)


def test_running_statistics_are_the_moving_average_of_the_biased_moments():
    layer, variables, _, modality = make(momentum=0.9)
    mean, var = np.zeros((2, 3)), np.ones((2, 3))
    for seed in range(3):
        x = make(seed=seed)[2]
        _, variables = train(layer, variables, x, modality)
        _, means, variances = reference(x, modality)
        mean, var = 0.9 * mean + 0.1 * means, 0.9 * var + 0.1 * variances
    np.testing.assert_allclose(variables["batch_stats"]["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(variables["batch_stats"]["var"], var, rtol=1e-5)
    y = layer.apply(variables, x, modality, True)
    expected = (x - mean[modality][:, None, None]) / np.sqrt(
        var[modality][:, None, None] + EPSILON
    )
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_initialising_leaves_the_running_statistics_and_needs_no_axis():
    layer, variables, _, _ = make(axis_name="nowhere")
    assert layer.axis_name == "nowhere"
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros((2, 3)))
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones((2, 3)))


@pytest.mark.parametrize("share_affine", [True, False])
def test_scale_and_bias_are_shared_or_one_per_modality(share_affine):
    layer, variables, x, modality = make(
        share_affine=share_affine,
        scale_init=nn.initializers.normal(1.0),
        bias_init=nn.initializers.normal(1.0),
    )
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    assert scale.shape == bias.shape == ((3,) if share_affine else (2, 3))
    tables = np.broadcast_to(scale, (2, 3)), np.broadcast_to(bias, (2, 3))
    scale, bias = (table[modality][:, None, None] for table in tables)
    y, _ = train(layer, variables, x, modality)
    expected = reference(x, modality, scale=scale, bias=bias)[0]
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_scale_and_bias_can_be_left_out():
    layer, variables, x, modality = make(use_scale=False, use_bias=False)
    assert "params" not in variables
    y, _ = train(layer, variables, x, modality)
    np.testing.assert_allclose(y, reference(x, modality)[0], atol=1e-5)


@pytest.mark.parametrize("axis", [1, 2, -2])
def test_channels_may_lie_on_another_axis(axis):
    layer, variables, x, modality = make()
    last, _ = train(layer, variables, x, modality)
    moved = np.moveaxis(x, -1, axis)
    y, _ = train(layer.copy(axis=axis), variables, moved, modality)
    np.testing.assert_allclose(np.moveaxis(y, axis, -1), last, atol=1e-6)


def test_absent_modality_keeps_its_running_statistics():
    layer, variables, x, _ = make()
    stats = {"mean": jnp.full((2, 3), 7.0), "var": jnp.full((2, 3), 0.3)}
    variables = {**variables, "batch_stats": stats}
    y, after = train(layer, variables, x, np.zeros(6, np.int32))
    for name in ("mean", "var"):
        np.testing.assert_array_equal(after["batch_stats"][name][1], stats[name][1])
        assert np.all(after["batch_stats"][name][0] != stats[name][0])
    assert np.isfinite(y).all()


def test_absent_modality_gives_finite_gradients_even_without_epsilon():
    layer, variables, x, _ = make(epsilon=0.0, share_affine=False)
    modality = np.zeros(6, np.int32)

    def loss(params, x):
        y, _ = train(layer, {**variables, "params": params}, x, modality)
        return jnp.sum(jnp.sin(y))

    gradients = jax.grad(loss, argnums=(0, 1))(variables["params"], x)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    np.testing.assert_array_equal(gradients[0]["scale"][1], np.zeros(3))


def test_masked_samples_stay_out_of_the_statistics_and_are_normalised():
    layer, variables, x, modality = make()
    mask = np.array([1, 1, 0, 1, 1, 0], bool)
    y, after = train(layer, variables, x, modality, mask)
    expected, means, _ = reference(x, modality, mask)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(
        after["batch_stats"]["mean"], 0.01 * means, rtol=1e-4, atol=1e-6
    )


def test_fully_masked_modality_is_normalised_by_its_running_statistics():
    layer, variables, x, modality = make()
    stats = {"mean": jnp.full((2, 3), 7.0), "var": jnp.full((2, 3), 0.3)}
    variables = {**variables, "batch_stats": stats}
    y, after = train(layer, variables, x, modality, modality == 0)
    expected = (x[modality == 1] - 7.0) / np.sqrt(0.3 + EPSILON)
    np.testing.assert_allclose(y[modality == 1], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(after["batch_stats"]["mean"][1], stats["mean"][1])


def test_positions_can_be_masked():
    x = np.random.default_rng(0).normal(1e3, 1.0, (4, 6, 5, 3)).astype(np.float32)
    modality = np.array([0, 1, 0, 1])
    mask = np.random.default_rng(1).random((4, 6, 5, 1)) < 0.1
    moments = modality_moments(jnp.asarray(x), jnp.asarray(modality), mask=mask)
    for m in (0, 1):
        values = x[modality == m][mask[modality == m][..., 0]].astype(np.float64)
        np.testing.assert_allclose(moments.mean[m], values.mean(0), rtol=1e-6)
        np.testing.assert_allclose(moments.var[m], values.var(0), rtol=1e-3)
        np.testing.assert_array_equal(moments.counts[m], len(values))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_masked_nan_leaks_neither_into_values_nor_into_gradients(bad):
    layer, variables, x, modality = make(scale_init=nn.initializers.normal(1.0))
    mask = np.array([1, 1, 0, 1, 1, 1], bool)
    dirty = x.copy()
    dirty[2, 1] = bad

    def loss(params, x):
        y, after = train(layer, {**variables, "params": params}, x, modality, mask)
        y = jnp.where(mask[:, None, None, None], jnp.sin(y), 0)
        return y.sum(), after["batch_stats"]

    grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    clean, polluted = grad(variables["params"], x), grad(variables["params"], dirty)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), clean, polluted)
    y, _ = train(layer, variables, dirty, modality, mask)
    assert np.isnan(y[2, 1]).all()
    assert np.isfinite(y[2, 0]).all()


@pytest.mark.parametrize("wrong", [-1, 2, 2**31 - 1, 2**32])
@pytest.mark.parametrize("content", [1.0, np.nan])
def test_wrong_modality_is_nan_and_touches_nothing_else(wrong, content):
    layer, variables, x, modality = make()
    modality = modality.astype(np.int64)
    modality[3], x[3] = wrong, content
    keep = np.arange(6) != 3
    y, after = train(layer, variables, x, modality)
    expected, alone = train(layer, variables, x[keep], modality[keep])
    assert np.isnan(y[3]).all()
    np.testing.assert_allclose(y[keep], expected, atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), after, alone)
    assert np.isnan(layer.apply(variables, x, modality, True)[3]).all()


def test_nan_of_one_modality_stays_in_it():
    layer, variables, x, modality = make()
    x[0] = np.nan
    y, after = train(layer, variables, x, modality)
    assert np.isfinite(y[modality == 1]).all()
    assert np.isfinite(after["batch_stats"]["mean"][1]).all()
    assert np.isnan(after["batch_stats"]["mean"][0]).all()


@pytest.mark.parametrize("shape", [(8, 16, 8, 3), (64, 3)], ids=str)
def test_variance_is_right_where_the_mean_is_ten_thousand_deviations(shape):
    modality = np.arange(shape[0]) % 2
    x = np.random.default_rng(0).normal(1e4, 1.0, shape).astype(np.float32)
    x[modality == 1] *= -2
    moments = modality_moments(jnp.asarray(x), jnp.asarray(modality))
    expected = reference(x, modality)[2]
    np.testing.assert_allclose(moments.var, expected, rtol=1e-3)
    y, _ = train(*make(shape, modality)[:2], x, modality)
    np.testing.assert_allclose(y, reference(x, modality)[0], atol=5e-3)


def test_single_pixel_of_a_modality_normalises_to_the_bias():
    layer, variables, _, _ = make((2, 1, 1, 3), (0, 1))
    x = np.random.default_rng(0).normal(1e4, 1.0, (2, 1, 1, 3)).astype(np.float32)

    def loss(x):
        return train(layer, variables, x, np.array([0, 1]))[0].sum()

    np.testing.assert_array_equal(loss(x), 0.0)
    assert np.isfinite(jax.grad(loss)(x)).all()


def test_bfloat16_accumulates_in_float32_and_keeps_float32_statistics():
    layer, variables, x, modality = make((8, 32, 32, 3), np.arange(8) % 2)
    x = jnp.asarray(x, jnp.bfloat16)
    y, after = train(layer.copy(dtype=jnp.bfloat16), variables, x, modality)
    assert y.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves(after)} == {np.dtype(np.float32)}
    moments = modality_moments(x, modality)
    _, means, variances = reference(np.asarray(x, np.float32), modality)
    np.testing.assert_allclose(moments.mean, means, rtol=1e-5)
    np.testing.assert_allclose(moments.var, variances, rtol=1e-5)
    assert train(layer, variables, x, modality)[0].dtype == jnp.float32  # as Flax


def objective(apply):
    """A loss whose gradient reaches every output differently."""
    return lambda params, x: jnp.sum(jnp.sin(apply(params, x) * 1.3 + 0.2))


def test_one_modality_is_flax_batch_norm_in_value_and_gradient():
    attributes = dict(scale_init=nn.initializers.normal(1.0), momentum=0.9)
    layer, variables, x, _ = make(num_modalities=1, **attributes)
    modality = np.zeros(6, np.int32)
    flax_layer = nn.BatchNorm(use_fast_variance=False, **attributes)
    flatten = partial(jax.tree.map, lambda a: a.reshape(3))

    def ours(params, x):
        return train(layer, {**variables, "params": params}, x, modality)[0]

    def theirs(params, x):
        tree = {"params": params, "batch_stats": flatten(variables["batch_stats"])}
        return flax_layer.apply(tree, x, False, mutable=["batch_stats"])[0]

    params = variables["params"]
    np.testing.assert_allclose(ours(params, x), theirs(params, x), atol=1e-5)
    gradients = [
        jax.grad(objective(f), argnums=(0, 1))(params, x) for f in (ours, theirs)
    ]
    jax.tree.map(partial(np.testing.assert_allclose, atol=2e-5), *gradients)
    _, after = train(layer, variables, x, modality)
    _, expected = flax_layer.apply(
        {**variables, "batch_stats": flatten(variables["batch_stats"])},
        x,
        False,
        mutable=["batch_stats"],
    )
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5),
        flatten(after["batch_stats"]),
        expected["batch_stats"],
    )


@pytest.mark.parametrize("share_affine", [True, False])
def test_gradients_equal_finite_differences(share_affine):
    layer, variables, x, modality = make(
        (4, 2, 3), (0, 1, 1, 0), share_affine=share_affine
    )

    def apply(params, x):
        return train(layer, {**variables, "params": params}, x, modality)[0]

    check_grads(
        objective(apply), (variables["params"], x), order=1, atol=2e-2, rtol=2e-2
    )


def test_gradient_of_gradient_is_finite():
    layer, variables, x, modality = make((4, 2, 3), (0, 1, 1, 0))

    def loss(x):
        return jnp.sum(train(layer, variables, x, modality)[0] ** 3)

    second = jax.grad(lambda x: jnp.sum(jax.grad(loss)(x) ** 2))(x)
    assert np.isfinite(second).all()
    assert np.abs(second).max() > 0


UNEQUAL = np.array([0] * 4 + [0, 0, 1, 1] + [1] * 8, np.int32)  # most shards lack one


def sharded_setting():
    layer, variables, x, modality = make((16, 3, 2, 4), UNEQUAL)
    weights = np.random.default_rng(9).normal(size=x.shape).astype(np.float32)

    def step(layer, params, x, modality, weights):
        """Summed loss of a shard; running statistics; for value_and_grad."""
        y, after = train(layer, {**variables, "params": params}, x, modality)
        return jnp.sum(y * weights), (y, after["batch_stats"])

    grad = jax.value_and_grad(step, argnums=(1, 2), has_aux=True)
    data = variables["params"], x, modality, weights
    return layer, grad, data, grad(layer, *data)


def assert_same(actual, expected):
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), actual, expected)


def test_jit_over_eight_devices_equals_one_device():
    layer, grad, (params, *batch), expected = sharded_setting()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    batch = [jax.device_put(b, NamedSharding(mesh, P("data"))) for b in batch]
    assert_same(jax.jit(grad, static_argnums=0)(layer, params, *batch), expected)


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_over_eight_devices_equals_one_device(check_vma):
    layer, grad, (params, *batch), expected = sharded_setting()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    layer = layer.copy(axis_name="data")

    def shard(params, *batch):
        (loss, aux), (by_params, by_x) = grad(layer, params, *batch)
        if not check_vma:  # otherwise gradients of replicated arguments are summed
            by_params = jax.lax.psum(by_params, "data")
        return (jax.lax.psum(loss, "data"), aux), (by_params, by_x)

    specs = ((P(), (P("data"), P())), (P(), P("data")))
    run = jax.shard_map(
        shard,
        mesh=mesh,
        in_specs=(P(), P("data"), P("data"), P("data")),
        out_specs=specs,
        check_vma=check_vma,
    )
    assert_same(jax.jit(run)(params, *batch), expected)


def test_pmap_over_eight_devices_equals_one_device():
    layer, grad, (params, *batch), expected = sharded_setting()
    layer = layer.copy(axis_name="data")

    def shard(params, *batch):
        (loss, (y, stats)), (by_params, by_x) = grad(layer, params, *batch)
        loss, by_params = jax.lax.psum((loss, by_params), "data")
        return (loss, by_params, stats), (y, by_x)

    batch = [b.reshape(8, 2, *b.shape[1:]) for b in batch]
    run = jax.pmap(shard, "data", in_axes=(None, 0, 0, 0), out_axes=(None, 0))
    (loss, by_params, stats), sharded = run(params, *batch)
    y, by_x = (a.reshape(16, *a.shape[2:]) for a in sharded)
    assert_same(((loss, (y, stats)), (by_params, by_x)), expected)


@pytest.mark.parametrize(
    ("x", "modality", "arguments", "message"),
    [
        ((4, 3), np.zeros(3, int), {}, "one integer per sample"),
        ((4, 3), np.zeros(4, float), {}, "one integer per sample"),
        ((4, 3), np.zeros(4, int), {"axis": 0}, "axis other than 0"),
        ((4, 3), np.zeros(4, int), {"axis": 2}, "axis other than 0"),
        ((4, 3), np.zeros(4, int), {"mask": np.ones(3, bool)}, r"expected bool\[4\]"),
        ((4, 3), np.zeros(4, int), {"mask": np.ones(4)}, r"expected bool\[4\]"),
    ],
)
def test_misuse_is_refused_in_one_sentence(x, modality, arguments, message):
    with pytest.raises(ValueError, match=message):
        modality_moments(jnp.ones(x), modality, **arguments)


def test_an_empty_batch_changes_nothing():
    layer, variables, _, _ = make()
    y, after = train(layer, variables, np.zeros((0, 5, 4, 3)), np.zeros(0, np.int32))
    assert y.shape == (0, 5, 4, 3)
    jax.tree.map(np.testing.assert_array_equal, after, variables)
