"""The layers inside networks, under the transformations of their own library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import mbn_jax.nnx
from mbn_jax.norm import ModalityBatchNorm

from .layers import gradients, make, random_input, random_variables, train
from .reference import assert_close, reference

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODALITY = np.array([0, 1, 1, 0], np.int32)
X = random_input((4, 2, 3))
DEPTH = 3


class Block(nn.Module):
    """The carry and the output that nn.scan asks for."""

    @nn.compact
    def __call__(self, x, modality):
        return jnp.sin(ModalityBatchNorm(momentum=0.5)(x, modality, False)), None


def in_a_loop(rows):
    """The blocks one after the other by the reference: output, statistics."""
    x, stats = X, []
    for one in rows:
        expected = reference(x, MODALITY, one, momentum=0.5)
        x, stats = np.sin(expected.y), [*stats, expected.batch_stats]
    return x, jax.tree.map(lambda *tables: np.stack(tables), *stats)


def rows_and_stack():
    """Variables of every block, and the same stacked along a first axis."""
    rows = [random_variables(make("linen"), seed) for seed in range(DEPTH)]
    return rows, jax.tree.map(lambda *tables: jnp.stack(tables), *rows)


def test_linen_scan_over_depth_is_one_layer_after_the_other():
    scanned = nn.scan(
        Block,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=DEPTH,
    )()
    rows, stack = rows_and_stack()
    shapes = jax.eval_shape(scanned.init, jax.random.key(0), X, MODALITY)
    (name,) = shapes["params"]
    assert shapes["batch_stats"][name]["mean"].shape == (DEPTH, 2, 3)

    variables = {kind: {name: tables} for kind, tables in stack.items()}
    run = jax.jit(lambda v, x: scanned.apply(v, x, MODALITY, mutable=["batch_stats"]))
    (y, _), after = run(variables, X)
    expected, stats = in_a_loop(rows)
    assert_close(y, expected, atol=1e-4)
    assert_close(after["batch_stats"][name], stats, rtol=1e-4, atol=1e-5)

    def loss(params):
        new = {**variables, "params": params}
        return scanned.apply(new, X, MODALITY, mutable=["batch_stats"])[0][0].sum()

    by_params = jax.jit(jax.grad(loss))(variables["params"])
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(by_params))
    assert np.abs(by_params[name]["scale"]).min() > 0


def test_linen_remat_changes_neither_value_nor_statistics_nor_gradient():
    layer = make("linen")
    variables, weights = random_variables(layer), np.cos(X)
    module = nn.remat(ModalityBatchNorm, static_argnums=(3,))()

    def loss(params, x):
        y, after = module.apply(
            {**variables, "params": params}, x, MODALITY, False, mutable=["batch_stats"]
        )
        return jnp.sum(y * weights), (y, after["batch_stats"])

    by_both, (y, stats) = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(
        variables["params"], X
    )
    expected, after = train(layer, variables, X, MODALITY)
    assert_close((y, stats), (expected, after["batch_stats"]), rtol=1e-5, atol=1e-6)
    plain = gradients(layer, variables, X, MODALITY, weights)
    assert_close(by_both, plain, rtol=1e-5, atol=1e-5)


def test_linen_vmap_makes_separate_layers():
    mapped = nn.vmap(
        Block,
        in_axes=(0, None),
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
    )()
    x = random_input((DEPTH, *X.shape))
    variables = jax.jit(mapped.init)(jax.random.key(0), x, MODALITY)
    run = jax.jit(lambda v, x: mapped.apply(v, x, MODALITY, mutable=["batch_stats"]))
    (y, _), _ = run(variables, x)
    plain = {"batch_stats": {"mean": np.zeros((2, 3)), "var": np.ones((2, 3))}}
    for one, actual in zip(x, y, strict=True):
        assert_close(actual, np.sin(reference(one, MODALITY, plain).y), atol=1e-5)


def module_and_variables(**attributes):
    layer = make("nnx", **attributes)
    variables = random_variables(layer)
    return layer, layer.module(variables), variables


def test_nnx_jit_updates_the_statistics_in_place():
    layer, module, variables = module_and_variables()
    y = nnx.jit(lambda module, x: module(x, MODALITY))(module, X)
    expected = train(layer, variables, X, MODALITY)
    assert_close((y, layer.variables(module)), expected, rtol=1e-5, atol=1e-6)


def test_nnx_grad_gives_the_gradient_and_leaves_no_tracer_behind():
    layer, module, variables = module_and_variables()
    weights = np.cos(X)

    def loss(module, x):
        return jnp.sum(module(x, MODALITY) * weights)

    both = nnx.grad(loss, argnums=(nnx.DiffState(0, nnx.Param), 1))
    by_module, by_x = both(module, X)
    by_params, expected = gradients(layer, variables, X, MODALITY, weights)
    assert_close(by_x, expected, atol=1e-5)
    assert_close(nnx.to_pure_dict(by_module), by_params, atol=1e-5)
    _, after = train(layer, variables, X, MODALITY)
    assert_close(layer.variables(module), after, rtol=1e-5)
    # A second step starts from what the first one left.
    nnx.value_and_grad(loss)(module, X)
    _, after = train(layer, after, X, MODALITY)
    assert_close(layer.variables(module), after, rtol=1e-5)


def test_nnx_eval_train_and_view_choose_the_statistics():
    layer, module, variables = module_and_variables()
    trained, _ = train(layer, variables, X, MODALITY)
    running = layer.evaluate(variables, X, MODALITY)
    module.eval()
    assert_close(module(X, MODALITY), running, atol=1e-6)
    assert_close(layer.variables(module), variables)
    module.train()
    assert_close(module(X, MODALITY), trained, atol=1e-5)

    layer, module, variables = module_and_variables()
    view = nnx.view(module, use_running_average=True)
    assert_close(view(X, MODALITY), running, atol=1e-6)
    assert not module.use_running_average
    # A view shares the variables.
    assert_close(module(X, MODALITY), trained, atol=1e-5)
    assert_close(view.mean[...], module.mean[...])


def test_nnx_remat_changes_no_gradient():
    layer, module, variables = module_and_variables()
    weights = np.cos(X)

    @nnx.remat
    def recomputed(module, x):
        return module(x, MODALITY)

    @nnx.jit
    @nnx.grad
    def gradient(module):
        return jnp.sum(recomputed(module, X) * weights)

    by_params, _ = gradients(layer, variables, X, MODALITY, weights)
    assert_close(nnx.to_pure_dict(gradient(module)), by_params, atol=1e-5)
    _, after = train(layer, variables, X, MODALITY)
    assert_close(layer.variables(module), after, rtol=1e-5)


def test_nnx_scan_over_depth_is_one_layer_after_the_other():
    rows, stack = rows_and_stack()

    @nnx.vmap
    def create(variables):
        return make("nnx", momentum=0.5).module(variables)

    modules = create(stack)

    @nnx.jit
    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def forward(module, x):
        return jnp.sin(module(x, MODALITY))

    y = forward(modules, X)
    expected, stats = in_a_loop(rows)
    assert_close(y, expected, atol=1e-4)
    after = make("nnx").variables(modules)
    assert_close(after["batch_stats"], stats, rtol=1e-4, atol=1e-5)


def test_nnx_layers_can_be_split_merged_and_cloned():
    layer, module, variables = module_and_variables()
    clone = nnx.clone(module)
    module(X, MODALITY)
    assert_close(layer.variables(clone), variables)
    assert isinstance(clone, mbn_jax.nnx.ModalityBatchNorm)
