"""What a header declares, and headers that lie."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from mbn_jax.data.images import (
    MAX_MEGAPIXELS,
    declared_size,
    decode,
    is_cut_off,
    quiet_opencv,
)
from mbn_jax.errors import InputError

WIDTH, HEIGHT = 301, 23
COLOR = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
KINDS = {
    "JPEG": (".jpg", 3, ()),
    "progressive JPEG": (".jpg", 3, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
    "JPEG with restarts": (".jpg", 3, (cv2.IMWRITE_JPEG_RST_INTERVAL, 4)),
    "PNG": (".png", 3, ()),
    "PNG with transparency": (".png", 4, ()),
    "BMP": (".bmp", 3, ()),
    "BMP with transparency": (".bmp", 4, ()),
    "WebP": (".webp", 3, (cv2.IMWRITE_WEBP_QUALITY, 80)),
    "WebP without loss": (".webp", 3, (cv2.IMWRITE_WEBP_QUALITY, 101)),
    "extended WebP": (".webp", 4, (cv2.IMWRITE_WEBP_QUALITY, 80)),
    "TIFF": (".tiff", 3, ()),
    "TIFF without compression": (".tiff", 3, (cv2.IMWRITE_TIFF_COMPRESSION, 1)),
}


def file_of(kind):
    suffix, channels, options = KINDS[kind]
    return cv2.imencode(suffix, COLOR[..., :channels], options)[1].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_declared_size_is_that_of_the_image(kind):
    assert declared_size(file_of(kind)) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("kind", KINDS)
def test_header_that_is_not_whole_declares_nothing(kind):
    encoded = file_of(kind)
    for length in range(24):  # every header is longer
        assert declared_size(encoded[:length]) is None


def test_size_before_the_orientation_and_after_other_segments():
    jpeg = file_of("JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 1002) + b"\xff\xc0" * 500
    # Any number of FF may come before a marker.
    assert declared_size(jpeg[:2] + segment + b"\xff\xff" + jpeg[2:]) == (WIDTH, HEIGHT)


def test_bitmap_of_an_old_kind_and_one_that_runs_from_top_to_bottom():
    core = b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 7, 9, 1, 24)
    assert declared_size(core) == (7, 9)
    info = b"BM" + bytes(12) + struct.pack("<Iii", 40, 7, -9)
    assert declared_size(info) == (7, 9)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("is_big", [False, True])
def test_tiff_of_both_kinds_in_both_orders(order, is_big):
    version = (43 if is_big else 42).to_bytes(2, "little" if order == "<" else "big")
    mark = (b"II" if order == "<" else b"MM") + version
    tags = [(255, 3, 1), (256, 3, 70), (257, 4, 70_000)]
    if is_big:
        head = mark + struct.pack(order + "HHQQ", 8, 0, 16, len(tags))
    else:
        head = mark + struct.pack(order + "IH", 8, len(tags))
    for tag, kind, value in tags:
        number = struct.pack(order + {3: "H", 4: "I"}[kind], value)
        count = struct.pack(order + ("Q" if is_big else "I"), 1)
        entry = struct.pack(order + "HH", tag, kind) + count
        head += entry + number.ljust(8 if is_big else 4, b"\0")
    assert declared_size(head) == (70, 70_000)


def png(width, height):
    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, data)
        for kind, data in ((b"IHDR", head), (b"IDAT", pixels), (b"IEND", b""))
    )


def bmp(width, height, offset=54):
    head = struct.pack("<IHHI", 154, 0, 0, offset)
    head += struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + head + bytes(100)


def jpeg(width, height):
    encoded = bytearray(file_of("JPEG"))
    frame = encoded.index(b"\xff\xc0")
    encoded[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(encoded)


LARGE = {
    "PNG of 30,000": png(30_000, 30_000),
    "PNG of 50,000": png(50_000, 50_000),
    "PNG of 2³¹ - 1": png(2**31 - 1, 2**31 - 1),
    "BMP of 30,000": bmp(30_000, 30_000),
    "BMP of -50,000": bmp(50_000, -50_000),
    "BMP of -2³¹": bmp(100, -(2**31)),
    "JPEG of 20,000": jpeg(20_000, 20_000),
    "JPEG of 65,000": jpeg(65_000, 65_000),
}


@pytest.mark.parametrize("case", LARGE)
def test_image_that_declares_too_many_pixels_is_not_decoded(case, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(InputError, match=r"The image x declares .* pixels, more than"):
        decode(LARGE[case], (32, 16), "x")


def test_the_limit_can_be_raised_and_lowered():
    encoded = file_of("JPEG")
    millions = WIDTH * HEIGHT / 1e6
    decode(encoded, None, "x", max_megapixels=millions)
    with pytest.raises(
        InputError, match=r"declares 301 × 23 pixels, more than 0\.0069"
    ):
        decode(encoded, None, "x", max_megapixels=0.0069)
    assert MAX_MEGAPIXELS >= 64


# Under the limit, so that OpenCV has to notice.
LIES = {
    "PNG with too few pixels": png(4000, 4000),
    "PNG without a pixel": png(0, 0),
    "BMP with too few pixels": bmp(4000, 4000),
    "BMP of negative width": bmp(-100, 100),
    "BMP whose pixels are elsewhere": bmp(10, 10, offset=2**31),
    "strip of a PNG": png(70_000, 1),
}


@pytest.mark.parametrize("case", LIES)
def test_header_that_lies_is_an_image_that_cannot_be_decoded(case):
    with pytest.raises(
        InputError, match=r"^The image x \(.* bytes\) cannot be decoded"
    ):
        decode(LIES[case], (32, 16), "x")


def test_part_of_a_png_that_is_longer_than_the_file_is_not_read(monkeypatch):
    encoded = file_of("PNG")
    assert not is_cut_off(encoded)
    assert not is_cut_off(encoded + b"something else")
    for length in (30, 60, len(encoded) - 1):
        assert is_cut_off(encoded[:length])
    data = encoded.index(b"IDAT") - 4
    lie = encoded[:data] + b"\xff\0\0\0" + encoded[data + 4 :]
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(InputError, match=r"^The image x ends too early, after"):
        decode(lie, (32, 16), "x")


@pytest.mark.parametrize("size", [(1, 40_000), (40_000, 1), (1, 1)])
def test_thin_images_are_resized_like_others(size):
    encoded = cv2.imencode(".png", np.full(size, 77, np.uint8))[1].tobytes()
    np.testing.assert_array_equal(
        decode(encoded, (32, 16), "x"), np.full((32, 16, 3), 77)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file_is_an_image_or_refused_in_a_sentence(kind):
    generator = np.random.default_rng(0)
    encoded = np.frombuffer(file_of(kind), np.uint8)
    refused = []
    with quiet_opencv():
        for _ in range(100):
            damaged = encoded.copy()
            # Half of the damage is where headers are: at the end of a TIFF.
            part = generator.choice([300, len(encoded)])
            places = generator.integers(0, min(part, len(encoded)), 5)
            places = len(encoded) - 1 - places if "TIFF" in kind else places
            damaged[places] = generator.choice([0, 1, 127, 128, 255], 5)
            try:
                image = decode(damaged.tobytes(), (16, 8), "x")
                assert image.shape == (16, 8, 3)
            except InputError as error:
                refused.append(str(error))
    assert refused
    assert not any("\n" in sentence for sentence in refused)
