import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies

from mbn_jax.data.sources.sysu_mm01 import protocol as sysu_mm01
from mbn_jax.errors import InputError
from mbn_jax.evaluation import (
    chance_level,
    every_pair,
    feature_metrics,
    retrieval_metrics,
)

from . import reference

INFRARED_TO_VISIBLE, _ = every_pair()

KEEP_SAME_CAMERA = dataclasses.replace(INFRARED_TO_VISIBLE, remove_same_camera=False)


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(actual[key], expected[key], atol=1e-6, err_msg=key)


def loops(distances, query_ids, gallery_ids, query_cameras, gallery_cameras, protocol):
    """The same by loops, for a protocol of any rules."""
    count = len(query_ids)
    identity = [*query_ids, *gallery_ids]
    camera = [*query_cameras, *gallery_cameras]
    distance = [[0] * count + list(row) for row in distances]

    def skips(q, g):
        same = identity[q] == identity[g] and camera[q] == camera[g]
        return (protocol.remove_same_camera and same) or (
            (camera[q], camera[g]) in protocol.removed_cameras
        )

    gallery = range(count, len(identity))
    scores = reference.score(
        identity, distance, range(count), gallery, skips, protocol.cmc
    )
    return reference.figures(scores, count, len(gallery)) if scores.query else None


NUM_QUERIES, GALLERY_SIZE = 12, 20
RULES = [
    dataclasses.replace(
        INFRARED_TO_VISIBLE,
        remove_same_camera=same,
        removed_cameras=removed,
        cmc=cmc,
    )
    for same in (True, False)
    for removed in ((), ((0, 1), (0, 2), (2, 2)))
    for cmc in ("images", "identities")
]


def lists(values, length):
    return strategies.lists(
        strategies.integers(0, values - 1), min_size=length, max_size=length
    )


@settings(max_examples=50, deadline=None)
@given(
    distances=lists(4, NUM_QUERIES * GALLERY_SIZE),
    query_ids=lists(5, NUM_QUERIES),
    gallery_ids=lists(4, GALLERY_SIZE),
    query_cameras=lists(3, NUM_QUERIES - 1),
    gallery_cameras=lists(3, GALLERY_SIZE),
    protocol=strategies.sampled_from(RULES),
)
def test_any_rules_equal_the_loops_whatever_the_labels_and_the_ties(
    distances, query_ids, gallery_ids, query_cameras, gallery_cameras, protocol
):
    distances = np.array(distances, np.float32).reshape(NUM_QUERIES, GALLERY_SIZE)
    arguments = (
        distances,
        np.array(query_ids),
        np.array(gallery_ids),
        np.array([*query_cameras, 2]),  # always three cameras: one program
        np.array(gallery_cameras),
    )
    expected = loops(*arguments, protocol)
    if expected is None:
        with pytest.raises(InputError, match="has a match"):
            retrieval_metrics(*arguments, protocol=protocol)
    else:
        assert_same(retrieval_metrics(*arguments, protocol=protocol), expected)


@pytest.mark.parametrize("cmc", ["images", "identities"])
def test_many_matches_and_many_identities_equal_the_loops(cmc):
    # More matches than are counted in a pass, and more identities.
    rng = np.random.default_rng(0)
    gallery_ids = np.concatenate([rng.integers(300, size=500), np.full(41, 7)])
    query_ids = np.array([7, 7, *rng.integers(320, size=30)])
    protocol = dataclasses.replace(INFRARED_TO_VISIBLE, cmc=cmc)
    arguments = (
        rng.integers(200, size=(32, 541)).astype(np.float32),
        query_ids,
        gallery_ids,
        rng.integers(2, size=32),
        rng.integers(4, size=541),
    )
    found = retrieval_metrics(*arguments, protocol=protocol)
    assert_same(found, loops(*arguments, protocol))


def test_an_identity_that_the_gallery_does_not_hold_changes_nothing_for_the_others():
    rng = np.random.default_rng(1)
    distances = rng.random((4, 6))
    gallery = [1, 2, 3, 1, 2, 3], [0, 1, 0, 1, 0, 1]
    for absent in (0, 2**40):  # below and far above the others
        with_absent = retrieval_metrics(
            distances, [1, absent, 2, absent], gallery[0], [2] * 4, gallery[1],
            protocol=INFRARED_TO_VISIBLE,
        )  # fmt: skip
        without = retrieval_metrics(
            distances[::2], [1, 2], gallery[0], [2] * 2, gallery[1],
            protocol=INFRARED_TO_VISIBLE,
        )  # fmt: skip
        assert with_absent.pop("num_queries") == 4
        assert without.pop("num_queries") == 2
        assert with_absent == without


