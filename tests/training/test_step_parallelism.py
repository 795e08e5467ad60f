"""Three ways to run one step on eight devices, against one device."""

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from mbn_jax.mesh import make_mesh, process_rows, shard
from mbn_jax.training.state import init_state, make_model
from mbn_jax.training.step import make_train_step

from .conftest import small_config

WAYS = ("jit", "shard_map", "pmap")
NUM_STEPS = 20


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


def gradient_descent(learning_rate):
    """Plain, with the last gradient as its state.

    AdamW's first step is the sign of the gradient, and where that is zero but for
    rounding, the sign is a matter of luck.
    """
    return optax.GradientTransformation(
        lambda params: optax.tree.zeros_like(params),
        lambda gradient, state, params: (
            jax.tree.map(lambda g: -learning_rate * g, gradient),
            gradient,
        ),
    )


def trained(norm, mesh, parallelism="jit", parts=1, **changes):
    """The states after the first and the last step, and the loss of every step."""
    config = small_config("")
    config.model.norm, config.parallelism = norm, parallelism
    config.batch.accumulation_steps = parts
    # Larger than elsewhere: normalizing eight values by themselves multiplies rounding.
    config.data.image_size, config.model.last_stride = (64, 32), 1
    for key, value in changes.items():
        config.model[key] = value
    # Rounding grows faster where the statistics are those of fewer images.
    optimizer = gradient_descent(1e-4 if parts == 1 else 3e-5)
    model = make_model(config, 6)
    state = init_state(model, optimizer, config.seed, mesh)
    step = make_train_step(model, optimizer, config, mesh)
    rows = process_rows(16, mesh, parts)
    states, losses = [], []
    for batch in batches(NUM_STEPS):
        batch = shard(mesh, {name: values[rows] for name, values in batch.items()})
        state, metrics = step(state, batch)
        states.append(jax.device_get(state))
        losses.append(float(metrics["loss"]))
    return states[0], states[-1], np.array(losses)


@pytest.fixture(scope="module", params=["mbn", "bn"])
def norm(request):
    return request.param


@pytest.fixture(scope="module")
def on_one_device(norm):
    return trained(norm, make_mesh(1))


@pytest.fixture(scope="module")
def in_two_parts():
    return trained("mbn", make_mesh(1), parts=2)


def assert_close(actual, expected, tolerance):
    """To a tolerance of the largest value of all the arrays, if that is above 1."""
    scale = max(1.0, *(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)), 0.0)

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)

    jax.tree.map(compare, actual, expected)


def assert_agree(actual, expected):
    """One step to 1e-5, its gradient to 3e-5; losses and parameters of twenty to 1e-3.

    The gradient through `nn.BatchNorm` is rounded more than that through MBN, and
    differs by up to 1.6e-5.
    """
    first, last, losses = actual
    expected_first, expected_last, expected_losses = expected
    assert_close(losses[0], expected_losses[0], 1e-5)
    assert_close(first.batch_stats, expected_first.batch_stats, 1e-5)
    assert_close(first.opt_state, expected_first.opt_state, 3e-5)  # the gradient
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-3)
    assert_close(last.params, expected_last.params, 1e-3)


@pytest.mark.parametrize(
    ("norm", "parallelism"),
    [
        *(("mbn", way) for way in WAYS),
        *(("bn", way) for way in ("jit", "shard_map")),
        # Its program is that of shard_map.
        pytest.param("bn", "pmap", marks=pytest.mark.slow),
    ],
    indirect=["norm"],
)
def test_eight_devices_train_as_one(norm, parallelism, on_one_device):
    assert_agree(trained(norm, make_mesh(8), parallelism), on_one_device)


@pytest.mark.slow
def test_they_do_over_explicit_axes(norm, on_one_device):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        assert_agree(trained(norm, mesh), on_one_device)


@pytest.mark.slow
@pytest.mark.parametrize("parallelism", WAYS)
def test_they_do_with_gradients_accumulated_over_parts(parallelism, in_two_parts):
    assert_agree(trained("mbn", make_mesh(4), parallelism, parts=2), in_two_parts)


@pytest.mark.slow
def test_parts_have_statistics_of_their_own(in_two_parts):
    whole = trained("mbn", make_mesh(1))
    difference = np.abs(whole[2][0] - in_two_parts[2][0])
    assert difference > 1e-3
    mean = in_two_parts[0].batch_stats["neck"]["mean"]
    assert np.abs(mean - whole[0].batch_stats["neck"]["mean"]).max() > 1e-3


@pytest.mark.slow
def test_rematerialization_changes_no_figure(on_one_device, norm):
    assert_agree(trained(norm, make_mesh(1), remat=True), on_one_device)


def test_twenty_steps_move_the_parameters(on_one_device):
    """Otherwise agreement after twenty steps would say nothing."""
    first, last, _ = on_one_device
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), last.params, first.params)
    # Twice what parameters may differ by.
    assert max(jax.tree.leaves(moved)) > 2e-3


def test_the_rows_of_a_part_are_the_same_on_any_number_of_devices():
    one, four = (process_rows(16, make_mesh(n), 2) for n in (1, 4))
    np.testing.assert_array_equal(one, np.arange(16))
    by_device = four.reshape(4, 2, 2)
    for part in (0, 1):
        rows = by_device[:, part].ravel()
        np.testing.assert_array_equal(rows, np.arange(8 * part, 8 * part + 8))
