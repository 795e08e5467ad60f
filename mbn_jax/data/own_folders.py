"""Lists the images in folders of the user's own as rows of a manifest.

Each modality has a folder that holds a folder for every identity. The images lie in the
folder of their identity, or in a folder for each camera in it:

    visible/anna/0001.jpg
    infrared/anna/back door/0001.png
"""

import collections
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mbn_jax.data.image_folders import images_below
from mbn_jax.data.images import SUFFIXES
from mbn_jax.data.manifest import Row, composed
from mbn_jax.errors import InputError

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