@pytest.mark.parametrize("cmc", ["images", "identities"])
def test_labels_may_be_names_negative_or_far_apart(cmc):
    rng = np.random.default_rng(2)
    protocol = dataclasses.replace(
        INFRARED_TO_VISIBLE, cmc=cmc, removed_cameras=((1, 2),)
    )
    distances = rng.random((12, 20))
    ids = rng.integers(5, size=12), rng.integers(5, size=20)
    cameras = rng.integers(3, size=12), rng.integers(3, size=20)
    expected = retrieval_metrics(distances, *ids, *cameras, protocol=protocol)
    for names in (
        np.array(["anna", "ben", "carl", "dora", "emil"]),
        np.array([-(2**62), -1, 0, 2**40, 2**62]),
        np.array([0, 255, 7, 100, 101], np.uint8),
    ):
        named = (names[side] for side in ids)
        found = retrieval_metrics(distances, *named, *cameras, protocol=protocol)
        assert found == expected


def test_cameras_may_be_names():
    arguments = ([[0.1, 0.2, 0.3]], [1], [1, 2, 1], ["door"], ["door", "hall", "hall"])
    figures = retrieval_metrics(*arguments, protocol=INFRARED_TO_VISIBLE)
    assert figures["cmc"] == [0, 1, 1]


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        ((["cam3"], [2, 4, 4]), "texts on one side"),
        (([3], ["2", "4", "4"]), "texts on one side"),
        ((["3"], ["2", "4", "4"]), "The query cameras .* give integers"),
        (([3], [2.0, 4.0, 4.0]), "The gallery cameras .* give integers"),
    ],
)
def test_cameras_are_numbers_where_a_rule_names_them(cameras, message):
    with pytest.raises(InputError, match=message):
        retrieval_metrics(
            [[0.1, 0.2, 0.3]], [1], [1, 2, 1], *cameras, protocol=sysu_mm01()
        )


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.float64])
@pytest.mark.parametrize("on_device", [False, True])
def test_large_whole_numbers_are_no_ties(dtype, on_device):
    if on_device and np.dtype(dtype).itemsize > 4:
        pytest.skip("JAX has 32 bits")
    distances = np.array([[2**24 + 1, 2**24]], dtype)
    figures = retrieval_metrics(
        jnp.asarray(distances) if on_device else distances,
        [1], [1, 2], [0], [1, 1], protocol=INFRARED_TO_VISIBLE,
    )  # fmt: skip
    assert figures["rank1"] == 0


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        ([["a", "b"]], "real numbers are expected"),
        ([[1j, 2.0]], "real numbers are expected"),
        ([[0.1, 0.2], [0.3]], "are not a matrix"),
        ([[1e299, 1.0]], "beyond float32"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(distances, message):
    with pytest.raises(InputError, match=message):
        retrieval_metrics(
            distances, [1], [1, 2], [0], [1, 1], protocol=INFRARED_TO_VISIBLE
        )


def test_something_else_than_a_protocol_is_refused():
    for wrong in ("sysu_mm01", sysu_mm01):
        with pytest.raises(
            InputError, match=r"a Protocol is expected, .*every_pair\(\)\[0\]"
        ):
            retrieval_metrics([[0.1]], [1], [1], [0], [1], protocol=wrong)


@pytest.mark.parametrize("shapes", [((1, 3), (2, 4)), ((3,), (2, 3)), ((2, 3), (2, 3))])
def test_features_of_other_shapes_are_refused(shapes):
    with pytest.raises(InputError, match="features have shapes"):
        feature_metrics(
            *map(np.ones, shapes), [1], [1, 2], [0], [1, 1],
            protocol=INFRARED_TO_VISIBLE,
        )  # fmt: skip


def test_distances_may_be_on_the_device_or_of_any_number_type():
    distances = np.random.default_rng(3).integers(9, size=(3, 5))
    labels = ([1, 2, 1], [1, 2, 2, 1, 1], [0] * 3, [1] * 5)
    expected = retrieval_metrics(distances, *labels, protocol=INFRARED_TO_VISIBLE)
    for same in (distances.tolist(), distances.astype(float), jnp.asarray(distances)):
        found = retrieval_metrics(same, *labels, protocol=INFRARED_TO_VISIBLE)
        assert found == expected


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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (1, 1), (1, 2)])
def test_distances_that_are_not_finite_are_refused_wherever_they_are(value, place):
    # Query 1 has no match, and gallery image 2 is hidden from it.
    distances = np.full((2, 3), 0.5)
    distances[place] = value
    with pytest.raises(InputError, match="NaN, infinity"):
        retrieval_metrics(
            distances, [1, 9], [1, 2, 9], [0, 0], [1, 1, 0],
            protocol=INFRARED_TO_VISIBLE,
        )  # fmt: skip


def test_features_that_are_not_finite_are_refused():
    features = np.ones((2, 4), np.float32)
    broken = features.copy()
    broken[1, 2] = np.nan
    for query, gallery in ((broken, features), (features, broken)):
        with pytest.raises(InputError, match="NaN, infinity"):
            feature_metrics(
                query, gallery, [1, 2], [1, 2], [0, 0], [1, 1],
                protocol=INFRARED_TO_VISIBLE,
            )  # fmt: skip


