"""The forms that a CPU is fast in compute what the library's operations compute."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mbn_jax.models.layers import convolve, max_pool

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

        y, backward = jax.vjp(call, x, kernel)
        return y, *backward(jax.random.normal(keys[2], y.shape))

    for ours, theirs in zip(
        run(convolve), run(jax.lax.conv_general_dilated), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_convolutions_on_small_maps_are_products_on_a_cpu():
    def of_map(height, width):
        arguments = (1, 1), [(1, 1)] * 2
        shapes = jnp.ones((2, height, width, 4)), jnp.ones((3, 3, 4, 4))
        return str(
            jax.make_jaxpr(lambda x, k: convolve(x, k, *arguments, **ARGUMENTS))(
                *shapes
            )
        )

    assert "conv_general_dilated" not in of_map(3, 2)
    assert "conv_general_dilated" in of_map(6, 3)


@pytest.mark.parametrize("size", [(8, 6), (9, 5), (1, 1)])
def test_maxima_of_shifted_pictures_are_the_maxima_of_windows(size):
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
