"""Histograms of oriented gradients, against what their definition says of images."""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import hog as script

SMALL = "synthetic_vireid/nir-6-2-2-x2"


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 32, 24), dtype=np.uint8)


def edge(axis):
    """A (1, 16, 16) image, dark and bright on the two sides of a line."""
    image = np.zeros((16, 16), np.uint8)
    image[8:] = 200
    return (image if axis == 0 else image.T)[None]


def test_an_image_and_its_inverse_have_equal_features(images):
    np.testing.assert_allclose(script.hog(255 - images), script.hog(images), atol=1e-6)


def test_images_of_unequal_edges_have_unequal_features(images):
    # Noise has every orientation everywhere, so even unlike images of it are close.
    cosines = script.hog(images) @ script.hog(images).T
    assert cosines[~np.eye(3, dtype=bool)].max() < 0.99
    assert (script.hog(edge(0)) @ script.hog(edge(1)).T).item() < 1e-6


def test_brightness_does_not_enter_and_contrast_hardly_does(images):
    dark = images // 4
    np.testing.assert_array_equal(script.hog(dark + np.uint8(100)), script.hog(dark))
    cosines = np.sum(script.hog(4 * dark) * script.hog(dark), axis=1)
    assert cosines.min() > 0.999


@pytest.mark.parametrize(("axis", "bins"), [(0, {4}), (1, {0, 8})])
def test_an_edge_fills_the_bins_of_its_gradient(axis, bins):
    """90 degrees are the center of bin 4, and 0 degrees the border of 8 and 0."""
    histograms = script.hog(edge(axis)).reshape(9, 4).sum(axis=1)
    assert set(np.flatnonzero(histograms > 1e-6)) == bins


def test_features_have_unit_length_and_36_numbers_a_block(images):
    features = script.hog(images)
    assert features.shape == (3, 36 * 3 * 2)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)


def test_a_constant_image_has_a_feature_of_zeros():
    assert not script.hog(np.full((1, 16, 16), 7, np.uint8)).any()


def test_persons_are_upright_and_patches_square():
    assert script.default_size("synthetic_vireid/thermal") == (96, 48)
    assert script.default_size("aligned_pairs/msrs") == (64, 64)


@pytest.mark.parametrize("text", ["96", "96,50", "8,8", "96x48", "-16,16"])
def test_a_size_that_is_not_whole_cells_is_refused(text):
    assert script.size("96,48") == (96, 48)
    with pytest.raises(argparse.ArgumentTypeError, match="multiples of 8"):
        script.size(text)


def test_the_file_has_a_row_for_each_method_and_direction(
    data_dir, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "study" / "baselines.csv"
    flags = [f"--data_dir={data_dir}", f"--csv={file}", "--image_size=32,16", SMALL]
    monkeypatch.setattr(sys, "argv", ["hog.py", *flags])
    script.main()
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [(row["protocol"], row["method"]) for row in rows] == [
        (protocol, method)
        for protocol in ("infrared_to_visible", "visible_to_infrared")
        for method in ("HOG", "chance")
    ]
    table = capsys.readouterr().out
    for row in rows:
        assert row["data"] == SMALL
        assert all(0 < float(row[key]) <= 1 for key in ("mAP", "mINP"))
        assert f"| {100 * float(row['mAP']):.1f} |" in table


def test_the_untrained_network_of_a_run_is_a_row_of_each_direction(monkeypatch):
    metrics = {"rank1": 0.25, "rank10": 0.5, "mAP": 0.3, "mINP": 0.1}
    other = dict.fromkeys(metrics, 0.9)
    results = {
        "dataset": SMALL,
        "protocols": ["infrared_to_visible", "visible_to_infrared"],
        "figures": {
            name: dict.fromkeys(["infrared_to_visible", "visible_to_infrared"], values)
            for name, values in (("last", other), ("untrained", metrics))
        },
    }
    monkeypatch.setattr(script, "read_results", lambda path: results)
    rows = [*script.rows_of_run(Path("run"))]
    assert [(row.data, row.method, row.metrics) for row in rows] == [
        (SMALL, "untrained network", metrics)
    ] * 2
    assert [row.title for row in rows] == ["infrared → visible", "visible → infrared"]
