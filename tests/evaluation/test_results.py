import dataclasses

import numpy as np
import pytest

from mbn_jax.errors import InputError
from mbn_jax.evaluation import (
    average_precisions,
    evaluate,
    evaluate_chance,
    every_pair,
    mean_over_trials,
    ranked_list,
)
from mbn_jax.evaluation.records import Records

from .conftest import one_hot

BOTH = INFRARED_TO_VISIBLE, VISIBLE_TO_INFRARED = every_pair()


def test_features_that_know_the_identity_are_perfect_in_both_directions(records):
    figures = evaluate(one_hot(records.identity), records, BOTH)
    assert list(figures) == ["infrared_to_visible", "visible_to_infrared"]
    for direction in figures.values():
        assert direction["rank1"] == direction["mAP"] == direction["mINP"] == 1
        assert direction["num_queries"] == direction["gallery_size"] == 8


def test_each_direction_takes_its_queries_from_its_modality(records):
    # Twice as many visible images as infrared ones tell the sides apart.
    twice = np.concatenate([np.arange(16), np.flatnonzero(records.modality == 0)])
    records = Records(
        **{
            key: getattr(records, key)[twice]
            for key in ("identity", "camera", "modality", "name")
        }
    )
    figures = evaluate(one_hot(records.identity), records, BOTH)
    assert figures["infrared_to_visible"]["num_queries"] == 8
    assert figures["infrared_to_visible"]["gallery_size"] == 16
    assert figures["visible_to_infrared"]["num_queries"] == 16
    assert figures["visible_to_infrared"]["gallery_size"] == 8


def halves(records, indices):
    """Two trials, each with one image of every person."""
    return [indices[::2], indices[1::2]]


def test_a_query_of_several_trials_has_one_mean_average_precision(records):
    features = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    protocol = dataclasses.replace(INFRARED_TO_VISIBLE, draw=halves)
    found = average_precisions(features, records, protocol)
    assert found.shape == (8,)
    assert found.std() > 0
    mean = evaluate(features, records, [protocol])[protocol.name]["mAP"]
    assert found.mean() == pytest.approx(mean)
    # Person 41 is in no gallery, and then in the second alone.
    without = dataclasses.replace(protocol, draw=lambda r, i: [i[:6:2], i[1:6:2]])
    nobody = average_precisions(features, records, without)
    np.testing.assert_array_equal(np.isnan(nobody), [False] * 6 + [True] * 2)
    once = dataclasses.replace(protocol, draw=lambda r, i: [i[:6:2], i[1::2]])
    of_second = dataclasses.replace(protocol, draw=lambda r, i: [i[1::2]])
    np.testing.assert_array_equal(
        average_precisions(features, records, once)[6:],
        average_precisions(features, records, of_second)[6:],
    )


def test_queries_that_are_drawn_stay_apart(records):
    features = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    protocol = dataclasses.replace(
        INFRARED_TO_VISIBLE, draw=halves, queries_are_drawn=True
    )
    assert average_precisions(features, records, protocol).shape == (8,)
    whole = average_precisions(features, records, INFRARED_TO_VISIBLE)
    np.testing.assert_allclose(
        average_precisions(features, records, protocol),
        np.concatenate([whole[::2], whole[1::2]]),
    )


def test_chance_at_rank_one_is_the_share_of_matches(records):
    chance = evaluate_chance(records, BOTH)["infrared_to_visible"]
    assert chance["rank1"] == pytest.approx(2 / 8)


def test_figures_are_means_over_the_trials_and_the_trials_are_kept():
    trials = [
        {"rank1": 0.5, "cmc": [0.5, 1.0], "num_queries": 4, "gallery_size": 2},
        {"rank1": 0.7, "cmc": [0.7, 0.9, 0.9], "num_queries": 4, "gallery_size": 3},
    ]
    mean = mean_over_trials(trials)
    assert mean["rank1"] == pytest.approx(0.6)
    assert mean["num_queries"] == 4
    assert type(mean["num_queries"]) is int
    assert mean["gallery_size"] == 2.5
    # The shorter curve has reached its end, and stays there.
    np.testing.assert_allclose(mean["cmc"], [0.6, 0.95, 0.95])
    assert mean["trials"] == [
        {"rank1": 0.5, "num_queries": 4, "gallery_size": 2},
        {"rank1": 0.7, "num_queries": 4, "gallery_size": 3},
    ]


def test_lists_are_as_good_as_arrays(records):
    features = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
    lists = Records(
        **{
            key: getattr(records, key).tolist()
            for key in ("identity", "camera", "modality", "name")
        }
    )
    protocol = INFRARED_TO_VISIBLE
    assert evaluate(features.tolist(), lists, BOTH) == evaluate(features, records, BOTH)
    assert evaluate_chance(lists, BOTH) == evaluate_chance(records, BOTH)
    np.testing.assert_array_equal(
        average_precisions(features.tolist(), lists, protocol),
        average_precisions(features, records, protocol),
    )
    for ours, theirs in zip(
        ranked_list(features.tolist(), lists, protocol=protocol),
        ranked_list(features, records, protocol=protocol),
        strict=True,
    ):
        np.testing.assert_array_equal(ours.gallery, theirs.gallery)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (np.ones(16), r"have shape \(16,\), but a matrix"),
        (np.ones((17, 3)), "features of 17 images, but 16 records"),
        (np.ones((15, 3)), "features of 15 images, but 16 records"),
        (np.full((16, 3), "a"), "real numbers are expected"),
        (None, "real numbers are expected"),
    ],
)
def test_features_that_do_not_fit_the_records_are_refused(records, features, words):
    protocol = INFRARED_TO_VISIBLE
    for call in (
        lambda: evaluate(features, records, BOTH),
        lambda: average_precisions(features, records, protocol),
        lambda: ranked_list(features, records, protocol=protocol),
    ):
        with pytest.raises(InputError, match=words):
            call()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"identity": np.int32(0)},
            r"identity labels have shape \(\), but there are 1",
        ),
        ({"camera": [1, 2]}, r"camera labels have shape \(2,\), but there are 16"),
        ({"modality": [[0]] * 16}, r"modality labels have shape \(16, 1\)"),
        ({"modality": [0.5] * 16}, "modality labels are float64, but integers"),
        ({"role": ["query"] * 16}, "role labels are <U5, but integers"),
        ({"identity": ["a", 1] * 8}, "identity labels are of the types Integral, str"),
        ({"camera": None}, "camera labels are of the types NoneType"),
        ({"camera": np.full(16, np.datetime64("2020-01-01"))}, "numbers or texts"),
    ],
)
def test_labels_that_are_none_make_no_records(records, changed, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(records, **changed)


def test_what_is_no_protocol_is_refused(records):
    features = one_hot(records.identity)
    for call in (
        lambda: evaluate(features, records, ["visible"]),
        lambda: evaluate_chance(records, [None]),
        lambda: average_precisions(features, records, None),
        lambda: ranked_list(features, records, protocol="visible"),
    ):
        with pytest.raises(InputError, match="a Protocol is expected"):
            call()
