import itertools

import numpy as np
import pytest

from mbn_jax.data.sources.sysu_mm01 import protocol as sysu_mm01
from mbn_jax.errors import InputError
from mbn_jax.evaluation import (
    chance_level,
    every_pair,
    retrieval_metrics,
)
from mbn_jax.evaluation.chance import (
    expected_ap,
    expected_cmc,
    expected_identity_cmc,
    expected_inp,
)

INFRARED_TO_VISIBLE, _ = every_pair()


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


def test_chance_by_identities_is_what_random_distances_score():
    # Half of the queries are of camera 3, which skips camera 2.
    rng = np.random.default_rng(1)
    query_ids, query_cameras = np.repeat(np.arange(8), 2), np.tile([3, 6], 8)
    gallery_ids, gallery_cameras = rng.integers(7, size=24), rng.choice([1, 2, 4], 24)
    arguments = (query_ids, gallery_ids, query_cameras, gallery_cameras)
    expected = chance_level(*arguments, protocol=sysu_mm01("all"))
    repeats = 600
    simulated = retrieval_metrics(
        rng.random((16 * repeats, 24)),
        np.tile(query_ids, repeats),
        gallery_ids,
        np.tile(query_cameras, repeats),
        gallery_cameras,
        protocol=sysu_mm01("all"),
    )
    assert expected["num_valid_queries"] * repeats == simulated["num_valid_queries"]
    # More than 7,200 draws of values within 0 and 1: a standard error below 0.006.
    for key in ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP", "cmc"):
        np.testing.assert_allclose(
            expected[key], simulated[key], atol=0.02, err_msg=key
        )


def identity_ranks_of_all_orders(sizes):
    """At which rank identity 0 is found, for every order of the images."""
    images = [person for person, size in enumerate(sizes) for _ in range(size)]
    for order in itertools.permutations(images):
        yield 1 + list(dict.fromkeys(order)).index(0)


@pytest.mark.parametrize("sizes", [(1,), (3,), (1, 1), (2, 1, 3), (1, 4, 2), (3, 1, 1)])
def test_an_expected_cmc_of_identities_is_the_mean_over_all_orders(sizes):
    ranks = np.array(list(identity_ranks_of_all_orders(sizes)))
    expected = [np.mean(ranks <= k) for k in range(1, 6)]
    found = expected_identity_cmc(sizes[0], sizes[1:], 5)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.max() <= 1


@pytest.mark.parametrize(
    ("images", "identities"),
    [
        *((1, 300), (9, 351), (40, 96), (1000, 100)),
        pytest.param(20, 5000, marks=pytest.mark.slow),  # 100,000 images
    ],
)
def test_among_equal_identities_every_rank_is_equally_likely(images, identities):
    found = expected_identity_cmc(images, (images,) * (identities - 1), 50)
    exact = np.arange(1, 51) / identities
    np.testing.assert_allclose(found, exact, atol=1e-9)


@pytest.mark.parametrize("matches", [1, 30, 2000])
def test_the_first_rank_of_identities_is_the_share_of_the_matches(matches):
    others = (1,) * 50 + (700,) * 20 + (9000,)
    found = expected_identity_cmc(matches, others, 1)
    assert found[0] == pytest.approx(matches / (matches + sum(others)), abs=1e-9)


def test_every_rule_of_removal_counts_in_the_sizes():
    # Camera 3 sees A, B and B of camera 1; camera 6 sees another A and B of camera 2.
    gallery = [("A", 1), ("B", 1), ("B", 1), ("A", 2), ("B", 2)]
    ids, cameras = zip(*gallery, strict=True)
    from_3, from_6 = (
        chance_level(["A"], ids, [camera], cameras, protocol=sysu_mm01("all"))
        for camera in (3, 6)
    )
    assert from_3["rank1"] == pytest.approx(1 / 3)
    assert from_6["rank1"] == pytest.approx(2 / 5)
    # With one match among three: at the first, second or third rank.
    assert from_3["mAP"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert from_3["rank5"] == from_6["rank5"] == 1


def test_a_gallery_of_thousands_stays_finite():
    assert 0 < expected_inp(10_000, 3_000) < 1
    assert 0 < expected_ap(10_000, 1) < 0.01
    assert np.isfinite(expected_cmc(10_000, 3_000, 50)).all()


def test_a_gallery_without_a_match_is_refused():
    with pytest.raises(InputError, match="has a match"):
        chance_level([1], [1, 2], [0], [0, 0], protocol=INFRARED_TO_VISIBLE)
