import json

import numpy as np
import pytest

from mbn_jax.evaluation import (
    INFRARED_TO_VISIBLE,
    VISIBLE_TO_INFRARED,
    evaluate,
    evaluate_chance,
    format_table,
    make_results,
    ranked_list,
)


@pytest.fixture
def labels():
    """Four people, each twice in a visible camera and twice in an infrared one."""
    identity = np.repeat([3, 8, 20, 41], 4)
    modality = np.tile([0, 0, 1, 1], 4)
    return {"identity": identity, "camera": 1 + modality, "modality": modality}


def one_hot(identity):
    return np.eye(50, dtype=np.float32)[identity]


def test_features_that_know_the_identity_are_perfect_in_both_directions(labels):
    figures = evaluate(one_hot(labels["identity"]), **labels)
    assert list(figures) == ["infrared_to_visible", "visible_to_infrared"]
    for direction in figures.values():
        assert direction["rank1"] == direction["mAP"] == direction["mINP"] == 1
        assert direction["num_queries"] == direction["gallery_size"] == 8


def test_each_direction_takes_its_queries_from_its_modality(labels):
    # Twice as many visible images as infrared ones tell the sides apart.
    visible = labels["modality"] == 0
    for key in labels:
        labels[key] = np.concatenate([labels[key], labels[key][visible]])
    figures = evaluate(one_hot(labels["identity"]), **labels)
    assert figures["infrared_to_visible"]["num_queries"] == 8
    assert figures["infrared_to_visible"]["gallery_size"] == 16
    assert figures["visible_to_infrared"]["num_queries"] == 16
    assert figures["visible_to_infrared"]["gallery_size"] == 8


def test_chance_at_rank_one_is_the_share_of_matches(labels):
    chance = evaluate_chance(**labels)["infrared_to_visible"]
    assert chance["rank1"] == pytest.approx(2 / 8)


def test_the_table_states_figures_steps_and_rules(labels):
    figures = evaluate(one_hot(labels["identity"]), **labels)
    chance = evaluate_chance(**labels)
    results = make_results(
        dataset="synthetic_vireid/nir",
        split="test",
        selection="the highest mean mAP on the validation split.",
        last=(600, figures),
        best=(450, figures),
        untrained=chance,
        chance=chance,
    )
    assert results["figures"]["best"]["step"] == 450
    table = format_table(json.loads(json.dumps(results)))
    for text in (
        "infrared → visible: 8 of 8 queries scored, 8 gallery images",
        "last step (600)",
        "best on validation (450)",
        "untrained network",
        "chance",
        INFRARED_TO_VISIBLE.description,
        VISIBLE_TO_INFRARED.description,
        "Best on validation: the highest mean mAP",
    ):
        assert text in table
    row = next(line for line in table.splitlines() if line.startswith("chance"))
    assert row.split()[1] == "25.0"


def test_ranked_lists_show_evenly_spread_people_in_the_order_of_the_distance(labels):
    rankings = ranked_list(
        one_hot(labels["identity"]),
        **labels,
        protocol=INFRARED_TO_VISIBLE,
        num_queries=3,
        length=5,
    )
    assert [int(labels["identity"][r.query]) for r in rankings] == [3, 20, 41]
    for ranking in rankings:
        assert labels["modality"][ranking.query] == 1
        np.testing.assert_array_equal(labels["modality"][ranking.gallery], 0)
        np.testing.assert_array_equal(ranking.correct, [1, 1, 0, 0, 0])


def test_ranked_lists_leave_out_what_the_protocol_removes(labels):
    labels["camera"] = np.where(labels["identity"] == 8, 1, labels["camera"])
    rankings = ranked_list(
        one_hot(labels["identity"]), **labels, protocol=VISIBLE_TO_INFRARED
    )
    # Person 8 was seen by one camera only, so that nothing is left to find.
    assert [int(labels["identity"][r.query]) for r in rankings] == [3, 20, 41]
    assert all(len(r.gallery) == 8 for r in rankings)
