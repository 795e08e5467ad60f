"""The NNX layer inside the context, and `replace_batch_norm`."""

import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.errors import TraceContextError
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mbn_jax.context import by_modality
from mbn_jax.nnx import ModalityBatchNorm, replace_batch_norm

from ..norm.layers import random_input
from ..norm.reference import assert_close, reference
from .nnx_networks import call, layers_of, randomized, values

MODALITY = np.array([0, 1, 1, 0], np.int32)
OTHER = np.array([1, 1, 0, 1], np.int32)
X = random_input((4, 2, 3))


def batch_norm(features=3, **arguments):
    return randomized(nnx.BatchNorm(features, **arguments, rngs=nnx.Rngs(0)))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(3, 3, rngs=rngs)
        self.bn = nnx.BatchNorm(3, momentum=0.5, rngs=rngs)

    def __call__(self, x):
        return jnp.sin(self.bn(self.dense(x))) + x


def net():
    """A replaced network whose modalities have statistics of their own."""
    model = randomized(Net(nnx.Rngs(0)))
    replace_batch_norm(model)
    model.bn.mean[1] += 0.5
    return model


# The layer inside the context.


def test_the_layer_takes_the_modality_of_the_context():
    told, untold = (ModalityBatchNorm(3, rngs=nnx.Rngs(0)) for _ in range(2))
    expected = told(X, MODALITY)
    with by_modality(MODALITY):
        np.testing.assert_array_equal(untold(X), expected)
    np.testing.assert_array_equal(untold.mean[...], told.mean[...])


def test_a_modality_that_is_passed_comes_before_that_of_the_context():
    layer = ModalityBatchNorm(3, rngs=nnx.Rngs(0))
    with by_modality(OTHER):
        y = layer(X, MODALITY)
    np.testing.assert_array_equal(y, layer(X, MODALITY))


def test_the_inner_of_two_contexts_holds():
    model = net()
    model.eval()
    with by_modality(OTHER):
        inner = call(model, X, MODALITY)
        outer = model(X)
    np.testing.assert_array_equal(inner, call(model, X, MODALITY))
    np.testing.assert_array_equal(outer, call(model, X, OTHER))


@pytest.mark.parametrize("make", [net, lambda: ModalityBatchNorm(3, rngs=nnx.Rngs(0))])
def test_without_a_modality_the_layer_says_how_to_give_one(make):
    with pytest.raises(
        ValueError, match=r"pass it to the layer, or call .* `with mbn_"
    ):
        make()(X)


def test_rows_that_the_context_does_not_know_are_an_error():
    with pytest.raises(ValueError, match=r"\[4, 2, 3\].*\[3\].*jnp.repeat.*`at`"):
        call(net(), X, MODALITY[:3])


# What is replaced.


class Holder(nnx.Module):
    """Every way to hold a layer; `again` is shared with a list."""

    def __init__(self, rngs):
        norm = functools.partial(nnx.BatchNorm, 3, rngs=rngs)
        self.attribute = norm()
        self.list = nnx.List([norm(), norm()])
        self.dict = nnx.Dict(a=norm())
        self.sequence = nnx.Sequential(norm(), jax.nn.relu, nnx.Sequential(norm()))
        self.tuple = nnx.data((norm(), 1))
        self.plain_list = nnx.data([{"b": norm()}])
        self.partial = nnx.data(jax.tree_util.Partial(nnx.BatchNorm.set_view, norm()))
        self.again = self.list[1]
        self.itself = nnx.data([self])


NUMBER = 9


def test_every_batch_norm_is_replaced_once_wherever_it_is_held():
    model = Holder(nnx.Rngs(0))
    before = layers_of(model, nnx.BatchNorm)
    replace_batch_norm(model)
    after = layers_of(model, ModalityBatchNorm)
    assert len(after) == len(before) == NUMBER
    assert not layers_of(model, nnx.BatchNorm)
    for path, layer in after.items():
        assert layer is before[path]
        assert layer.mean.shape == (2, 3)
    assert model.again is model.list[1]


