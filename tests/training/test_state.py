"""Schedules and optimizers against the formulas, and the memory that a run needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbn_jax.errors import InputError
from mbn_jax.mesh import make_mesh, memory_of
from mbn_jax.training import state as state_module
from mbn_jax.training.config import check, default_config
from mbn_jax.training.loop import train
from mbn_jax.training.state import (
    check_memory,
    init_state,
    learning_rate,
    make_model,
    make_optimizer,
)


def settings(**changes):
    config = default_config().optimizer
    with config.unlocked():
        config.update(
            {
                "learning_rate": 0.4,
                "warmup_steps": 4,
                "decay_steps": (10, 20),
                **changes,
            }
        )
    return config


def test_warm_up_rises_in_equal_steps_to_the_peak():
    rate = learning_rate(settings(), 100)
    np.testing.assert_allclose([rate(i) for i in range(4)], [0.1, 0.2, 0.3, 0.4])


def test_cosine_falls_from_the_peak_to_zero_at_the_end():
    rate = learning_rate(settings(), 104)
    np.testing.assert_allclose(
        [rate(4), rate(54), rate(104)], [0.4, 0.2, 0.0], atol=1e-7
    )


def test_steps_multiply_by_the_factor_where_they_are():
    rate = learning_rate(settings(schedule="step"), 100)
    np.testing.assert_allclose(
        [rate(i) for i in (5, 9, 10, 19, 20)], [0.4, 0.4, 0.04, 0.04, 0.004], rtol=1e-6
    )


def test_without_warm_up_the_first_step_has_the_peak():
    rate = learning_rate(settings(warmup_steps=0, schedule="constant"), 100)
    np.testing.assert_allclose([rate(0), rate(99)], 0.4)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_backbone_factor_scales_the_updates_of_the_backbone_alone(name):
    params = {"backbone": {"w": jnp.ones(3)}, "neck": {"w": jnp.ones(3)}}
    gradients = jax.tree.map(lambda p: 0.5 * p, params)
    updates = {}
    for factor in (1.0, 0.1):
        optimizer = make_optimizer(settings(name=name, backbone_factor=factor), 100)
        updates[factor], _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(
        updates[0.1]["backbone"]["w"], 0.1 * updates[1.0]["backbone"]["w"], rtol=1e-6
    )
    np.testing.assert_array_equal(updates[0.1]["neck"]["w"], updates[1.0]["neck"]["w"])


def test_sgd_is_nesterov_momentum_on_the_gradient_plus_weight_decay():
    config = settings(
        name="sgd", schedule="constant", warmup_steps=0, weight_decay=0.1, momentum=0.9
    )
    optimizer = make_optimizer(config, 100)
    weight, velocity = 2.0, 0.0
    params = {"w": jnp.asarray(weight)}
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update({"w": jnp.asarray(0.5)}, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        gradient = 0.5 + 0.1 * weight
        velocity = 0.9 * velocity + gradient
        weight -= 0.4 * (gradient + 0.9 * velocity)
    np.testing.assert_allclose(params["w"], weight, rtol=1e-6)


def test_a_small_run_fits(config):
    check_memory(config, make_mesh(1))
    assert memory_of(jax.devices()[0]) > 2**28


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.width", 1e6, r"[\d,]{10,}\.\d GiB for the network .*width is 1e\+06"),
        ("model.width", 1e9, r"[\d,]{16,}\.\d GiB for the network .*width is 1e\+09"),
        ("data.image_size", (10**6, 10**6), "1000000 × 1000000"),
        ("data.image_size", (2**31 - 1, 2**31 - 1), "2147483647 × 2147483647"),
        ("augmentation.pad", 10**7, "a batch of 16 images"),
        ("batch.num_images", 10**9, "a batch of 8000000000 images"),
    ],
)
def test_what_needs_more_memory_than_there_is_makes_nothing(
    key, value, message, config, tmp_path
):
    config.update_from_flattened_dict({key: value, "data.data_dir": str(tmp_path)})
    check(config)
    with pytest.raises(InputError, match=message) as error:
        train(config, tmp_path / "run")
    assert "The run needs at least" in str(error.value)
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())


def test_what_is_counted_is_the_state_the_gradient_and_the_images(config, monkeypatch):
    mesh = make_mesh(1)
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state = init_state(make_model(config, 1), optimizer, 0, mesh)
    network = sum(leaf.nbytes for leaf in jax.tree.leaves((state, state.params)))
    pad = 2 * config.augmentation.pad
    images = 16 * (32 + pad) * (16 + pad) * 3 * 5
    monkeypatch.setattr(state_module, "memory_of", lambda _: network + images)
    check_memory(config, mesh)
    monkeypatch.setattr(state_module, "memory_of", lambda _: network + images - 1)
    with pytest.raises(InputError, match="needs at least"):
        check_memory(config, mesh)
