"""Which counts of 16 bits become black and white."""

import cv2
import numpy as np
import pytest

from mbn_jax.data.images import decode
from mbn_jax.data.sixteen_bits import (
    AUTO,
    Scale,
    as_texts,
    eight_bits,
    narrow_range,
    scale_from_text,
    scales_by_modality,
)
from mbn_jax.errors import InputError

rng = np.random.default_rng(0)
GRAY = np.repeat(rng.integers(7000, 7400, (24, 12, 1), np.uint16), 3, 2)
COLOR = rng.integers(0, 4096, (24, 12, 3), np.uint16)  # of 12 bits


def linear(image, low, high):
    unit = (image.astype(np.float64) - low) / (high - low)
    return np.round(255 * np.clip(unit, 0, 1)).astype(np.uint8)


@pytest.mark.parametrize("image", [GRAY, COLOR], ids=["gray", "color"])
def test_rules_are_linear_between_their_limits(image):
    percentiles = np.percentile(image[..., 0] if image is GRAY else image, (1, 99))
    limits = {
        "auto": percentiles if image is GRAY else (0, 65535),
        "0,16383": (0, 16383),
        "7100,7300": (7100, 7300),
        "minmax": (image.min(), image.max()),
        "percentiles": percentiles,
    }
    for text, (low, high) in limits.items():
        scaled = eight_bits(image, scale_from_text(text))
        assert scaled.dtype == np.uint8
        np.testing.assert_array_equal(scaled, linear(image, float(low), float(high)))
    assert scale_from_text("auto") == AUTO


def test_twelve_bits_of_color_are_dark_by_themselves_and_not_with_a_scale():
    """As a camera of 12 bits writes them into a PNG of 16."""
    encoded = cv2.imencode(".png", COLOR[..., ::-1])[1].tobytes()
    assert decode(encoded, None, "x").max() <= 16
    scaled = decode(encoded, None, "x", scale=scale_from_text("0,4095"))
    np.testing.assert_array_equal(scaled, linear(COLOR, 0, 4095))
    assert np.ptp(scaled) > 250


def test_one_temperature_has_one_gray_value_with_a_fixed_range_only():
    warm, cold = GRAY, GRAY.copy()
    cold[12:] -= 300
    for text, same in (("7000,7400", True), ("minmax", False), ("auto", False)):
        scale = scale_from_text(text)
        rows = [eight_bits(image, scale)[:12] for image in (warm, cold)]
        assert np.array_equal(*rows) == same


@pytest.mark.parametrize("text", ["auto", "minmax", "percentiles", "0,1", "0,65535"])
def test_constant_images_are_scaled_without_a_division_by_zero(text):
    for value in (0, 7000, 65535):
        image = np.full((4, 4, 3), value, np.uint16)
        assert np.unique(eight_bits(image, scale_from_text(text))).size == 1


def test_eight_bits_stay_as_they_are():
    image = COLOR.astype(np.uint8)
    assert eight_bits(image, scale_from_text("0,10")) is image
    assert narrow_range(image // 255, image // 255) == ""


def test_range_below_a_tenth_is_narrow():
    ramp = np.linspace(0, 1, 10_000).reshape(100, 100, 1).repeat(3, 2)
    wide, narrow = ((ramp * top).astype(np.uint16) for top in (6700, 6500))
    full = scale_from_text("0,65535")
    assert narrow_range(wide, eight_bits(wide, full)) == ""
    phrase = narrow_range(narrow, eight_bits(narrow, full))
    assert phrase.startswith("uses less than a tenth of its range (values 0 to 25 of")
    assert phrase.endswith("from counts 0 to 6500)")
    narrow[0, 0] = 65535  # a hot pixel makes no range
    assert narrow_range(narrow, eight_bits(narrow, full))
    assert narrow_range(narrow, eight_bits(narrow, AUTO)) == ""


@pytest.mark.parametrize(
    "text", ["", "log", "7000", "9000,7000", "5,5", "0,65536", "-1,5", "1.5,2", "1,2,3"]
)
def test_what_is_no_scale_is_refused(text):
    with pytest.raises(InputError, match="is not a scale of images of 16 bits; expect"):
        scale_from_text(text)


def test_scales_are_given_for_all_modalities_or_for_one():
    names = ("visible", "thermal", "a=b")
    fixed = Scale("fixed", 7000, 9000)
    assert scales_by_modality([], names) == {}
    assert scales_by_modality(["auto"], names) == {}
    assert scales_by_modality(["7000,9000"], names) == dict.fromkeys(names, fixed)
    mixed = scales_by_modality(["minmax", "thermal=7000, 9000", "a=b=auto"], names)
    assert mixed == {"visible": Scale("minmax"), "thermal": fixed}
    assert as_texts(mixed) == {"thermal": "7000,9000", "visible": "minmax"}
    for values, message in (
        (["nir=0,1"], "is for images of nir, but there are only visible, thermal, a=b"),
        (["minmax", "0,1"], r"is given twice without a name \(minmax and 0,1\)"),
        (["thermal=0,1", "thermal=0,2"], r"given twice for thermal \(0,1 and 0,2\)"),
        (["thermal="], "'' is not a scale"),
    ):
        with pytest.raises(InputError, match=message):
            scales_by_modality(values, names)
