"""Each form for CPUs computes what the plain operation does, in CPU programs only."""

from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mbn_jax.mesh import make_mesh
from mbn_jax.models import cpu
from mbn_jax.models.cpu import convolve, max_pool
from mbn_jax.models.reid import ReID

ARGUMENTS = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=None)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("size", "kernel_size"),
    [
        pytest.param((8, 6), 1, id="1x1"),
        pytest.param((9, 5), 1, id="1x1 on odd sizes"),
        pytest.param((3, 2), 3, id="kernel larger than the map"),
        pytest.param((6, 3), 3, id="kernel larger than the map after a stride"),
        pytest.param((1, 1), 3, id="a single position"),
        pytest.param((5, 4), 7, id="7x7"),
    ],
)
def test_a_convolution_as_a_product_is_the_convolution(size, kernel_size, stride):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (3, *size, 7))
    kernel = jax.random.normal(keys[1], (kernel_size, kernel_size, 7, 5))
    padding = [(kernel_size // 2, kernel_size // 2)] * 2

    def run(function):
        def call(x, kernel):
            return function(x, kernel, (stride, stride), padding, **ARGUMENTS)

        @jax.jit
        def value_and_gradients(x, kernel):
            y, backward = jax.vjp(call, x, kernel)
            return y, *backward(jax.random.normal(keys[2], y.shape))

        return value_and_gradients(x, kernel)

    for ours, theirs in zip(
        run(convolve), run(jax.lax.conv_general_dilated), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def program(function, platform, *shapes):
    """StableHLO of a function that is exported for one platform."""
    function = jax.jit(function)
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.export.export(function, platforms=(platform,))(*shapes).mlir_module()


def convolve_3x3(x, kernel):
    return convolve(x, kernel, (1, 1), [(1, 1)] * 2, **ARGUMENTS)


def convolve_1x1(x, kernel):
    return convolve(x, kernel, (1, 1), [(0, 0)] * 2, **ARGUMENTS)


def sum_in_parts(x):
    zeros = jnp.zeros(x.shape[1:])
    return cpu.scan(lambda total, row: (total + row, None), zeros, x)[0]


@pytest.mark.parametrize(
    ("function", "shapes", "on_cpu", "elsewhere"),
    [
        (convolve_1x1, [(2, 6, 3, 4), (1, 1, 4, 4)], "dot_general", "convolution"),
        (convolve_3x3, [(2, 3, 2, 4), (3, 3, 4, 4)], "dot_general", "convolution"),
        (convolve_3x3, [(2, 6, 3, 4), (3, 3, 4, 4)], "convolution", "convolution"),
        (max_pool, [(2, 6, 3, 4)], "slice", "reduce_window"),
        (cpu.relu_of_sum, [(2, 3)] * 2, "select", "maximum"),
        (sum_in_parts, [(4, 3)], "slice", "while"),
    ],
)
def test_a_program_has_the_forms_of_the_platform_it_is_lowered_for(
    function, shapes, on_cpu, elsewhere
):
    for platform, expected, other in (
        ("cpu", on_cpu, elsewhere),
        ("cuda", elsewhere, on_cpu),
    ):
        text = program(function, platform, *shapes)
        assert f"stablehlo.{expected}" in text
        assert expected == other or f"stablehlo.{other}" not in text


@pytest.mark.parametrize("is_gradient", [False, True])
def test_a_network_exported_for_cuda_has_plain_operations_only(is_gradient):
    model = ReID(5, image_size=(64, 32), depth=18, width=1 / 16)
    images, modality = jnp.zeros((4, 64, 32, 3)), jnp.array([0, 1, 0, 1])
    variables = jax.eval_shape(
        partial(model.init, train=False), jax.random.key(0), images, modality
    )

    def loss(variables):
        return model.apply(variables, images, modality, train=False).pooled.sum()

    function = jax.jit(jax.grad(loss) if is_gradient else loss)
    export = jax.export.export(function, platforms=("cuda",))
    text = export(variables).mlir_module()
    # 20 kernels; of the first convolution the gradient of the input is not needed.
    assert text.count("stablehlo.convolution") == (59 if is_gradient else 20)
    assert "stablehlo.dot_general" not in text
    assert ("stablehlo.select_and_scatter" in text) == is_gradient
    assert "stablehlo.reduce_window" in text


def test_a_trace_for_converters_has_the_forms_for_cpus_and_no_choice():
    x, kernel = jnp.ones((2, 6, 3, 4)), jnp.ones((1, 1, 4, 4))
    trace = str(jax.make_jaxpr(cpu.with_cpu_forms(convolve_1x1))(x, kernel))
    assert "dot_general" in trace
    assert "platform_index" not in trace
    assert "platform_index" in str(jax.make_jaxpr(convolve_1x1)(x, kernel))


def test_options_that_xla_does_not_know_are_left_out(monkeypatch):
    mesh = make_mesh(1)
    assert cpu.compiler_options(mesh) == cpu._OPTIONS
    monkeypatch.setattr(cpu, "_OPTIONS", {**cpu._OPTIONS, "xla_of_the_future": ""})
    assert "xla_of_the_future" not in cpu.compiler_options(mesh)
    wrong = {"xla_backend_optimization_level": "text"}
    monkeypatch.setattr(cpu, "_OPTIONS", wrong)
    with pytest.raises(jax.errors.JaxRuntimeError):
        cpu.compiler_options(mesh)


@pytest.mark.parametrize("size", [(8, 6), (9, 5), (1, 1)])
def test_maxima_of_shifted_images_are_the_maxima_of_windows(size):
    # All values differ: between equal ones the gradient may go either way.
    values = jax.random.permutation(jax.random.key(0), 3 * size[0] * size[1] * 4)
    x = values.reshape(3, *size, 4).astype(jnp.float32)

    def run(function):
        y, backward = jax.vjp(function, x)
        return y, *backward(jnp.arange(y.size, dtype=y.dtype).reshape(y.shape))

    window = partial(
        nn.max_pool,
        window_shape=(3, 3),
        strides=(2, 2),
        padding=((1, 1), (1, 1)),
    )
    for ours, theirs in zip(run(max_pool), run(window), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_equal_maxima_share_the_gradient():
    gradient = jax.grad(lambda x: max_pool(x).sum())(jnp.ones((1, 9, 6, 2)))
    np.testing.assert_allclose(gradient.sum(), max_pool(jnp.ones((1, 9, 6, 2))).size)
