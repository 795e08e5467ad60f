"""Image files as cameras give them: finding, decoding, and resizing them.

Formats are JPEG, PNG, BMP, WebP and TIFF, with 1, 3 or 4 channels of 8 or 16 bits.
Every image becomes three channels of 8 bits: a gray image has three equal ones, and the
fourth channel, transparency, is dropped. The orientation in the EXIF data is applied.
Images of 16 bits are scaled as `mbn_jax.data.sixteen_bits` says. Of a file with several
images, the first is read.

The size that a file declares is read from its first bytes before it is decoded: a file
of a hundred bytes can declare a billion pixels, for which a decoder asks for gigabytes
before it looks at the rest.
"""

import contextlib
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mbn_jax.data.sixteen_bits import AUTO, Scale, eight_bits, narrow_range
from mbn_jax.errors import InputError
from mbn_jax.files import check_named

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Millions of pixels: far more than an image of a person has, and some hundred MB.
MAX_MEGAPIXELS = 64.0
MAX_HELP = "Millions of pixels that an image may have at most."
NARROW_REMEDY = "choose another scale with --sixteen_bits (docs/own-data.md)"

# Four channels of 16 bits, and room for what a file holds beside its pixels.
_BYTES_PER_PIXEL, _BYTES_BESIDE = 8, 2**26
_JPEG, _PNG, _BMP = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM"
# TIFF and BigTIFF, in both orders of bytes.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT = 256, 257  # tags of TIFF
_WHOLE_NUMBERS = {3: "H", 4: "I", 16: "Q"}  # types of TIFF


def images_below(folder: str | Path, deepest: int | None = None) -> list[Path]:
    """Lists the image files in a folder and in those below it.

    Links to files and to folders are followed; a link to a folder that it is in adds
    nothing. Hidden files and folders, whose names start with a dot, are left out: some
    systems put such a file beside every image.

    Args:
        folder: searched for files that end in one of `SUFFIXES`, in small or capital
            letters.
        deepest: how many folders below the first one are entered; None for all.

    Returns:
        Paths that start with the folder, in no particular order; none if there are
        none.

    Raises:
        InputError: it is not a folder, a folder cannot be read, a link leads nowhere,
            an image is not a regular file, or a name is not UTF-8.
    """
    check_named(folder)
    if not os.path.isdir(folder):
        raise InputError(
            f"{folder} is not a folder: give the folder that holds the images."
        )
    found: list[Path] = []
    waiting: list[tuple[Path, tuple[os.stat_result, ...]]] = [(Path(folder), ())]
    while waiting:
        place, above = waiting.pop()
        try:
            status = place.stat()
            if any(os.path.samestat(status, other) for other in above):
                continue
            with os.scandir(place) as entries:
                shown = [e for e in entries if not e.name.startswith(".")]
            folders = [entry.path for entry in shown if entry.is_dir()]
        except OSError as error:
            raise InputError(
                f"The folder {place} cannot be read ({error.strerror or error}): make"
                " it one that you may read, or move it away."
            ) from error
        found += [Path(e.path) for e in shown if not e.is_dir() and _is_image(e)]
        if deepest is None or len(above) < deepest:
            waiting += [(Path(path), (*above, status)) for path in folders]
    return found


