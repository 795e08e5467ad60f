"""Re-ranking against the paper's definition, set by set."""

import numpy as np
import pytest

from mbn_jax.errors import InputError
from mbn_jax.evaluation import (
    distances,
    evaluate,
    every_pair,
    retrieval_metrics,
)
from mbn_jax.evaluation.distances import k_reciprocal_distances
from mbn_jax.evaluation.records import Records
from mbn_jax.evaluation.results import evaluate_protocol
from mbn_jax.evaluation.table import format_evaluation


def by_sets(query, gallery, k1, k2, weight):
    features = np.concatenate([query, gallery]).astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    count = len(features)
    distance = np.array([[np.sum((a - b) ** 2) for b in features] for a in features])
    distance /= distance.max(1, keepdims=True)
    order = np.argsort(distance, axis=1, kind="stable")

    def mutual(i, k):
        return {j for j in order[i, : k + 1] if i in order[j, : k + 1]}

    vectors = np.zeros((count, count))
    for i in range(count):
        members = mutual(i, k1)
        for j in list(members):
            closer = mutual(j, round(k1 / 2))
            if len(closer & mutual(i, k1)) > 2 / 3 * len(closer):
                members |= closer
        for j in members:
            vectors[i, j] = np.exp(-distance[i, j])
        vectors[i] /= vectors[i].sum()
    vectors = np.array([vectors[order[i, :k2]].mean(0) for i in range(count)])
    result = np.zeros((len(query), len(gallery)))
    for i in range(len(query)):
        for j in range(len(gallery)):
            a, b = vectors[i], vectors[len(query) + j]
            jaccard = 1 - np.minimum(a, b).sum() / np.maximum(a, b).sum()
            own = distance[i, len(query) + j]
            result[i, j] = (1 - weight) * jaccard + weight * own
    return result


@pytest.mark.parametrize(
    ("k1", "k2", "weight"), [(20, 6, 0.3), (5, 1, 0.0), (4, 3, 0.5), (100, 6, 0.3)]
)
def test_distances_are_those_of_the_definition(k1, k2, weight):
    rng = np.random.default_rng(k1)
    centers = rng.normal(size=(4, 6))
    query, gallery = (
        centers[rng.integers(0, 4, n)] + 0.7 * rng.normal(size=(n, 6)) for n in (9, 25)
    )
    np.testing.assert_allclose(
        k_reciprocal_distances(query, gallery, k1=k1, k2=k2, weight=weight),
        by_sets(query, gallery, k1, k2, weight),
        atol=2e-6,
    )


def test_the_memory_is_known_before_it_is_taken(monkeypatch):
    """It is bounded by three quarters of what the machine has."""
    monkeypatch.setattr(distances, "memory_of_host", lambda: 16 * 2**30)
    many = np.ones((27_500, 1), np.float32)
    with pytest.raises(InputError, match=r"55000 images .* 78\.9 GiB .* 12\.0 GiB:"):
        k_reciprocal_distances(many, many)
    few = many[:10] * np.arange(10)[:, None]
    needed = 4 * 7 * 20**2
    monkeypatch.setattr(distances, "memory_of_host", lambda: -(-needed * 4 // 3))
    k_reciprocal_distances(few, few)
    monkeypatch.setattr(distances, "memory_of_host", lambda: (needed - 1) * 4 // 3)
    with pytest.raises(InputError, match="give fewer images"):
        k_reciprocal_distances(few, few)
    monkeypatch.setattr(distances, "memory_of_host", lambda: needed)
    with pytest.raises(InputError, match="give fewer images"):
        k_reciprocal_distances(few, few)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (np.ones((3, 5)), "have 5 dimensions and those of the gallery 4"),
        (np.ones(4), r"shape \(4,\), but a matrix"),
        (np.ones((0, 4)), r"shape \[0, 4\] cannot"),
        (np.full((3, 4), np.nan), "without NaN"),
        (np.full((3, 4), 1e300), "beyond float32"),
        ([["a", "b", "c", "d"]], "real numbers are expected"),
        ([[1.0], [1.0, 2.0]], "are not a matrix"),
    ],
)
def test_features_that_cannot_be_re_ranked_are_refused(query, message):
    with pytest.raises(InputError, match=message) as error:
        k_reciprocal_distances(query, np.ones((6, 4)))
    assert "\n" not in str(error.value)


def test_a_figure_with_re_ranking_says_so():
    rng = np.random.default_rng(0)
    identity, modality = np.repeat(np.arange(6), 8), np.tile([0, 1], 24)
    records = Records(
        identity=identity,
        camera=1 + modality,
        modality=modality,
        name=np.array([f"{i}.jpg" for i in range(48)]),
    )
    features = np.eye(6)[identity] + 0.6 * rng.normal(size=(48, 6))
    result = evaluate_protocol(
        features, records, every_pair()[0], distance="k_reciprocal", source="F.npz"
    )
    assert "RE-RANKED (k-reciprocal, cosine distance)" in format_evaluation(result)
    assert result["distance"] == "k_reciprocal"
    query, gallery = modality == 1, modality == 0
    by_hand = retrieval_metrics(
        k_reciprocal_distances(features[query], features[gallery]),
        *(identity[query], identity[gallery]),
        *(records.camera[query], records.camera[gallery]),
        protocol=every_pair()[0],
    )
    assert result["mAP"] == by_hand["mAP"]
    plain = evaluate_protocol(
        features, records, every_pair()[0], distance="cosine", source=""
    )
    assert result["mAP"] != plain["mAP"]
    assert "RE-RANKED" not in format_evaluation(plain)


def test_an_evaluation_is_bounded_by_the_memory_of_the_machine(monkeypatch):
    rows = np.arange(4)
    records = Records(
        identity=rows // 2, camera=rows, modality=rows % 2, name=rows.astype(str)
    )
    monkeypatch.setattr(distances, "memory_of_host", lambda: 4 * 7 * 4**2)
    with pytest.raises(InputError, match="Re-ranking 4 images would take"):
        evaluate(np.eye(4), records, every_pair(), distance="k_reciprocal")
    monkeypatch.setattr(distances, "memory_of_host", lambda: 4 * 7 * 4**2 * 2)
    assert evaluate(np.eye(4), records, every_pair(), distance="k_reciprocal")
