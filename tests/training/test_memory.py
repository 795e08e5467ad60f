"""Sizes that no machine has memory for are refused before anything is made."""

import jax
import pytest

from mbn_jax.errors import InputError
from mbn_jax.mesh import make_mesh, memory_of
from mbn_jax.training import resources
from mbn_jax.training.config import check
from mbn_jax.training.loop import train
from mbn_jax.training.optimizer import make_optimizer
from mbn_jax.training.resources import check_memory
from mbn_jax.training.step import init_state, make_model


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
    monkeypatch.setattr(resources, "memory_of", lambda _: network + images)
    check_memory(config, mesh)
    monkeypatch.setattr(resources, "memory_of", lambda _: network + images - 1)
    with pytest.raises(InputError, match="needs at least"):
        check_memory(config, mesh)