def test_at_is_asked_once_for_every_layer_and_chooses():
    asked = []

    def at(path):
        asked.append(path)
        return path.startswith("list/") or path == "again"

    model = Holder(nnx.Rngs(0))
    replace_batch_norm(model, at=at)
    assert sorted(asked) == sorted(layers_of(Holder(nnx.Rngs(0)), nnx.BatchNorm))
    assert len(asked) == len(set(asked)) == NUMBER
    chosen = layers_of(model, ModalityBatchNorm)
    assert chosen.keys() == {"again", "list/0"}
    assert type(model.attribute) is nnx.BatchNorm
    y = model.attribute(X)  # outside the context
    assert y.shape == X.shape


def test_a_model_that_is_itself_a_batch_norm_is_replaced():
    model, asked = batch_norm(), []
    replace_batch_norm(model, at=lambda path: not asked.append(path))
    assert isinstance(model, ModalityBatchNorm)
    assert asked == [""]


def test_a_subclass_that_only_chooses_arguments_is_replaced():
    class Slow(nnx.BatchNorm):
        def __init__(self, features, rngs):
            super().__init__(features, momentum=0.999, rngs=rngs)

    model = nnx.Sequential(Slow(3, nnx.Rngs(0)))
    replace_batch_norm(model)
    assert isinstance(model.layers[0], ModalityBatchNorm)
    assert model.layers[0].momentum == 0.999


def test_attributes_stay():
    chosen = dict(
        use_running_average=None,
        axis=1,
        momentum=0.7,
        epsilon=0.1,
        dtype=jnp.bfloat16,
        param_dtype=jnp.float16,
        axis_name="i",
        axis_index_groups=((0, 1),),
        use_bias=False,
    )
    model = batch_norm(**chosen)
    replace_batch_norm(model, 3, pooled_weights=[1, 1, 2], unknown="pooled")
    for name, value in chosen.items():
        assert getattr(model, name) == value, name
    assert model.bias is None
    assert (model.num_modalities, model.num_features) == (3, 3)
    assert (model.unknown, model.pooled_weights) == ("pooled", (0.25, 0.25, 0.5))


class Statistic(nnx.BatchStat):
    pass


@pytest.mark.parametrize("share_affine", [True, False])
def test_variables_keep_type_dtype_and_metadata(share_affine):
    model = batch_norm(param_dtype=jnp.bfloat16, scale_metadata={"note": "kept"})
    mean = np.asarray(model.mean[...])
    model.mean = Statistic(model.mean[...], note="also")
    mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    model.mean.set_metadata(out_sharding=("model",))
    model.var.set_metadata(out_sharding=P("model"))
    model.scale.set_metadata(out_sharding=NamedSharding(mesh, P("model")))
    scale, state = model.scale, nnx.state(model, nnx.Param)
    replace_batch_norm(model, share_affine=share_affine)

    np.testing.assert_array_equal(model.mean[...], np.stack([mean] * 2))
    assert type(model.mean) is Statistic
    assert (model.mean.note, model.scale.note) == ("also", "kept")
    assert model.mean.get_metadata("out_sharding") == (None, "model")
    assert model.var.get_metadata("out_sharding") == P(None, "model")
    assert model.scale.dtype == jnp.bfloat16
    sharding = model.scale.get_metadata("out_sharding")
    if share_affine:
        assert model.scale is scale
        assert sharding == NamedSharding(mesh, P("model"))
        assert jax.tree.structure(nnx.state(model, nnx.Param)) == jax.tree.structure(
            state
        )
    else:
        assert model.scale.shape == (2, 3)
        assert sharding == NamedSharding(mesh, P(None, "model"))


def test_a_variable_that_layers_share_stays_shared():
    model = nnx.List([batch_norm(), batch_norm()])
    model[1].scale = model[0].scale
    replace_batch_norm(model, share_affine=False)
    assert model[0].scale is model[1].scale
    assert model[0].scale.shape == (2, 3)
    assert model[0].bias is not model[1].bias


def test_a_model_is_replaced_where_only_its_shapes_exist():
    def make():
        model = Net(nnx.Rngs(0))
        replace_batch_norm(model, 3)
        return model

    assert nnx.eval_shape(make).bn.mean.shape == (3, 3)


