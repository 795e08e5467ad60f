"""Extracts features from a folder of images."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from mbn_jax.data.images import SUFFIXES, decode
from mbn_jax.errors import InputError
from mbn_jax.evaluation.features import embed

_CHUNK = 256


def find_images(folder: str | Path) -> list[str]:
    """Lists the images in a folder and its sub-folders, sorted.

    Args:
        folder: searched for files that end in one of `mbn_jax.data.images.SUFFIXES`, in
            small or capital letters.

    Returns:
        Paths relative to the folder, with forward slashes.

    Raises:
        InputError: the folder does not exist or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder: give the folder that holds the images."
        )
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if not names:
        raise InputError(
            f"{folder} holds no image: one of {', '.join(SUFFIXES)} is expected, "
            "there or in a folder below it."
        )
    return names


def folders_by_name(values: Iterable[str]) -> dict[str, str]:
    """Reads the values of a repeated flag ``--folder=NAME=DIR``.

    Args:
        values: "NAME=DIR" each.

    Returns:
        The folders by their names.

    Raises:
        InputError: a value has another form, or a name is given twice.
    """
    folders: dict[str, str] = {}
    for value in values:
        name, _, folder = value.partition("=")
        if not name or not folder:
            raise InputError(
                f"--folder={value} does not say what is in which folder; expected "
                "--folder=NAME=DIR, for example --folder=thermal=images/thermal."
            )
        if name in folders:
            raise InputError(
                f"The folder of {name} is given twice, {folders[name]} and {folder}: "
                f"put all {name} images below one folder."
            )
        folders[name] = folder
    return folders


def read_images(
    folder: str | Path, names: list[str], image_size: tuple[int, int]
) -> np.ndarray:
    """Decodes and resizes images to (n, H, W, 3) uint8; `InputError` names a bad one.

    Args:
        folder: where the images lie.
        names: paths relative to it.
        image_size: (height, width).
    """
    paths = [Path(folder) / name for name in names]
    return np.stack(
        [decode(path.read_bytes(), image_size, str(path)) for path in paths]
    )


def embed_folder(
    model: Any, variables: Any, folder: str | Path, modality: str | int
) -> tuple[np.ndarray, list[str]]:
    """Embeds all images of a folder, and shows the progress.

    Args:
        model: as `mbn_jax.load` returns it.
        variables: as `mbn_jax.load` returns them.
        folder: see `find_images`.
        modality: a name or its index in ``model.modalities``, the same for all images.

    Returns:
        (N, D) float32 features, rows of length one, and the N names.

    Raises:
        InputError: there is no image, an image cannot be decoded, or the network has no
          such modality.
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
        console.print(f"{what}: {done} of {len(names)} images", soft_wrap=True)
