import logging

import numpy as np
import pytest

from mbn_jax.data.sampling import SAMPLERS, make_sampler
from mbn_jax.errors import InputError

# Identity 10 * i has i + 2 visible and 3 infrared images.
NUM_VISIBLE = {10: 3, 20: 4, 30: 5, 40: 6, 50: 7}
NUM_INFRARED = 3


def records(num_visible=NUM_VISIBLE, num_others=(NUM_INFRARED,), order_seed=0):
    """Labels of a small data set, in random order."""
    rows = [
        (identity, modality)
        for identity, visible in num_visible.items()
        for modality, count in enumerate((visible, *num_others))
        for _ in range(count)
    ]
    rows = np.random.default_rng(order_seed).permutation(rows)
    return rows[:, 0], rows[:, 1]


def sampler_of(
    identity, modality, num_identities=2, num_images=2, seed=0, num_modalities=2
):
    return make_sampler(
        "balanced",
        identity,
        modality,
        num_identities=num_identities,
        num_images=num_images,
        seed=seed,
        num_modalities=num_modalities,
    )


def epoch_of(sampler, epoch):
    first = epoch * sampler.batches_per_epoch
    return np.stack(
        [sampler.batch(first + i) for i in range(sampler.batches_per_epoch)]
    )


def test_batch_is_a_function_of_seed_and_index_alone():
    labels = records()
    forwards, backwards = sampler_of(*labels), sampler_of(*labels)
    indices = range(50)
    there = [forwards.batch(i) for i in indices]
    back = [backwards.batch(i) for i in reversed(indices)][::-1]
    np.testing.assert_array_equal(there, back)


def test_another_seed_and_another_epoch_draw_otherwise():
    labels = records()
    first = epoch_of(sampler_of(*labels), 0)
    assert np.any(first != epoch_of(sampler_of(*labels, seed=1), 0))
    assert np.any(first != epoch_of(sampler_of(*labels), 1))


def test_changing_a_batch_does_not_change_the_sampler():
    sampler = sampler_of(*records())
    batch = sampler.batch(3)
    kept = batch.copy()
    batch[:] = -1
    np.testing.assert_array_equal(sampler.batch(3), kept)


def test_batch_holds_identities_in_blocks_of_k_rows_per_modality():
    identity, modality = records()
    sampler = sampler_of(identity, modality, num_identities=3, num_images=2)
    for i in range(30):
        batch = sampler.batch(i)
        assert batch.dtype == np.int64
        assert batch.shape == (sampler.batch_size,) == (12,)
        blocks = identity[batch].reshape(3, 4)
        np.testing.assert_array_equal(blocks, np.tile(blocks[:, :1], (1, 4)))
        np.testing.assert_array_equal(modality[batch], np.tile([0, 0, 1, 1], 3))


@pytest.mark.parametrize("num_identities", [1, 2, 3, 4, 5])
def test_identities_of_a_batch_are_distinct_across_the_seams_too(num_identities):
    identity, modality = records()
    sampler = sampler_of(identity, modality, num_identities, num_images=1)
    for i in range(100):
        assert np.unique(identity[sampler.batch(i)]).size == num_identities


@pytest.mark.parametrize("num_identities", [1, 2, 3, 4, 5])
def test_every_identity_is_visited_evenly_in_every_epoch(num_identities):
    identity, modality = records(dict.fromkeys(NUM_VISIBLE, 40))
    sampler = sampler_of(identity, modality, num_identities, num_images=2)
    for epoch in range(5):
        visited = identity[epoch_of(sampler, epoch)]
        _, visits = np.unique(visited, return_counts=True)
        assert visits.size == len(NUM_VISIBLE)
        # 2 images in each of 2 modalities at a visit.
        assert np.ptp(visits) <= 4


