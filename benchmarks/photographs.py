"""Photograph-like images with a manifest, as many as one wants."""

from pathlib import Path

import cv2
import numpy as np

from mbn_jax.data.manifest import Row, write_manifest

# SYSU-MM01 has about as many.
IMAGES_PER_IDENTITY = 90
_CAMERAS = range(1, 7)
_INFRARED = (3, 6)
MANIFEST = "manifest.csv"


def jpeg(rng: np.random.Generator) -> bytes:
    """An encoded photograph-like image: a smooth ground, ellipses, coarse noise."""
    height = int(rng.integers(128, 301))
    width = int(np.clip(height * rng.uniform(0.4, 0.6), 64, 150))
    ground = rng.integers(0, 256, (6, 3, 3), dtype=np.uint8)
    image = cv2.resize(ground, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(8):
        cv2.ellipse(
            image,
            center=rng.integers(0, (width, height)).tolist(),
            axes=rng.integers(3, (width // 3, height // 4)).tolist(),
            angle=rng.uniform(0, 180),
            startAngle=0,
            endAngle=360,
            color=rng.uniform(0, 255, 3).tolist(),
            thickness=-1,
            lineType=cv2.LINE_AA,
        )
    coarse = rng.normal(0, rng.uniform(4, 14), (height // 2, width // 2, 3))
    noise = cv2.resize(coarse, (width, height)) + rng.normal(0, 3, image.shape)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def write_photographs(root: Path, files: list[bytes], count: int) -> None:
    """Writes ``count`` training images in two modalities, some others, and a table."""
    identities = -(-count // IMAGES_PER_IDENTITY)
    rows = []
    # One identity more for the test, which must be there and is not read.
    for i in range((identities + 1) * IMAGES_PER_IDENTITY):
        identity, image = divmod(i, IMAGES_PER_IDENTITY)
        if count <= i < identities * IMAGES_PER_IDENTITY:
            continue
        camera = _CAMERAS[image % len(_CAMERAS)]
        path = root / f"cam{camera}" / f"{identity:04d}" / f"{image:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[i % len(files)])
        rows.append(
            Row(
                path.relative_to(root).as_posix(),
                str(identity),
                str(camera),
                "infrared" if camera in _INFRARED else "visible",
                "train" if identity < identities else "test",
            )
        )
    write_manifest(root / MANIFEST, rows)
