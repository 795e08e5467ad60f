"""The map of the embedding: who is on it, and where."""

import re
import sys

import numpy as np
import pytest

from mbn_jax.analysis import charts
from mbn_jax.analysis.embedding import (
    map_section,
    mapped_rows,
    principal_components,
    t_sne,
)
from mbn_jax.evaluation.records import Records

RNG = np.random.default_rng(0)


def records(identity, modality, modalities=("visible", "infrared")):
    identity = np.asarray(identity)
    names = np.array([f"{i}.png" for i in range(len(identity))])
    modality = np.asarray(modality)
    return Records(
        identity=identity,
        modality=modality,
        camera=modality,
        name=names,
        modalities=modalities,
    )


def people(number, images=4):
    """So many images of each person in each modality."""
    return records(
        np.repeat(np.arange(100, 100 + number), 2 * images),
        np.tile(np.repeat([0, 1], images), number),
    )


def test_principal_components_are_those_of_the_covariance_up_to_sign():
    features = RNG.normal(size=(30, 6)) @ RNG.normal(size=(6, 6))
    _, vectors = np.linalg.eigh(np.cov(features.T))
    expected = (features - features.mean(0)) @ vectors[:, [-1, -2]]
    found = principal_components(features)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-9)


def test_principal_components_have_the_same_sign_whatever_the_order_of_the_images():
    features = RNG.normal(size=(30, 6))
    order = RNG.permutation(30)
    np.testing.assert_allclose(
        principal_components(features)[order],
        principal_components(features[order]),
        atol=1e-9,
    )


def test_ten_people_are_spread_over_those_of_both_modalities():
    of = people(28)
    only_visible = of.identity == 100
    of = records(of.identity, np.where(only_visible, 0, of.modality))
    chosen = np.unique(of.identity[mapped_rows(of)])
    assert list(chosen) == [101, 104, 107, 110, 113, 115, 118, 121, 124, 127]


def test_a_person_with_many_images_does_not_fill_the_map():
    of = people(3, images=40)
    rows = mapped_rows(of)
    for person in range(100, 103):
        for modality in (0, 1):
            mask = (of.identity[rows] == person) & (of.modality[rows] == modality)
            assert mask.sum() == 15
    assert (np.diff(rows) > 0).all()


@pytest.fixture(scope="module")
def clusters():
    """Three people, far apart, and their labels."""
    of = people(3, images=15)
    centers = 5 * np.eye(4)[of.identity - 100]
    return centers + RNG.normal(scale=0.1, size=centers.shape), of


def test_t_sne_keeps_the_images_of_a_person_together(clusters):
    pytest.importorskip("sklearn")
    features, of = clusters
    points = t_sne(features, principal_components(features))
    assert points.shape == (90, 2)
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(1)
    assert (of.identity[nearest] == of.identity).all()


def test_t_sne_is_the_same_every_time(clusters):
    pytest.importorskip("sklearn")
    features, _ = clusters
    start = principal_components(features)
    np.testing.assert_array_equal(t_sne(features, start), t_sne(features, start))


def test_an_embedding_without_any_variance_has_a_map_nevertheless():
    of = people(2)
    section = map_section(np.ones((len(of), 3), np.float32), of)
    assert section.charts
    assert not any("nan" in chart for chart in section.charts)


def test_without_scikit_learn_there_is_one_map_and_the_page_says_how_to_get_both(
    clusters, monkeypatch
):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    features, _ = clusters
    assert t_sne(features, principal_components(features)) is None
    section = map_section(*clusters)
    assert len(section.charts) == 1
    assert "Principal components" in section.charts[0]
    assert "pip install scikit-learn" in section.words


def test_the_maps_name_every_person_and_both_modalities(clusters):
    pytest.importorskip("sklearn")
    section = map_section(*clusters)
    assert len(section.charts) == 2
    assert "test images of 3 identities" in section.words
    assert "circles visible, triangles infrared" in section.words
    assert "pip install" not in section.words
    for chart in section.charts:
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", chart)
        assert {"100", "101", "102", "visible", "infrared"} <= set(texts)


THREE = ("visible", "nir", "thermal")


def test_of_three_modalities_the_map_shows_who_has_two_of_them():
    """Identity 1 has all three, 2 lacks the second, and 3 has one only."""
    modality = [0, 0, 1, 1, 2, 2, 0, 0, 2, 2, 1, 1]
    of = records([1] * 6 + [2] * 4 + [3] * 2, modality, THREE)
    np.testing.assert_array_equal(mapped_rows(of), np.arange(10))


def test_a_line_joins_the_centers_of_all_modalities_that_an_identity_has(monkeypatch):
    modality = np.repeat([0, 1, 2, 0, 2], 3)
    of = records([7] * 9 + [8] * 6, modality, THREE)
    figures = []
    monkeypatch.setattr(charts, "svg", lambda figure: figures.append(figure) or "")
    features = RNG.normal(size=(15, 4))
    section = map_section(features, of, np.array(["anna"] * 9 + ["$x"] * 6))
    assert "circles visible, triangles nir, squares thermal" in section.words
    (axes,) = figures[0].axes
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    points = principal_components(directions)
    for line, first, count in zip(axes.lines, (0, 9), (3, 2), strict=True):
        rows = [np.arange(first + 3 * i, first + 3 * i + 3) for i in range(count)]
        centers = [points[of_modality].mean(0) for of_modality in rows]
        expected = np.array([*centers, centers[0]])
        np.testing.assert_allclose(line.get_xydata(), expected, atol=1e-6)
    assert [text.get_text() for text in axes.texts] == ["anna", r"\$x"]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == list(THREE)


def test_ten_modalities_have_ten_markers():
    names = tuple(f"band {chr(97 + m)}" for m in range(10))
    identity, modality = np.repeat([1, 2], 10), np.tile(np.arange(10), 2)
    section = map_section(
        RNG.normal(size=(20, 4)), records(identity, modality, modalities=names)
    )
    shapes = re.findall(r"([a-z ]+) band [a-j]", section.words)
    assert len(shapes) == len(set(shapes)) == 10


def test_of_too_few_images_to_have_neighbors_there_is_one_map():
    of = people(4, images=4)
    section = map_section(RNG.normal(size=(len(of), 5)), of)
    assert len(section.charts) == 1
    assert "needs ninety images" in section.words


def test_too_few_images_make_no_map():
    of = people(1)
    assert not map_section(np.ones((len(of), 3)), of).charts
    nobody = records([1, 2, 3], [0, 0, 0])
    assert not map_section(np.ones((3, 3)), nobody).charts