# What cannot be replaced.


class OwnCall(nnx.BatchNorm):
    def __call__(self, x, *args, **kwargs):
        return 2 * super().__call__(x, *args, **kwargs)


class OwnProperty(nnx.BatchNorm):
    @property
    def std(self):
        return jnp.sqrt(self.var[...])


def mis_stacked():
    layer = batch_norm()
    layer.mean = nnx.BatchStat(jnp.ones((3, 5)))
    return layer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OwnCall(3, rngs=nnx.Rngs(0)), "OwnCall with a __call__ of its own"),
        (lambda: OwnProperty(3, rngs=nnx.Rngs(0)), "OwnProperty with a std of its"),
        (lambda: batch_norm(promote_dtype=lambda a, dtype: a), "promote_dtype of its"),
        (lambda: batch_norm(axis=(-1,)), r"axis=\(-1,\), not one axis"),
        (lambda: batch_norm(axis=0), "axis=0, not one axis other than that of"),
        (mis_stacked, r"mean of shape \[3, 5\], not \[3\] or a stack"),
    ],
)
def test_a_layer_that_cannot_be_replaced_is_named_and_nothing_is_replaced(
    make, message
):
    model = nnx.List([batch_norm(), nnx.Sequential(make())])
    before = nnx.graphdef(model)
    with pytest.raises(ValueError, match=f"layer 1/layers/0 .*{message}.*leave it out"):
        replace_batch_norm(model)
    assert nnx.graphdef(model) == before
    replace_batch_norm(model, at=lambda path: path != "1/layers/0")
    assert layers_of(model, ModalityBatchNorm).keys() == {"0"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(at=lambda path: False), "at chooses none of its layers bn"),
        (dict(num_modalities=0), "num_modalities is 0, expected an integer from 1"),
        (dict(num_modalities=2.0), "num_modalities is 2.0, expected an integer"),
        (dict(unknown="mean"), "unknown is 'mean', expected"),
        (dict(pooled_weights=[1.0]), "expected 2 non-negative numbers"),
    ],
)
def test_arguments_that_replace_nothing_are_refused(arguments, message):
    model = Net(nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        replace_batch_norm(model, **arguments)
    assert type(model.bn) is nnx.BatchNorm


def test_a_model_of_another_trace_stays_as_it_is():
    model = nnx.List([batch_norm(), batch_norm()])
    before = nnx.graphdef(model)
    with pytest.raises(TraceContextError):
        jax.eval_shape(lambda: replace_batch_norm(model))
    assert nnx.graphdef(model) == before


@pytest.mark.parametrize("make", [net, lambda: nnx.Linear(2, 2, rngs=nnx.Rngs(0))])
def test_a_model_without_batch_norm_is_refused(make):
    with pytest.raises(
        ValueError, match=r"no nnx.BatchNorm to replace in the .*: it has none"
    ):
        replace_batch_norm(make())


# A replaced layer is called as before. With one modality it is `nnx.BatchNorm`.


def one_modality(layer, x, *args, **kwargs):
    """Output and statistics of a layer, and of its replacement by one modality."""
    plain = nnx.clone(layer)
    replace_batch_norm(layer, 1)
    with by_modality(np.zeros(len(x), np.int32)):
        y = layer(x, *args, **kwargs)
    expected = plain(x, *args, **kwargs)
    assert y.dtype == expected.dtype
    stats = [(layer.mean[0], plain.mean[...]), (layer.var[0], plain.var[...])]
    return [(y, expected), *stats]


@pytest.mark.parametrize("args", [(), (True,), (False,)], ids=str)
@pytest.mark.parametrize("axis", [-1, 1])
def test_a_replaced_layer_is_called_as_before(args, axis):
    layer = batch_norm(features=X.shape[axis], use_fast_variance=False, axis=axis)
    for actual, expected in one_modality(layer, X, *args):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "shape", [(), (4, 1), (4, 3), (1, 4, 1), (5, 4, 4, 3)], ids=str
)
def test_a_mask_means_what_it_means_to_batch_norm(shape):
    x = random_input((5, 4, 4, 3))
    mask = np.asarray(np.random.default_rng(0).random(shape) < 0.7)
    layer = batch_norm(use_fast_variance=False)
    for actual, expected in one_modality(layer, x, mask=mask):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("x_dtype", [jnp.bfloat16, jnp.float32, jnp.int32])
