import itertools

import numpy as np
import pytest

from mbn_jax.errors import InputError
from mbn_jax.evaluation import (
    INFRARED_TO_VISIBLE,
    chance_level,
    retrieval_metrics,
)
from mbn_jax.evaluation.chance import expected_ap, expected_cmc, expected_inp


@pytest.mark.parametrize(
    ("size", "matches"), [(1, 1), (2, 1), (5, 1), (5, 2), (6, 3), (5, 5)]
)
def test_expectations_are_the_mean_over_all_rankings(size, matches):
    cmcs, precisions, penalties = [], [], []
    for ranks in itertools.combinations(range(1, size + 1), matches):
        cmcs.append([ranks[0] <= k for k in range(1, size + 3)])
        precisions.append(np.mean([i / r for i, r in enumerate(ranks, start=1)]))
        penalties.append(matches / ranks[-1])
    np.testing.assert_allclose(
        expected_cmc(size, matches, size + 2), np.mean(cmcs, axis=0)
    )
    assert expected_ap(size, matches) == pytest.approx(np.mean(precisions))
    assert expected_inp(size, matches) == pytest.approx(np.mean(penalties))


def test_chance_level_is_what_random_distances_score():
    rng = np.random.default_rng(0)
    query_ids, query_cameras = np.repeat(np.arange(8), 2), np.tile([0, 1], 8)
    gallery_ids = rng.integers(6, size=40)  # two people are not in the gallery
    gallery_cameras = rng.integers(3, size=40)
    arguments = (query_ids, gallery_ids, query_cameras, gallery_cameras)
    expected = chance_level(*arguments, protocol=INFRARED_TO_VISIBLE)

    repeats = 600
    simulated = retrieval_metrics(
        rng.random((16 * repeats, 40)),
        np.tile(query_ids, repeats),
        gallery_ids,
        np.tile(query_cameras, repeats),
        gallery_cameras,
        protocol=INFRARED_TO_VISIBLE,
    )
    assert expected["num_queries"] == 16
    assert expected["num_valid_queries"] * repeats == simulated["num_valid_queries"]
    assert expected["gallery_size"] == simulated["gallery_size"]
    # 7,200 draws of values within 0 and 1: a standard error below 0.006.
    for key in ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP", "cmc"):
        np.testing.assert_allclose(
            expected[key], simulated[key], atol=0.02, err_msg=key
        )


def test_a_gallery_of_thousands_stays_finite():
    assert 0 < expected_inp(10_000, 3_000) < 1
    assert 0 < expected_ap(10_000, 1) < 0.01
    assert np.isfinite(expected_cmc(10_000, 3_000, 50)).all()


def test_a_gallery_without_a_match_is_refused():
    with pytest.raises(InputError, match="has a match"):
        chance_level([1], [1, 2], [0], [0, 0], protocol=INFRARED_TO_VISIBLE)
