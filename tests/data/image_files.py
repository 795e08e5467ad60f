"""Image files made of small arrays of pixels, and files that are no images."""

import cv2
import numpy as np

SIZE = (6, 4)
rng = np.random.default_rng(0)
COLOR = rng.integers(0, 256, (*SIZE, 3), np.uint8)
GRAY = rng.integers(0, 256, SIZE, np.uint8)


def file_of(pixels, suffix=".png", *options):
    """An image file of RGB(A) or gray pixels."""
    stored = pixels
    if pixels.ndim == 3:
        stored = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return cv2.imencode(suffix, stored, options)[1].tobytes()


# One black pixel. OpenCV reads this and the next three formats.
GIF = bytes.fromhex(
    "47494638396101000100800000000000ffffff2c000000000100010000020144003b"
)
NO_IMAGES = {
    "nothing": b"",
    "text": b"page not found",
    "GIF": GIF,
    "PGM of 16 bits": b"P5 2 2 65535\n" + bytes(range(8)),
    "PPM": b"P6 1 2 255\n" + bytes(range(6)),
    "JPEG 2000": file_of(np.zeros((64, 64), np.uint16), ".jp2"),
    "RIFF of sound": b"RIFF" + bytes(4) + b"WAVE" + bytes(40),
    "floats": cv2.imencode(".tiff", GRAY.astype(np.float32))[1].tobytes(),
    "half a PNG": file_of(COLOR)[:60],
    "half a WebP": file_of(COLOR, ".webp")[:40],
    "half a TIFF": file_of(COLOR, ".tiff")[:40],
}
