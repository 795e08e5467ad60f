"""A network learns from images of three modalities; one identity lacks one of them."""

import json

import cv2
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mbn_jax.data.dataset import Split
from mbn_jax.data.pipeline import train_batches
from mbn_jax.data.sampling import make_sampler
from mbn_jax.errors import InputError
from mbn_jax.files import write_json
from mbn_jax.mesh import make_mesh, process_rows, shard
from mbn_jax.models.reid import ReID
from mbn_jax.training.checkpoint import Checkpoints
from mbn_jax.training.config import as_json
from mbn_jax.training.run_data import modalities_of
from mbn_jax.training.state import init_state, make_model, make_optimizer
from mbn_jax.training.step import make_train_step
from mbn_jax.training.trained_network import load_with_step

from .conftest import small_config

NAMES = ("visible", "nir", "thermal")
LACKS_THERMAL = 14
NUM_STEPS = 12


def picture(identity, modality, number):
    """A checkered square of an identity, in the colors and the light of a modality."""
    rng = np.random.default_rng([identity, number])
    pattern = np.random.default_rng(identity).integers(0, 2, (4, 4, 3)) * 60
    image = np.kron(pattern, np.ones((5, 5, 1))) + rng.integers(0, 20, (20, 20, 3))
    if modality:
        image = image[..., :1].repeat(3, axis=2)
    return (image + (20, 70, 150)[modality]).astype(np.uint8)


def encoded(image):
    return cv2.imencode(".png", image)[1].tobytes()


def made_up_split():
    """Five identities with three images in each modality; one has no thermal image."""
    labels = [
        (identity, modality, number)
        for identity in (10, 11, 12, 13, LACKS_THERMAL)
        for modality in range(3)
        for number in range(3)
        if (identity, modality) != (LACKS_THERMAL, 2)
    ]
    identity, modality, _ = np.array(labels, np.int32).T
    return Split(
        dataset="made_up",
        split="train",
        source=[{"image": encoded(picture(*label))} for label in labels],
        identity=identity,
        camera=modality + 1,
        modality=modality,
        name=np.array([f"{i}/{m}/{n}.png" for i, m, n in labels]),
        modalities=NAMES,
    )


@pytest.fixture(scope="module")
def config():
    config = small_config("")
    config.num_steps, config.num_devices = NUM_STEPS, 1
    config.data.image_size = (16, 16)
    config.model.stem = "separate"
    config.loss.hetero_center = 0.5
    config.augmentation.exchange = config.augmentation.gray = 0.2
    config.augmentation.infrared_gray = 0.2
    return config


@pytest.fixture(scope="module")
def sampler(config):
    split = made_up_split()
    return make_sampler(
        "balanced",
        split.identity,
        split.modality,
        num_identities=config.batch.num_identities,
        num_images=config.batch.num_images,
        seed=config.seed,
        num_modalities=len(split.modalities),
    )


@pytest.fixture(scope="module")
def run(config, sampler):
    """The network, its first and its last state, and the metrics of every step."""
    mesh = make_mesh(config.num_devices)
    model = make_model(config, len(sampler.classes), NAMES)
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state = init_state(model, optimizer, config.seed, mesh)
    first = jax.device_get(state)
    step = make_train_step(model, optimizer, config, mesh)
    metrics = []
    batches = train_batches(
        made_up_split(),
        sampler,
        model.image_size,
        start=0,
        stop=config.num_steps,
        rows=process_rows(sampler.batch_size, mesh),
    )
    for batch in batches:
        state, of_step = step(state, shard(mesh, batch))
        metrics.append(jax.device_get(of_step))
    return model, first, state, metrics


def test_the_identity_that_lacks_a_modality_is_left_out(sampler, config):
    assert sampler.left_out.tolist() == [LACKS_THERMAL]
    assert sampler.classes.tolist() == [10, 11, 12, 13]
    sizes = config.batch.num_identities, config.batch.num_images
    assert sampler.batch_size == sizes[0] * sizes[1] * 3
    split = made_up_split()
    for number in range(NUM_STEPS):
        records = sampler.batch(number)
        assert LACKS_THERMAL not in split.identity[records]
        assert np.bincount(split.modality[records]).tolist() == [8, 8, 8]


def test_the_loss_is_finite_and_falls(run):
    _, _, _, metrics = run
    loss = [float(of_step["loss"]) for of_step in metrics]
    assert np.all(np.isfinite(loss))
    assert np.mean(loss[-3:]) < np.mean(loss[:3])
    assert all(of_step["hetero_center_loss"] > 0 for of_step in metrics)
    assert metrics[-1]["skipped"] == 0


def test_every_normalization_has_learned_three_different_rows(run):
    _, first, last, _ = run
    before = flatten_dict(first.batch_stats, sep="/")
    for path, rows in flatten_dict(jax.device_get(last.batch_stats), sep="/").items():
        assert rows.shape[0] == 3, path
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert np.any(rows[one] != rows[other]), path
        assert np.all(np.any(rows != before[path], axis=1)), path


def test_the_stem_of_every_modality_has_moved(run):
    _, first, last, _ = run
    for name in NAMES:
        before, after = (
            np.asarray(state.params["backbone"][f"conv1_{name}"]["kernel"])
            for state in (first, last)
        )
        assert np.abs(after - before).max() > 1e-4


@pytest.fixture(scope="module")
def workdir(config, run, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("three")
    write_json(workdir / "config.json", as_json(config))
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(NUM_STEPS, run[2], None)
        checkpoints.wait()
    return workdir


def write_names(workdir, names):
    (workdir / "dataset.json").write_text(json.dumps({"modalities": names}))


def test_the_network_comes_back_with_the_names_of_its_modalities(run, workdir):
    model, _, state, _ = run
    write_names(workdir, NAMES)
    again, variables, step = load_with_step(workdir)
    assert again == model
    assert again.modalities == NAMES
    assert step == NUM_STEPS
    jax.tree.map(np.testing.assert_array_equal, variables["params"], state.params)
    jax.tree.map(
        np.testing.assert_array_equal, variables["batch_stats"], state.batch_stats
    )


def test_names_that_are_not_as_many_as_the_statistics_are_refused(workdir):
    write_names(workdir, NAMES[:2])
    with pytest.raises(InputError, match=r"statistics of 3 modalities .* visible, nir"):
        load_with_step(workdir)


@pytest.mark.parametrize("names", [None, [], "nir", ["nir", "nir"], ["nir", 1]])
def test_names_that_are_none_are_refused(tmp_path, names):
    write_names(tmp_path, names)
    with pytest.raises(InputError, match=r"dataset\.json is damaged: its modalities"):
        modalities_of(tmp_path)


def test_a_run_without_a_description_of_its_data_has_the_default_names(tmp_path):
    assert modalities_of(tmp_path) == ("visible", "infrared") == ReID(1).modalities