def test_no_query_and_no_gallery_are_refused():
    for ids, gallery in (([], [1]), ([1], [])):
        with pytest.raises(InputError, match="has a match"):
            retrieval_metrics(
                np.zeros((len(ids), len(gallery))), ids, gallery, ids, gallery,
                protocol=INFRARED_TO_VISIBLE,
            )  # fmt: skip


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"\(1, 2\), but there are 2 queries"):
        retrieval_metrics(
            [[0.1, 0.2]], [1, 1], [1, 2], [0, 0], [1, 1], protocol=INFRARED_TO_VISIBLE
        )
    with pytest.raises(InputError, match=r"gallery identities have shape \(2,\)"):
        retrieval_metrics(
            [[0.1, 0.2]], [1], [1, 2], [0], [1], protocol=INFRARED_TO_VISIBLE
        )


def test_what_differs_in_float64_is_no_tie():
    # One apart in the last digit of float64, and equal in float32.
    near = np.nextafter(0.5, 0.0)
    for distances, rank1 in (([[0.5, near]], 1.0), ([[near, 0.5]], 0.0)):
        figures = retrieval_metrics(
            distances, [1], [2, 1], [0], [1, 1], protocol=INFRARED_TO_VISIBLE
        )
        assert figures["rank1"] == rank1


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float16, np.float64])
def test_every_type_of_number_gives_the_same_figures(dtype):
    rng = np.random.default_rng(0)
    distances = rng.integers(9, size=(20, 30))
    labels = [rng.integers(5, size=size) for size in (20, 30, 20, 30)]
    expected = retrieval_metrics(
        distances.astype(np.float32), *labels, protocol=INFRARED_TO_VISIBLE
    )
    actual = retrieval_metrics(
        distances.astype(dtype), *labels, protocol=INFRARED_TO_VISIBLE
    )
    assert actual == expected


NO_LABELS = {
    "of mixed types": ([0, "a", 1, "b"], "of the types Integral, str"),
    "objects": (np.array([0, None, 1, 1.5], object), "of the types Integral, None"),
    "ragged": ([[1], [2, 3], [4], [5]], "are not a list of labels"),
    "a column": (np.zeros((4, 1), int), r"have shape \(4, 1\)|cameras shape \(4, 1\)"),
    "one": (3, r"shape \(\)"),
    "too few": ([0, 0, 1], r"shape \(3,\)"),
    "texts beside numbers": (list("aabb"), "texts on one side"),
}


@pytest.mark.parametrize("name", NO_LABELS)
@pytest.mark.parametrize("place", range(4))
def test_what_are_no_labels_is_refused_in_one_sentence(place, name):
    """Alike by the metrics and by chance, whichever labels they are."""
    wrong, message = NO_LABELS[name]
    labels = [np.array([0, 0, 1, 1])] * 4
    labels[place] = wrong
    protocol = every_pair()[0]
    for call in (
        lambda: retrieval_metrics(np.zeros((4, 4)), *labels, protocol=protocol),
        lambda: feature_metrics(*np.ones((2, 4, 3)), *labels, protocol=protocol),
        lambda: chance_level(*labels, protocol=protocol),
    ):
        with pytest.raises(InputError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "of",
    [
        *(lambda a, t=t: a.astype(t) for t in (np.uint8, np.uint64, jnp.int4, bool)),
        lambda a: jnp.asarray(a, jnp.uint4),
        lambda a: a.tolist(),
        lambda a: [2**70 + i for i in a.tolist()],
        lambda a: list(map(str, a)),
        lambda a: a.astype("S"),
        lambda a: a.astype("U").astype(object),
        lambda a: a.astype(object),
    ],
)
def test_labels_may_be_of_any_one_type(of):
    ids, seen = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    distances = np.random.default_rng(0).random((4, 4))
    protocol = every_pair()[0]
    expected = retrieval_metrics(distances, ids, ids, seen, seen, protocol=protocol)
    labels = of(ids), of(ids), of(seen), of(seen)
    assert retrieval_metrics(distances, *labels, protocol=protocol) == expected
    chance = chance_level(ids, ids, seen, seen, protocol=protocol)
    assert chance_level(*labels, protocol=protocol) == chance


def test_chance_of_something_else_than_a_protocol_is_refused():
    with pytest.raises(InputError, match="a Protocol is expected"):
        chance_level([0], [0], [0], [1], protocol="every pair")


def test_large_identities_of_a_signed_and_an_unsigned_type_stay_different():
    """NumPy puts int64 and uint64 together as float64, where these are equal."""
    protocol = every_pair()[0]
    query, other = np.array([2**53 + 1], np.uint64), np.array([2**53, 2**53 + 1])
    cameras = np.zeros(1, int), np.ones(2, int)
    figures = retrieval_metrics([[0.0, 1.0]], query, other, *cameras, protocol=protocol)
    assert figures["rank1"] == 0
    assert figures["mAP"] == 0.5
    # One of two images matches: it is the first or the second.
    chance = chance_level(query, other, *cameras, protocol=protocol)
    assert chance["mAP"] == 0.75
