"""One training run on one device and on eight."""

import jax
import numpy as np
import pytest

from mbn_jax.training.mesh import make_mesh, shard
from mbn_jax.training.optimizer import make_optimizer
from mbn_jax.training.step import init_state, make_model, make_train_step


def batches(number):
    """Random batches in which the modalities' shares differ from device to device."""
    rng = np.random.default_rng(0)
    for _ in range(number):
        yield {
            "image": rng.integers(0, 256, (16, 64, 32, 3), dtype=np.uint8),
            "identity": np.repeat(np.arange(4, dtype=np.int32), 4),
            "modality": np.array([0, 0, 0, 1] * 2 + [1, 1, 1, 0] * 2, np.int32),
            "camera": np.zeros(16, np.int32),
        }


def trained(config, num_devices, num_steps):
    """The state after the first step, and the loss of every step."""
    mesh = make_mesh(num_devices)
    model = make_model(config, 6)
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state = init_state(model, optimizer, config.seed, mesh)
    step = make_train_step(model, optimizer, config, mesh)
    first, losses = None, []
    for batch in batches(num_steps):
        state, metrics = step(state, shard(mesh, batch))
        first = first or jax.device_get(state)
        losses.append(float(metrics["loss"]))
    return first, losses


@pytest.mark.parametrize(("norm", "num_steps"), [("mbn", 50), ("bn", 1)])
def test_eight_devices_train_as_one(config, norm, num_steps):
    config.model.norm, config.num_steps = norm, 50
    # Not AdamW: its first step is the learning rate times the sign of the gradient, and
    # where the gradient is zero but for rounding, the sign is a matter of luck.
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 3e-4
    # Larger than elsewhere: normalising eight values by themselves multiplies rounding.
    config.data.image_size, config.model.last_stride = (64, 32), 1
    first, losses = trained(config, 1, num_steps)
    first_of_eight, losses_of_eight = trained(config, 8, num_steps)

    def assert_close(eight, one):  # to 1e-5 of the array's largest value, if above 1
        scale = max(1.0, np.abs(one).max())
        np.testing.assert_allclose(eight, one, rtol=0, atol=1e-5 * scale)

    jax.tree.map(assert_close, first_of_eight.variables, first.variables)
    np.testing.assert_allclose(losses_of_eight[0], losses[0], rtol=1e-5)
    np.testing.assert_allclose(losses_of_eight, losses, rtol=0.02)
