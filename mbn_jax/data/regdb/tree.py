"""RegDB on disk: {Visible,Thermal}/{identity}/*.bmp and the ten splits in idx/."""

import collections
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mbn_jax.data import lists, walk
from mbn_jax.data.tree import Count, Findings, ImageFile, Tree, outside, records_of
from mbn_jax.evaluation.records import INFRARED, VISIBLE

SPLITS = ("train", "test")
NUMBERS = tuple(range(1, 11))
MODALITIES = {"Visible": VISIBLE, "Thermal": INFRARED}
# The data set does not number its two cameras; these are the numbers in the field.
CAMERAS = {"Visible": 1, "Thermal": 2}
PUBLISHED_IDENTITIES, PUBLISHED_IMAGES = 412, 4120  # images of each modality
PUBLISHED_SPLIT, PUBLISHED_LINES = 206, 2060  # of each list


def scan(manual_dir: str | os.PathLike, numbers: Sequence[int] = NUMBERS) -> Tree:
    """Walks RegDB without reading an image.

    Args:
        manual_dir: the folder that holds Visible, Thermal and idx.
        numbers: which of the splits 1 to 10 to read.

    Returns:
        The splits "split1/train", "split1/test" and so on, each in the order of its
        index files, visible before thermal, and all that is wrong. The identity is the
        number of the folder, not the label in an index, which starts at 0 in each.

    Raises:
        InputError: the folder is not one of this data set; names one nearby that is.
    """
    root = Path(manual_dir).expanduser()
    walk.check_level(root, (*MODALITIES, "idx"))
    findings = Findings()
    walk.check_there(root, [f"{name}/" for name in (*MODALITIES, "idx")], findings)
    walk.check_there(
        root,
        [
            f"idx/{split}_{modality.lower()}_{number}.txt"
            for number in numbers
            for split in SPLITS
            for modality in MODALITIES
        ],
        findings,
    )
    walk.check_top(root, (*MODALITIES, "idx"), findings)
    indices = r"(train|test)_(visible|thermal)_([1-9]|10)\.txt"
    walk.check_top(root / "idx", (), findings, ignored=indices)

    images = _images(root, findings)
    splits = {}
    counts = [
        Count(
            "identities",
            PUBLISHED_IDENTITIES,
            len({image.identity for image in images.values()}),
        )
    ]
    for modality, code in MODALITIES.items():
        found = sum(image.modality == code for image in images.values())
        counts.append(Count(f"images in {modality}", PUBLISHED_IMAGES, found))
    absent: dict[str, list[str]] = collections.defaultdict(list)
    for number in numbers:
        identities = {}
        for split in SPLITS:
            listed = _listed(root, split, number, images, absent, findings)
            records = records_of(images[name] for name in listed)
            splits[f"split{number}/{split}"] = records
            members = np.unique(records.identity).tolist()
            if all(_index(root, split, m, number).is_file() for m in MODALITIES):
                # Otherwise everyone lacks a modality, for a reason that is told.
                name = f"split{number}/{split}"
                lists.check_present(name, members, records, findings)
            identities[f"{split}ing of split {number}"] = members
            what = f"split{number}/{split}"
            counts.append(Count(f"{what} identities", PUBLISHED_SPLIT, len(members)))
            for modality, code in MODALITIES.items():
                found = int(np.count_nonzero(records.modality == code))
                counts.append(Count(f"{what} {modality}", PUBLISHED_LINES, found))
        lists.check_disjoint(identities, findings)
    walk.check_listed(root, absent, findings)
    left_out = outside(images, splits)
    for name in left_out:
        findings.warning(
            "unlisted images",
            f"The file {root / name} is in no index that was read and is left out.",
        )
    return Tree(
        root=root,
        splits=splits,
        problems=tuple(findings.problems),
        warnings=tuple(findings.warnings),
        counts=tuple(counts),
        left_out=left_out,
    )


def _index(root: Path, split: str, modality: str, number: int) -> Path:
    return root / f"idx/{split}_{modality.lower()}_{number}.txt"


def _images(root: Path, findings: Findings) -> dict[str, ImageFile]:
    """Every image in the folders by its name, with the identity of its folder."""
    images = {}
    for modality, code in MODALITIES.items():
        letter = modality[0].lower()
        folder = root / modality
        for identity, below in walk.identity_folders(folder, "[0-9]{1,6}", findings):
            for file in walk.image_names(below, r".+\.bmp", findings):
                name = f"{modality}/{below.name}/{file}"
                images[name] = ImageFile(name, identity, CAMERAS[modality], code)
                ending = re.search(r"_([vt])_[0-9]+_([0-9]+)\.bmp$", file)
                if ending and (ending[1], int(ending[2])) != (letter, identity):
                    findings.problem(
                        "labels that contradict folders",
                        f"The file {root / name} is named as an image of identity"
                        f" {int(ending[2])} ({ending[1]}), but lies in another folder;"
                        " copy both folders from the archive of the data set.",
                    )
    return images


def _listed(
    root: Path,
    split: str,
    number: int,
    images: dict[str, ImageFile],
    absent: dict[str, list[str]],
    findings: Findings,
) -> list[str]:
    """The names that the two index files of a split list and that are there."""
    found: dict[str, lists.IndexLine] = {}
    for modality in MODALITIES:
        index = _index(root, split, modality, number)
        pattern = rf"{modality}/[0-9]{{1,6}}/[^/]+\.bmp"
        for line in lists.read_index(index, pattern, findings):
            if line.name not in images:
                absent[line.name].append(line.place)
            elif line.name in found:
                lists.listed_twice(line, found[line.name], findings)
            else:
                found[line.name] = line
    identity_of = {name: images[name].identity for name in found}
    lists.check_pairing(found.values(), identity_of, findings)
    return list(found)
