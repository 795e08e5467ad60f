"""Extracts features from a folder of images."""

import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from mbn_jax.data.images import (
    MAX_MEGAPIXELS,
    NARROW_REMEDY,
    SUFFIXES,
    decode,
    images_below,
    quiet_opencv,
    read_encoded,
)
from mbn_jax.data.sixteen_bits import AUTO, Scale
from mbn_jax.deploy.embed import embed
from mbn_jax.errors import InputError
from mbn_jax.text import one_line, terminal_of

_CHUNK = 256


class Reading(NamedTuple):
    """How the images of a folder are read.

    Attributes:
        scale: of images of 16 bits.
        max_megapixels: millions of pixels that an image may have.
    """

    scale: Scale = AUTO
    max_megapixels: float = MAX_MEGAPIXELS


def find_images(folder: str | Path) -> list[str]:
    """Lists the images in a folder and its sub-folders, sorted.

    Args:
        folder: searched as `mbn_jax.data.images.images_below` does.

    Returns:
        Paths relative to the folder, with forward slashes.

    Raises:
        InputError: the folder does not exist or holds no image, or something in it
            cannot be read.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in images_below(folder))
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
    folder: str | Path,
    names: list[str],
    image_size: tuple[int, int],
    reading: Reading | None = None,
    *,
    narrow: list[str] | None = None,
) -> np.ndarray:
    """Decodes and resizes images to (n, H, W, 3) uint8.

    Args:
        folder: where the images lie.
        names: paths relative to it.
        image_size: (height, width).
        reading: how they are read; None for `Reading()`.
        narrow: receives a phrase for each that 16 bits leave nearly uniform.

    Raises:
        InputError: an image cannot be read or decoded, or is too large.
    """
    scale, max_megapixels = reading or Reading()
    images = np.empty((len(names), *image_size, 3), np.uint8)
    for image, name in zip(images, names, strict=True):
        path = Path(folder, name)
        try:
            encoded = read_encoded(path, max_megapixels)
        except OSError as error:
            raise InputError(
                f"The image {path} cannot be read ({error.strerror or error}): make it "
                "a file that you may read, or remove it."
            ) from error
        with quiet_opencv():
            decode(
                encoded,
                image_size,
                str(path),
                scale=scale,
                max_megapixels=max_megapixels,
                narrow=narrow,
                out=image,
            )
    return images


def warn_of_narrow(narrow: Collection[str], num_images: int) -> None:
    """Prints that images are nearly uniform, and which is the first.

    Args:
        narrow: phrases of `read_images`.
        num_images: how many images there are.
    """
    if narrow:
        print(
            f"warning: {len(narrow)} of {num_images} images are nearly uniform. "
            f"{min(narrow)}; {NARROW_REMEDY}.",
            file=sys.stderr,
        )


def embed_folder(
    model: Any,
    variables: Any,
    folder: str | Path,
    modality: str | int,
    reading: Reading | None = None,
) -> tuple[np.ndarray, list[str]]:
    """Embeds all images of a folder, and shows the progress.

    Args:
        model: as `mbn_jax.load` returns it.
        variables: as `mbn_jax.load` returns them.
        folder: see `find_images`.
        modality: a name or its index in ``model.modalities``, the same for all images.
        reading: how the images are read; None for `Reading()`.

    Returns:
        (N, D) float32 features, rows of length one, and the N names.

    Raises:
        InputError: there is no image, an image cannot be read, or the network has no
          such modality.
    """
    names = find_images(folder)
    narrow: list[str] = []
    features = []
    for part in _tracked(names, f"Embedding {folder}"):
        images = read_images(folder, part, model.image_size, reading, narrow=narrow)
        features.append(embed(model, variables, images, modality))
    warn_of_narrow(narrow, len(names))
    return np.concatenate(features), names


def _tracked(names: list[str], what: str) -> Iterator[list[str]]:
    """Chunks of the names; a bar on a terminal, plain lines elsewhere."""
    parts = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    console = Console(file=terminal_of(sys.stderr), markup=False)
    what = one_line(what)
    if console.is_terminal:
        yield from track(parts, escape(what), console=console)
        return
    done = 0
    for part in parts:
        yield part
        done += len(part)
        console.print(f"{what}: {done} of {len(names)} images", soft_wrap=True)
