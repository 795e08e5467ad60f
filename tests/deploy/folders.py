"""Folders of images and exported models for tests."""

import cv2
import numpy as np

from mbn_jax.deploy.exported import ExportedModel
from mbn_jax.models.weights import fingerprint

BOTH = ("visible", "infrared")


class MeanColor:
    """In place of a program: the feature of an image is its mean color."""

    def call(self, images):
        return images.mean(axis=(1, 2))


def parameters(seed):
    return {"params": {"kernel": np.full((2, 3), seed, np.float32)}}


def exported_model(modality, seed=0, modalities=BOTH, program=None):
    network = fingerprint(parameters(seed))
    return ExportedModel((16, 8), modality, modalities, network, program)


def paint(path, bgr):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((24, 12, 3), bgr, np.uint8))


def folder_of_three(tmp_path):
    """A red, a green and a blue image, and a file that is not an image."""
    folder = tmp_path / "images"
    paint(folder / "b.png", (0, 0, 255))
    paint(folder / "a.BMP", (0, 255, 0))
    paint(folder / "more" / "c.jpg", (255, 0, 0))
    (folder / "notes.txt").write_text("not an image")
    return folder
