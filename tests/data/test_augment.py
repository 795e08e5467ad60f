import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mbn_jax.data.augment import Augmentation, augment
from mbn_jax.errors import InputError
from mbn_jax.pixels import normalize

NOTHING = Augmentation(pad=0, flip=0.0, erase=0.0, jitter=0.0)
EVERYTHING = Augmentation(
    pad=4,
    flip=0.5,
    erase=0.5,
    jitter=0.2,
    exchange=0.5,
    gray=0.5,
    infrared_gray=0.5,
    channel_erase=0.5,
)
# One size and one number of images for most tests, which so share their programs.
HEIGHT, WIDTH, BATCH = 24, 12, 16
# Two programs may fuse multiplications and additions in different places.
ROUNDING = 1e-6

compiled_augment = jax.jit(augment, static_argnames=("augmentation", "color"))
normalize_jit = jax.jit(normalize)


def augment_jit(key, images, *, augmentation):
    modality = np.arange(len(images)) % 2
    return compiled_augment(
        key, images, modality, augmentation=augmentation, color=(True, False)
    )


def noise(batch, size=(HEIGHT, WIDTH), channels=3, seed=0):
    shape = (batch, *size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_normalize_is_imagenets_mean_and_deviation():
    images = noise(2)
    expected = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    normalized = normalize(jnp.asarray(images))
    assert normalized.dtype == jnp.float32
    np.testing.assert_allclose(normalized, expected, atol=2e-6)
    np.testing.assert_array_equal(normalize(jnp.asarray(images[0])), normalized[0])


def test_with_everything_off_only_normalization_is_left():
    images = noise(BATCH)
    augmented = augment_jit(jax.random.key(0), images, augmentation=NOTHING)
    np.testing.assert_allclose(augmented, normalize_jit(images), atol=ROUNDING)


def test_a_part_that_is_off_compiles_to_nothing():
    images = jax.ShapeDtypeStruct((4, HEIGHT, WIDTH, 3), jnp.uint8)
    arguments = jax.random.key(0), images, jax.ShapeDtypeStruct((4,), jnp.int32)
    off = compiled_augment.lower(*arguments, augmentation=NOTHING).compile()
    flip = Augmentation(pad=0, erase=0.0)
    on = compiled_augment.lower(*arguments, augmentation=flip).compile()
    # The random number generator is made of exclusive-ors.
    assert "xor(" not in off.as_text()
    assert "xor(" in on.as_text()


def test_pad_and_crop_shifts_the_image_over_black():
    pad, batch = 2, 200
    images = noise(batch)
    augmentation = Augmentation(pad=pad, flip=0.0, erase=0.0)
    shifted = np.asarray(
        augment_jit(jax.random.key(0), images, augmentation=augmentation)
    )
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    padded = np.asarray(normalize_jit(padded))
    seen = set()
    for i in range(batch):
        matches = [
            (y, x)
            for y in range(2 * pad + 1)
            for x in range(2 * pad + 1)
            if np.allclose(shifted[i], padded[i, y:, x:][:HEIGHT, :WIDTH], atol=1e-5)
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) == (2 * pad + 1) ** 2


def test_flip_mirrors_left_and_right_at_its_probability():
    images = noise(300)
    straight = np.asarray(normalize_jit(images))
    augmentation = Augmentation(pad=0, flip=0.25, erase=0.0)
    result = np.asarray(
        augment_jit(jax.random.key(1), images, augmentation=augmentation)
    )
    flipped = np.abs(result - straight[:, :, ::-1]).max((1, 2, 3)) < ROUNDING
    kept = np.abs(result - straight).max((1, 2, 3)) < ROUNDING
    assert np.all(flipped ^ kept)
    assert 0.18 < flipped.mean() < 0.32


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_erasing_puts_one_rectangle_to_the_mean_color(probability):
    images = noise(200, size=(128, 64))
    augmentation = Augmentation(pad=0, flip=0.0, erase=probability)
    result = np.asarray(
        augment_jit(jax.random.key(2), images, augmentation=augmentation)
    )
    straight = np.asarray(normalize_jit(images))
    erased = np.all(result == 0, axis=-1)
    np.testing.assert_allclose(result[~erased], straight[~erased], atol=ROUNDING)
    assert abs(np.mean(erased.any((1, 2))) - probability) < 0.1

    areas, aspects, tops, lefts = [], [], [], []
    for mask in erased[erased.any((1, 2))]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert mask.sum() == height * width
        areas.append(height * width / mask.size)
        aspects.append(height / width)
        tops.append(rows[0])
        lefts.append(columns[0])
    # The sides are rounded to pixels, hence the slack.
    assert 0.018 < min(areas) < 0.04
    assert 0.36 < max(areas) < 0.42
    assert 0.27 < min(aspects) < 0.5
    assert 2.5 < max(aspects) < 3.7
    assert min(tops) < 4
    assert min(lefts) < 4
    assert max(tops) > 90
    assert max(lefts) > 35


def test_jitter_changes_colors_and_leaves_gray_images_gray():
    augmentation = Augmentation(pad=0, flip=0.0, erase=0.0, jitter=0.3)
    gray = np.tile(noise(8, channels=1), (1, 1, 1, 3))
    mean = np.array([0.485, 0.456, 0.406])
    std = np.array([0.229, 0.224, 0.225])
    result = augment_jit(jax.random.key(3), gray, augmentation=augmentation)
    colors = np.asarray(result) * std + mean
    np.testing.assert_allclose(colors, np.tile(colors[..., :1], 3), atol=1e-5)
    assert np.all(np.abs(colors - gray / 255).max((1, 2, 3)) > 0.01)
    assert np.all((colors > -1e-5) & (colors < 1 + 1e-5))


def test_saturation_is_left_alone_where_a_modality_has_no_color():
    """One factor, the contrast, moves all three channels away from their means."""
    images = noise(8) // 8 + 110  # so far from black and white that nothing is clipped
    augmentation = Augmentation(pad=0, flip=0.0, erase=0.0, jitter=0.3)
    result = augment_jit(jax.random.key(3), images, augmentation=augmentation)
    colors = np.asarray(result) * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]
    before, after = (x - x.mean((1, 2), keepdims=True) for x in (images / 255, colors))
    contrast = (before * after).sum((1, 2, 3)) / (before**2).sum((1, 2, 3))
    error = np.abs(after - contrast[:, None, None, None] * before).max((1, 2, 3))
    assert np.all(error[1::2] < 1e-5)
    assert np.all(error[::2] > 1e-4)


