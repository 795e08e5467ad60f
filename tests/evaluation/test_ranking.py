import dataclasses

import numpy as np

from mbn_jax.evaluation import every_pair, ranked_list

from .conftest import one_hot

INFRARED_TO_VISIBLE, VISIBLE_TO_INFRARED = every_pair()


def test_ranked_lists_show_evenly_spread_people_in_the_order_of_the_distance(records):
    rankings = ranked_list(
        one_hot(records.identity),
        records,
        protocol=INFRARED_TO_VISIBLE,
        num_queries=3,
        length=5,
    )
    assert [int(records.identity[r.query]) for r in rankings] == [3, 20, 41]
    for ranking in rankings:
        assert records.modality[ranking.query] == 1
        np.testing.assert_array_equal(records.modality[ranking.gallery], 0)
        np.testing.assert_array_equal(ranking.correct, [1, 1, 0, 0, 0])


def test_ranked_lists_leave_out_what_the_protocol_removes(records):
    camera = np.where(records.identity == 8, 1, records.camera)
    records = dataclasses.replace(records, camera=camera)
    rankings = ranked_list(
        one_hot(records.identity), records, protocol=VISIBLE_TO_INFRARED
    )
    # Person 8 was seen by one camera only, so that nothing is left to find.
    assert [int(records.identity[r.query]) for r in rankings] == [3, 20, 41]
    assert all(len(r.gallery) == 8 for r in rankings)
