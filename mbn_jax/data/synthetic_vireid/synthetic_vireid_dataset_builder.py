"""The TFDS builder: renders the images and lists them as examples."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import rich.console
import rich.progress
import tensorflow_datasets as tfds

from mbn_jax.data.synthetic_vireid.camera import Camera
from mbn_jax.data.synthetic_vireid.config import DEFAULT_CONFIGS, SyntheticConfig
from mbn_jax.data.synthetic_vireid.render import render

JPEG_QUALITY = 90
_SPLITS = ("train", "val", "test")


class Builder(tfds.core.GeneratorBasedBuilder):
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

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(None, None, 3), encoding_format="jpeg"
                    ),
                    "identity": np.int32,
                    "camera": np.int32,
                    "modality": np.int32,
                    "name": tfds.features.Text(),
                }
            ),
            supervised_keys=None,
        )

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Renders the data set if it is not there yet; arguments as in TFDS."""
        if os.path.exists(self.data_dir):
            super().download_and_prepare(**kwargs)
            return
        # Nothing is downloaded, so no bucket has to be asked for a ready-made copy.
        kwargs.setdefault(
            "download_config", tfds.download.DownloadConfig(try_download_gcs=False)
        )
        with _progress(self.builder_config) as self._advance:
            super().download_and_prepare(**kwargs)

    def _log_download_bytes(self) -> None:
        """Keeps TFDS from announcing a download: there is none."""

    def _log_download_done(self) -> None:
        """As above; the progress bar has said that the images are there."""

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


@contextlib.contextmanager
def _progress(config: SyntheticConfig) -> Iterator[Callable[[], None]]:
    """Shows the share of images rendered; yields what is to be called after each.

    TFDS would show a bar without a total for every split, and write it into log files.
    Here a terminal gets one bar, and anything else two lines.
    """
    console = rich.console.Console(file=sys.stderr)
    tfds.display_progress_bar(False)
    try:
        if not console.is_terminal:
            title = f"synthetic_vireid/{config.name}"
            print(f"Rendering {config.num_images} images of {title}", file=sys.stderr)
            yield lambda: None
            print(f"Rendered {config.num_images} images of {title}", file=sys.stderr)
            return
        bar = rich.progress.Progress(
            "Rendering [bold]{task.fields[title]}",
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        with bar:
            task = bar.add_task(
                "render",
                total=config.num_images,
                title=f"synthetic_vireid/{config.name}",
            )
            yield lambda: bar.advance(task)
    finally:
        tfds.display_progress_bar(True)
