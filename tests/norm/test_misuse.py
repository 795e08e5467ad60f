"""Wrong arguments are refused, in one sentence that says what was expected."""

import jax.numpy as jnp
import numpy as np
import pytest

from mbn_jax import ModalityBatchNorm
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


def test_integers_are_not_normalised(kind):
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
