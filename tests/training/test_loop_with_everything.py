"""A run from ImageNet-like weights, natural batches and other losses."""

import json
from functools import partial

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from mbn_jax import InputError
from mbn_jax.files import read_json
from mbn_jax.training.loop import train
from mbn_jax.training.state import make_model

from .conftest import small_config


@pytest.fixture(scope="module")
def config(data_dir):
    config = small_config(data_dir)
    config.num_steps, config.eval_every = 2, 2
    config.batch.sampler = "natural"
    config.gap_batches = 2
    config.model.mbn_at = ("stem", "neck")
    config.loss.wrt, config.loss.circle, config.loss.hetero_center = 0.0, 0.1, 0.5
    config.augmentation.exchange = config.augmentation.infrared_gray = 0.5
    return config


def weights(config, path):
    """A file of torchvision's names, every value a quarter."""
    model = make_model(config, 1)
    images = np.zeros((2, *config.data.image_size, 3), np.float32)
    init = partial(model.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), images, np.array([0, 1]))
    parts = {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1"}
    leaves = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    leaves |= {"mean": "running_mean", "var": "running_var"}
    arrays = {}
    for names, leaf in flatten_dict(shapes).items():
        if names[1] != "backbone":
            continue
        *modules, last = names[2:]
        modules = [parts.get(name, name.replace("norm", "bn")) for name in modules]
        if modules[0].startswith("stage"):
            stage, block = modules[0].removeprefix("stage").split("_block")
            modules[0] = f"layer{stage}.{int(block) - 1}"
        shape = leaf.shape if last == "kernel" else leaf.shape[-1:]
        shape = tuple(shape[i] for i in (3, 2, 0, 1)) if len(shape) == 4 else shape
        arrays[".".join([*modules, leaves[last]])] = np.full(shape, 0.25, np.float32)
    safetensors.numpy.save_file(arrays, path)
    return str(path)


def test_a_run_starts_from_the_weights_and_says_so(config, tmp_path, capsys):
    config.model.pretrained = weights(config, tmp_path / "weights.safetensors")
    results = train(config, tmp_path / "run")
    assert f"the weights of {config.model.pretrained}" in results["selection"]
    assert "pretrained: 100 arrays" in capsys.readouterr().err
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert np.isfinite(first["loss"])
    assert {"identity_loss", "circle_loss", "hetero_center_loss"} <= first.keys()
    assert "wrt_loss" not in first
    report = (tmp_path / "run" / "report" / "index.html").read_text()
    for words in ("gaps in training", "gaps in evaluation", "Map of the embedding"):
        assert words in report
    assert set(read_json(tmp_path / "run" / "gaps.json")) == {"training", "evaluation"}


def test_weights_that_do_not_fit_leave_no_directory(config, tmp_path):
    config = config.copy_and_resolve_references()
    config.model.pretrained = weights(config, tmp_path / "weights.safetensors")
    config.model.width = 1 / 8
    with pytest.raises(InputError, match="does not fit the network"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
