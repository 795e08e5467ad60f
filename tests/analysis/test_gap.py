"""The gaps, against networks whose gaps are known."""

import csv
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mbn_jax import ModalityBatchNorm
from mbn_jax.analysis.gap import (
    GAPS,
    BatchMoments,
    as_csv,
    as_markdown,
    draw_gaps,
    gap_charts,
    gaps_of,
    measure_gaps,
)

RNG = np.random.default_rng(0)
MODALITY = np.array([0, 1, 0, 1, 1, 0])


class Net(nn.Module):
    """A normalisation of each kind, one after the other."""

    @nn.compact
    def __call__(self, images, modality, *, train):
        x = nn.BatchNorm(not train, name="mixed")(images)
        return ModalityBatchNorm(name="by_modality")(x, modality, not train)


def batches(number=4):
    """Infrared is visible × 2 + 3; every batch is another one by a shift."""
    for i in range(number):
        x = RNG.normal(size=(6, 4, 4, 2)) + i
        infrared = (MODALITY == 1)[:, None, None, None]
        yield np.where(infrared, 2 * x + 3, x).astype(np.float32), MODALITY


def variables():
    init = jax.jit(lambda: Net().init(jax.random.key(0), *next(batches()), train=False))
    return init()


def by_name(gaps):
    return {(gap.layer, gap.side): gap for gap in gaps}


def test_a_layer_that_normalises_by_modality_closes_both_gaps():
    found = by_name(measure_gaps(Net(), variables(), batches(), train=True))
    assert list(found) == [
        (layer, side)
        for layer in ("mixed", "by_modality")
        for side in ("before", "after")
    ]
    for name in GAPS:
        before, after = (
            getattr(found["by_modality", side], name) for side in ("before", "after")
        )
        assert before > 0.01
        assert after < 1e-3


def test_a_layer_that_mixes_them_keeps_the_gap_within_the_batch():
    found = by_name(measure_gaps(Net(), variables(), batches(), train=True))
    assert found["mixed", "after"].intra > 0.5
    # The shift of a whole batch is taken out, but not what it means for a modality.
    after, before = found["mixed", "after"], found["mixed", "before"]
    assert after.inter_visible < before.inter_visible


def test_running_statistics_leave_every_gap_as_it_was():
    """Those of a new network are 0 and 1."""
    found = by_name(measure_gaps(Net(), variables(), batches(), train=False))
    for layer in ("mixed", "by_modality"):
        for name in GAPS:
            before, after = (
                getattr(found[layer, side], name) for side in ("before", "after")
            )
            assert after == pytest.approx(before, rel=1e-3)


def moments(mean, deviation):
    return BatchMoments(np.asarray(mean, float), np.asarray(deviation, float))


def test_the_gaps_are_what_they_are_defined_to_be():
    """One channel, two batches: all by hand."""
    found = gaps_of(moments([[[0.0], [3.0]], [[2.0], [3.0]]], [[[1.0], [4.0]]] * 2))
    grand = (0 + 3 + 2 + 3) / 4
    unit = np.sqrt(
        np.mean([1 + grand**2, 16 + (3 - grand) ** 2, 1 + (2 - grand) ** 2, 16 + 1])
    )
    assert found["intra"] == pytest.approx(np.sqrt((18 + 10) / 2) / unit)
    assert found["inter_visible"] == pytest.approx(1 / unit)
    assert found["inter_infrared"] == 0


def test_the_unit_is_that_of_the_channel():
    mean, deviation = RNG.normal(size=(5, 2, 3)), RNG.uniform(1, 2, size=(5, 2, 3))
    scale = np.array([1e-2, 1.0, 1e2])
    found = gaps_of(moments(mean, deviation))
    scaled = gaps_of(moments(mean * scale, deviation * scale))
    for name in GAPS:
        assert scaled[name] == pytest.approx(found[name])


def test_a_channel_at_rest_and_a_modality_that_is_absent_have_no_say():
    mean, deviation = RNG.normal(size=(5, 2, 2)), np.ones((5, 2, 2))
    found = gaps_of(moments(mean, deviation))
    mean = np.concatenate([mean, np.zeros((5, 2, 1))], -1)
    deviation = np.concatenate([deviation, np.zeros((5, 2, 1))], -1)
    assert gaps_of(moments(mean, deviation)) == pytest.approx(found)

    mean, deviation = RNG.normal(size=(2, 2, 2)), np.ones((2, 2, 2))
    mean[1, 1] = deviation[1, 1] = np.nan
    found = gaps_of(moments(mean, deviation))
    assert found["inter_infrared"] == 0
    assert np.isfinite(found["intra"])


def test_a_network_without_normalisation_has_no_gaps():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, images, modality, *, train):
            return jnp.sum(images)

    with pytest.raises(ValueError, match="a network that normalises"):
        measure_gaps(Plain(), {}, batches(1), train=True)
    with pytest.raises(ValueError, match="need a batch"):
        measure_gaps(Net(), variables(), [], train=True)


@pytest.fixture(scope="module")
def two_networks():
    found = measure_gaps(Net(), variables(), batches(2), train=True)
    return {"bn": found, "mbn": found}


def test_the_tables_have_a_line_for_every_layer_or_side(two_networks):
    rows = list(csv.DictReader(io.StringIO(as_csv(two_networks))))
    assert len(rows) == 2 * 2 * 2
    assert rows[1]["layer"] == "mixed"
    assert float(rows[1]["intra"]) > 0
    assert len(as_markdown(two_networks).splitlines()) == 2 + 2 * 2


def test_the_charts_show_both_sides_of_every_network(two_networks):
    figure = draw_gaps(two_networks, "title")
    assert [len(axes.lines) for axes in figure.axes] == [4, 4, 4]
    charts = gap_charts(two_networks)
    assert len(charts) == 3
    assert all("mbn, after" in chart for chart in charts)