def read_encoded(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> bytes:
    """Returns the bytes of an image file, unless they are too many for its pixels.

    Raises:
        OSError: it cannot be read, or has too many bytes.
    """
    size = path.stat().st_size
    if size > _BYTES_PER_PIXEL * max_megapixels * 1e6 + _BYTES_BESIDE:
        raise OSError(
            errno.EFBIG,
            f"{size:,} bytes, too many for {max_megapixels:g} million pixels",
        )
    return path.read_bytes()


def decode(
    encoded: bytes,
    image_size: tuple[int, int] | None,
    name: str,
    *,
    scale: Scale = AUTO,
    max_megapixels: float = MAX_MEGAPIXELS,
    narrow: list[str] | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decodes an image file and resizes it.

    Args:
        encoded: the file, in one of the formats above.
        image_size: (height, width) of the result in pixels; None for those of the file.
        name: of the image, for the error.
        scale: of an image of 16 bits.
        max_megapixels: a larger image is refused before it is decoded.
        narrow: receives a phrase if 16 bits leave an image nearly uniform.
        out: (H, W, 3) uint8, contiguous, to be filled, or None for a new array.

    Returns:
        (H, W, 3) uint8 RGB, ``out`` if given; a gray image has three equal channels.

    Raises:
        InputError: the bytes are not an image, or one that is too large.
    """
    opened = open_image(encoded, max_megapixels)
    if opened.pixels is None:
        todo = (
            "it must be a complete image file (JPEG, PNG, BMP, WebP or TIFF of 8 or 16"
            " bits): replace it or leave it out"
        )
        if opened.is_too_large:
            todo = "scale it down, leave it out, or raise --max_megapixels"
        raise InputError(f"The image {name} {opened.problem}; {todo}.")
    image = eight_bits(opened.pixels, scale)
    if narrow is not None:
        phrase = narrow_range(opened.pixels, image)
        narrow += [f"The image {name} {phrase}"] if phrase else []
    return image if image_size is None else resize(image, image_size, out=out)


def resize(
    image: np.ndarray, image_size: tuple[int, int], *, out: np.ndarray | None = None
) -> np.ndarray:
    """Resizes an image without keeping its aspect, as is usual in re-identification.

    Pixel areas are averaged where the image shrinks in both directions, which keeps
    fine patterns from aliasing; otherwise it is interpolated linearly.

    Args:
        image: (h, w, 3) uint8.
        image_size: (height, width) of the result in pixels.
        out: (H, W, 3) uint8, contiguous, to be filled, or None for a new array.

    Returns:
        (H, W, 3) uint8: ``out`` if given, else the image itself if it has the size
        already.
    """
    height, width = image_size
    if image.shape[:2] == (height, width):
        if out is None:
            return image
        out[...] = image
        return out
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    # OpenCV's sizes are (width, height).
    return np.asarray(
        cv2.resize(image, (width, height), dst=out, interpolation=interpolation)
    )


class Opened(NamedTuple):
    """An image file after decoding."""

    pixels: np.ndarray | None  # (h, w, 3) RGB, uint8 or uint16
    problem: str = ""  # a phrase that says why there are no pixels
    is_too_large: bool = False  # whether that is because there are too many


def open_image(encoded: bytes, max_megapixels: float) -> Opened:
    """Looks at the header of a file, and decodes it if that promises an image."""
    if not encoded:
        return Opened(None, "is empty")
    broken = Opened(None, f"({len(encoded):,} bytes) cannot be decoded")
    size = declared_size(encoded)
    # OpenCV knows other formats, of which it would cut those of 16 bits.
    if size is None:
        return broken
    width, height = size
    if width * height > max_megapixels * 1e6:
        limit = f"more than {max_megapixels:g} million"
        return Opened(None, f"declares {width:,} × {height:,} pixels, {limit}", True)
    if is_cut_off(encoded):
        return Opened(None, f"ends too early, after {len(encoded):,} bytes")
    is_deep_png = encoded.startswith(_PNG) and encoded[24:25] == b"\x10"
    may_be_deep = is_deep_png or encoded.startswith(_TIFF)
    # Not IMREAD_COLOR_RGB: with it, OpenCV 5.0 decodes wrong colors from a 16-bit TIFF.
    deep = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    try:
        pixels = cv2.imdecode(
            np.frombuffer(encoded, np.uint8),
            deep if may_be_deep else cv2.IMREAD_COLOR_RGB,
        )
    except (cv2.error, MemoryError):
        return broken
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        return broken
    return Opened(np.ascontiguousarray(pixels[..., ::-1]) if may_be_deep else pixels)


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keeps OpenCV from logging what our errors say with the name of the file."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


def declared_size(encoded: bytes) -> tuple[int, int] | None:
    """Reads the size of an image without decoding it.

    Args:
        encoded: a file.

    Returns:
        (width, height) in pixels, as the header has them, before an orientation in the
        EXIF data; of a file with several images those of the first. None if the file is
        not JPEG, PNG, BMP, WebP or TIFF, or its header is not whole.
    """
    try:
        if encoded.startswith(_JPEG):
            return _size_of_jpeg(encoded)
        if encoded.startswith(_PNG) and encoded[12:16] == b"IHDR":
            return struct.unpack_from(">II", encoded, 16)
        if encoded.startswith(_BMP):
            (header,) = struct.unpack_from("<I", encoded, 14)
            form = "<HH" if header == 12 else "<ii"
            width, height = struct.unpack_from(form, encoded, 18)
            # A negative height says that the rows run from top to bottom.
            return abs(width), abs(height)
        if encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP":
            return _size_of_webp(encoded)
        if encoded.startswith(_TIFF):
            return _size_of_tiff(encoded)
    except (struct.error, IndexError):
        return None  # it ends too early
    return None


def is_cut_off(encoded: bytes) -> bool:
    """Returns whether a file is a JPEG without an end, or a PNG whose parts are longer.

    Some releases of OpenCV fill the rest of such a JPEG with gray and do not say so. Of
    a PNG they ask for as much memory as a part says that it is long: up to 4 GB.
    """
    if encoded.startswith(_JPEG):
        return b"\xff\xd9" not in encoded
    if not encoded.startswith(_PNG):
        return False
    position, kind = len(_PNG), b""
    while position + 8 <= len(encoded) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", encoded, position)
        position += 12 + length  # with the length itself, the kind and a checksum
    return position > len(encoded)


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Returns whether a file is an image by its name; refuses one that is unusable."""
    if entry.is_symlink() and not os.path.exists(entry.path):
        raise InputError(
            f"The link {entry.path} leads nowhere ({os.readlink(entry.path)}): restore"
            " what it points to, or remove it."
        )
    if os.path.splitext(entry.name)[1].casefold() not in SUFFIXES:
        return False
    if not entry.is_file():  # to read a pipe would wait forever
        raise InputError(
            f"{entry.path} is not a regular file, though it is named like an image:"
            " move it away."
        )
    try:
        entry.path.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The name of {entry.path!r} is not UTF-8, in which names are written:"
            " rename it."
        ) from error
    return True


def _size_of_jpeg(encoded: bytes) -> tuple[int, int] | None:
    position = 2
    while encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if marker == 0xFF:  # any number of these may come before a marker
            position += 1
            continue
        # A frame of any kind; C4, C8 and CC are tables.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", encoded, position + 5)
            return width, height
        alone = marker == 0x01 or 0xD0 <= marker <= 0xD7
        (length,) = (0,) if alone else struct.unpack_from(">H", encoded, position + 2)
        position += 2 + length
    return None


def _size_of_webp(encoded: bytes) -> tuple[int, int] | None:
    kind = encoded[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", encoded, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", encoded, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        first, second = struct.unpack_from("<HBHB", encoded, 24)[:2], encoded[27:30]
        width = first[0] + (first[1] << 16) + 1
        return width, int.from_bytes(second, "little") + 1
    return None


def _size_of_tiff(encoded: bytes) -> tuple[int, int] | None:
    """Looks among the whole numbers of the first directory of a TIFF."""
    order = "<" if encoded.startswith(b"II") else ">"
    is_big = encoded[2:4] in (b"+\0", b"\0+")
    start, place, number = (8, "Q", "Q") if is_big else (4, "I", "H")
    value_at, entry = (12, 20) if is_big else (8, 12)
    (position,) = struct.unpack_from(order + place, encoded, start)
    (count,) = struct.unpack_from(order + number, encoded, position)
    position += struct.calcsize(order + number)
    size: dict[int, int] = {}
    for _ in range(count):
        tag, kind = struct.unpack_from(order + "HH", encoded, position)
        if kind in _WHOLE_NUMBERS:
            form = order + _WHOLE_NUMBERS[kind]
            (value,) = struct.unpack_from(form, encoded, position + value_at)
            size.setdefault(tag, value)
        position += entry
    if _WIDTH in size and _HEIGHT in size:
        return size[_WIDTH], size[_HEIGHT]
    return None