@pytest.mark.parametrize("num_images", [1, 2, 3, 4])
def test_images_of_an_identity_take_turns(num_images):
    num_visible = dict.fromkeys((1, 2, 3), 40)
    identity, modality = records(num_visible, num_others=(5,))
    sampler = sampler_of(identity, modality, num_identities=2, num_images=num_images)
    drawn = np.bincount(epoch_of(sampler, 2).ravel(), minlength=identity.size)
    for one in num_visible:
        for m in (0, 1):
            assert np.ptp(drawn[(identity == one) & (modality == m)]) <= 1


@pytest.mark.parametrize("num_images", [1, 2, 3])
def test_a_batch_repeats_no_image_where_there_are_enough(num_images):
    sampler = sampler_of(*records(), num_identities=5, num_images=num_images)
    for i in range(50):
        assert np.unique(sampler.batch(i)).size == sampler.batch_size


def test_too_few_images_are_drawn_with_replacement_and_all_of_them():
    identity, modality = records()
    sampler = sampler_of(identity, modality, num_identities=5, num_images=8)
    batch = sampler.batch(0)
    for one in NUM_VISIBLE:
        infrared = batch[(identity[batch] == one) & (modality[batch] == 1)]
        _, times = np.unique(infrared, return_counts=True)
        np.testing.assert_array_equal(np.sort(times), [2, 3, 3])


def test_identity_without_a_modality_is_left_out_and_the_number_is_logged(caplog):
    identity, modality = records()
    keep = (identity != 30) | (modality == 0)
    identity, modality = identity[keep], modality[keep]
    with caplog.at_level(logging.WARNING):
        sampler = sampler_of(identity, modality)
    np.testing.assert_array_equal(sampler.left_out, [30])
    np.testing.assert_array_equal(sampler.classes, [10, 20, 40, 50])
    assert "1 of 5 identities have no image in some of the 2" in caplog.text
    assert not np.any(identity[epoch_of(sampler, 0)] == 30)


def test_class_label_is_the_position_among_the_eligible_identities():
    identity, modality = records()
    sampler = sampler_of(identity, modality)
    labels = sampler.class_of(np.arange(identity.size))
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, identity // 10 - 1)


def test_a_left_out_identity_has_no_class_label():
    identity, modality = np.array([1, 1, 2, 3, 3]), np.array([0, 1, 0, 0, 1])
    sampler = sampler_of(identity, modality, num_identities=1, num_images=1)
    with pytest.raises(InputError, match=r"\[2\]"):
        sampler.class_of(np.array([0, 2]))


def test_epoch_has_as_many_batches_as_the_larger_modality_fills():
    # SYSU-MM01 in AGW: 22,258 visible and 11,909 infrared images, 8 x 4: 695 batches.
    modality = np.repeat([0, 1], [22_258, 11_909])
    identity = np.concatenate([np.arange(22_258) % 395, np.arange(11_909) % 395])
    sampler = sampler_of(identity, modality, num_identities=8, num_images=4)
    assert sampler.batches_per_epoch == 695


def test_epoch_has_at_least_one_batch():
    sampler = sampler_of(*records(), num_identities=5, num_images=100)
    assert sampler.batches_per_epoch == 1


def test_one_modality_is_enough():
    identity = np.repeat([3, 4, 5], 4)
    sampler = make_sampler(
        "balanced",
        identity,
        np.zeros(12, np.int32),
        num_identities=2,
        num_images=3,
        seed=0,
        num_modalities=1,
    )
    assert sampler.batch(0).shape == (6,)


def test_more_identities_than_there_are_is_an_error_that_names_both_numbers():
    with pytest.raises(InputError, match=r"6 identities .* 5 identities"):
        sampler_of(*records(), num_identities=6)


@pytest.mark.parametrize("name", ["num_identities", "num_images", "seed"])
def test_sizes_out_of_range_are_named(name):
    with pytest.raises(InputError, match=f"{name} must be at least"):
        sampler_of(*records(), **{name: -1})


def test_a_modality_out_of_range_is_an_error():
    identity, modality = records()
    with pytest.raises(InputError, match=r"0\.\.1.*\[2\]"):
        sampler_of(identity, np.where(identity == 10, 2, modality))


