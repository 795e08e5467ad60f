"""SYSU-MM01 on disk: cam{1..6}/{identity:04d}/{image:04d}.jpg and the lists in exp/."""

import collections
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mbn_jax.data import lists, walk
from mbn_jax.data.sysu_mm01.permutations import read_permutations
from mbn_jax.data.tree import Count, Findings, ImageFile, Tree, outside, records_of
from mbn_jax.errors import InputError
from mbn_jax.evaluation.records import INFRARED, VISIBLE

SPLITS = ("train", "val", "test")
MODALITY_OF_CAMERA = {
    1: VISIBLE,
    2: VISIBLE,
    3: INFRARED,
    4: VISIBLE,
    5: VISIBLE,
    6: INFRARED,
}
# Identities, then images of the cameras 1 to 6, from the official lists and galleries.
PUBLISHED = {
    "train": (296, (4721, 5753, 5929, 4821, 4989, 4000)),
    "val": (99, (0, 0, 1980, 990, 984, 0)),
    "test": (96, (1374, 1565, 1883, 1918, 1918, 1920)),
}
_CAMERA_FOLDERS = tuple(f"cam{camera}" for camera in MODALITY_OF_CAMERA)
_LISTS = tuple(f"exp/{split}_id.txt" for split in SPLITS)


def scan(manual_dir: str | os.PathLike) -> Tree:
    """Walks SYSU-MM01 without reading an image.

    Args:
        manual_dir: the folder that holds cam1, …, cam6 and exp.

    Returns:
        The splits train, val and test, each by identity, then camera, then file name,
        and all that is wrong.

    Raises:
        InputError: the folder is not one of this data set; names one nearby that is.
    """
    root = Path(manual_dir).expanduser()
    folders = (*_CAMERA_FOLDERS, "exp")
    walk.check_level(root, folders)
    findings = Findings()
    walk.check_there(root, [f"{name}/" for name in folders], findings)
    walk.check_there(root, _LISTS, findings)
    walk.check_top(root, folders, findings)
    # The lists are there once more as .mat files, and rand_perm_cam.mat belongs there.
    texts = {Path(name).name for name in _LISTS} | {"available_id.txt"}
    walk.check_top(root / "exp", texts, findings, ignored=r".*\.mat")

    images: dict[int, list[ImageFile]] = collections.defaultdict(list)
    numbers: dict[tuple[int, int], set[int]] = {}
    for camera, modality in MODALITY_OF_CAMERA.items():
        folder = root / f"cam{camera}"
        for identity, below in walk.identity_folders(folder, "[0-9]{4}", findings):
            files = walk.image_names(below, r"[0-9]{4}\.jpg", findings)
            numbers[camera, identity] = {int(file[:4]) for file in files}
            for file in files:
                name = f"cam{camera}/{below.name}/{file}"
                images[identity].append(ImageFile(name, identity, camera, modality))

    listed = {
        split: lists.read_identities(root / f"exp/{split}_id.txt", findings)
        for split in SPLITS
    }
    lists.check_disjoint(
        {f"{root}/exp/{split}_id.txt": listed[split] for split in SPLITS}, findings
    )
    splits = {
        split: records_of(image for i in listed[split] for image in images.get(i, []))
        for split in SPLITS
    }
    for split in SPLITS:
        lists.check_present(split, listed[split], splits[split], findings)
    unlisted = sorted(set(images).difference(*listed.values()))
    if unlisted:
        findings.warning(
            "unlisted identities",
            f"{sum(len(images[i]) for i in unlisted):,} images of {len(unlisted)}"
            f" identities ({walk.some(unlisted)}) are in no list of exp/ and are left"
            " out (1,118 of 22 in the complete data set).",
        )
    _check_numbers(root, numbers, listed, findings)

    counts = []
    for split, (identities, published) in PUBLISHED.items():
        counts.append(Count(f"{split} identities", identities, len(listed[split])))
        for camera, expected in enumerate(published, start=1):
            found = np.count_nonzero(splits[split].camera == camera)
            counts.append(Count(f"{split} images of cam{camera}", expected, int(found)))
    return Tree(
        root=root,
        splits=splits,
        problems=tuple(findings.problems),
        warnings=tuple(findings.warnings),
        counts=tuple(counts),
        left_out=outside((image.name for i in unlisted for image in images[i]), splits),
    )


def _check_numbers(
    root: Path,
    numbers: Mapping[tuple[int, int], set[int]],
    listed: Mapping[str, Sequence[int]],
    findings: Findings,
) -> None:
    """Notes images that are missing: one of them changes most of a seeded gallery.

    Args:
        root: of the data set.
        numbers: those of the images in every folder that is there, by (camera,
            identity).
        listed: the identities of each split.
        findings: receives a warning for every folder that is not complete.
    """
    path = root / "exp/rand_perm_cam.mat"
    official = _official_counts(path, findings)
    members = set().union(*listed.values())
    with_images = {identity for (_, identity), found in numbers.items() if found}
    known_absent = members - with_images  # noted by `check_present`
    if not all(listed.values()):  # a list is missing, and may be of any identity
        members |= {identity for _, identity in official}
    cameras = [c for c in MODALITY_OF_CAMERA if (root / f"cam{c}").is_dir()]
    for camera, identity in sorted({*numbers, *official}):
        folder = root / f"cam{camera}/{identity:04d}"
        found = numbers.get((camera, identity))
        if not official or identity not in members:
            if found is not None:
                _check_gaps(folder, found, findings)
        elif found is not None or (camera in cameras and identity not in known_absent):
            count = official.get((camera, identity), 0)
            _check_count(folder, found, count, path, findings)


def _official_counts(path: Path, findings: Findings) -> dict[tuple[int, int], int]:
    """The number of images by (camera, identity); none if the file is not there."""
    if not os.path.lexists(path):
        return {}
    try:
        permutations = read_permutations(path)
    except InputError as error:
        findings.warning(
            "galleries that cannot be read",
            f"The images of the folders cannot be counted by {path.name}: {error}",
        )
        return {}
    return {pair: orders.shape[1] for pair, orders in permutations.items()}


def _check_gaps(folder: Path, found: set[int], findings: Findings) -> None:
    """Notes an empty folder, or one whose numbers do not run from 1."""
    # A folder that starts at 0 has as many as if it started at 1.
    missing = sorted({*range(1, max(len(found), *found, 0) + 1)} - found)
    if not found:
        findings.warning(
            "empty folders",
            f"The folder {folder} holds no image; copy it from the archive of the data"
            " set, unless it is empty there.",
        )
    elif missing:
        findings.warning(
            "gaps in the numbers of images",
            f"The numbers of the images in {folder} have gaps (missing:"
            f" {walk.some(missing, 5)}); copy these images from the archive of the data"
            " set.",
        )


def _check_count(
    folder: Path, found: set[int] | None, count: int, path: Path, findings: Findings
) -> None:
    """Notes a folder that is missing or has not the images of the official file."""
    if found is None:
        sentence = f"The folder {folder} is missing ({path} has {count} of its images)"
    else:
        official = {*range(1, count + 1)}
        differences = [
            f"{what}: {walk.some(sorted(differing), 5)}"
            for what, differing in (
                ("missing", official - found),
                ("unknown", found - official),
            )
            if differing
        ]
        if not differences:
            return
        sentence = (
            f"The number of images in {folder} is {len(found)} and should be {count} by"
            f" {path} ({'; '.join(differences)})"
        )
    findings.warning(
        "folders that differ from rand_perm_cam.mat",
        f"{sentence}; copy the folder from the archive of the data set.",
    )