@pytest.mark.parametrize("param_dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_the_result_has_the_type_that_it_had(x_dtype, param_dtype, dtype):
    x = jnp.asarray(X).astype(x_dtype)
    layer = batch_norm(dtype=dtype, param_dtype=param_dtype)
    (y, expected), *_ = one_modality(layer, x, True)
    np.testing.assert_allclose(
        y.astype(jnp.float32), expected.astype(jnp.float32), rtol=0.05, atol=0.05
    )


def test_a_sample_of_unknown_modality_is_normalized_by_the_mixture():
    layer = batch_norm()
    replace_batch_norm(layer, unknown="pooled", pooled_weights=(0.25, 0.75))
    layer.mean[1] += 2.0
    layer.eval()
    y = call(layer, X, np.full(4, -1))
    mean, var = np.asarray(layer.mean[...]), np.asarray(layer.var[...])
    w = np.array([[0.25], [0.75]])
    pooled = (w * mean).sum(0)
    pooled_var = (w * (var + (mean - pooled) ** 2)).sum(0)
    expected = (X - pooled) / np.sqrt(pooled_var + layer.epsilon)
    expected = expected * np.asarray(layer.scale[...]) + np.asarray(layer.bias[...])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


# Modes and transformations of NNX.


def test_modes_and_views_switch_the_statistics():
    model = net()
    before = values(model, nnx.BatchStat)
    model.eval()
    running = call(model, X, MODALITY)
    view = nnx.view(model, use_running_average=False)
    batch = call(view, X, MODALITY)
    assert np.abs(running - batch).max() > 0.1
    changed = values(model, nnx.BatchStat)  # the view shares the variables
    assert all(np.any(changed[path] != before[path]) for path in before)
    model.train()
    np.testing.assert_allclose(call(model, X, MODALITY), batch, rtol=1e-6)
    model.eval()
    assert view.bn.use_running_average is False


def test_a_compiled_function_takes_the_modality_as_argument():
    model, other = net(), net()
    compiled = nnx.jit(call)
    for modality in (MODALITY, OTHER, MODALITY):
        y = compiled(model, X, modality)
        np.testing.assert_allclose(y, call(other, X, modality), rtol=1e-5, atol=1e-6)
    assert_close(values(model, nnx.BatchStat), values(other, nnx.BatchStat), atol=1e-5)


@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray])
def test_a_context_around_a_compiled_function_is_seen_every_time(as_array):
    model = net()
    model.eval()
    compiled = nnx.jit(lambda model, x: model(x))
    for modality in map(as_array, (MODALITY, OTHER, MODALITY)):
        with by_modality(modality):
            y = compiled(model, X)
        np.testing.assert_allclose(y, call(model, X, modality), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="has no modality"):
        compiled(model, X)


def loss_and_gradients(loss):
    """By `nnx.value_and_grad`, and by `nnx.grad`."""
    return lambda model: (nnx.value_and_grad(loss)(model)[1], nnx.grad(loss)(model))


def test_gradients_are_those_of_the_explicit_layer():
    told, untold = net(), net()
    weights = np.cos(np.arange(X.size)).reshape(X.shape).astype(X.dtype)

    def explicit(model):
        y = model.dense(X)
        y = ModalityBatchNorm.__call__(model.bn, y, MODALITY)
        return jnp.sum((jnp.sin(y) + X) * weights)

    def implicit(model):
        return jnp.sum(call(model, X, MODALITY) * weights)

    expected = nnx.jit(loss_and_gradients(explicit))(told)
    actual = nnx.jit(loss_and_gradients(implicit))(untold)
    assert jax.tree.leaves(actual)
    assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    assert_close(values(untold, nnx.BatchStat), values(told, nnx.BatchStat), atol=1e-6)


