"""The layers under JAX's transformations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from .layers import evaluate, make, random_input, random_variables, train
from .reference import assert_close, reference
from .styles import one_device, step

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODALITY = np.array([0, 1, 1, 0], np.int32)
SHAPE = (4, 2, 3)


def setting(kind, **attributes):
    layer = make(kind, share_affine=False, **attributes)
    return layer, random_variables(layer), random_input(SHAPE)


def cubes(layer, variables):
    """A loss of the input alone, with derivatives of every order."""
    return lambda x: jnp.sum(layer.train(variables, x, MODALITY)[0] ** 3)


def test_jit_changes_nothing(kind):
    layer, variables, x = setting(kind)
    eager = layer.train(variables, x, MODALITY)
    assert_close(train(layer, variables, x, MODALITY), eager, rtol=1e-5, atol=1e-6)
    expected = layer.evaluate(variables, x, MODALITY)
    actual = evaluate(layer, variables, x, MODALITY)
    assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_vmap_is_one_batch_after_the_other(kind):
    layer, _, _ = setting(kind)
    variables = [random_variables(layer, seed) for seed in range(3)]
    x = random_input((3, *SHAPE))
    modality = np.stack([MODALITY, 1 - MODALITY, np.ones_like(MODALITY)])
    stacked = jax.tree.map(lambda *tables: np.stack(tables), *variables)
    y, after = jax.jit(jax.vmap(layer.train))(stacked, x, modality)
    for i in range(3):
        expected = reference(x[i], modality[i], variables[i])
        assert_close(y[i], expected.y, atol=1e-5)
        stats = jax.tree.map(lambda a, i=i: a[i], after["batch_stats"])
        assert_close(stats, expected.batch_stats, rtol=1e-5)


def test_vmap_of_the_gradient_is_one_gradient_after_the_other(kind):
    layer, variables, _ = setting(kind)
    x = random_input((3, *SHAPE))
    gradient = jax.grad(cubes(layer, variables))
    each = jax.jit(gradient)
    expected = jnp.stack([each(one) for one in x])
    assert_close(jax.jit(jax.vmap(gradient))(x), expected, rtol=1e-4, atol=1e-5)


def test_vmap_with_an_axis_name_is_one_large_batch(kind):
    layer, variables, _ = setting(kind)
    named = layer.copy(axis_name="shard")
    x = random_input((3, *SHAPE))
    modality = np.stack([MODALITY, np.zeros(4, np.int32), np.ones(4, np.int32)])
    mapped = jax.vmap(named.train, in_axes=(None, 0, 0), axis_name="shard")
    y, after = jax.jit(mapped)(variables, x, modality)
    expected = reference(x.reshape(12, 2, 3), modality.reshape(12), variables)
    assert_close(y.reshape(12, 2, 3), expected.y, atol=1e-5)
    for name, table in expected.batch_stats.items():
        assert_close(after["batch_stats"][name], np.stack([table] * 3), rtol=1e-5)


def test_remat_changes_no_gradient(kind):
    layer, variables, x = setting(kind)
    batch = x, MODALITY, np.cos(x), None

    class Recomputed:
        train = staticmethod(jax.checkpoint(layer.train))

    expected = one_device(layer)(variables, batch)
    actual = jax.jit(lambda v: step(Recomputed, v, batch))(variables)
    assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_scan_over_steps_is_a_loop_over_steps(kind):
    layer, variables, _ = setting(kind, momentum=0.5)
    batches = random_input((3, *SHAPE))

    def one_step(variables, x):
        y, after = layer.train(variables, x, MODALITY)
        return after, y

    after, ys = jax.jit(lambda v, xs: jax.lax.scan(one_step, v, xs))(variables, batches)
    for x, y in zip(batches, ys, strict=True):
        expected = reference(x, MODALITY, variables, momentum=0.5)
        assert_close(y, expected.y, atol=1e-5)
        variables = {**variables, "batch_stats": expected.batch_stats}
    assert_close(after["batch_stats"], expected.batch_stats, rtol=1e-5)


@pytest.mark.parametrize("evaluating", [True, False])
def test_forward_mode_agrees_with_reverse_mode(kind, evaluating):
    layer, variables, x = setting(kind)
    loss = cubes(layer, variables)
    if evaluating:

        def loss(x):
            return jnp.sum(layer.evaluate(variables, x, MODALITY) ** 3)

    direction = random_input(SHAPE, seed=5)

    @jax.jit
    def directional(x):
        value, forward = jax.jvp(loss, (x,), (direction,))
        same_value, linear = jax.linearize(loss, x)
        return (value, forward), (same_value, linear(direction))

    value, gradient = jax.jit(jax.value_and_grad(loss))(x)
    expected = value, np.vdot(gradient, direction)
    for actual in directional(x):
        assert_close(actual, expected, rtol=1e-4)


def hessian_along(loss, x, direction):
    return jax.jvp(jax.grad(loss), (x,), (direction,))[1]


DERIVATIVES = {
    "grad": lambda loss, x, d: jax.grad(loss)(x),
    "jvp": lambda loss, x, d: jax.jvp(loss, (x,), (d,))[1],
    "linearize": lambda loss, x, d: jax.linearize(loss, x)[1](d),
    "jacfwd": lambda loss, x, d: jax.jacfwd(loss)(x),
    "hessian": lambda loss, x, d: jax.hessian(loss)(x),
    "grad of grad": lambda loss, x, d: jax.grad(
        lambda x: jnp.vdot(jax.grad(loss)(x), d)
    )(x),
    "jvp of jvp": lambda loss, x, d: jax.jvp(
        lambda x: jax.jvp(loss, (x,), (d,))[1], (x,), (d,)
    )[1],
    "jvp of grad": hessian_along,
    "grad of jvp": lambda loss, x, d: jax.grad(lambda x: jax.jvp(loss, (x,), (d,))[1])(
        x
    ),
}


@pytest.mark.parametrize(
    ("form", "name"), [*(("linen", name) for name in DERIVATIVES), ("nnx", "hessian")]
)
def test_vmap_of_each_derivative_is_one_after_the_other(form, name):
    """With the statistics of the batch, nothing asked for."""
    layer, variables, _ = setting(form)
    x, directions = random_input((3, *SHAPE)), random_input((3, *SHAPE), seed=5)
    one = partial(DERIVATIVES[name], cubes(layer, variables))
    each = jax.jit(one)
    expected = jnp.stack([each(*pair) for pair in zip(x, directions, strict=True)])
    actual = jax.jit(jax.vmap(one))(x, directions)
    assert_close(actual, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_derivatives_of_forward_and_reverse_mode_agree(kind):
    with jax.enable_x64(True):
        layer, variables, _ = setting(kind)
        x, d = (random_input(SHAPE, s).astype(np.float64) for s in (0, 5))
        of = {
            name: jax.jit(partial(f, cubes(layer, variables)))
            for name, f in DERIVATIVES.items()
        }
        result = {name: np.asarray(f(x, d)) for name, f in of.items()}
        close = partial(assert_close, rtol=1e-8, atol=1e-8)
        close(result["jacfwd"], result["grad"])
        close(result["jvp"], np.vdot(result["grad"], d))
        close(result["linearize"], result["jvp"])
        along = np.tensordot(result["hessian"], d, d.ndim)
        for name in ("grad of grad", "jvp of grad", "grad of jvp"):
            close(result[name], along)
        close(result["jvp of jvp"], np.vdot(along, d))


def test_second_derivatives_are_the_finite_differences_of_gradients(kind):
    """By grad of grad, and by hessian, which is forward over reverse."""
    with jax.enable_x64(True):
        layer = make(kind)
        variables = random_variables(layer, dtype=np.float64)
        x, direction = (random_input(SHAPE, s).astype(np.float64) for s in (0, 5))
        loss = cubes(layer, variables)
        gradient = jax.jit(jax.grad(loss))
        change = gradient(x + 1e-6 * direction) - gradient(x - 1e-6 * direction)
        expected = np.asarray(change) / 2e-6
        assert np.abs(expected).max() > 1e-3

        along = jax.jit(jax.grad(lambda x: jnp.vdot(gradient(x), direction)))
        assert_close(along(x), expected, rtol=1e-5, atol=1e-6)
        hessian = np.asarray(jax.jit(jax.hessian(loss))(x)).reshape(x.size, x.size)
        assert_close(hessian, hessian.T, atol=1e-9)
        assert_close(hessian @ direction.ravel(), expected.ravel(), 1e-5, 1e-6)


def test_gradient_of_gradient_is_finite_where_a_modality_is_absent(kind):
    layer = make(kind)
    variables, x = random_variables(layer), random_input(SHAPE)

    def loss(x):
        return jnp.sum(layer.train(variables, x, np.zeros(4, np.int32))[0] ** 3)

    second = jax.jit(jax.grad(lambda x: jnp.sum(jax.grad(loss)(x) ** 2)))(x)
    assert np.isfinite(second).all()
    assert np.abs(second).max() > 0
