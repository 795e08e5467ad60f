"""Every protocol against the published rules as loops, with ties in the distances."""

import dataclasses

import numpy as np
import pytest

from mbn_jax.data.sources import protocol_of, protocols_of
from mbn_jax.data.sources.llcm import protocol as llcm
from mbn_jax.data.sources.regdb import protocol as regdb
from mbn_jax.data.sources.sysu_mm01 import protocol as sysu_mm01
from mbn_jax.errors import InputError
from mbn_jax.evaluation import (
    evaluate,
    evaluate_chance,
    every_pair,
    ranking,
    retrieval_metrics,
)
from mbn_jax.evaluation.ranking import match_ranks
from mbn_jax.evaluation.records import Records

from . import reference

FIGURES = ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP")


def make_records(rows, rng):
    """Records of (identity, camera, modality, name), in an order that helps nobody."""
    rows = [rows[i] for i in rng.permutation(len(rows))]
    identity, camera, modality, name = map(np.array, zip(*rows, strict=True))
    return Records(identity=identity, camera=camera, modality=modality, name=name)


def sysu_records():
    """Nine people, seen by some of the six cameras, two to five times by each."""
    rng = np.random.default_rng(0)
    rows = []
    for identity in (6, 10, 17, 20, 31, 33, 40, 41, 300):
        for camera in range(1, 7):
            if identity == 17 and camera in (1, 2, 4, 5):
                continue  # no query of this person has a match
            if identity == 20 and camera in (1, 4, 5):
                continue  # nor has one of camera 3 here
            if identity > 20 and rng.random() < 0.2:
                continue
            rows += [
                (identity, camera, int(camera in (3, 6)),
                 f"cam{camera}/{identity:04d}/{image:04d}.jpg")
                for image in range(1, rng.integers(2, 6) + 1)
            ]  # fmt: skip
    return make_records(rows, rng)


def sysu_orders(records):
    """An official permutation of the images of every folder."""
    rng = np.random.default_rng(1)
    pairs = zip(records.camera.tolist(), records.identity.tolist(), strict=True)
    counts = {pair: 0 for pair in pairs}
    for camera, identity in counts:
        counts[camera, identity] = np.count_nonzero(
            (records.camera == camera) & (records.identity == identity)
        )
    return {
        pair: np.array([rng.permutation(count) + 1 for _ in range(10)])
        for pair, count in counts.items()
    }


def regdb_records():
    rng = np.random.default_rng(2)
    rows = [
        (identity, modality, modality, f"{side}/{identity}/front_{image:05d}.bmp")
        for identity in (1, 2, 5, 300)
        for modality, side in enumerate(("Visible", "Thermal"))
        for image in range(5)
    ]
    return make_records(rows, rng)


def llcm_records():
    """Five people in nine cameras; infrared camera 3 saw nobody."""
    rng = np.random.default_rng(3)
    rows = []
    for identity in (3, 4, 8, 90, 91):
        for camera in range(1, 10):
            for modality, side in enumerate(("vis", "nir")):
                if (modality, camera) == (1, 3) or rng.random() < 0.4:
                    continue
                rows += [
                    (identity, camera, modality,
                     f"test_{side}/cam{camera}/{identity:04d}/{image:03d}.jpg")
                    for image in range(rng.integers(1, 4))
                ]  # fmt: skip
    # Seen by the same camera in both modalities, and by no other.
    rows = [row for row in rows if row[0] != 91 or row[1] == 5]
    rows += [(91, 5, m, f"{m}.jpg") for m in (0, 1)]
    return make_records(rows, rng)


def skips_nothing(records):
    return lambda q, g: False


def skips_same_identity_and_camera(records):
    return lambda q, g: (
        records.identity[q] == records.identity[g]
        and records.camera[q] == records.camera[g]
    )


def skips_camera_2_for_camera_3(records):
    return lambda q, g: records.camera[q] == 3 and records.camera[g] == 2


class Case:
    """A protocol, records for it, and its rules in loops."""

    def __init__(self, records, protocol, trials, skips, cmc):
        self.records, self.protocol, self.trials = records, protocol, trials
        self.skips, self.cmc = skips(records), cmc

    def __repr__(self):
        return self.protocol.name


