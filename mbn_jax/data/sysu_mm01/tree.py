"""SYSU-MM01 on disk: cam{1..6}/{identity:04d}/{image:04d}.jpg and the lists in exp/."""

import collections
import os
from pathlib import Path

import numpy as np

from mbn_jax.data import lists, walk
from mbn_jax.data.tree import (
    INFRARED,
    VISIBLE,
    Count,
    Findings,
    ImageFile,
    Tree,
    records_of,
)

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
    for camera, modality in MODALITY_OF_CAMERA.items():
        folder = root / f"cam{camera}"
        for identity, below in walk.identity_folders(folder, "[0-9]{4}", findings):
            for file in walk.image_names(below, r"[0-9]{4}\.jpg", findings):
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
    )