def test_color_or_not_a_gray_image_is_jittered_to_the_same_bits():
    gray = np.tile(noise(8, channels=1), (1, 1, 1, 3))
    augmentation = Augmentation(pad=0, flip=0.0, erase=0.0, jitter=0.3)
    key, modality = jax.random.key(3), np.arange(8) % 2
    expected = augment_jit(key, gray, augmentation=augmentation)
    for color in ((True, True), (False, True)):
        result = compiled_augment(
            key, gray, modality, augmentation=augmentation, color=color
        )
        np.testing.assert_array_equal(result, expected)


def shares(result, choices):
    """How often an image is each of the normalized choices; it is exactly one."""
    is_choice = np.array([np.abs(result - c).max((1, 2, 3)) < 1e-5 for c in choices])
    assert np.all(is_choice.sum(0) == 1)
    return is_choice.mean(1)


def one_channel(images, channel):
    return np.repeat(images[..., channel : channel + 1], 3, axis=-1)


def test_exchange_shows_one_channel_of_visible_images_in_all_three():
    images = noise(400)
    augmentation = Augmentation(pad=0, flip=0.0, erase=0.0, exchange=0.6)
    result = augment_jit(jax.random.key(8), images, augmentation=augmentation)
    straight = np.asarray(normalize_jit(images))
    choices = [straight, *(one_channel(straight, c) for c in range(3))]
    visible, infrared = (
        shares(np.asarray(result)[m::2], [c[m::2] for c in choices]) for m in (0, 1)
    )
    np.testing.assert_allclose(visible, [0.4, 0.2, 0.2, 0.2], atol=0.1)
    np.testing.assert_array_equal(infrared, [1, 0, 0, 0])


