"""Statistics are re-estimated as if all images had been one batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from mbn_jax import ModalityBatchNorm, convert


def moments(x, modality, m):
    """The definition, over all samples at once, in float64."""
    values = np.concatenate(x).astype(np.float64)[np.concatenate(modality) == m]
    values = values.reshape(-1, values.shape[-1])
    return values.mean(0), values.var(0)


def batches_of(sizes, seed=0, offset=0.0, scale=1.0):
    """Batches of unequal sizes and shares of the modalities, which differ."""
    rng = np.random.default_rng(seed)
    for i, size in enumerate(sizes):
        modality = (rng.random(size) < (0.2, 0.7, 0.5)[i % 3]).astype(np.int32)
        x = rng.normal(size=(size, 3, 2, 4)) * (1 + modality[:, None, None, None]) + i
        yield (offset + scale * x).astype(np.float32), modality


def variables_of(model, *batch, **arguments):
    """With statistics that are neither 0 nor 1."""
    init = jax.jit(functools.partial(model.init, **arguments))
    variables = init(jax.random.key(0), *batch)
    return jax.tree.map(lambda leaf: leaf + 0.5, variables)


def layer_and_variables(**attributes):
    layer = ModalityBatchNorm(**attributes)
    variables = variables_of(layer, *next(batches_of([2])), use_running_average=True)
    return layer, functools.partial(layer.apply, use_running_average=False), variables


@pytest.mark.parametrize("offset", [0.0, 10_000.0])
def test_unequal_batches_give_the_moments_of_all_images_at_once(offset):
    _, apply, variables = layer_and_variables()
    batches = list(batches_of([5, 1, 8, 2], offset=offset))
    result = convert.estimate_statistics(apply, variables, iter(batches))
    assert result["params"].keys() == variables["params"].keys()
    statistics = result["batch_stats"]
    for m in (0, 1):
        mean, var = moments(*zip(*batches, strict=True), m)
        np.testing.assert_allclose(statistics["mean"][m], mean, 1e-6, 1e-6)
        np.testing.assert_allclose(statistics["var"][m], var, 2e-5)
    assert {leaf.dtype for leaf in statistics.values()} == {np.dtype(np.float32)}


def test_the_order_of_the_batches_does_not_matter():
    _, apply, variables = layer_and_variables()
    batches = list(batches_of([4, 1, 4]))
    one, other = (
        convert.estimate_statistics(apply, variables, order)["batch_stats"]
        for order in (batches, batches[::-1])
    )
    np.testing.assert_allclose(other["mean"], one["mean"], 1e-6)
    np.testing.assert_allclose(other["var"], one["var"], 1e-6)


def test_a_modality_that_never_occurs_keeps_its_statistics():
    _, apply, variables = layer_and_variables()
    batches = [(x, np.zeros_like(modality)) for x, modality in batches_of([3, 2])]
    after = convert.estimate_statistics(apply, variables, batches)["batch_stats"]
    for name, before in variables["batch_stats"].items():
        np.testing.assert_array_equal(after[name][1], before[1])
        assert np.all(after[name][0] != before[0])


def test_a_network_adapts_to_a_camera_of_another_gain_and_offset():
    layer, apply, variables = layer_and_variables()
    batches = list(batches_of([4, 4]))
    old = convert.estimate_statistics(apply, variables, batches)
    other_camera = [(3 * x + 1, modality) for x, modality in batches]
    new = convert.estimate_statistics(apply, variables, other_camera)
    for (x, modality), (seen, _) in zip(batches, other_camera, strict=True):
        expected = layer.apply(old, x, modality, True)
        actual = layer.apply(new, seen, modality, True)
        np.testing.assert_allclose(actual, expected, 1e-4, 1e-4)


def test_masked_samples_do_not_count():
    _, apply, variables = layer_and_variables()
    x, modality = next(batches_of([6]))
    mask = np.array([1, 1, 0, 1, 0, 1], bool)
    bad, outside = x.copy(), modality.copy()
    bad[~mask], outside[~mask] = np.nan, -1

    def masked(v, x, modality, mask, mutable):
        return apply(v, x, modality, mask=mask, mutable=mutable)

    per_position = np.broadcast_to(mask[:, None, None, None], (6, 3, 1, 1))
    expected = convert.estimate_statistics(
        apply, variables, [(x[mask], modality[mask])]
    )
    for m in (mask, per_position):
        actual = convert.estimate_statistics(masked, variables, [(bad, outside, m)])
        for name, leaf in expected["batch_stats"].items():
            np.testing.assert_allclose(actual["batch_stats"][name], leaf, 1e-5, 1e-6)


class Repeated(nn.Module):
    """One layer called twice, alone or, by `lift`, as two layers in a row."""

    lift: str = ""

    @nn.compact
    def __call__(self, x, modality, train):
        if self.lift == "scan":
            stacked = nn.scan(
                lambda norm, x, _: (norm(x, modality, not train), None),
                variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True},
                length=2,
            )
            return stacked(ModalityBatchNorm(name="norm"), x, None)[0]
        cls = nn.remat(ModalityBatchNorm, static_argnums=(3,)) if self.lift else None
        norm = (cls or ModalityBatchNorm)(name="norm")
        y = norm(x, modality, not train)
        return y if self.lift else norm(2 * x + 1, modality, not train)


def repeated(lift):
    model, (x, modality) = Repeated(lift), next(batches_of([5]))
    variables = variables_of(model, x, modality, train=False)
    apply = functools.partial(model.apply, train=True)
    result = convert.estimate_statistics(apply, variables, [(x, modality)])
    return x, modality, result["batch_stats"]["norm"]


def test_every_call_of_a_shared_layer_counts():
    x, modality, statistics = repeated("")
    for m in (0, 1):
        mean, var = moments([x, 2 * x + 1], [modality, modality], m)
        np.testing.assert_allclose(statistics["mean"][m], mean, 1e-5, 1e-6)
        np.testing.assert_allclose(statistics["var"][m], var, 1e-5)


@pytest.mark.parametrize("lift", ["scan", "remat"])
def test_lifted_layers_are_estimated(lift):
    x, modality, statistics = repeated(lift)
    first = jax.tree.map(lambda leaf: leaf.reshape(-1, 2, 4)[0], statistics)
    for m in (0, 1):
        mean, var = moments([x], [modality], m)
        np.testing.assert_allclose(first["mean"][m], mean, 1e-5, 1e-6)
        np.testing.assert_allclose(first["var"][m], var, 1e-5)


def test_a_network_is_compiled_once_for_every_shape():
    _, apply, variables = layer_and_variables()
    traces = []

    def counting(*arguments, **keywords):
        traces.append(1)
        return apply(*arguments, **keywords)

    convert.estimate_statistics(counting, variables, batches_of([4, 4, 4, 3]))
    assert len(traces) == 2


@pytest.mark.parametrize("axis_name", [None, "data"])
def test_batches_on_many_devices_are_estimated_as_on_one(axis_name):
    """The infrared samples are on two of the eight devices."""
    (x, _), modality = next(batches_of([8])), np.arange(8) // 6
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, P("data"))
    layer, apply, variables = layer_and_variables(axis_name=axis_name)
    if axis_name is not None:
        per_device = jax.shard_map(
            lambda *a: layer.apply(*a, False, mutable=["batch_stats"]),
            mesh=mesh,
            in_specs=(P(), P("data"), P("data")),
            out_specs=(P("data"), P()),
        )

        def apply(v, x, modality, mutable):
            return per_device(v, x, modality)

    batches = [jax.device_put((x, modality), rows)] * 2
    statistics = convert.estimate_statistics(apply, variables, batches)["batch_stats"]
    for m in (0, 1):
        mean, var = moments([x], [modality], m)
        np.testing.assert_allclose(statistics["mean"][m], mean, 1e-5, 1e-6)
        np.testing.assert_allclose(statistics["var"][m], var, 1e-5)


class Pair(nn.Module):
    first: bool = True
    second: bool = True

    @nn.compact
    def __call__(self, x, modality, train=True):
        for name, called in (("first", self.first), ("second", self.second)):
            if called:
                norm = ModalityBatchNorm(name=name, momentum=0.0)
                x = nn.relu(norm(x, modality, not train))
        return x


def test_one_batch_leaves_every_layer_with_the_moments_of_that_batch():
    """As training does with momentum 0, which keeps nothing of before."""
    x, modality = next(batches_of([5]))
    variables = variables_of(Pair(), x, modality, train=False)
    step = jax.jit(functools.partial(Pair().apply, mutable=["batch_stats"]))
    _, updates = step(variables, x, modality)
    result = convert.estimate_statistics(Pair().apply, variables, [(x, modality)])
    assert jax.tree.structure(result) == jax.tree.structure(variables)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5),
        result["batch_stats"],
        updates["batch_stats"],
    )


def test_estimation_that_would_go_wrong_is_refused():
    x, modality = next(batches_of([3]))
    both = functools.partial(Pair().apply, train=True)
    variables = variables_of(Pair(), x, modality, train=False)
    good = (x, modality)

    def refused(message, batches=(good,), apply=both, variables=variables):
        with pytest.raises(ValueError, match=message):
            convert.estimate_statistics(apply, variables, batches)

    refused("There are no batches", [])
    refused("Batch 0 is a ndarray, expected a tuple", x)
    refused("Batch 1 is a dict, expected a tuple", [good, {"images": x}])
    names = np.full(len(modality), "visible")
    refused(r"Batch 1 holds <U7\[.*\], expected numbers", [good, (x, names)])
    # JAX would make 0 of it.
    wrapped = np.array(modality, np.int64)
    wrapped[1] = 2**32
    refused("Batch 0 holds the integer 4294967296, which int32", [(x, wrapped)])
    evaluation = functools.partial(Pair().apply, train=False)
    refused("batch_stats/first is in evaluation mode", apply=evaluation)
    refused(
        "batch_stats/second is a normalization that apply did not call",
        apply=Pair(second=False).apply,
    )
    lacking = jax.tree.map(lambda leaf: leaf, variables)
    del lacking["batch_stats"]["second"]
    refused(
        r"batch_stats/second holds nothing, expected .* \[2, 4\]", variables=lacking
    )
    three = jax.tree.map(lambda leaf: jnp.ones((3, 4)), variables["batch_stats"])
    refused(
        r"batch_stats/first/mean has shape \[3, 4\], expected \[2, 4\]",
        variables=variables | {"batch_stats": three},
    )
    refused(
        r"batch_stats/first/mean has shape \[4\], expected \[…, num_modalities, C\]",
        variables=convert.to_batch_norm(variables, 0),
    )
    refused(
        "Batch 1 has 3 samples at batch_stats/first whose modality is outside 0 to 1",
        [good, (x, modality + 2)],
    )
    broken = np.where(np.arange(3)[:, None, None, None] == 1, np.nan, x)
    refused(
        "Batch 1 gives batch_stats/first moments that are not finite",
        [good, (broken, modality)],
    )


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_statistics_are_estimated_under_x64_and_strict_promotion(x64, dtype):
    """With a modality that is a list, too."""
    layer = ModalityBatchNorm()
    images = np.arange(8.0).reshape(4, 2).astype(dtype)
    variables = layer.init(jax.random.key(0), images, np.arange(4) % 2, True)
    apply = functools.partial(layer.apply, use_running_average=False)
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        for modality in ([0, 1, 0, 1], np.array([0, 1, 0, 1], np.uint8)):
            result = convert.estimate_statistics(apply, variables, [(images, modality)])
            mean = result["batch_stats"]["mean"]
            np.testing.assert_array_equal(mean, [[2.0, 3.0], [4.0, 5.0]])


def test_statistics_are_estimated_over_explicit_axes():
    layer = ModalityBatchNorm()
    images = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    modality = np.arange(16) % 2
    variables = layer.init(jax.random.key(0), images, modality, True)
    apply = functools.partial(layer.apply, use_running_average=False)
    on_data = jax.sharding.NamedSharding(jax.make_mesh((8,), ("data",)), jax.P("data"))
    batch = jax.device_put((images, modality), on_data)
    result = convert.estimate_statistics(apply, variables, [batch])["batch_stats"]
    whole = convert.estimate_statistics(apply, variables, [(images, modality)])[
        "batch_stats"
    ]
    for name in ("mean", "var"):
        np.testing.assert_allclose(result[name], whole[name], rtol=1e-5, atol=1e-6)
