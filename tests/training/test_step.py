"""What a step is put together from, by the keys of the configuration."""

import jax.numpy as jnp
import numpy as np
import pytest

from mbn_jax import losses
from mbn_jax.models.reid import ReIDOutput
from mbn_jax.training.config import LOSSES, default_config
from mbn_jax.training.step import loss_terms

RNG = np.random.default_rng(0)
IDENTITY = jnp.array([0, 0, 0, 1, 1, 1])
MODALITY = jnp.array([0, 1, 1, 0, 1, 0])
OUTPUT = ReIDOutput(
    pooled=jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32),
    embedding=jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32),
    logits=jnp.asarray(RNG.normal(size=(6, 2)), jnp.float32),
)
PAIRS = OUTPUT.pooled, IDENTITY
EXPECTED = {
    "identity": lambda: losses.identity_loss(OUTPUT.logits, IDENTITY, 0.2),
    "wrt": lambda: losses.weighted_regularized_triplet(*PAIRS),
    "squared_wrt": lambda: losses.weighted_regularized_triplet(*PAIRS, squared=True),
    "triplet": lambda: losses.batch_hard_triplet(*PAIRS, 0.7),
    "circle": lambda: losses.circle(*PAIRS, 0.4, 8.0),
    "hetero_center": lambda: losses.hetero_center(*PAIRS, MODALITY),
    "hetero_center_triplet": lambda: losses.hetero_center_triplet(
        *PAIRS, MODALITY, 0.7
    ),
}


def config_of(**weights):
    config = default_config().loss
    config.update(dict.fromkeys(LOSSES, 0.0) | weights)
    config.label_smoothing, config.margin = 0.2, 0.7
    config.circle_margin, config.circle_scale = 0.4, 8.0
    return config


@pytest.mark.parametrize("name", LOSSES)
def test_a_key_is_the_weight_of_its_loss(name):
    total, metrics = loss_terms(config_of(**{name: 3.0}), OUTPUT, IDENTITY, MODALITY)
    expected = EXPECTED[name]()
    np.testing.assert_allclose(metrics[f"{name}_loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(total, 3 * expected, rtol=1e-6)
    assert {key for key in metrics if key.endswith("_loss")} == {f"{name}_loss"}


def test_the_loss_is_the_weighted_sum():
    weights = {name: 0.5 + i for i, name in enumerate(LOSSES)}
    total, _ = loss_terms(config_of(**weights), OUTPUT, IDENTITY, MODALITY)
    expected = sum(weight * EXPECTED[name]() for name, weight in weights.items())
    np.testing.assert_allclose(total, expected, rtol=1e-6)