def test_labels_of_different_lengths_are_an_error():
    identity, modality = records()
    with pytest.raises(InputError, match="one length"):
        sampler_of(identity, modality[1:])


def test_batch_holds_k_images_of_every_identity_in_each_of_three_modalities():
    identity, modality = records(num_others=(3, 4))
    lacks = (identity == 30) & (modality == 2)
    identity, modality = identity[~lacks], modality[~lacks]
    sampler = sampler_of(identity, modality, num_identities=3, num_modalities=3)
    assert sampler.left_out.tolist() == [30]
    assert sampler.classes.tolist() == [10, 20, 40, 50]
    for i in range(20):
        batch = sampler.batch(i)
        assert batch.shape == (sampler.batch_size,) == (18,)
        blocks = identity[batch].reshape(3, 6)
        assert np.all(blocks == blocks[:, :1])
        np.testing.assert_array_equal(modality[batch], np.tile([0, 0, 1, 1, 2, 2], 3))
        assert np.unique(batch).size == 18


def test_without_an_identity_that_has_all_modalities_the_counts_are_named():
    identity, modality = np.array([1, 1, 2, 2, 3]), np.array([0, 1, 1, 2, 0])
    with pytest.raises(
        InputError,
        match=r"None of the 3 identities .* all 3 modalities .*0: 2, .*1: 2, .*2: 1\)",
    ):
        sampler_of(identity, modality, num_identities=1, num_modalities=3)


def drawn_by(name, labels, seed=0, **sizes):
    sizes = {"num_identities": 3, "num_images": 2} | sizes
    return make_sampler(name, *labels, seed=seed, **sizes)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_modalities", [1, 2, 3])
def test_every_sampler_draws_k_images_for_each_of_p_identities_and_m_modalities(
    name, num_modalities
):
    labels = records(num_others=(3, 4)[: num_modalities - 1])
    sampler = drawn_by(name, labels, num_modalities=num_modalities)
    assert sampler.batch(1).shape == (sampler.batch_size,) == (6 * num_modalities,)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_as_many_images_by_seed_and_index(name):
    labels = records()
    there = [drawn_by(name, labels).batch(i) for i in range(20)]
    same = drawn_by(name, labels)
    back = [same.batch(i) for i in reversed(range(20))][::-1]
    np.testing.assert_array_equal(there, back)
    assert np.shape(there) == (20, 12)
    assert np.any(there != np.array(drawn_by(name, labels, seed=1).batch(0)))


def test_agnostic_batches_hold_identities_in_whatever_modality():
    identity, modality = records()
    sampler = drawn_by("agnostic", (identity, modality))
    shares = []
    for batch in epoch_of(sampler, 0).tolist() + epoch_of(sampler, 1).tolist():
        blocks = identity[batch].reshape(3, 4)
        assert np.all(blocks == blocks[:, :1])
        assert len(np.unique(blocks)) == 3
        assert len(np.unique(batch)) == 12
        shares.append(modality[batch].mean())
    assert len(set(shares)) > 2
    assert sampler.batches_per_epoch == 40 // 12


def test_agnostic_batches_hold_identities_of_one_modality_too():
    identity, modality = records({10: 3, 20: 4, 30: 5, 40: 6})
    modality[identity == 20] = 0
    sampler = drawn_by("agnostic", (identity, modality))
    assert sampler.classes.tolist() == [10, 20, 30, 40]
    assert sampler.left_out.size == 0


def test_natural_batches_are_permutations_of_all_images():
    identity, modality = records()
    sampler = drawn_by("natural", (identity, modality), num_identities=2)
    assert sampler.batches_per_epoch == 5
    np.testing.assert_array_equal(
        np.sort(epoch_of(sampler, 0).ravel()), np.arange(len(identity))
    )
    shares = [modality[sampler.batch(i)].mean() for i in range(50)]
    assert len(set(shares)) > 3
    np.testing.assert_allclose(np.mean(shares), modality.mean())
    np.testing.assert_array_equal(
        sampler.classes[sampler.class_of(sampler.batch(0))], identity[sampler.batch(0)]
    )
