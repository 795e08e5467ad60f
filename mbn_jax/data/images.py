"""Image files as cameras give them: decoding, resizing, and a check of every one.

Formats are JPEG, PNG, BMP, WebP and TIFF, with 1, 3 or 4 channels of 8 or 16 bits.
Every image becomes three channels of 8 bits: a gray image has three equal ones, and the
fourth channel, transparency, is dropped. The orientation in the EXIF data is applied.
Images of 16 bits are scaled by `SIXTEEN_BITS`.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mbn_jax.data.findings import Findings
from mbn_jax.data.progress import progress
from mbn_jax.errors import InputError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Thermal cameras give counts that fill a small part of 16 bits, so each gray image is
# stretched by itself; images with color use all bits.
SIXTEEN_BITS = (
    "gray images: from the 1st to the 99th percentile of the image to 0..255; images"
    " with color: divided by 257"
)

_NUM_THREADS = 2
_CHUNK = 32  # images that a thread takes at once
_JPEG, _END_OF_JPEG = b"\xff\xd8", b"\xff\xd9"
_PNG, _BMP, _WEBP = b"\x89PNG", b"BM", (b"RIFF", b"WEBP")
# TIFF and BigTIFF, in both orders of bytes.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DEPTH_OF_PNG = 24  # position of the byte in a file


def decode(
    encoded: bytes,
    image_size: tuple[int, int] | None,
    name: str,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decodes an image file and resizes it.

    Args:
        encoded: the file, in one of the formats above.
        image_size: (height, width) of the result in pixels; None for those of the file.
        name: names the image in the error.
        out: (H, W, 3) uint8, contiguous, to be filled, or None for a new array.

    Returns:
        (H, W, 3) uint8 RGB, ``out`` if given; a gray image has three equal channels.

    Raises:
        InputError: the bytes are not an image.
    """
    image = _stored(encoded)
    if image is None:
        raise InputError(
            f"The image {name} ({len(encoded)} bytes) cannot be decoded; it must be a"
            " complete image file (JPEG, PNG, BMP, WebP or TIFF of 8 or 16 bits):"
            " replace it or leave it out."
        )
    image = _eight_bits(image)
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


@dataclasses.dataclass(frozen=True)
class Checked:
    """What `check_images` found out about the images that can be decoded.

    Attributes:
        digests: SHA-256 of each file, by its path.
        num_bytes: size of all files together.
        num_sixteen_bits: number of files with 16 bits.
    """

    digests: dict[str, bytes]
    num_bytes: int
    num_sixteen_bits: int


def check_images(
    root: Path,
    paths: Sequence[str],
    findings: Findings,
    *,
    title: str,
    left_out: Sequence[str] = (),
    place: Callable[[str], str] = lambda path: "",
    remedy: str = "copy it from the archive again",
) -> Checked:
    """Decodes every image once, as training does.

    Args:
        root: folder that the paths are relative to.
        paths: of the images of the data set, each once.
        findings: receives a problem for every image that cannot be decoded, or a
            warning if the image is left out anyway.
        title: of the data set, for the progress bar.
        left_out: paths of further images, which belong to no split.
        place: where an image is listed, as the beginning of a sentence.
        remedy: what to do about an image that cannot be decoded.
    """
    names = [*paths, *left_out]
    unused = frozenset(left_out)
    chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    digests: dict[str, bytes] = {}
    num_bytes = num_sixteen_bits = 0
    with (
        _quiet_opencv(),
        progress("Checking", "Checked", title, len(names)) as advance,
        ThreadPoolExecutor(_NUM_THREADS) as pool,
    ):
        read = pool.map(lambda chunk: [_read(root / name) for name in chunk], chunks)
        for chunk, images in zip(chunks, read, strict=True):
            for name, image in zip(chunk, images, strict=True):
                advance()
                what = f"{place(name)}The image {root / name} {image.problem}"
                todo = image.remedy or remedy
                if image.problem and name in unused:
                    # It may be in no split only because a list is missing.
                    findings.warning(
                        "unreadable images",
                        f"{what}; it is in no split and is left out anyway, but {todo}"
                        " if a list that names it is missing.",
                    )
                elif image.problem:
                    findings.problem("unreadable images", f"{what}; {todo}.")
                elif name not in unused:
                    digests[name] = image.digest
                    num_bytes += image.num_bytes
                    num_sixteen_bits += image.is_sixteen_bits
    return Checked(digests, num_bytes, num_sixteen_bits)


def unchanged(path: Path, digest: bytes) -> Path:
    """Returns the path of an image, which is still the one that was checked.

    Raises:
        InputError: the file is gone, or is another.
    """
    try:
        same = hashlib.sha256(path.read_bytes()).digest() == digest
    except OSError as error:
        raise InputError(
            f"The image {path} was checked, but now cannot be read"
            f" ({error.strerror or error}); leave the folder alone and start again."
        ) from error
    if not same:
        raise InputError(
            f"The image {path} has changed since it was checked; leave the folder alone"
            " and start again."
        )
    return path


class _Image(NamedTuple):
    problem: str = ""  # empty if there is none
    remedy: str = ""  # if it is not the usual one
    digest: bytes = b""
    num_bytes: int = 0
    is_sixteen_bits: bool = False


def _read(path: Path) -> _Image:
    try:
        encoded = path.read_bytes()
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        return _Image(problem, "make it a file that you may read")
    if not encoded:
        return _Image("is empty")
    if encoded.startswith(_JPEG) and _END_OF_JPEG not in encoded:
        # Some releases of OpenCV fill the rest with gray and do not say so.
        return _Image(f"ends too early, after {len(encoded):,} bytes")
    image = _stored(encoded)
    if image is None:
        return _Image(f"({len(encoded):,} bytes) cannot be decoded")
    digest = hashlib.sha256(encoded).digest()
    return _Image("", "", digest, len(encoded), image.dtype == np.uint16)


def _stored(encoded: bytes) -> np.ndarray | None:
    """(h, w, 3) RGB, uint8 or uint16; None if the bytes are not such an image."""
    buffer = np.frombuffer(encoded, np.uint8)
    # OpenCV knows other formats, of which it would cut those of 16 bits.
    is_webp = encoded.startswith(_WEBP[0]) and encoded[8:12] == _WEBP[1]
    if not (is_webp or encoded.startswith((_JPEG, _PNG, _BMP, *_TIFF))):
        return None
    depth = encoded[_DEPTH_OF_PNG : _DEPTH_OF_PNG + 1]
    is_deep_png = encoded.startswith(_PNG) and depth == b"\x10"
    may_be_deep = is_deep_png or encoded.startswith(_TIFF)
    # Not IMREAD_COLOR_RGB: with it, OpenCV 5.0 decodes wrong colors from a 16-bit TIFF.
    deep = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    try:
        image = cv2.imdecode(buffer, deep if may_be_deep else cv2.IMREAD_COLOR_RGB)
    except cv2.error:  # a header declares more pixels than OpenCV allows
        return None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        return None
    return np.ascontiguousarray(image[..., ::-1]) if may_be_deep else image


def _eight_bits(image: np.ndarray) -> np.ndarray:
    """Applies `SIXTEEN_BITS`."""
    if image.dtype == np.uint8:
        return image
    if (image == image[..., :1]).all():
        low, high = np.percentile(image[..., 0], (1, 99))
        unit = (image - low) / max(high - low, 1)
    else:
        unit = image / np.float64(65535)
    return np.round(255 * np.clip(unit, 0, 1)).astype(np.uint8)


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keeps OpenCV from logging, without the file's name, what is reported with it."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