SYSU, REGDB, LLCM = sysu_records(), regdb_records(), llcm_records()
ORDERS = sysu_orders(SYSU)
CASES = [
    *(
        Case(
            records,
            protocol,
            reference.all_against_all(records, query_modality),
            skips_same_identity_and_camera,
            "images",
        )
        for records in (LLCM,)
        for query_modality, protocol in zip((1, 0), every_pair(), strict=True)
    ),
    *(
        Case(
            SYSU,
            sysu_mm01(search, shots, gallery, orders),
            reference.sysu_mm01(SYSU, search, shots, orders),
            skips_camera_2_for_camera_3,
            "identities",
        )
        for search in ("all", "indoor")
        for shots in (1, 3, 10)
        for gallery, orders in (("agw", None), ("official", ORDERS))
    ),
    *(
        Case(
            REGDB,
            regdb(direction),
            reference.all_against_all(REGDB, query_modality),
            skips_nothing,
            "images",
        )
        for query_modality, direction in enumerate(
            ("visible_to_infrared", "infrared_to_visible")
        )
    ),
    *(
        Case(
            LLCM,
            llcm(direction, variant),
            reference.llcm(LLCM, query_modality, variant == "swapped"),
            skips_same_identity_and_camera,
            "identities",
        )
        for query_modality, direction in enumerate(
            ("visible_to_infrared", "infrared_to_visible")
        )
        for variant in ("plain", "swapped")
    ),
]
every_case = pytest.mark.parametrize("case", CASES, ids=repr)


def distances_with_ties(count, seed=5):
    """Six distinct values, so that most distances have many equals."""
    rng = np.random.default_rng(seed)
    return rng.integers(6, size=(count, count)).astype(np.float32)


def labels(records, queries, gallery):
    return (
        records.identity[queries],
        records.identity[gallery],
        records.camera[queries],
        records.camera[gallery],
    )


def expected_figures(case, distance, trial):
    queries, gallery = trial
    scores = reference.score(
        case.records.identity, distance, queries, gallery, case.skips, case.cmc
    )
    return reference.figures(scores, len(queries), len(gallery))


def assert_same(actual, expected):
    for key, value in expected.items():
        if key in ("mAP", "mINP"):
            assert actual[key] == pytest.approx(value, abs=1e-6), key
        else:
            assert actual[key] == value, key


@every_case
def test_every_trial_has_the_published_queries_and_gallery_in_the_published_order(case):
    trials = case.protocol.trials(case.records)
    assert len(trials) == len(case.trials)
    for actual, (queries, gallery) in zip(trials, case.trials, strict=True):
        assert sorted(actual.query.tolist()) == sorted(queries)
        if case.protocol.draw is None or case.protocol.queries_are_drawn:
            assert sorted(actual.gallery.tolist()) == sorted(gallery)
        else:
            assert actual.gallery.tolist() == gallery


@every_case
def test_figures_equal_the_loops_with_ties(case):
    distance = distances_with_ties(len(case.records))
    for actual, trial in zip(
        case.protocol.trials(case.records)[:3], case.trials[:3], strict=True
    ):
        found = retrieval_metrics(
            distance[np.ix_(actual.query, actual.gallery)],
            *labels(case.records, actual.query, actual.gallery),
            protocol=case.protocol,
        )
        expected = expected_figures(case, distance, trial)
        assert found.keys() == expected.keys()
        assert_same(found, expected)


@every_case
def test_ranks_equal_the_loops_exactly(case):
    distance = distances_with_ties(len(case.records), seed=6)
    queries, gallery = case.protocol.trials(case.records)[0]
    of_pairs = distance[np.ix_(queries, gallery)]
    ((_, ranks, shown),) = match_ranks(
        lambda rows: of_pairs[rows],
        labels(case.records, queries, gallery),
        case.protocol,
    )
    scores = reference.score(
        case.records.identity, distance, queries, gallery, case.skips, case.cmc
    )
    expected = dict(
        zip(scores.query, zip(scores.ranks, scores.shown, strict=True), strict=True)
    )
    for query, found, first in zip(queries, ranks, shown, strict=True):
        matches, rank = expected.get(query, ([], 0))
        assert sorted(found[found > 0].tolist()) == matches
        assert first == rank


@every_case
def test_evaluate_takes_the_mean_over_the_trials_of_the_loops(case):
    # Features ±1/4 of 16 entries have exact cosines, and many equal ones.
    rng = np.random.default_rng(7)
    features = rng.choice([-1.0, 1.0], size=(len(case.records), 16))
    features[:, 6:] = 1
    found = evaluate(features, case.records, [case.protocol])[case.protocol.name]
    distance = 1 - features @ features.T / 16
    expected = [expected_figures(case, distance, trial) for trial in case.trials]
    for actual, trial in zip(found["trials"], expected, strict=True):
        del trial["cmc"]
        assert_same(actual, trial)
    for key in FIGURES:
        mean = np.mean([trial[key] for trial in expected])
        assert found[key] == pytest.approx(mean, abs=1e-6)
    assert found["protocol"] == case.protocol.name


