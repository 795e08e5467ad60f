"""Every floating-point type and number of modalities, with JAX at its strictest."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from .layers import evaluate, gradients, make, random_input, random_variables, train
from .reference import assert_close, reference

DTYPES = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)
NUMBERS = (2, 3, 5)
SHAPE = (10, 2, 3)
# Of one modality's values, rounded to the type of the input and of the result.
TOLERANCE = {"float16": 1e-2, "bfloat16": 6e-2, "float32": 1e-4, "float64": 1e-10}


@pytest.fixture(params=[True, False], ids=["x64", "x32"])
def x64(request):
    """JAX with and without 64 bits, and no promotion of types, ranks or NaN."""
    with (
        jax.enable_x64(request.param),
        jax.numpy_dtype_promotion("strict"),
        jax.debug_nans(True),
        warnings.catch_warnings(),
    ):
        # JAX says itself that without 64 bits it truncates a dtype that was asked for.
        warnings.filterwarnings("ignore", ".*float64.*truncated to dtype float32")
        yield request.param


def setting(kind, number, x_dtype, param_dtype, dtype):
    """A layer, its variables, an input and its modalities; as NumPy arrays."""
    layer = make(
        kind,
        num_modalities=number,
        share_affine=number != 3,
        dtype=dtype,
        param_dtype=param_dtype,
    )
    variables = random_variables(layer)
    variables["params"] = {
        name: value.astype(param_dtype) for name, value in variables["params"].items()
    }
    x = random_input(SHAPE).astype(x_dtype)
    return layer, variables, x, np.arange(len(x)) % number


def result_type(x64, x_dtype, param_dtype, dtype):
    """What was asked for, or the type that holds input and parameters."""
    given = [jnp.dtype(t) for t in ([dtype] if dtype else [x_dtype, param_dtype])]
    widest = max(given, key=lambda t: t.itemsize)
    if widest.itemsize == 2 and len(set(given)) == 2:  # float16 and bfloat16
        widest = jnp.dtype(jnp.float32)
    return widest if x64 or widest != jnp.float64 else jnp.dtype(jnp.float32)


@pytest.mark.parametrize(
    ("form", "number", "forced"),
    [("linen", 2, True), ("linen", 5, True), ("linen", 3, False), ("nnx", 2, True)],
)
def test_every_combination_of_types_has_a_result(form, number, forced, x64):
    """Outside jit, where JAX looks for NaN after every operation."""
    choices = DTYPES, DTYPES, (None, *DTYPES)
    for x_dtype, param_dtype, dtype in itertools.product(*choices):
        layer, variables, x, modality = setting(
            form, number, x_dtype, param_dtype, dtype
        )
        layer = layer.copy(force_float32_reductions=forced)
        y, after = layer.train(variables, x, modality)
        stats = jax.tree.leaves(after["batch_stats"])
        assert {a.dtype for a in stats} == {jnp.dtype(jnp.float32)}
        expected = result_type(x64, x_dtype, param_dtype, dtype)
        for result in (y, layer.evaluate(variables, x, modality)):
            assert (result.dtype, result.shape) == (expected, SHAPE)
            assert np.isfinite(result.astype(np.float64)).all()


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    ("x_dtype", "param_dtype", "dtype"),
    [
        *((dtype, dtype, None) for dtype in DTYPES),
        (jnp.bfloat16, jnp.float32, jnp.bfloat16),
        (jnp.float64, jnp.float32, None),
        (jnp.float16, jnp.float64, jnp.float32),
    ],
)
def test_values_are_those_of_the_reference(
    kind, number, x64, x_dtype, param_dtype, dtype
):
    layer, variables, x, modality = setting(kind, number, x_dtype, param_dtype, dtype)
    exact = jax.tree.map(lambda a: a.astype(np.float64), (variables, x))
    expected = reference(exact[1], modality, exact[0])
    y, after = train(layer, variables, x, modality)
    coarse = [jnp.dtype(x_dtype), jnp.dtype(param_dtype), y.dtype]
    tolerance = max(TOLERANCE[t.name] for t in coarse)
    assert_close(y.astype(np.float64), expected.y, rtol=tolerance, atol=tolerance)
    assert_close(after["batch_stats"], expected.batch_stats, rtol=1e-5, atol=1e-6)

    y = evaluate(layer, variables, x, modality).astype(np.float64)
    stats, affine = exact[0]["batch_stats"], exact[0]["params"]
    scale, bias = (
        np.broadcast_to(affine[name], stats["mean"].shape) for name in ("scale", "bias")
    )
    for m in range(number):
        away = exact[1][modality == m] - stats["mean"][m]
        by_hand = away / np.sqrt(stats["var"][m] + 1e-5) * scale[m] + bias[m]
        assert_close(y[modality == m], by_hand, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", [2, 5])
def test_gradients_have_the_types_of_their_arguments(kind, number, dtype, x64):
    layer, variables, x, modality = setting(kind, number, dtype, dtype, None)
    x = jnp.asarray(x)
    params = jax.tree.map(jnp.asarray, variables["params"])
    by_params, by_x = gradients(
        layer, {**variables, "params": params}, x, modality, jnp.ones_like(x)
    )
    for gradient, argument in [(by_x, x), (by_params["scale"], params["scale"])]:
        assert (gradient.dtype, gradient.shape) == (argument.dtype, argument.shape)
    # The sum of a normalized batch is constant.
    assert np.abs(by_x.astype(np.float64)).max() < 10 * TOLERANCE[x.dtype.name]


@pytest.mark.parametrize("number", [2, 5])
def test_no_operation_inside_gives_nan(kind, number, x64):
    """JAX looks at the result of every operation that it runs by itself."""
    setup = setting(kind, number, jnp.float32, jnp.float32, None)
    layer, variables, x, modality = setup
    x = jnp.asarray(x)
    layer.evaluate(variables, x, modality)
    y, vjp = jax.vjp(lambda x: layer.train(variables, x, modality)[0], x)
    vjp(y)
    with pytest.raises(FloatingPointError):  # and so it looks
        layer.evaluate(variables, x, modality + number)


def test_other_numbers_are_refused_in_one_sentence(kind):
    layer = make(kind)
    for x in (np.ones((2, 3), np.int32), np.ones((2, 3), np.complex64)):
        with pytest.raises(ValueError, match="floating-point type of at least"):
            layer.train(random_variables(layer), x, np.array([0, 1]))


@pytest.mark.parametrize("number", [2, 3, 5])
@pytest.mark.parametrize("evaluating", [True, False])
@pytest.mark.parametrize(
    ("mean", "var", "param", "epsilon"),
    [
        (jnp.bfloat16, jnp.bfloat16, jnp.float32, 1e-5),
        (jnp.float16, jnp.float16, jnp.float32, 1e-5),
        (jnp.bfloat16, jnp.float32, jnp.float32, 1e-5),
        (jnp.float32, jnp.float32, jnp.float64, np.float64(1e-5)),
    ],
)
def test_statistics_may_have_other_types(
    kind, number, evaluating, mean, var, param, epsilon, x64
):
    layer = make(kind, num_modalities=number, param_dtype=param, epsilon=epsilon)
    variables = random_variables(layer)
    stats = variables["batch_stats"]
    stats["mean"], stats["var"] = stats["mean"].astype(mean), stats["var"].astype(var)
    variables["params"] = {
        name: value.astype(param) for name, value in variables["params"].items()
    }
    x, modality = random_input((10, 3)), (np.arange(10) % number).astype(np.uint8)
    wide = jax.tree.map(lambda a: a.astype(np.float32), variables)
    plain = layer.copy(param_dtype=jnp.float32, epsilon=1e-5)
    if evaluating:
        y = layer.evaluate(variables, x, modality)
        expected = plain.evaluate(wide, x, modality)
    else:
        (y, _), (expected, _) = (
            one.train(v, x, modality) for one, v in ((layer, variables), (plain, wide))
        )
    assert_close(y.astype(jnp.float32), expected, rtol=1e-5, atol=1e-5)
