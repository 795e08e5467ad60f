"""A run that is as small as a run can be."""

import pytest

from mbn_jax.training import loop
from mbn_jax.training.config import default_config


def small_config(data_dir):
    """Six steps, a validation every two, sixteen images a batch, four features."""
    config = default_config()
    config.num_steps, config.eval_every, config.log_every = 6, 2, 1
    config.num_devices = 1
    config.gap_batches = 0
    config.data.dataset = "synthetic_vireid/nir-6-2-2-x2"
    config.data.data_dir = str(data_dir)
    config.data.image_size = (32, 16)
    config.batch.num_identities, config.batch.num_images = 4, 2
    config.model.width = 1 / 16
    config.optimizer.warmup_steps = 2
    config.optimizer.learning_rate = 0.02
    return config


@pytest.fixture
def config(data_dir):
    return small_config(data_dir)


_STEPS, _FEATURES = {}, {}


@pytest.fixture(autouse=True)
def traced_once(monkeypatch):
    """Runs of one configuration share their step, since tracing it takes seconds."""
    make_train_step, make_feature_fn = loop.make_train_step, loop.make_feature_fn

    def step_of(model, optimizer, config, mesh):
        key = model, config.to_json(), mesh
        if key not in _STEPS:
            _STEPS[key] = make_train_step(model, optimizer, config, mesh)
        return _STEPS[key]

    def features_of(model):
        if model not in _FEATURES:
            _FEATURES[model] = make_feature_fn(model)
        return _FEATURES[model]

    monkeypatch.setattr(loop, "make_train_step", step_of)
    monkeypatch.setattr(loop, "make_feature_fn", features_of)