def test_rematerialization_changes_nothing():
    plain, remat = net(), net()

    def gradient(function):
        def loss(model):
            with by_modality(MODALITY):
                return jnp.sum(jnp.cos(function(model, X)))

        return nnx.jit(nnx.grad(loss))

    forward = Net.__call__
    expected = gradient(forward)(plain)
    actual = gradient(nnx.remat(forward))(remat)
    assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    assert_close(values(remat, nnx.BatchStat), values(plain, nnx.BatchStat), atol=1e-6)


COPIES = {
    "split and merge": lambda model: nnx.merge(*nnx.split(model)),
    "clone": nnx.clone,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("copy_of", COPIES.values(), ids=COPIES)
def test_copies_of_a_replaced_model_are_by_modality(copy_of):
    model = net()
    model.eval()
    other = copy_of(model)
    assert isinstance(other.bn, ModalityBatchNorm)
    np.testing.assert_array_equal(call(other, X, MODALITY), call(model, X, MODALITY))


@nnx.vmap
def stack_of_nets(rngs):
    return Net(rngs)


def replaced_stack(number, **arguments):
    """Networks stacked along axis 0, replaced, each with statistics of its own."""
    stack = randomized(stack_of_nets(nnx.Rngs(0).split(number)))
    replace_batch_norm(stack, **arguments)
    stack.bn.mean[...] += random_input((number, 2, 3))
    return stack


def unstacked(stack, number):
    definition, state = nnx.split(nnx.clone(stack))
    return [
        nnx.merge(definition, jax.tree.map(lambda a, i=i: a[i], state))
        for i in range(number)
    ]


@pytest.mark.parametrize("share_affine", [True, False])
def test_replaced_layers_are_scanned(share_affine):
    stack = replaced_stack(3, share_affine=share_affine)
    assert stack.bn.mean.shape == (3, 2, 3)
    assert stack.bn.scale.shape == ((3, 3) if share_affine else (3, 2, 3))
    models = unstacked(stack, 3)

    @nnx.jit
    def scanned(stack, x, modality):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def forward(model, x):
            return nnx.remat(Net.__call__)(model, x)

        with by_modality(modality):
            return forward(stack, x)

    y, expected = scanned(stack, X, MODALITY), X
    for model in models:
        expected = call(model, expected, MODALITY)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    for i, model in enumerate(models):
        np.testing.assert_allclose(stack.bn.mean[i], model.bn.mean[...], 1e-4, 1e-5)


def test_a_stack_keeps_the_sharding_of_its_first_axis():
    stack = stack_of_nets(nnx.Rngs(0).split(3))
    stack.bn.mean.set_metadata(out_sharding=("layers",))
    replace_batch_norm(stack)
    sharding = stack.bn.mean.get_metadata("out_sharding")
    assert sharding == ("layers", None, None)


def test_replaced_models_are_mapped_over_with_one_modality_or_one_each():
    stack = replaced_stack(2)
    models = unstacked(stack, 2)
    stack.eval()
    each = np.stack([MODALITY, OTHER])
    for axis, modality in ((0, each), (None, MODALITY)):
        ys = nnx.jit(nnx.vmap(call, in_axes=(0, None, axis)))(stack, X, modality)
        for i, model in enumerate(models):
            model.eval()
            expected = call(model, X, modality[i] if axis == 0 else modality)
            np.testing.assert_allclose(ys[i], expected, rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_called_twice_moves_its_statistics_twice():
    layer = batch_norm(momentum=0.5)
    replace_batch_norm(layer)
    variables = {
        "params": {"scale": layer.scale[...], "bias": layer.bias[...]},
        "batch_stats": {
            "mean": np.asarray(layer.mean[...]),
            "var": np.asarray(layer.var[...]),
        },
    }
    x = X
    for _ in range(2):
        expected = reference(x, MODALITY, variables, momentum=0.5)
        x = expected.y
        variables["batch_stats"] = expected.batch_stats
    with by_modality(MODALITY):
        y = layer(layer(X))
    np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        layer.mean[...], expected.batch_stats["mean"], 1e-4, 1e-5
    )
