"""Images as cameras give them, decoded to three channels of eight bits."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from mbn_jax.data.images import SUFFIXES, decode
from mbn_jax.errors import InputError

from .image_files import COLOR, GRAY, NO_IMAGES, SIZE, file_of

FORMATS = (".png", ".bmp", ".tiff")  # without loss


@pytest.mark.parametrize("suffix", FORMATS)
def test_color_is_red_green_blue(suffix):
    np.testing.assert_array_equal(decode(file_of(COLOR, suffix), SIZE, "x"), COLOR)


def test_webp_without_loss_and_jpeg_nearly_are_the_pixels():
    webp = file_of(COLOR, ".webp", cv2.IMWRITE_WEBP_QUALITY, 101)
    np.testing.assert_array_equal(decode(webp, SIZE, "x"), COLOR)
    flat = np.full((*SIZE, 3), (200, 100, 30), np.uint8)
    jpeg = decode(file_of(flat, ".jpg"), SIZE, "x")
    assert np.abs(jpeg.astype(int) - flat).max() <= 3


@pytest.mark.parametrize("suffix", FORMATS)
def test_gray_has_three_equal_channels(suffix):
    decoded = decode(file_of(GRAY, suffix), SIZE, "x")
    np.testing.assert_array_equal(decoded, np.repeat(GRAY[..., None], 3, 2))


@pytest.mark.parametrize("suffix", FORMATS)
def test_transparency_is_dropped(suffix):
    pixels = np.concatenate([COLOR, GRAY[..., None]], 2)
    np.testing.assert_array_equal(decode(file_of(pixels, suffix), SIZE, "x"), COLOR)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_gray_image_of_sixteen_bits_is_stretched(suffix):
    counts = np.arange(7000, 7000 + 101 * 20, 20, dtype=np.uint16)[:, None]
    decoded = decode(file_of(counts, suffix), counts.shape, "x")
    low, high = 7020, 8980  # the 1st and the 99th percentile
    expected = np.round(
        255 * np.clip((counts.astype(float) - low) / (high - low), 0, 1)
    )
    np.testing.assert_array_equal(decoded[..., 0], expected)
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [3, 4])
def test_color_of_sixteen_bits_is_divided(suffix, channels):
    pixels = COLOR.astype(np.uint16) * 257
    if channels == 4:
        pixels = np.concatenate([pixels, pixels[..., :1]], 2)
    np.testing.assert_array_equal(decode(file_of(pixels, suffix), SIZE, "x"), COLOR)


def test_constant_image_of_sixteen_bits_is_black():
    assert not decode(file_of(np.full(SIZE, 7000, np.uint16)), SIZE, "x").any()


def test_big_tiff_is_scaled_as_any_other():
    """By hand: OpenCV does not write it. One strip of 2 × 2 counts of 16 bits."""
    entries = [
        (256, 3, 1, 2),  # width
        (257, 3, 1, 2),  # height
        (258, 3, 1, 16),  # bits
        (259, 3, 1, 1),  # no compression
        (262, 3, 1, 1),  # black is zero
        (273, 16, 1, 256),  # where the strip begins
        (277, 3, 1, 1),  # channels
        (278, 3, 1, 2),  # rows in the strip
        (279, 16, 1, 8),  # bytes in it
    ]
    header = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16)
    table = struct.pack("<Q", len(entries))
    table += b"".join(struct.pack("<HHQQ", *entry) for entry in entries) + bytes(8)
    counts = np.array([[7000, 7100], [7200, 7300]], "<u2")
    big = (header + table).ljust(256, b"\0") + counts.tobytes()
    classic = file_of(counts, ".tiff")
    np.testing.assert_array_equal(
        decode(big, (2, 2), "x"), decode(classic, (2, 2), "x")
    )
    assert np.ptp(decode(big, (2, 2), "x")) == 255


def with_orientation(encoded, orientation):
    """The file with an EXIF note that it is to be turned."""
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation])
    tiff += bytes(6)
    if encoded.startswith(b"\xff\xd8"):
        note = b"Exif\0\0" + tiff
        segment = b"\xff\xe1" + struct.pack(">H", len(note) + 2) + note
        return encoded[:2] + segment + encoded[2:]
    after_header = 8 + 25
    chunk = b"eXIf" + tiff
    chunk = struct.pack(">I", len(tiff)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return encoded[:after_header] + chunk + encoded[after_header:]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_orientation_that_the_camera_noted_is_applied(suffix):
    # The left half is white; turned by a quarter to the right it is the upper half.
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255
    decoded = decode(with_orientation(file_of(pixels, suffix), 6), (32, 16), "x")
    assert decoded[:14].min() > 240
    assert decoded[18:].max() < 15


@pytest.mark.parametrize("case", NO_IMAGES)
def test_what_is_no_image_is_refused_with_its_name(case):
    problem = r"(\(\d+ bytes\) cannot be decoded|is empty|ends too early, after .*)"
    with pytest.raises(InputError, match=f"^The image some name {problem}; it must"):
        decode(NO_IMAGES[case], SIZE, "some name")


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif", ".tiff"])
def test_of_several_images_the_first_is_read_and_an_animated_gif_is_refused(suffix):
    frames = [np.full((24, 12, 4), value, np.uint8) for value in (50, 200)]
    if suffix == ".tiff":
        _, encoded = cv2.imencodemulti(suffix, frames)
    else:
        animation = cv2.Animation()
        animation.frames = [np.dstack([f[..., :3], f[..., 3] | 255]) for f in frames]
        animation.durations = [100, 100]
        _, encoded = cv2.imencodeanimation(suffix, animation)
    if suffix == ".gif":
        with pytest.raises(InputError, match=r"x \(.* bytes\) cannot be decoded"):
            decode(encoded.tobytes(), None, "x")
        return
    assert np.unique(decode(encoded.tobytes(), None, "x")).tolist() == [50]


def test_all_formats_that_are_promised_can_be_read():
    for suffix in SUFFIXES:
        assert decode(file_of(COLOR, suffix), SIZE, suffix).shape == (*SIZE, 3)
