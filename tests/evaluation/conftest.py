import numpy as np
import pytest

from mbn_jax.evaluation.records import Records


@pytest.fixture
def records():
    """Four people, each twice in a visible camera and twice in an infrared one."""
    identity = np.repeat([3, 8, 20, 41], 4)
    modality = np.tile([0, 0, 1, 1], 4)
    return Records(
        identity=identity,
        camera=1 + modality,
        modality=modality,
        name=np.array([f"{i}.jpg" for i in range(16)]),
    )


def one_hot(identity):
    """Features that know the identity."""
    return np.eye(50, dtype=np.float32)[identity]