@pytest.mark.parametrize("case", CASES[:2] + CASES[4:5] + CASES[-2:], ids=repr)
def test_chunks_change_nothing(case, monkeypatch):
    distance = distances_with_ties(len(case.records))
    queries, gallery = case.protocol.trials(case.records)[0]
    arguments = (
        distance[np.ix_(queries, gallery)],
        *labels(case.records, queries, gallery),
    )
    whole = retrieval_metrics(*arguments, protocol=case.protocol)
    monkeypatch.setattr(ranking, "_CHUNK", 7 * len(gallery) + 1)
    assert retrieval_metrics(*arguments, protocol=case.protocol) == whole


@every_case
def test_chance_is_between_zero_and_one_and_knows_the_sizes(case):
    chance = evaluate_chance(case.records, [case.protocol])[case.protocol.name]
    found = evaluate(np.ones((len(case.records), 2)), case.records, [case.protocol])
    sizes = ("num_queries", "num_valid_queries", "gallery_size")
    for key in sizes:
        assert chance[key] == found[case.protocol.name][key]
    assert all(0 < chance[key] <= 1 for key in FIGURES)


def one_hot(records):
    """Features that know the identity."""
    people = np.unique(records.identity)
    return (records.identity[:, None] == people[None, :]).astype(np.float32)


@every_case
def test_features_that_know_the_identity_are_perfect(case):
    figures = evaluate(one_hot(case.records), case.records, [case.protocol])
    for key in FIGURES:
        assert figures[case.protocol.name][key] == pytest.approx(1)


def sysu_figures(gallery, queries, distances, protocol=None):
    """Of gallery and queries as (identity, camera) pairs."""
    return retrieval_metrics(
        distances,
        [identity for identity, _ in queries],
        [identity for identity, _ in gallery],
        [camera for _, camera in queries],
        [camera for _, camera in gallery],
        protocol=protocol or sysu_mm01("all"),
    )


def test_a_cmc_of_identities_worked_by_hand():
    # Ranked: B B C A B A. Person A is third among the identities, fourth among images.
    gallery = [("B", 1), ("B", 2), ("C", 1), ("A", 1), ("B", 4), ("A", 4)]
    figures = sysu_figures(gallery, [("A", 6)], [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]])
    assert figures["cmc"] == [0, 0, 1, 1, 1, 1]
    assert figures["mAP"] == pytest.approx((1 / 4 + 2 / 6) / 2)
    assert figures["mINP"] == pytest.approx(2 / 6)
    images = dataclasses.replace(sysu_mm01("all"), cmc="images")
    figures = sysu_figures(
        gallery, [("A", 6)], [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]], images
    )
    assert figures["cmc"] == [0, 0, 0, 1, 1, 1]


def test_a_query_of_camera_3_skips_all_of_camera_2_and_one_of_camera_6_nothing():
    gallery = [(8, 2), (7, 2), (9, 1), (7, 1)]
    in_order = [[0.1, 0.2, 0.3, 0.4]]
    camera_3 = sysu_figures(gallery, [(7, 3)], in_order)
    assert camera_3["mAP"] == pytest.approx(1 / 2)  # left: 9, 7
    assert camera_3["cmc"] == [0, 1, 1, 1]
    camera_6 = sysu_figures(gallery, [(7, 6)], in_order)
    assert camera_6["mAP"] == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_an_indoor_query_without_a_match_is_skipped_and_not_scored_zero():
    protocol = sysu_mm01("indoor")
    queries = [(7, 3), (8, 3)]  # person 8 was seen in camera 2 only
    figures = sysu_figures([(7, 1), (8, 2)], queries, [[0.1, 0.2]] * 2, protocol)
    assert (figures["num_queries"], figures["num_valid_queries"]) == (2, 1)
    assert figures["rank1"] == figures["mAP"] == figures["mINP"] == 1


@pytest.mark.parametrize("variant", ["plain", "swapped"])
def test_llcm_removes_what_shares_both_the_identity_and_the_camera_only(variant):
    # In order: the same person in the same camera, another in it, the person elsewhere.
    figures = retrieval_metrics(
        [[0.1, 0.2, 0.3]], [7], [7, 8, 7], [4], [4, 4, 5],
        protocol=llcm("visible_to_infrared", variant),
    )  # fmt: skip
    assert figures["mAP"] == pytest.approx(1 / 2)
    assert figures["cmc"] == [0, 1, 1]


def test_swapped_exchanges_who_looks_for_whom():
    plain = llcm("visible_to_infrared", "plain").trials(LLCM)
    swapped = llcm("visible_to_infrared", "swapped").trials(LLCM)
    for one, other in zip(plain, swapped, strict=True):
        np.testing.assert_array_equal(one.query, other.gallery)
        np.testing.assert_array_equal(one.gallery, other.query)


