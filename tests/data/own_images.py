"""Small images of made-up people in several modalities, as a person's own folders."""

from pathlib import Path

import cv2
import numpy as np


def encode(seed, suffix=".png", *, size=(24, 12), channels=3, bits=8):
    """An image file whose pixels depend on the seed alone."""
    generator = np.random.default_rng(seed)
    shape = size if channels == 1 else (*size, channels)
    pixels = generator.integers(0, 2**bits, shape, np.uint8 if bits == 8 else np.uint16)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def write_folders(root, *, identities=6, modalities=("visible", "infrared"), images=2):
    """Writes root/MODALITY/IDENTITY/IMAGE and returns the folders by modality.

    An identity has a pattern of its own, the same in all modalities; each modality has
    its own contrast, and its images differ by noise.
    """
    generator = np.random.default_rng(0)
    folders = {}
    for number in range(identities):
        pattern = cv2.resize(
            generator.integers(40, 216, (4, 2), np.uint8), (16, 32)
        ).astype(float)
        for m, modality in enumerate(modalities):
            folder = folders.setdefault(modality, Path(root) / modality)
            person = folder / f"person {number}"
            person.mkdir(parents=True, exist_ok=True)
            for k in range(images):
                pixels = pattern / (1 + m) + generator.normal(0, 6, pattern.shape)
                pixels = np.clip(pixels, 0, 255).astype(np.uint8)
                if m == 0:
                    pixels = np.stack([pixels, pixels // 2, 255 - pixels], -1)
                content = cv2.imencode(".png", pixels)[1].tobytes()
                (person / f"{k}.png").write_bytes(content)
    return folders
