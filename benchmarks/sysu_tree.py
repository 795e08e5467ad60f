"""A folder laid out as SYSU-MM01, of any size, with photograph-like images."""

from pathlib import Path

import cv2
import numpy as np

# SYSU-MM01 has about as many.
IMAGES_PER_IDENTITY = 90
_CAMERAS = range(1, 7)


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


def write_tree(root: Path, files: list[bytes], count: int) -> None:
    """Writes a tree of SYSU-MM01 with ``count`` training images."""
    identities = -(-count // IMAGES_PER_IDENTITY)
    # One person more each for val and test, which must be there and are not read.
    persons = {"train": range(1, identities + 1)}
    persons |= {"val": range(identities + 1, identities + 2)}
    persons |= {"test": range(identities + 2, identities + 3)}
    (root / "exp").mkdir(parents=True)
    for split, numbers in persons.items():
        line = ",".join(map(str, numbers)) + "\n"
        (root / "exp" / f"{split}_id.txt").write_text(line)
    for i in range((identities + 2) * IMAGES_PER_IDENTITY):
        person, image = divmod(i, IMAGES_PER_IDENTITY)
        if count <= i < identities * IMAGES_PER_IDENTITY:
            continue
        camera = _CAMERAS[image % len(_CAMERAS)]
        folder = root / f"cam{camera}" / f"{person + 1:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{image + 1:04d}.jpg").write_bytes(files[i % len(files)])
