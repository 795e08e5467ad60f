"""Image files as cameras give them: decoding, resizing, and a check of every one.

Formats are JPEG, PNG, BMP, WebP and TIFF, with 1, 3 or 4 channels of 8 or 16 bits.
Every image becomes three channels of 8 bits: a gray image has three equal ones, and the
fourth channel, transparency, is dropped. The orientation in the EXIF data is applied.
Images of 16 bits are scaled as `mbn_jax.data.sixteen_bits` says. Of a file with several
images, the first is read.
"""

import contextlib
import dataclasses
import errno
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mbn_jax.data.findings import Findings
from mbn_jax.data.headers import declared_size, is_cut_off, may_have_sixteen_bits
from mbn_jax.data.progress import progress
from mbn_jax.data.sixteen_bits import AUTO, Scale, eight_bits, narrow_range
from mbn_jax.errors import InputError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Millions of pixels: far more than an image of a person has, and some hundred MB.
MAX_MEGAPIXELS = 64.0
MAX_HELP = "Millions of pixels that an image may have at most."
NARROW_REMEDY = "choose another scale with --sixteen_bits (docs/own-data.md)"

_EXPECTED = (
    "it must be a complete image file (JPEG, PNG, BMP, WebP or TIFF of 8 or 16 bits)"
)
_NUM_THREADS = 2
_CHUNK = 32  # images that a thread takes at once
# Four channels of 16 bits, and room for what a file holds beside its pixels.
_BYTES_PER_PIXEL, _BYTES_BESIDE = 8, 2**26


def read_encoded(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> bytes:
    """The bytes of an image file, if an image of so many pixels can have as many.

    Raises:
        OSError: it cannot be read, or has more.
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
        name: names the image in the error.
        scale: of an image of 16 bits.
        max_megapixels: a larger image is refused before it is decoded.
        narrow: receives a phrase if 16 bits leave an image nearly uniform.
        out: (H, W, 3) uint8, contiguous, to be filled, or None for a new array.

    Returns:
        (H, W, 3) uint8 RGB, ``out`` if given; a gray image has three equal channels.

    Raises:
        InputError: the bytes are not an image, or one that is too large.
    """
    opened = _open(encoded, max_megapixels)
    if opened.pixels is None:
        todo = (
            "scale it down, leave it out, or raise --max_megapixels"
            if opened.is_too_large
            else f"{_EXPECTED}: replace it or leave it out"
        )
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
    too_large: str = "scale it down or leave it out",
    scales: Mapping[str, Scale] | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Checked:
    """Decodes every image once, as training does.

    Args:
        root: folder that the paths are relative to.
        paths: of the images of the data set, each once.
        findings: receives a problem for every image that cannot be decoded, or a
            warning if the image is left out anyway; and a warning for every one that is
            nearly uniform once its 16 bits are scaled.
        title: of the data set, for the progress bar.
        left_out: paths of further images, which belong to no split.
        place: where an image is listed, as the beginning of a sentence.
        remedy: what to do about an image that cannot be decoded.
        too_large: what to do about an image that has too many pixels.
        scales: of images of 16 bits by their path, where it is not `AUTO`.
        max_megapixels: a larger image cannot be used.
    """
    scales = scales or {}

    def read(chunk: Sequence[str]) -> list[_Image]:
        return [
            _read(root / name, scales.get(name, AUTO), max_megapixels) for name in chunk
        ]

    names = [*paths, *left_out]
    unused = frozenset(left_out)
    chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    digests: dict[str, bytes] = {}
    num_bytes = num_sixteen_bits = 0
    with (
        quiet_opencv(),
        progress("Checking", "Checked", title, len(names)) as advance,
        ThreadPoolExecutor(_NUM_THREADS) as pool,
    ):
        for chunk, images in zip(chunks, pool.map(read, chunks), strict=True):
            for name, image in zip(chunk, images, strict=True):
                advance()
                what = f"{place(name)}The image {root / name} {image.problem}"
                todo = too_large if image.is_too_large else image.remedy or remedy
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
                    if image.narrow:
                        findings.warning(
                            "images of a narrow range",
                            f"{place(name)}The image {root / name} {image.narrow};"
                            f" {NARROW_REMEDY}.",
                        )
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
    is_too_large: bool = False
    digest: bytes = b""
    num_bytes: int = 0
    is_sixteen_bits: bool = False
    narrow: str = ""  # a phrase if it is nearly uniform


def _read(path: Path, scale: Scale, max_megapixels: float) -> _Image:
    try:
        encoded = read_encoded(path, max_megapixels)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        return _Image(problem, "make it a file that you may read")
    opened = _open(encoded, max_megapixels)
    if opened.pixels is None:
        return _Image(opened.problem, is_too_large=opened.is_too_large)
    is_sixteen_bits = opened.pixels.dtype == np.uint16
    narrow = narrow_range(opened.pixels, eight_bits(opened.pixels, scale))
    digest = hashlib.sha256(encoded).digest()
    return _Image(
        digest=digest,
        num_bytes=len(encoded),
        is_sixteen_bits=is_sixteen_bits,
        narrow=narrow,
    )


class _Opened(NamedTuple):
    pixels: np.ndarray | None  # (h, w, 3) RGB, uint8 or uint16
    problem: str = ""  # why there are no pixels
    is_too_large: bool = False


def _open(encoded: bytes, max_megapixels: float) -> _Opened:
    """Looks at the header of a file, and decodes it if that promises an image."""
    if not encoded:
        return _Opened(None, "is empty")
    broken = _Opened(None, f"({len(encoded):,} bytes) cannot be decoded")
    size = declared_size(encoded)
    # OpenCV knows other formats, of which it would cut those of 16 bits.
    if size is None:
        return broken
    if size[0] * size[1] > max_megapixels * 1e6:
        return _Opened(
            None,
            f"declares {size[0]:,} × {size[1]:,} pixels, more than"
            f" {max_megapixels:g} million",
            is_too_large=True,
        )
    if is_cut_off(encoded):
        return _Opened(None, f"ends too early, after {len(encoded):,} bytes")
    may_be_deep = may_have_sixteen_bits(encoded)
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
    return _Opened(np.ascontiguousarray(pixels[..., ::-1]) if may_be_deep else pixels)


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keeps OpenCV from logging, without the file's name, what an error says, too."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
