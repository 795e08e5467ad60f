import json

import numpy as np

from mbn_jax.evaluation import (
    evaluate,
    evaluate_chance,
    every_pair,
    format_table,
    make_results,
    mean_over_trials,
)
from mbn_jax.evaluation.table import cells

from .conftest import one_hot

BOTH = INFRARED_TO_VISIBLE, VISIBLE_TO_INFRARED = every_pair()


def test_the_table_states_figures_steps_and_rules(records):
    figures = evaluate(one_hot(records.identity), records, BOTH)
    chance = evaluate_chance(records, BOTH)
    results = make_results(
        dataset="synthetic_vireid/nir",
        split="test",
        task="person re-identification",
        selection="The best step has the highest mean mAP on the validation split.",
        protocols=BOTH,
        figures={
            "last": {"step": 600, **figures},
            "best": {"step": 450, **figures},
            "untrained": {"step": 0, **chance},
            "chance": chance,
        },
    )
    table = format_table(json.loads(json.dumps(results)))
    for text in (
        "infrared → visible: 8 of 8 queries scored, 8 gallery images",
        "last step (600)",
        "best on validation (450)",
        "untrained network",
        "chance",
        INFRARED_TO_VISIBLE.description,
        VISIBLE_TO_INFRARED.description,
        "The best step has the highest mean mAP",
    ):
        assert text in table
    row = next(line for line in table.splitlines() if line.startswith("chance"))
    assert row.split()[1] == "25.0"


def test_a_table_shows_the_spread_over_trials_with_n_minus_one():
    trial = dict.fromkeys(("rank1", "rank5", "rank10", "rank20", "mAP", "mINP"), 0.5)
    trials = [trial | {"mAP": value} for value in (0.1, 0.2, 0.6)]
    figures = mean_over_trials(trials)
    assert cells(figures)[0] == "50.0 ± 0.0"
    assert cells(figures)[4] == f"30.0 ± {100 * np.std([0.1, 0.2, 0.6], ddof=1):.1f}"
    assert cells(mean_over_trials([trial]))[4] == "50.0"