def test_gray_is_the_luminance_of_visible_images():
    images = noise(400)
    augmentation = Augmentation(pad=0, flip=0.0, erase=0.0, gray=0.7)
    result = augment_jit(jax.random.key(9), images, augmentation=augmentation)
    thousandths = images.astype(int) @ np.array([[299], [587], [114]])
    luminance = np.repeat((thousandths + 500) // 1000, 3, axis=-1).astype(np.uint8)
    choices = [np.asarray(normalize_jit(choice)) for choice in (images, luminance)]
    visible, infrared = (
        shares(np.asarray(result)[m::2], [c[m::2] for c in choices]) for m in (0, 1)
    )
    np.testing.assert_allclose(visible, [0.3, 0.7], atol=0.1)
    np.testing.assert_array_equal(infrared, [1, 0])


def test_infrared_gray_shows_a_channel_or_their_sum_of_the_normalized_image():
    # As a camera in infrared gives them, with three equal channels.
    images = np.repeat(noise(400)[..., :1], 3, axis=-1)
    augmentation = Augmentation(pad=0, flip=0.0, erase=0.0, infrared_gray=0.7)
    result = augment_jit(jax.random.key(9), images, augmentation=augmentation)
    straight = np.asarray(normalize_jit(images))
    luminance = straight @ np.array([[0.299], [0.587], [0.114]])
    choices = [
        straight,
        *(one_channel(straight, c) for c in range(3)),
        np.repeat(luminance, 3, axis=-1),
    ]
    visible, infrared = (
        shares(np.asarray(result)[m::2], [c[m::2] for c in choices]) for m in (0, 1)
    )
    np.testing.assert_array_equal(visible, [1, 0, 0, 0, 0])
    np.testing.assert_allclose(infrared, [0.3, 0.2, 0.2, 0.2, 0.1], atol=0.1)


def test_which_rules_apply_is_a_matter_of_color_and_not_of_the_index():
    images = noise(12)
    key = jax.random.key(8)
    straight = np.asarray(normalize_jit(images))
    nothing = dict(pad=0, flip=0.0, erase=0.0)
    of_color = Augmentation(exchange=1.0, **nothing)
    of_others = Augmentation(infrared_gray=1.0, **nothing)
    modality = np.arange(12) % 3
    for color in ((True, False, False), (False, True, True)):
        in_color = np.array(color)[modality]
        for augmentation, changes in ((of_color, in_color), (of_others, ~in_color)):
            result = compiled_augment(
                key, images, modality, augmentation=augmentation, color=color
            )
            difference = np.abs(np.asarray(result) - straight).max((1, 2, 3))
            np.testing.assert_array_equal(difference > 1e-3, changes)


def test_modalities_may_change_places():
    images, key = noise(BATCH), jax.random.key(10)
    exchanged = compiled_augment(
        key,
        images,
        1 - np.arange(BATCH) % 2,
        augmentation=EVERYTHING,
        color=(False, True),
    )
    expected = augment_jit(key, images, augmentation=EVERYTHING)
    np.testing.assert_array_equal(exchanged, expected)


def test_channel_erasing_fills_a_rectangle_with_a_value_for_each_channel():
    images = noise(100, size=(64, 32))
    augmentation = Augmentation(pad=0, flip=0.0, erase=0.0, channel_erase=0.5)
    result = np.asarray(
        augment_jit(jax.random.key(2), images, augmentation=augmentation)
    )
    fill = np.array([0.4914, 0.4822, 0.4465], np.float32)
    erased = np.all(result == fill, axis=-1)
    straight = np.asarray(normalize_jit(images))
    np.testing.assert_allclose(result[~erased], straight[~erased], atol=ROUNDING)
    assert abs(np.mean(erased.any((1, 2))) - 0.5) < 0.15
    for mask in erased[erased.any((1, 2))]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_each_image_is_treated_by_itself():
    images = noise(BATCH)
    others = images.copy()
    others[1:] = noise(BATCH - 1, seed=1)
    key = jax.random.key(4)
    one = augment_jit(key, images, augmentation=EVERYTHING)
    two = augment_jit(key, others, augmentation=EVERYTHING)
    np.testing.assert_array_equal(one[0], two[0])


def test_equal_images_are_augmented_differently():
    images = np.tile(noise(1), (BATCH, 1, 1, 1))
    result = augment_jit(jax.random.key(5), images, augmentation=EVERYTHING)
    assert len({image.tobytes() for image in np.asarray(result)}) == BATCH


def test_switching_one_part_off_leaves_the_others_as_they_were():
    images, key = noise(BATCH), jax.random.key(6)
    with_erasing = augment_jit(key, images, augmentation=Augmentation())
    without = augment_jit(key, images, augmentation=Augmentation(erase=0.0))
    seen = np.asarray(with_erasing) != 0
    np.testing.assert_allclose(
        np.asarray(with_erasing)[seen], np.asarray(without)[seen], atol=ROUNDING
    )


@pytest.mark.parametrize("augmentation", [NOTHING, EVERYTHING, Augmentation()])
def test_result_does_not_depend_on_how_the_batch_is_sharded(augmentation):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    on_data = NamedSharding(mesh, PartitionSpec("data"))
    images, key = noise(BATCH), jax.random.key(7)
    one_device = augment_jit(key, images, augmentation=augmentation)
    sharded_images = jax.device_put(images, on_data)
    many_devices = augment_jit(key, sharded_images, augmentation=augmentation)
    assert many_devices.sharding.is_equivalent_to(on_data, 4)
    np.testing.assert_array_equal(one_device, many_devices)


def test_sharded_augmentation_needs_no_communication_of_images():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    on_data = NamedSharding(mesh, PartitionSpec("data"))
    images = jax.ShapeDtypeStruct((16, HEIGHT, WIDTH, 3), jnp.uint8, sharding=on_data)
    modality = jax.ShapeDtypeStruct((16,), jnp.int32, sharding=on_data)
    lowered = compiled_augment.lower(
        jax.random.key(0), images, modality, augmentation=EVERYTHING
    )
    text = lowered.compile().as_text()
    for collective in ("all-gather", "all-to-all", "all-reduce", "collective-permute"):
        assert collective not in text


@pytest.mark.parametrize(
    "wrong",
    [{"flip": 1.5}, {"erase": -0.1}, {"jitter": 2.0}, {"pad": -1}, {"exchange": 3}],
)
def test_values_out_of_range_are_named(wrong):
    with pytest.raises(InputError, match=f"Augmentation.{next(iter(wrong))}"):
        Augmentation(**wrong)


@pytest.mark.parametrize("x64", [True, False])
def test_images_are_float32_under_x64_and_strict_promotion(x64):
    images, key = noise(BATCH), jax.random.key(0)
    modality = (np.arange(BATCH) % 2).astype(np.uint8)
    expected = augment_jit(key, images, augmentation=EVERYTHING)
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        result = compiled_augment(key, images, modality, augmentation=EVERYTHING)
        assert result.dtype == normalize(images).dtype == jnp.float32
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_images_over_explicit_axes_are_augmented_as_on_one_device():
    images, modality = noise(BATCH), np.arange(BATCH, dtype=np.int32) % 2
    on_data = jax.sharding.NamedSharding(jax.make_mesh((8,), ("data",)), jax.P("data"))
    cut = jax.device_put((images, modality), on_data)
    key, augmentation = jax.random.key(0), Augmentation()
    result = compiled_augment(key, *cut, augmentation=augmentation)
    assert result.sharding.is_equivalent_to(on_data, 4)
    expected = augment_jit(key, images, augmentation=augmentation)
    np.testing.assert_allclose(result, expected, atol=1e-6)
