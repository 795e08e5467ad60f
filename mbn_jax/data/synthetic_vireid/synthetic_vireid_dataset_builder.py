"""The TFDS builder: renders the images and lists them as examples."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import cv2
import tensorflow_datasets as tfds

from mbn_jax.data.local_builder import LocalBuilder
from mbn_jax.data.progress import progress
from mbn_jax.data.synthetic_vireid.camera import Camera
from mbn_jax.data.synthetic_vireid.config import DEFAULT_CONFIGS, SyntheticConfig
from mbn_jax.data.synthetic_vireid.render import render

JPEG_QUALITY = 90
_SPLITS = ("train", "val", "test")


class Builder(LocalBuilder, tfds.core.GeneratorBasedBuilder):
    """Synthetic visible-infrared pedestrians.

    `Builder(config="nir")`, `Builder(config="thermal")`, or
    `Builder(config=config_from_name("nir-395-99-96-x13"))` for another size. Prepare it
    with `file_format="array_record"` and read it with `as_data_source`: neither needs
    TensorFlow.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[SyntheticConfig]] = list(DEFAULT_CONFIGS)
    builder_config: SyntheticConfig
    # TFDS 4.9.10 finds this by way of importlib_resources, which it does not install.
    code_path = Path(__file__)

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        config = self.builder_config
        title = f"{self.name}/{config.name}"
        with progress("Rendering", "Rendered", title, config.num_images) as advance:
            self._advance = advance
            super()._download_and_prepare(*args, **kwargs)

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        return {split: self._generate_examples(split) for split in _SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self.builder_config
        # Two threads: most of the work is OpenCV's, outside Python's lock. One identity
        # at a time: the memory stays flat, however large the data set.
        with ThreadPoolExecutor(2) as pool:
            for identity in config.identities(split):
                jobs = [
                    (config.seed, identity, camera, image)
                    for camera in config.cameras
                    for image in range(1, config.images + 1)
                ]
                for example in pool.map(_example, *zip(*jobs, strict=True)):
                    yield example["name"], example
                    self._advance()


def _example(seed: int, identity: int, camera: Camera, image: int) -> dict[str, Any]:
    """One record; the folders of its name are those of SYSU-MM01."""
    pixels = render(seed, identity, camera, image)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    encoded = cv2.imencode(".jpg", pixels[..., ::-1], quality)[1]
    return {
        "image": encoded.tobytes(),
        "identity": identity,
        "camera": camera.number,
        "modality": camera.modality,
        "name": f"cam{camera.number}/{identity:04d}/{image:04d}.jpg",
    }
