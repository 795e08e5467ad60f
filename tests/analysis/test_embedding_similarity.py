"""The cosines of pairs, against loops, and the charts of them."""

import dataclasses

import numpy as np
import pytest

from mbn_jax.analysis import embedding
from mbn_jax.analysis.embedding import (
    Pairs,
    auc,
    bin_edges,
    shares,
    similarities,
    similarity_section,
)
from mbn_jax.evaluation.records import Records

RNG = np.random.default_rng(0)


def records(identity, modality, camera):
    identity = np.asarray(identity)
    names = np.array([f"{i}.png" for i in range(len(identity))])
    return Records(
        identity=identity,
        modality=np.asarray(modality),
        camera=np.asarray(camera),
        name=names,
    )


def embedded(num_people=4):
    """Three cameras, two of them visible, and two images of everyone in each."""
    identity = np.repeat(np.arange(num_people), 6)
    camera = np.tile([0, 0, 1, 1, 2, 2], num_people)
    return records(identity, (camera == 2).astype(int), camera)


def by_loop(features, of):
    """The same from the words."""
    found = {}
    for i in range(len(features)):
        for j in range(i + 1, len(features)):
            a, b = features[i], features[j]
            cosine = a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)
            if of.modality[i] != of.modality[j]:
                kind = "Across the modalities"
            elif of.camera[i] != of.camera[j]:
                kind = "One modality, two cameras"
            else:
                kind = "One modality, one camera"
            alike = "same" if of.identity[i] == of.identity[j] else "different"
            found.setdefault((kind, alike), []).append(cosine)
    return found


def test_every_pair_is_counted_once_and_under_its_kind():
    of = embedded()
    features = RNG.normal(size=(len(of), 5))
    expected = by_loop(features, of)
    found = similarities(features, of)
    assert len(found) == 3
    for pairs in found:
        for alike in ("same", "different"):
            np.testing.assert_allclose(
                np.sort(getattr(pairs, alike)),
                np.sort(expected[pairs.kind, alike]),
                atol=1e-6,
            )


def test_the_length_of_a_feature_has_no_say():
    of = embedded()
    features = RNG.normal(size=(len(of), 5))
    scaled = features * RNG.uniform(0.01, 100, (len(of), 1))
    for one, other in zip(
        similarities(features, of), similarities(scaled, of), strict=True
    ):
        np.testing.assert_allclose(one.same, other.same, atol=1e-6)


def test_equal_images_lie_at_one_and_within_the_chart():
    of = embedded()
    found = similarities(np.eye(4)[of.identity], of)
    edges = bin_edges(found)
    for pairs in found:
        assert (pairs.same == 1).all()
        assert (pairs.different == 0).all()
        assert shares(pairs.same, edges)[-1] == 100
        assert shares(pairs.different, edges)[0] == 100


def test_of_three_modalities_every_pair_has_its_chart():
    identity, modality = np.repeat(np.arange(4), 6), np.tile([0, 1, 2], 8)
    of = dataclasses.replace(
        records(identity, modality, modality), modalities=("visible", "nir", "thermal")
    )
    features = RNG.normal(size=(len(of), 5))
    expected = {}
    for i in range(len(of)):
        for j in range(i + 1, len(of)):
            a, b = sorted([of.modality[i], of.modality[j]])
            kind = f"Across {of.modalities[a]} and {of.modalities[b]}"
            if a == b:
                kind = "One modality, one camera"
            cosine = features[i] @ features[j]
            cosine /= np.linalg.norm(features[i]) * np.linalg.norm(features[j])
            alike = "same" if of.identity[i] == of.identity[j] else "different"
            expected.setdefault((kind, alike), []).append(cosine)
    found = similarities(features, of)
    assert [pairs.kind for pairs in found] == [
        "Across visible and nir",
        "Across visible and thermal",
        "Across nir and thermal",
        "One modality, one camera",
    ]
    for pairs in found:
        for alike in ("same", "different"):
            values = np.sort(getattr(pairs, alike))
            wanted = np.sort(expected[pairs.kind, alike])
            np.testing.assert_allclose(values, wanted, atol=1e-6)
    assert "Across nir and thermal, AUC" in similarity_section(features, of).charts[2]


def test_the_bins_hold_all_pairs():
    of = embedded()
    found = similarities(RNG.normal(size=(len(of), 3)), of)
    edges = bin_edges(found)
    for pairs in found:
        for cosines in (pairs.same, pairs.different):
            assert shares(cosines, edges).sum() == pytest.approx(100)


def test_the_bins_have_a_width_where_all_cosines_are_equal():
    ones = np.ones(3, np.float32)
    edges = bin_edges([Pairs("", ones, ones)])
    assert (np.diff(edges) > 0).all()
    assert shares(ones, edges).sum() == 100


def test_auc_is_the_share_of_pairs_in_the_right_order():
    same, different = RNG.integers(0, 6, 30), RNG.integers(0, 5, 40)
    above = [(s > d) + (s == d) / 2 for s in same for d in different]
    assert auc(same, different) == pytest.approx(np.mean(above))
    assert auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert auc(np.ones(3), np.ones(4)) == 0.5


def test_one_camera_for_each_modality_gives_no_chart_of_two_cameras():
    of = records([0, 0, 1, 1], [0, 1, 0, 1], [1, 2, 1, 2])
    found = similarities(RNG.normal(size=(4, 3)), of)
    kinds = [pairs.kind for pairs in found]
    assert kinds == ["Across the modalities", "One modality, one camera"]
    assert len(found[1].same) == 0
    _, one_camera = similarity_section(RNG.normal(size=(4, 3)), of).charts
    assert "AUC" not in one_camera
    assert "one identity: 0 pairs" in one_camera


def test_of_many_images_some_are_drawn_always_the_same_and_the_page_says_so(
    monkeypatch,
):
    of = embedded()
    features = RNG.normal(size=(len(of), 5))
    assert "drawn" not in similarity_section(features, of).words
    monkeypatch.setattr(embedding, "MOST_IMAGES", 10)
    found = similarities(features, of)
    assert sum(len(pairs.same) + len(pairs.different) for pairs in found) == 45
    section = similarity_section(features, of)
    assert "those of 10 images, drawn by a fixed seed from all 24" in section.words
    assert section == similarity_section(features, of)


def test_the_charts_say_what_the_hills_are():
    of = embedded()
    charts = similarity_section(np.eye(4)[of.identity], of).charts
    assert len(charts) == 3
    assert all("AUC 1.00" in chart for chart in charts)
    across = charts[0]
    assert "one identity: 32 pairs" in across
    assert "two identities: 96 pairs" in across
