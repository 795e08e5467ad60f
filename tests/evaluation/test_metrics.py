import dataclasses

import numpy as np
import pytest

from mbn_jax.errors import InputError
from mbn_jax.evaluation import (
    INFRARED_TO_VISIBLE,
    cosine_distances,
    retrieval_metrics,
)

KEEP_SAME_CAMERA = dataclasses.replace(INFRARED_TO_VISIBLE, remove_same_camera=False)


def reference(distances, query_ids, gallery_ids, query_cameras, gallery_cameras):
    """The definitions, as loops."""
    cmcs, precisions, penalties = [], [], []
    for q in range(len(query_ids)):
        gallery = [
            g
            for g in range(len(gallery_ids))
            if (gallery_ids[g], gallery_cameras[g]) != (query_ids[q], query_cameras[q])
        ]
        gallery.sort(key=lambda g: distances[q][g])  # Python's sort is stable
        ranks = [
            rank
            for rank, g in enumerate(gallery, start=1)
            if gallery_ids[g] == query_ids[q]
        ]
        if not ranks:
            continue
        length = min(50, len(gallery_ids))
        cmcs.append([any(r <= k for r in ranks) for k in range(1, length + 1)])
        precisions.append(np.mean([i / r for i, r in enumerate(ranks, start=1)]))
        penalties.append(len(ranks) / ranks[-1])
    cmc = np.mean(cmcs, axis=0)
    figures = {f"rank{k}": cmc[min(k, len(cmc)) - 1] for k in (1, 5, 10, 20)}
    return {
        **figures,
        "mAP": np.mean(precisions),
        "mINP": np.mean(penalties),
        "cmc": list(cmc),
        "num_queries": len(query_ids),
        "num_valid_queries": len(cmcs),
        "gallery_size": len(gallery_ids),
    }


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(actual[key], expected[key], atol=1e-6, err_msg=key)


def labels(rng, count, identities=6, cameras=3):
    return rng.integers(identities, size=count), rng.integers(cameras, size=count)


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_definitions_with_ties_and_queries_without_a_match(seed):
    rng = np.random.default_rng(seed)
    num_queries, gallery_size = rng.integers(1, 150), rng.integers(3, 90)
    query_ids, query_cameras = labels(rng, num_queries, identities=9)
    gallery_ids, gallery_cameras = labels(rng, gallery_size)
    query_ids[0], gallery_ids[0] = 0, 0
    query_cameras[0], gallery_cameras[0] = 0, 1
    # Few distinct values, so that most distances have equals.
    distances = rng.integers(8, size=(num_queries, gallery_size)).astype(np.float32)
    arguments = (distances, query_ids, gallery_ids, query_cameras, gallery_cameras)
    actual = retrieval_metrics(*arguments, protocol=INFRARED_TO_VISIBLE)
    assert_same(actual, reference(*arguments))


def test_figures_are_plain_numbers_that_json_can_hold():
    figures = retrieval_metrics(
        [[0.0, 1.0]], [1], [1, 2], [0], [1, 1], protocol=INFRARED_TO_VISIBLE
    )
    assert all(isinstance(figures[key], float) for key in ("rank1", "mAP", "mINP"))
    assert all(type(value) is float for value in figures["cmc"])


def test_a_case_worked_by_hand():
    # Sorted: wrong, right, right (its own camera: removed), wrong, right.
    figures = retrieval_metrics(
        [[0.1, 0.2, 0.3, 0.4, 0.5]],
        [7],
        [8, 7, 7, 9, 7],
        [3],
        [1, 1, 3, 2, 2],
        protocol=INFRARED_TO_VISIBLE,
    )
    # The matches are at the ranks 2 and 4 of the four images that are left.
    assert figures["mAP"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert figures["mINP"] == pytest.approx(2 / 4)
    assert figures["cmc"] == [0, 1, 1, 1, 1]


def test_the_same_camera_stays_where_the_protocol_keeps_it():
    arguments = ([[0.1, 0.2]], [7], [7, 8], [3], [3, 1])
    figures = retrieval_metrics(*arguments, protocol=KEEP_SAME_CAMERA)
    assert figures["rank1"] == 1
    with pytest.raises(InputError, match="No query of infrared → visible has a match"):
        retrieval_metrics(*arguments, protocol=INFRARED_TO_VISIBLE)


@pytest.mark.parametrize(("right_first", "rank1"), [(True, 1.0), (False, 0.0)])
def test_equal_distances_stay_in_gallery_order(right_first, rank1):
    gallery_ids = [1, 2] if right_first else [2, 1]
    figures = retrieval_metrics(
        [[0.5, 0.5]], [1], gallery_ids, [0], [1, 1], protocol=INFRARED_TO_VISIBLE
    )
    assert figures["rank1"] == rank1


def test_a_query_without_a_match_is_not_scored():
    figures = retrieval_metrics(
        [[0.1, 0.2], [0.1, 0.2]],
        [1, 99],
        [1, 2],
        [0, 0],
        [1, 1],
        protocol=INFRARED_TO_VISIBLE,
    )
    assert figures["rank1"] == figures["mAP"] == 1
    assert (figures["num_queries"], figures["num_valid_queries"]) == (2, 1)


def test_a_gallery_smaller_than_the_rank_counts_as_its_end():
    figures = retrieval_metrics(
        [[0.3, 0.2, 0.1]], [1], [1, 2, 3], [0], [1, 1, 1], protocol=INFRARED_TO_VISIBLE
    )
    assert figures["cmc"] == [0, 0, 1]
    assert figures["rank1"] == 0
    assert figures["rank5"] == figures["rank20"] == 1


def test_identities_may_be_names():
    figures = retrieval_metrics(
        [[0.1, 0.2]], ["anna"], ["ben", "anna"], ["a"], ["b", "b"],
        protocol=INFRARED_TO_VISIBLE,
    )  # fmt: skip
    assert figures["mAP"] == pytest.approx(1 / 2)


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="NaN or infinity"):
        retrieval_metrics(
            [[np.nan, 0.2]], [1], [1, 2], [0], [1, 1], protocol=INFRARED_TO_VISIBLE
        )


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"\(1, 2\), but there are 2 queries"):
        retrieval_metrics(
            [[0.1, 0.2]], [1, 1], [1, 2], [0, 0], [1, 1], protocol=INFRARED_TO_VISIBLE
        )
    with pytest.raises(InputError, match=r"gallery identities have shape \(2,\)"):
        retrieval_metrics(
            [[0.1, 0.2]], [1], [1, 2], [0], [1], protocol=INFRARED_TO_VISIBLE
        )


def test_cosine_distances_of_unit_vectors():
    query = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    np.testing.assert_allclose(
        cosine_distances(query, query), [[0, 0.4], [0.4, 0]], atol=1e-6
    )
