"""Synthetic pedestrians seen by cameras of two or three modalities.

Every image is drawn by NumPy and OpenCV (`mbn_jax.data.synthetic_vireid`) when the data
set is first used; nothing is downloaded and no real person is shown. The names of
the images have the form of those of SYSU-MM01. Metrics obtained on them say nothing
about metrics on photographs.
"""

import hashlib

import cv2

from mbn_jax.data.manifest import Manifest, Row
from mbn_jax.data.sources import Source
from mbn_jax.data.synthetic_vireid.config import (
    DEFAULT_CONFIGS,
    SIZED,
    Camera,
    config_from_name,
)
from mbn_jax.data.synthetic_vireid.render import render

JPEG_QUALITY = 90
_NAME = "synthetic_vireid"


def make(dataset: str) -> Manifest:
    """Returns the rows of a data set, whose images are rendered one by one.

    Args:
        dataset: for example "synthetic_vireid/nir" or "synthetic_vireid/nir-4-1-2-x3".

    Raises:
        InputError: the name is of no known form, or a size is out of range.
    """
    config = config_from_name(dataset.partition("/")[2])
    what: dict[Row, tuple[int, Camera, int]] = {}
    for split in ("train", "val", "test"):
        of_split: dict[Row, tuple[int, Camera, int]] = {}
        for identity in config.identities(split):
            for camera in config.cameras:
                for image in range(1, config.images + 1):
                    path = f"cam{camera.number}/{identity:04d}/{image:04d}.jpg"
                    modality = config.modality_of(camera)
                    row = Row(path, str(identity), str(camera.number), modality, split)
                    of_split[row] = identity, camera, image
        # The order in which TFDS shuffled them in version 0.1, so that the batches of a
        # seed are still the same.
        what |= dict(sorted(of_split.items(), key=lambda item: _key(item[0])))

    def encoded(row: Row) -> bytes:
        pixels = render(config.seed, *what[row])
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        return cv2.imencode(".jpg", pixels[..., ::-1], quality)[1].tobytes()

    return Manifest(rows=list(what), make=encoded)


def _key(row: Row) -> str:
    return hashlib.md5((row.split + row.path).encode()).hexdigest()


SOURCE = Source(
    name=_NAME,
    datasets=tuple(f"{_NAME}/{config.name}" for config in DEFAULT_CONFIGS),
    pattern=rf"{_NAME}/(?:{SIZED.pattern})",
    folders=(),
    make=make,
    validation="val",
    images_per_modality={
        f"{_NAME}/nir": 3_600,
        f"{_NAME}/thermal": 2_400,
        f"{_NAME}/three": 1_800,
    },
)
