"""A finished network with other running statistics: which, and that nothing else."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mbn_jax.data.dataset import load_split
from mbn_jax.data.pipeline import load_images
from mbn_jax.pixels import normalize
from mbn_jax.training import diagnostics
from mbn_jax.training.diagnostics import (
    BY_MODALITY,
    CONTROLS,
    OTHER,
    POOLED,
    TOGETHER,
    measure_controls,
)
from mbn_jax.training.loop import train
from mbn_jax.training.trained_network import load_with_step

from ..commands import in_process

LAYER = ("backbone", "norm1")  # the first one: what it sees, no other layer changes


@pytest.fixture(scope="module")
def network(finished, data_dir):
    workdir, results = finished
    model, variables, _ = load_with_step(workdir)
    split = load_split(results["dataset"], "test", str(data_dir))
    return model, variables, split


def statistics(variables, layer=LAYER):
    flat = flatten_dict(variables["batch_stats"])
    return [np.asarray(flat[(*layer, name)]) for name in ("mean", "var")]


@pytest.fixture(scope="module")
def changed(network):
    """The variables of every control, for the network as MBN and as BN."""
    model, variables, split = network
    by_modality = dict(diagnostics._controls(model, variables, split, was_bn=False))
    mixed = dict(diagnostics._controls(model, variables, split, was_bn=True))
    return by_modality, mixed


def test_no_control_changes_a_weight(network, changed):
    _, variables, _ = network
    for networks in changed:
        for other in networks.values():
            jax.tree.map(
                np.testing.assert_array_equal, other["params"], variables["params"]
            )


def test_which_controls_there_are(changed):
    by_modality, mixed = changed
    assert list(by_modality) == ["as trained", BY_MODALITY, OTHER, POOLED]
    assert list(mixed) == ["as trained", TOGETHER, BY_MODALITY]


def test_statistics_of_the_other_modality_are_its_own_exchanged(network, changed):
    _, variables, _ = network
    for layer in (LAYER, ("neck",)):
        for own, other in zip(
            statistics(variables, layer),
            statistics(changed[0][OTHER], layer),
            strict=True,
        ):
            np.testing.assert_array_equal(other, own[::-1])
            assert not np.array_equal(own[0], own[1])


def test_pooled_statistics_are_those_of_the_mixture_for_both(network, changed):
    _, variables, _ = network
    mean, var = statistics(variables)
    pooled_mean, pooled_var = statistics(changed[0][POOLED])
    expected = (mean[0] + mean[1]) / 2
    away = (mean[0] - mean[1]) / 2
    for row in (0, 1):
        np.testing.assert_allclose(pooled_mean[row], expected, rtol=1e-6)
        np.testing.assert_allclose(
            pooled_var[row], (var[0] + var[1]) / 2 + away**2, rtol=1e-5
        )


def first_convolution(network):
    """What the first normalization sees of every test image, `(N, H, W, C)`."""
    model, variables, split = network
    images = load_images(split, np.arange(len(split)), model.image_size)
    kernel = variables["params"]["backbone"]["conv1"]["kernel"]
    return jax.lax.conv_general_dilated(
        normalize(jnp.asarray(images)),
        kernel,
        (2, 2),
        [(3, 3), (3, 3)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def test_re_estimated_statistics_are_those_of_the_test_images(network, changed):
    """Of each modality, or of both: the drawn batches hold both equally often."""
    seen = first_convolution(network)
    modality = network[2].modality
    of_each = np.stack([seen[modality == m].mean((0, 1, 2)) for m in (0, 1)])
    scale = np.asarray(seen.std((0, 1, 2)))
    mean, _ = statistics(changed[0][BY_MODALITY])
    assert np.abs((mean - of_each) / scale).max() < 0.1
    together, _ = statistics(changed[1][TOGETHER])
    np.testing.assert_array_equal(together[0], together[1])
    assert np.abs((together[0] - of_each.mean(0)) / scale).max() < 0.1
    # The modalities differ by more than the tolerance.
    assert np.abs((of_each[0] - of_each[1]) / scale).max() > 0.2


def test_the_command_prints_and_writes(finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    done = in_process.run("controls", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    written = json.loads((workdir / CONTROLS).read_text())
    for name in written:
        assert f"\n{name} " in done.stdout
    last = json.loads((workdir / "results.json").read_text())["figures"]["last"]
    for protocol, metrics in written["as trained"].items():
        assert metrics["mAP"] == pytest.approx(last[protocol]["mAP"], abs=1e-6)


def test_a_directory_without_a_run_is_an_error(tmp_path):
    done = in_process.run("controls", f"--workdir={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "changes", [{"share_affine": False}, {"mbn_at": ("neck",)}], ids=str
)
def test_settings_of_mbn_do_not_matter_to_the_controls_of_bn(config, tmp_path, changes):
    """They change nothing in a network with BN, and stay in its configuration."""
    config.model.norm = "bn"
    config.model.update(changes)
    results = train(config, tmp_path / "run")
    found = measure_controls(tmp_path / "run")
    assert list(found) == ["as trained", TOGETHER, BY_MODALITY]
    for protocol, metrics in found["as trained"].items():
        expected = results["figures"]["last"][protocol]["mAP"]
        assert metrics["mAP"] == pytest.approx(expected, abs=1e-6)
