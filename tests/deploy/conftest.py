"""A network, and an exported model of it, which tests only read."""

import numpy as np
import pytest

from mbn_jax.deploy.export import export
from mbn_jax.deploy.exported import save_exported

from ..models.test_reid import filled, small

INFRARED = 1


def noise(count, size=(32, 16)):
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def network():
    model = small()
    return model, filled(model)


@pytest.fixture(scope="session")
def path(network, tmp_path_factory):
    """An exported model for infrared images, which tests only read."""
    path = tmp_path_factory.mktemp("exported") / "infrared.zip"
    save_exported(path, export(*network, INFRARED))
    return path
