"""LLCM on disk: {vis,nir,test_vis,test_nir}/cam{1..9}/{identity:04d}/*.jpg and idx/."""

import collections
import os
from pathlib import Path

import numpy as np

from mbn_jax.data import lists, walk
from mbn_jax.data.tree import Count, Findings, ImageFile, Tree, outside, records_of
from mbn_jax.evaluation.records import INFRARED, VISIBLE

SPLITS = ("train", "test")
MODALITIES = {"vis": VISIBLE, "nir": INFRARED}
CAMERAS = tuple(range(1, 10))
# Identities, visible and near-infrared images.
PUBLISHED = {"train": (713, 16946, 13975), "test": (351, 8680, 7166)}
_FOLDERS = ("vis", "nir", "test_vis", "test_nir")
_LISTS = {
    "vis": "idx/train_vis.txt",
    "nir": "idx/train_nir.txt",
    "test_vis": "idx/test_vis.txt",
    "test_nir": "idx/test_nir.txt",
}


def scan(manual_dir: str | os.PathLike) -> Tree:
    """Walks LLCM without reading an image.

    Args:
        manual_dir: the folder that holds vis, nir, test_vis, test_nir and idx.

    Returns:
        The split train in the order of its index files, visible before near-infrared,
        the split test by identity, then camera, modality and file name, and all that
        is wrong.

    Raises:
        InputError: the folder is not one of this data set; names one nearby that is.
    """
    root = Path(manual_dir).expanduser()
    top = (*_FOLDERS, "idx")
    walk.check_level(root, top)
    findings = Findings()
    walk.check_there(root, [f"{name}/" for name in top], findings)
    walk.check_there(
        root,
        [
            f"{folder}/cam{camera}/"
            for folder in _FOLDERS
            for camera in CAMERAS
            # Nobody was seen there, and an archive may leave the empty folder out.
            if (root / folder).is_dir() and (folder, camera) != ("test_nir", 3)
        ],
        findings,
    )
    walk.check_there(root, [*_LISTS.values(), "idx/test_id.txt"], findings)
    walk.check_top(root, top, findings)
    texts = {Path(name).name for name in _LISTS.values()} | {"test_id.txt"}
    walk.check_top(root / "idx", texts, findings)

    images = {folder: _images(root, folder, findings) for folder in _FOLDERS}
    train = _train(root, images, findings)
    test_identities = lists.read_identities(root / "idx/test_id.txt", findings)
    test = _test(root, images, test_identities, findings)
    splits = {"train": records_of(train), "test": records_of(test)}
    train_identities = np.unique(splits["train"].identity).tolist()
    lists.check_present("train", train_identities, splits["train"], findings)
    lists.check_present("test", test_identities, splits["test"], findings)
    lists.check_disjoint(
        {
            "the training lists": train_identities,
            f"{root}/idx/test_id.txt": test_identities,
        },
        findings,
    )

    counts = []
    for split, (identities, visible, infrared) in PUBLISHED.items():
        members = np.unique(splits[split].identity)
        modality = splits[split].modality
        counts += [
            Count(f"{split} identities", identities, len(members)),
            Count(
                f"{split} visible images",
                visible,
                int(np.count_nonzero(modality == VISIBLE)),
            ),
            Count(
                f"{split} near-infrared images",
                infrared,
                int(np.count_nonzero(modality == INFRARED)),
            ),
        ]
    return Tree(
        root=root,
        splits=splits,
        problems=tuple(findings.problems),
        warnings=tuple(findings.warnings),
        counts=tuple(counts),
        left_out=outside((name for found in images.values() for name in found), splits),
    )


def _images(root: Path, folder: str, findings: Findings) -> dict[str, ImageFile]:
    """Every image below one of the four folders, by name."""
    images = {}
    cameras = [f"cam{camera}" for camera in CAMERAS]
    walk.check_top(root / folder, cameras, findings)
    for camera in CAMERAS:
        place = root / folder / f"cam{camera}"
        for identity, below in walk.identity_folders(place, "[0-9]{4}", findings):
            for file in walk.image_names(below, r".+\.jpg", findings):
                name = f"{folder}/cam{camera}/{below.name}/{file}"
                modality = MODALITIES[folder.removeprefix("test_")]
                images[name] = ImageFile(name, identity, camera, modality)
    return images


def _listed(
    root: Path,
    folder: str,
    images: dict[str, ImageFile],
    findings: Findings,
) -> dict[str, lists.IndexLine]:
    """The lines of the index of a folder whose images are there, by name."""
    found: dict[str, lists.IndexLine] = {}
    absent: dict[str, list[str]] = collections.defaultdict(list)
    pattern = rf"{folder}/cam[1-9]/[0-9]{{4}}/[^/]+\.jpg"
    for line in lists.read_index(root / _LISTS[folder], pattern, findings):
        if line.name not in images:
            absent[line.name].append(line.place)
        elif line.name in found:
            lists.listed_twice(line, found[line.name], findings)
        else:
            found[line.name] = line
    walk.check_listed(root, absent, findings)
    return found


def _train(
    root: Path, images: dict[str, dict[str, ImageFile]], findings: Findings
) -> list[ImageFile]:
    """The training images: those of the index files, in their order."""
    lines: list[lists.IndexLine] = []
    train: dict[str, ImageFile] = {}
    for folder in MODALITIES:
        listed = _listed(root, folder, images[folder], findings)
        lines += listed.values()
        train |= {name: images[folder][name] for name in listed}
        for name in images[folder]:
            if name not in listed:
                findings.warning(
                    "unlisted images",
                    f"The file {root / name} is not in {root / _LISTS[folder]} and is"
                    " left out.",
                )
    identity_of = {name: image.identity for name, image in train.items()}
    lists.check_pairing(lines, identity_of, findings)
    return list(train.values())


def _test(
    root: Path,
    images: dict[str, dict[str, ImageFile]],
    identities: list[int],
    findings: Findings,
) -> list[ImageFile]:
    """The test images: those in the folders, as the protocol has it."""
    test: list[ImageFile] = []
    members = set(identities)
    for folder in ("test_vis", "test_nir"):
        listed = _listed(root, folder, images[folder], findings)
        identity_of = {name: images[folder][name].identity for name in listed}
        # Each list by itself: nothing says that the two share their labels.
        lists.check_pairing(listed.values(), identity_of, findings)
        for name, image in images[folder].items():
            if image.identity not in members:
                findings.warning(
                    "unlisted images",
                    f"The file {root / name} is of identity {image.identity}, which"
                    f" {root}/idx/test_id.txt does not list, and is left out.",
                )
                continue
            test.append(image)
            if name not in listed:
                findings.warning(
                    "images missing from a list",
                    f"The file {root / name} is not in {root / _LISTS[folder]}, but is"
                    " used: the protocol takes what is in the folders.",
                )
    # By folder and file name already, so that equal keys keep that order.
    return sorted(test, key=lambda image: (image.identity, image.camera))
