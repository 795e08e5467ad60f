"""Wrong arguments are refused, in one sentence that says what was expected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mbn_jax.nnx
from mbn_jax import ModalityBatchNorm
from mbn_jax.arguments import modality_weights
from mbn_jax.convert import from_batch_norm, to_batch_norm
from mbn_jax.functional import modality_batch_norm, modality_moments

from .layers import make, random_input, random_variables

MISUSE = [
    ((4, 3), np.zeros(3, int), {}, "one integer per sample"),
    ((4, 3), np.zeros((4, 1), int), {}, "one integer per sample"),
    ((4, 3), np.zeros(4, float), {}, "one integer per sample"),
    ((4, 3), np.zeros(4, int), {"axis": 0}, "axis other than 0"),
    ((4, 3), np.zeros(4, int), {"axis": -2}, "axis other than 0"),
    ((4, 3), np.zeros(4, int), {"axis": 2}, "axis other than 0"),
    ((4, 3), np.zeros(4, int), {"mask": np.ones(3, bool)}, r"expected bool\[4\]"),
    ((4, 3), np.zeros(4, int), {"mask": np.ones((4, 2), bool)}, r"expected bool\[4\]"),
    ((4, 3), np.zeros(4, int), {"mask": np.ones(4)}, r"expected bool\[4\]"),
]


@pytest.mark.parametrize(("shape", "modality", "arguments", "message"), MISUSE)
def test_misuse_is_refused_in_one_sentence(shape, modality, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        modality_moments(jnp.ones(shape), modality, **arguments)
    assert "\n" not in str(error.value)
    table = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=message):
        modality_batch_norm(
            jnp.ones(shape),
            modality,
            table,
            table,
            use_running_average=False,
            **arguments,
        )


@pytest.mark.parametrize(("shape", "modality", "arguments", "message"), MISUSE)
def test_layers_refuse_the_same(kind, shape, modality, arguments, message):
    mask = arguments.get("mask")
    layer = make(kind, axis=arguments.get("axis", -1))
    variables = random_variables(layer)
    with pytest.raises(ValueError, match=message):
        layer.train(variables, np.ones(shape, np.float32), modality, mask)
    with pytest.raises(ValueError, match=message):
        layer.evaluate(variables, np.ones(shape, np.float32), modality, mask)


def test_integers_are_not_normalized(kind):
    layer = make(kind)
    with pytest.raises(ValueError, match="expected a floating-point type"):
        layer.train(random_variables(layer), np.ones((4, 3), int), np.zeros(4, int))


def test_which_statistics_to_use_must_be_said():
    x, modality = random_input((4, 3)), np.zeros(4, int)
    linen = make("linen")
    with pytest.raises(ValueError, match="use_running_average"):
        linen.module().apply(random_variables(linen), x, modality)
    with pytest.raises(ValueError, match="use_running_average is None"):
        make("nnx", use_running_average=None).module()(x, modality)


def test_nnx_says_how_many_channels_it_has():
    with pytest.raises(ValueError, match="has 4 channels on axis -1, expected 3"):
        make("nnx", features=3).module()(random_input((2, 4)), np.zeros(2, int))


@pytest.mark.parametrize("evaluating", [True, False])
@pytest.mark.parametrize("shape", [(3,), (3, 3), (2, 1)], ids=str)
def test_statistics_of_another_network_are_refused(shape, evaluating):
    """Those of a BatchNorm network would broadcast, and go unnoticed."""
    layer = ModalityBatchNorm(use_running_average=evaluating)
    stats = {"mean": np.zeros(shape, np.float32), "var": np.ones(shape, np.float32)}
    variables = {
        "params": {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)},
        "batch_stats": stats,
    }
    x, modality = np.ones((4, 3), np.float32), np.array([0, 1, 1, 0])
    with pytest.raises(ValueError, match=r"expected \[2, 3\].*from_batch_norm"):
        layer.apply(variables, x, modality, mutable=["batch_stats"])
    with pytest.raises(ValueError, match=r"expected \[num_modalities, 3\]"):
        modality_batch_norm(
            x, modality, np.zeros(shape[:1]), np.ones(shape), use_running_average=True
        )


MODALITY = np.array([0, 1, 1, 0])


def tables(*shape):
    return {"batch_stats": {"n": {"mean": np.zeros(shape), "var": np.ones(shape)}}}


TAKES_A_NUMBER = {
    "moments": lambda n: modality_moments(np.ones((4, 3)), MODALITY, n),
    "linen": lambda n: ModalityBatchNorm(num_modalities=n).init(
        jax.random.key(0), np.ones((4, 3)), MODALITY, False
    ),
    "nnx": lambda n: mbn_jax.nnx.ModalityBatchNorm(
        3, num_modalities=n, rngs=nnx.Rngs(0)
    ),
    "channels": lambda n: mbn_jax.nnx.ModalityBatchNorm(n, rngs=nnx.Rngs(0)),
    "replacement": lambda n: mbn_jax.nnx.replace_batch_norm(
        nnx.BatchNorm(3, rngs=nnx.Rngs(0)), n
    ),
    "context": lambda n: mbn_jax.by_modality(MODALITY, n).__enter__(),
    "from_batch_norm": lambda n: from_batch_norm(tables(3), n),
    "to_batch_norm": lambda n: to_batch_norm(tables(2, 3), n),
    "axis": lambda n: modality_moments(np.ones((4, 3, 2)), MODALITY, axis=n),
}


@pytest.mark.parametrize(
    "number", [-4, 1.5, 2.0, True, None, "2", np.inf, 10**30, np.ones((9, 9))]
)
@pytest.mark.parametrize("function", TAKES_A_NUMBER)
def test_a_number_that_is_none_is_refused_in_one_sentence(function, number):
    with pytest.raises(
        ValueError, match=r"expected (an integer|0 to 1)|axis=-4"
    ) as error:
        TAKES_A_NUMBER[function](number)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [np.int8(1), np.array(1), jnp.array(1)], ids=repr)
@pytest.mark.parametrize("function", [f for f in TAKES_A_NUMBER if f != "context"])
def test_an_integer_may_be_of_any_type(function, number):
    TAKES_A_NUMBER[function](number)


@pytest.mark.parametrize("weights", ["ab", [[1], [1, 2]], [None, 1], [1, 1, 1], 2])
def test_weights_that_are_none_are_refused_in_one_sentence(weights):
    with pytest.raises(ValueError, match="expected 2 non-negative numbers"):
        modality_weights(weights, 2)


@pytest.mark.parametrize(
    "x",
    [np.array(["a"] * 4), [[1.0], [1.0, 2.0]], None, np.ones((4, 3), object), {}],
    ids=str,
)
def test_what_is_no_array_is_refused_in_one_sentence(kind, x):
    layer = make(kind)
    with pytest.raises(ValueError, match="not an array of numbers") as error:
        layer.evaluate(random_variables(layer), x, MODALITY)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="not an array of numbers"):
        modality_moments(x, MODALITY)


def test_floats_of_eight_bits_are_refused(kind):
    layer = make(kind)
    x = jnp.ones((4, 3), jnp.float8_e4m3fn)
    with pytest.raises(ValueError, match="of at least 16 bits"):
        layer.train(random_variables(layer), x, MODALITY)


@pytest.mark.parametrize("mask", [None, "samples", "positions"])
@pytest.mark.parametrize(
    "shape", [(0, 3), (4, 0), (0, 40, 3), (4, 0, 40, 3), (4, 40, 0)], ids=str
)
def test_an_input_without_elements_has_a_value_and_a_gradient(shape, mask):
    modality = np.zeros(shape[0], int)
    masks = {"samples": np.ones(shape[0], bool), "positions": np.ones(shape, bool)}
    table = jnp.zeros((2, shape[-1]))

    def loss(x, scale, evaluating):
        result = modality_batch_norm(
            x,
            modality,
            table,
            table + 1,
            scale,
            use_running_average=evaluating,
            mask=masks.get(mask),
        )
        return result.y.sum(), result

    for evaluating in (False, True):
        arguments = jnp.ones(shape), jnp.ones(shape[-1]), evaluating
        gradient, result = jax.grad(loss, argnums=(0, 1), has_aux=True)(*arguments)
        assert result.y.shape == gradient[0].shape == shape
        assert (result.mean == 0).all()
        assert (result.var == 1).all()
        assert (gradient[1] == 0).all()
