"""Sums in one pass and their transpose, against NumPy and under every transform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from mbn_jax.norm import ModalityBatchNorm
from mbn_jax.reductions import spread, sums

from .reference import assert_close

RNG = np.random.default_rng(0)
# 40 is summed in pieces of 10, the primes 37 and 41 as they are.
SHAPES = [((2, 40, 3), (1,)), ((40, 5), (0,)), ((3, 37, 4, 2), (1, 2)), ((41, 2), (0,))]


def arrays(shape, number=2):
    return [RNG.normal(size=shape).astype(np.float32) for _ in range(number)]


@pytest.mark.parametrize(("shape", "axes"), SHAPES)
@pytest.mark.parametrize("number", [1, 2, 4])
def test_sums_are_those_of_numpy(shape, axes, number):
    given = arrays(shape, number)
    expected = [a.sum(axes) for a in given]
    assert_close(sums(given, axes), expected, atol=1e-5)
    assert_close(jax.jit(lambda g: sums(g, axes))(given), expected, atol=1e-5)


def test_spread_repeats_along_new_axes():
    first, second = spread(arrays((2, 3)), (1, 3), (4, 5))
    assert first.shape == second.shape == (2, 4, 3, 5)
    np.testing.assert_array_equal(
        first, np.broadcast_to(first[:, :1, :, :1], (2, 4, 3, 5))
    )


def test_no_axes_change_nothing():
    given = arrays((2, 3))
    np.testing.assert_array_equal(sums(given, ()), given)
    np.testing.assert_array_equal(spread(given, (), ()), given)


def test_each_is_the_transpose_of_the_other():
    """⟨sums(x), y⟩ = ⟨x, spread(y)⟩, for what JAX transposes once and twice."""
    x, y = arrays((2, 20, 3)), arrays((2, 3))

    def add_up(x):
        return sums(x, (1,))

    (transposed,) = jax.linear_transpose(add_up, x)(y)
    np.testing.assert_array_equal(transposed, spread(y, (1,), (20,)))

    def transpose(y):
        return jax.linear_transpose(add_up, x)(y)[0]

    (twice,) = jax.linear_transpose(transpose, y)(x)
    assert_close(twice, [a.sum(1) for a in x], atol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_derivatives_of_every_order_equal_finite_differences(order):
    with jax.enable_x64(True):
        x = [a.astype(np.float64) for a in arrays((2, 4, 3))]

        def loss(first, second):
            a, b = sums([first, first * second], (1,))
            a, b = spread([a * b, jnp.sin(b)], (0,), (5,))
            return jnp.sum(a * b)

        check_grads(loss, x, order, atol=1e-4, rtol=1e-4)


def test_an_argument_without_a_derivative_costs_none():
    x = arrays((2, 4, 3))
    program = jax.make_jaxpr(
        jax.grad(lambda a: sum(map(jnp.sum, sums([a, x[1]], (1,)))))
    )
    (eqn,) = [e for e in program(x[0]).eqns if e.primitive.name == "spread"]
    assert len(eqn.invars) == 1


@pytest.mark.parametrize("in_axes", [(0, 0), (0, 2), (1, None)])
def test_vmap_is_one_after_the_other(in_axes):
    def both(first, second):
        return spread(sums([first, second], (1,)), (0,), (2,))

    first, second = arrays((3, 3, 3, 4))
    actual = jax.vmap(both, in_axes)(first, second[0] if in_axes[1] is None else second)
    rows = [
        [np.take(a, i, axis) if axis is not None else second[0] for i in range(3)]
        for a, axis in zip((first, second), in_axes, strict=True)
    ]
    expected = [both(a, b) for a, b in zip(*rows, strict=True)]
    assert_close(
        actual, [np.stack(pair) for pair in zip(*expected, strict=True)], atol=1e-5
    )


def test_outside_jit_nothing_is_compiled_twice(caplog):
    given = arrays((4, 20, 3))
    compiled = []
    for _ in range(2):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            spread(sums(given, (1,)), (1,), (20,))
        compiled.append(sum("Compiling" in r.message for r in caplog.records))
    first, second = compiled
    assert first >= 2
    assert second == 0


def test_with_jit_disabled_the_layer_computes_the_same():
    layer, modality = ModalityBatchNorm(), jnp.array([0, 1, 1, 0])
    x = jnp.asarray(RNG.normal(size=(4, 5, 3)), jnp.float32)
    variables = layer.init(jax.random.key(0), x, modality, True)

    def loss(x):
        y, updates = layer.apply(variables, x, modality, False, mutable=True)
        return (y**3).sum(), updates

    gradient = jax.value_and_grad(loss, has_aux=True)
    expected = jax.jit(gradient)(x)
    with jax.disable_jit():
        assert_close(gradient(x), expected, atol=1e-5)


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("evaluating", [True, False])
def test_the_layer_is_exported_for_batches_of_any_size(number, evaluating):
    layer = ModalityBatchNorm(evaluating, num_modalities=number)
    x, modality = arrays((6, 2, 3), 1)[0], np.arange(6) % number
    variables = layer.init(jax.random.key(0), x, modality)

    def apply(x, modality):
        return layer.apply(variables, x, modality, mutable=["batch_stats"])[0]

    (batch,) = export.symbolic_shape("batch")
    exported = export.export(jax.jit(apply), platforms=("cpu", "cuda"))(
        jax.ShapeDtypeStruct((batch, 2, 3), x.dtype),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )
    y = exported.call(x, jnp.asarray(modality, jnp.int32))
    assert_close(y, apply(x, modality), atol=1e-5)


def test_sums_over_shared_samples_are_one_sum_across_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    given = arrays((16, 3))
    placed = jax.device_put(given, NamedSharding(mesh, P("data")))
    program = jax.jit(lambda g: sums(g, (0,))).lower(placed).compile()
    assert_close(program(placed), [a.sum(0) for a in given], atol=1e-5)
    text = program.as_text()
    assert text.count(" all-reduce(") + text.count(" all-reduce-start(") == 1
    assert " all-gather" not in text
