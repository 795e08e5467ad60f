"""The forms that a CPU is fast in compute what the library's operations compute."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mbn_jax.models.layers import convolve, max_pool

ARGUMENTS = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=None)


@pytest.mark.parametrize("size", [(8, 6), (9, 5)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_1x1_convolution_as_a_product_is_the_convolution(size, stride):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (3, *size, 7))
    kernel = jax.random.normal(keys[1], (1, 1, 7, 5))

    def run(function):
        def call(x, kernel):
            return function(x, kernel, (stride, stride), [(0, 0)] * 2, **ARGUMENTS)

        y, backward = jax.vjp(call, x, kernel)
        return y, *backward(jax.random.normal(keys[2], y.shape))

    for ours, theirs in zip(
        run(convolve), run(jax.lax.conv_general_dilated), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


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