def test_the_usual_protocol_of_a_data_set_comes_first():
    def names(dataset, modalities=("visible", "infrared")):
        return [protocol.name for protocol in protocols_of(dataset, modalities)]

    assert names("sysu_mm01") == [
        "sysu_mm01_all_1shot_agw",
        "sysu_mm01_indoor_1shot_agw",
    ]
    assert names("regdb/split3") == [
        "regdb_visible_to_infrared",
        "regdb_infrared_to_visible",
    ]
    assert names("llcm") == [
        "llcm_visible_to_infrared_plain",
        "llcm_infrared_to_visible_plain",
    ]
    for dataset in ("synthetic_vireid/nir", "my_cameras"):
        assert names(dataset) == ["infrared_to_visible", "visible_to_infrared"]


THREE = ("visible", "nir", "thermal")


def test_three_modalities_have_six_pairs_from_the_last_to_the_first():
    protocols = every_pair(THREE)
    assert [protocol.title for protocol in protocols] == [
        "thermal → visible",
        "thermal → nir",
        "nir → visible",
        "nir → thermal",
        "visible → nir",
        "visible → thermal",
    ]
    for protocol in protocols:
        assert protocol.name == protocol.title.replace(" → ", "_to_")
        query, gallery = protocol.title.split(" → ")
        assert THREE[protocol.query_modality] == query
        assert THREE[protocol.gallery_modality] == gallery


def test_a_pair_of_three_looks_at_its_two_modalities_alone():
    modality = np.arange(12) % 3
    records = Records(
        identity=np.arange(12) // 6,
        camera=modality,
        modality=modality,
        name=np.arange(12).astype(str),
        modalities=THREE,
    )
    for protocol in every_pair(THREE):
        ((query, gallery),) = protocol.trials(records)
        assert set(modality[query]) == {protocol.query_modality}
        assert set(modality[gallery]) == {protocol.gallery_modality}
        assert len(query) == len(gallery) == 4


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_an_image_of_one_role_is_on_that_side_alone(case):
    rng = np.random.default_rng(0)
    role = rng.integers(0, 3, len(case.records)).astype(np.int32)
    if "official" in case.protocol.name:  # asks for every image of its galleries
        role[case.records.modality == 0] = 0
    records = dataclasses.replace(case.records, role=role)
    for query, gallery in case.protocol.trials(records):
        assert not np.any(role[query] == 2)
        assert not np.any(role[gallery] == 1)
    # All are either, which is what no role says.
    neither = dataclasses.replace(records, role=np.zeros_like(role))
    for one, other in zip(
        case.protocol.trials(neither), case.protocol.trials(case.records), strict=True
    ):
        np.testing.assert_array_equal(one.query, other.query)
        np.testing.assert_array_equal(one.gallery, other.gallery)


def test_options_of_a_command_line_make_a_protocol():
    options = {"search": "indoor", "shots": 2}
    assert protocol_of("sysu_mm01", (), options).name == "sysu_mm01_indoor_2shot_agw"
    back = {"direction": "infrared_to_visible"}
    assert protocol_of("regdb/split3", (), back).name == "regdb_infrared_to_visible"
    assert protocol_of("mine", THREE, {}).name == "thermal_to_visible"
    nir = {"direction": "visible_to_nir"}
    assert protocol_of("mine", THREE, nir) == every_pair(THREE)[4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sysu_mm01("outdoor"), "search is 'outdoor', but one of all, indoor"),
        (lambda: sysu_mm01(gallery="mine"), "gallery is 'mine'"),
        (lambda: sysu_mm01(shots=0), "shots is 0"),
        (lambda: sysu_mm01(gallery="official"), "need the authors' rand_perm_cam"),
        (lambda: sysu_mm01(rand_perm_cam={}), "do not use it: leave it out"),
        (lambda: regdb("thermal"), "direction is 'thermal'"),
        (lambda: llcm(variant="other"), "variant is 'other'"),
        (
            lambda: protocol_of("regdb/split1", (), {"shots": 1}),
            "regdb/split1 has no option 'shots'; it has direction",
        ),
        (
            lambda: protocol_of("mine", THREE, {"search": "all"}),
            "mine has no option 'search'; it has direction",
        ),
        (
            lambda: protocol_of("mine", THREE, {"direction": "infrared_to_visible"}),
            "direction is 'infrared_to_visible', but one of thermal_to_visible, ",
        ),
        (
            lambda: protocol_of(
                "sysu_mm01", (), {"gallery": "official", "rand_perm_cam": "no.mat"}
            ),
            r"no\.mat does not exist; give the path of rand_perm_cam",
        ),
    ],
)
def test_an_option_that_does_not_exist_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
