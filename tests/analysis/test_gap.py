"""The gaps, against networks whose gaps are known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mbn_jax import ModalityBatchNorm
from mbn_jax.analysis.gap import Gap, gaps_of, measure_gaps, pair

RNG = np.random.default_rng(0)
MODALITY = np.array([0, 1, 0, 1, 1, 0])


class Net(nn.Module):
    """A normalization of each kind, one after the other."""

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


BOTH = pair("visible", "infrared")


def numbers(gap):
    """All of a gap, by what they are: (intra, visible-infrared) and so on."""
    return {
        (name, of): number
        for name in ("intra", "lasting", "inter")
        for of, number in getattr(gap, name).items()
    }


def test_a_layer_that_normalizes_by_modality_closes_both_gaps():
    found = by_name(measure_gaps(Net(), variables(), batches(), train=True))
    assert list(found) == [
        (layer, side)
        for layer in ("mixed", "by_modality")
        for side in ("before", "after")
    ]
    assert min(numbers(found["by_modality", "before"]).values()) > 0.01
    assert max(numbers(found["by_modality", "after"]).values()) < 1e-3


def test_a_layer_that_mixes_them_keeps_the_gap_within_the_batch():
    found = by_name(measure_gaps(Net(), variables(), batches(), train=True))
    assert found["mixed", "after"].intra[BOTH] > 0.5
    # The shift of a whole batch is taken out, but not what it means for a modality.
    after, before = found["mixed", "after"], found["mixed", "before"]
    assert after.inter["visible"] < before.inter["visible"]


def test_running_statistics_leave_every_gap_as_it_was():
    """Those of a new network are 0 and 1."""
    found = by_name(measure_gaps(Net(), variables(), batches(), train=False))
    for layer in ("mixed", "by_modality"):
        before, after = (found[layer, side] for side in ("before", "after"))
        assert numbers(after) == pytest.approx(numbers(before), rel=1e-3)


def test_they_are_those_of_all_values_by_the_book():
    """From the values themselves, in NumPy, one channel after the other."""
    x = [batch for batch, _ in batches(3)]
    mean, deviation = (
        np.array([[f(b[m == MODALITY], axis=(0, 1, 2)) for m in (0, 1)] for b in x])
        for f in (np.mean, np.std)
    )
    intra = []
    for c in range(2):
        everything = [
            np.concatenate([b[m == MODALITY, ..., c] for b in x]) for m in (0, 1)
        ]
        unit = np.sqrt(
            np.mean([np.mean((v - mean[..., c].mean()) ** 2) for v in everything])
        )
        apart = [
            (mean[b, 0, c] - mean[b, 1, c]) ** 2
            + (deviation[b, 0, c] - deviation[b, 1, c]) ** 2
            for b in range(3)
        ]
        intra.append(np.sqrt(np.mean(apart)) / unit)
    stored = iter([(batch, MODALITY) for batch in x])
    first = measure_gaps(Net(), variables(), stored, train=True)[0]
    assert first.layer == "mixed"
    assert first.intra[BOTH] == pytest.approx(np.mean(intra), rel=1e-4)


class Subclass(nn.BatchNorm):
    """Passes interceptors twice: for itself and for what it overrides."""

    @nn.compact
    def __call__(self, x):
        return super().__call__(2 * x)


class Unusual(nn.Module):
    """A subclass, a layer that is called twice and by name, and channels in front."""

    @nn.compact
    def __call__(self, images, modality, *, train):
        x = Subclass(not train, name="own")(images)
        twice = nn.BatchNorm(not train, name="twice")
        x = twice(x=twice(x=x))
        x = jnp.moveaxis(x, -1, 1)
        return ModalityBatchNorm(name="front", axis=1)(x, modality, not train)


def test_every_call_of_a_normalization_is_measured_once_and_along_its_axis():
    init = jax.jit(
        lambda: Unusual().init(jax.random.key(0), *next(batches()), train=False)
    )
    found = measure_gaps(Unusual(), init(), batches(), train=True)
    layers = [gap.layer for gap in found if gap.side == "before"]
    assert layers == ["own", "twice", "twice", "front"]
    assert found[-1].intra[BOTH] < 1e-3
    assert found[-2].intra[BOTH] > 0.5


def test_the_gaps_are_what_they_are_defined_to_be():
    """One channel, two batches: all by hand."""
    found = gaps_of([[[0.0], [3.0]], [[2.0], [3.0]]], [[[1.0], [4.0]]] * 2)
    grand = (0 + 3 + 2 + 3) / 4
    unit = np.sqrt(
        np.mean([1 + grand**2, 16 + (3 - grand) ** 2, 1 + (2 - grand) ** 2, 16 + 1])
    )
    # In the batches (3, 3) and (1, 3) apart in mean and deviation, on average (2, 3).
    assert found.intra[BOTH] == pytest.approx(np.sqrt((18 + 10) / 2) / unit)
    assert found.lasting[BOTH] == pytest.approx(np.sqrt(4 + 9) / unit)
    assert found.inter["visible"] == pytest.approx(1 / unit)
    assert found.inter["infrared"] == 0


def test_where_modalities_move_independently_the_intra_gap_is_the_sum_of_all_squares():
    mean = np.array([[[0.0], [5.0]], [[0.0], [7.0]], [[1.0], [5.0]], [[1.0], [7.0]]])
    found = gaps_of(mean, np.ones_like(mean))
    parts = [found.lasting[BOTH], *found.inter.values()]
    assert found.intra[BOTH] ** 2 == pytest.approx(np.sum(np.square(parts)))


def test_the_unit_is_that_of_the_channel():
    mean, deviation = RNG.normal(size=(5, 2, 3)), RNG.uniform(1, 2, size=(5, 2, 3))
    found = numbers(gaps_of(mean, deviation))
    for scale in (np.array([1e-2, 1.0, 1e2]), 1e-9):
        scaled = gaps_of(mean * scale, deviation * scale)
        assert numbers(scaled) == pytest.approx(found)


def test_a_modality_that_is_absent_from_batches_weighs_as_much_in_the_unit():
    mean = np.array([[[0.0], [4.0]]] + [[[0.0], [np.nan]]] * 3)
    found = gaps_of(mean, np.where(np.isnan(mean), np.nan, 1.0))
    assert found.intra[BOTH] == pytest.approx(4 / np.sqrt(1 + 2**2))


def test_a_channel_at_rest_and_a_batch_without_a_modality_have_no_say():
    mean, deviation = RNG.normal(size=(5, 2, 2)), np.ones((5, 2, 2))
    found = gaps_of(mean, deviation)
    resting = [np.concatenate([a, np.zeros((5, 2, 1))], -1) for a in (mean, deviation)]
    assert numbers(gaps_of(*resting)) == pytest.approx(numbers(found))

    mean, deviation = RNG.normal(size=(2, 2, 2)), np.ones((2, 2, 2))
    mean[1, 1] = deviation[1, 1] = np.nan
    found = gaps_of(mean, deviation)
    assert found.inter["infrared"] == 0
    assert np.isfinite(found.intra[BOTH])


THREE = ("visible", "nir", "thermal")
PAIRS = ("visible-nir", "visible-thermal", "nir-thermal")


def by_loops(mean, deviation, names):
    """The same from the definition, for moments (batches, M, C)."""
    num_batches, num_modalities, num_channels = mean.shape

    def average(values):
        """Over the batches that have the modality."""
        return np.mean([v for v in values if not np.isnan(v)])

    def distance(a, b):
        return np.sqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2)

    def point(b, m, c):
        return mean[b, m, c], deviation[b, m, c]

    def bar(m, c):
        return average(mean[:, m, c]), average(deviation[:, m, c])

    units = []
    for c in range(num_channels):
        center = np.mean([bar(m, c)[0] for m in range(num_modalities)])
        spreads = [
            average(
                [
                    deviation[b, m, c] ** 2 + (mean[b, m, c] - center) ** 2
                    for b in range(num_batches)
                ]
            )
            for m in range(num_modalities)
        ]
        units.append(np.sqrt(np.mean(spreads)))

    def over_channels(of_channel):
        return np.mean([of_channel(c) / units[c] for c in range(num_channels)])

    def over_batches(distances):
        return np.sqrt(average([d**2 for d in distances]))

    expected = Gap("", "after", {}, {}, {})
    for m in range(num_modalities):
        expected.inter[names[m]] = over_channels(
            lambda c, m=m: over_batches(
                [distance(point(b, m, c), bar(m, c)) for b in range(num_batches)]
            )
        )
        for n in range(m + 1, num_modalities):
            expected.intra[f"{names[m]}-{names[n]}"] = over_channels(
                lambda c, m=m, n=n: over_batches(
                    [
                        distance(point(b, m, c), point(b, n, c))
                        for b in range(num_batches)
                    ]
                )
            )
            expected.lasting[f"{names[m]}-{names[n]}"] = over_channels(
                lambda c, m=m, n=n: distance(bar(m, c), bar(n, c))
            )
    return expected


def test_with_three_modalities_there_is_a_gap_for_every_pair_and_every_modality():
    mean, deviation = RNG.normal(size=(5, 3, 4)), RNG.uniform(1, 2, size=(5, 3, 4))
    mean[2, 1] = deviation[2, 1] = np.nan  # a batch without near-infrared images
    found = gaps_of(mean, deviation, modalities=THREE)
    assert tuple(found.intra) == tuple(found.lasting) == PAIRS
    assert tuple(found.inter) == THREE
    assert numbers(found) == pytest.approx(numbers(by_loops(mean, deviation, THREE)))


def test_the_loops_agree_for_two_modalities_as_well():
    mean, deviation = RNG.normal(size=(5, 2, 4)), RNG.uniform(1, 2, size=(5, 2, 4))
    found = gaps_of(mean, deviation)
    expected = by_loops(mean, deviation, ("visible", "infrared"))
    assert numbers(found) == pytest.approx(numbers(expected))


def test_a_modality_that_never_occurs_and_a_pair_that_never_meets_are_left_out():
    mean, deviation = RNG.normal(size=(4, 3, 2)), np.ones((4, 3, 2))
    without = gaps_of(mean[:, :2], deviation[:, :2])
    mean[:, 2] = deviation[:, 2] = np.nan
    found = gaps_of(mean, deviation, modalities=("visible", "infrared", "x"))
    assert found == without

    mean, deviation = RNG.normal(size=(4, 3, 2)), np.ones((4, 3, 2))
    mean[:2, 1] = mean[2:, 2] = deviation[:2, 1] = deviation[2:, 2] = np.nan
    found = gaps_of(mean, deviation, modalities=THREE)
    assert tuple(found.intra) == tuple(found.lasting) == PAIRS[:2]
    assert tuple(found.inter) == THREE


class ThreeNet(nn.Module):
    """One normalization by three modalities."""

    @nn.compact
    def __call__(self, images, modality, *, train):
        return ModalityBatchNorm(num_modalities=3)(images, modality, not train)


def test_a_network_of_three_modalities_is_measured_by_their_names():
    modality = np.array([0, 1, 2, 2, 1, 0])
    scale = np.array([1.0, 2.0, 5.0])[modality][:, None, None, None]
    x = [(scale * RNG.normal(size=(6, 4, 4, 2)) + scale).astype("f4") for _ in "123"]
    stored = [(images, modality) for images in x]
    init = jax.jit(lambda: ThreeNet().init(jax.random.key(0), *stored[0], train=False))
    measure = partial(measure_gaps, ThreeNet(), init(), stored, train=True)
    before, after = measure(modalities=THREE)
    by_batch = [[b[modality == m] for m in range(3)] for b in x]
    mean, deviation = (
        np.array([[f(of, axis=(0, 1, 2)) for of in batch] for batch in by_batch])
        for f in (np.mean, np.std)
    )
    expected = by_loops(mean, deviation, THREE)
    assert numbers(before) == pytest.approx(numbers(expected), rel=1e-4)
    assert max(numbers(after).values()) < 1e-3
    with pytest.raises(ValueError, match=r"\[0, 1, 2\], but only 2 have names"):
        measure()


def test_a_network_without_normalization_has_no_gaps():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, images, modality, *, train):
            return jnp.sum(images)

    with pytest.raises(ValueError, match="a network that normalizes"):
        measure_gaps(Plain(), {}, batches(1), train=True)
    with pytest.raises(ValueError, match="need a batch"):
        measure_gaps(Net(), variables(), [], train=True)
    visible = [(images, 0 * modality) for images, modality in batches(2)]
    with pytest.raises(ValueError, match="holds two modalities"):
        measure_gaps(Net(), variables(), visible, train=True)
