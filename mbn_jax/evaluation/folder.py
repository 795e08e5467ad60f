"""Features of a folder of a person's own pictures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from mbn_jax.data.pipeline import decode
from mbn_jax.errors import InputError
from mbn_jax.evaluation.features import embed

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png")
_CHUNK = 256


def find_images(folder: str | Path) -> list[str]:
    """Names of the pictures in a folder and its sub-folders, sorted.

    Args:
        folder: searched for .jpg, .jpeg, .png and .bmp, in small or capital letters.

    Returns:
        Paths relative to the folder, with forward slashes.

    Raises:
        InputError: the folder does not exist or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder: give the folder that holds the pictures."
        )
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if not names:
        raise InputError(
            f"{folder} holds no picture: one of {', '.join(SUFFIXES)} is expected, "
            "there or in a folder below it."
        )
    return names


def read_images(
    folder: str | Path, names: list[str], image_size: tuple[int, int]
) -> np.ndarray:
    """Decodes and resizes pictures to (n, H, W, 3) uint8; `InputError` names a bad one.

    Args:
        folder: where the pictures lie.
        names: paths relative to it.
        image_size: (height, width).
    """
    paths = [Path(folder) / name for name in names]
    return np.stack(
        [decode(path.read_bytes(), image_size, str(path)) for path in paths]
    )


def embed_folder(
    model: Any, variables: Any, folder: str | Path, modality: int
) -> tuple[np.ndarray, list[str]]:
    """Embeds all pictures of a folder, showing how far it is.

    Args:
        model: as `mbn_jax.load` returns it.
        variables: as `mbn_jax.load` returns them.
        folder: see `find_images`.
        modality: 0 visible, 1 infrared; the same for all the pictures.

    Returns:
        (N, D) float32 features, rows of length one, and the N names.

    Raises:
        InputError: no picture, or one that cannot be decoded.
    """
    names = find_images(folder)
    features = [
        embed(model, variables, read_images(folder, part, model.image_size), modality)
        for part in _tracked(names, f"Embedding {folder}")
    ]
    return np.concatenate(features), names


def _tracked(names: list[str], what: str) -> Iterator[list[str]]:
    """Chunks of the names; a bar on a terminal, plain lines elsewhere."""
    parts = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(parts, what, console=console)
        return
    done = 0
    for part in parts:
        yield part
        done += len(part)
        console.print(f"{what}: {done} of {len(names)} pictures", soft_wrap=True)
