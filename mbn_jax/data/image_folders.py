"""Folders of images: which files are images, and rows of a manifest from folders."""

import collections
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mbn_jax.data.images import SUFFIXES
from mbn_jax.data.manifest import Row, composed
from mbn_jax.errors import InputError
from mbn_jax.files import check_named


def images_below(folder: str | Path, deepest: int | None = None) -> list[Path]:
    """Lists the image files in a folder and in those below it.

    Links to files and to folders are followed; a link to a folder that it is in adds
    nothing. Hidden files and folders, whose names start with a dot, are left out: some
    systems put such a file beside every image.

    Args:
        folder: searched for files that end in one of `SUFFIXES`, in small or capital
            letters.
        deepest: how many folders below the first one are entered; None for all.

    Returns:
        Paths that start with the folder, in no particular order; none if there are
        none.

    Raises:
        InputError: it is not a folder, a folder cannot be read, a link leads nowhere,
            an image is not a regular file, or a name is not UTF-8.
    """
    check_named(folder)
    if not os.path.isdir(folder):
        raise InputError(
            f"{folder} is not a folder: give the folder that holds the images."
        )
    found: list[Path] = []
    waiting: list[tuple[Path, tuple[os.stat_result, ...]]] = [(Path(folder), ())]
    while waiting:
        place, above = waiting.pop()
        try:
            status = place.stat()
            if any(os.path.samestat(status, other) for other in above):
                continue
            with os.scandir(place) as entries:
                shown = [e for e in entries if not e.name.startswith(".")]
            folders = [entry.path for entry in shown if entry.is_dir()]
        except OSError as error:
            raise InputError(
                f"The folder {place} cannot be read ({error.strerror or error}): make"
                " it one that you may read, or move it away."
            ) from error
        found += [Path(e.path) for e in shown if not e.is_dir() and _is_image(e)]
        if deepest is None or len(above) < deepest:
            waiting += [(Path(path), (*above, status)) for path in folders]
    return found


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Returns whether a file is an image, by its name.

    Raises:
        InputError: it should be one and cannot be read, or its name cannot be written.
    """
    if entry.is_symlink() and not os.path.exists(entry.path):
        raise InputError(
            f"The link {entry.path} leads nowhere ({os.readlink(entry.path)}): restore"
            " what it stands for, or remove it."
        )
    if os.path.splitext(entry.name)[1].casefold() not in SUFFIXES:
        return False
    if not entry.is_file():  # to read a pipe would wait forever
        raise InputError(
            f"{entry.path} is not a regular file, though it is named like an image:"
            " move it away."
        )
    try:
        entry.path.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The name of {entry.path!r} is not UTF-8, in which names are written:"
            " rename it."
        ) from error
    return True


_DEEPEST = 2  # folders below that of a modality: an identity and a camera


def find_rows(
    folders: Mapping[str, Path],
    root: Path,
    *,
    test: float = 1 / 3,
    val: float = 0.0,
    seed: int = 0,
) -> list[Row]:
    """Lists the images of the folders as rows of a manifest.

    The identity is the name of the first folder. The camera is the name of the second,
    or the name of the modality if images lie directly in the folder of an identity.
    Identities for the splits test and val are drawn from those that have images in
    every modality; all others are in train.

    Args:
        folders: the folder of the images of each modality, by the modality's name.
        root: folder that the paths in the rows are relative to; it holds the others.
        test: share of the identities that are drawn for the split test.
        val: share for the split val.
        seed: of the draw.

    Raises:
        InputError: there are fewer than two folders, a folder does not exist or holds
            no image, an image is not in the folder of an identity, a share is not from
            0 to 1, or there are too few identities.
    """
    if len(folders) < 2:
        raise InputError(
            f"{len(folders) or 'No'} folder is given, but two modalities or more are"
            " expected; give a folder for each: --folder=visible=DIR"
            " --folder=infrared=DIR."
        )
    resolved = [folder.resolve() for folder in folders.values()]
    if len(set(resolved)) < len(resolved):
        raise InputError(
            "One folder is given for two modalities"
            f" ({', '.join(map(str, folders.values()))}); give each its own."
        )
    for split, share in {"test": test, "val": val}.items():
        if not 0 <= share <= 1:
            raise InputError(
                f"The share of the identities for {split} is {share}; give one from 0"
                " to 1."
            )
    found = [
        (path, *_labels(modality, folder, path), modality)
        for modality, folder in folders.items()
        for path in _images(modality, folder)
    ]
    split_of = _draw_splits(
        {(identity, modality) for _, identity, _, modality in found},
        len(folders),
        {"test": test, "val": val},
        seed,
    )
    return [
        Row(
            path.relative_to(root).as_posix(),
            identity,
            camera,
            modality,
            split_of.get(identity, "train"),
        )
        for path, identity, camera, modality in found
    ]


def _images(modality: str, folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder; give the folder of the {modality} images."
        )
    paths = sorted(images_below(folder, _DEEPEST + 1))
    if not paths:
        raise InputError(
            f"{folder} holds no image ({', '.join(SUFFIXES)}); expected"
            f" {folder}/IDENTITY/IMAGE or {folder}/IDENTITY/CAMERA/IMAGE."
        )
    return paths


def _labels(modality: str, folder: Path, path: Path) -> tuple[str, str]:
    """Identity and camera of an image."""
    parts = path.relative_to(folder).parts
    if len(parts) not in (2, 3):
        raise InputError(
            f"The image {path} is not in the folder of an identity; expected"
            f" {folder}/IDENTITY/{path.name} or {folder}/IDENTITY/CAMERA/{path.name}."
        )
    camera = parts[1] if len(parts) == 3 else modality
    return composed(parts[0]), composed(camera)


def _draw_splits(
    seen: set[tuple[str, str]],
    num_modalities: int,
    shares: Mapping[str, float],
    seed: int,
) -> dict[str, str]:
    """The split of every identity that is not in train."""
    times = collections.Counter(identity for identity, _ in seen)
    identities = sorted(times)
    complete = [i for i in identities if times[i] == num_modalities]
    numbers = {
        split: max(1, round(share * len(identities))) if share else 0
        for split, share in shares.items()
    }
    if sum(numbers.values()) >= len(complete):
        raise InputError(
            f"{len(complete)} of {len(identities)} identities have images in every"
            f" modality, but {sum(numbers.values())} are needed for test and val and"
            " one for training; give smaller --test and --val or images of more"
            " identities, whose folders must have the same name in every modality."
        )
    drawn = iter(np.random.default_rng(seed).permutation(complete).tolist())
    return {next(drawn): split for split, n in numbers.items() for _ in range(n)}
