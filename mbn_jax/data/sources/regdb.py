"""RegDB: pedestrians seen by a visible and a thermal camera side by side.

412 identities with ten images of each in each camera. A data set, regdb/split1 to
regdb/split10, is one of ten halvings into 206 identities to train on and 206 to test
on; the result of a method is the mean over ten networks, one for each.

Nguyen, Hong, Kim and Park, "Person Recognition System Based on a Combination of Body
Images from Visible Light and Thermal Cameras", Sensors 17(3), 605, 2017.
"""

import dataclasses
import re
from collections.abc import Sequence

from mbn_jax.data.manifest import Manifest, Row
from mbn_jax.data.sources import (
    DIRECTION_OF_TWO,
    DIRECTIONS,
    Folders,
    Scan,
    Source,
    SplitRuns,
    check_choice,
)
from mbn_jax.data.sources.published_folder import Copy, Layout, Line
from mbn_jax.evaluation.protocols import Protocol
from mbn_jax.evaluation.records import Labels

_NUMBERS = tuple(range(1, 11))
_SPLITS = ("train", "test")
# By its folder, the name and the camera of a modality. The data set does not number its
# two cameras; these are the numbers of the literature.
_MODALITIES = {"Visible": ("visible", 1), "Thermal": ("infrared", 2)}
_IDENTITIES, _IMAGES = 412, 4120  # images of each modality
_SPLIT = 206, 2060  # likewise, of each half
_LAYOUT = Layout(
    folders=(*_MODALITIES, "idx"),
    images=(
        "(?P<modality>Visible|Thermal)",
        "(?P<identity>[0-9]{1,6})",
        r"[^/]+\.bmp",
    ),
    others=r"idx/(train|test)_(visible|thermal)_([1-9]|10)\.txt",
)


def scan(folders: Folders, names: Sequence[str]) -> Scan:
    """Walks RegDB without reading an image.

    Args:
        folders: as ``manual_dir`` the one that holds Visible, Thermal and idx.
        names: the data sets that are wanted, such as "regdb/split3".

    Returns:
        A manifest for each name, in the order of its index files, visible before
        thermal. The identity is the number of the folder, not the label in an index,
        which starts at 0 in each.

    Raises:
        InputError: the folder is not one of this data set.
    """
    numbers = [int(name.removeprefix("regdb/split")) for name in names]
    parts = [(s, f, n) for n in numbers for s in _SPLITS for f in _MODALITIES]
    copy = Copy(
        folders,
        dataclasses.replace(_LAYOUT, needed=tuple(_index(*part) for part in parts)),
    )
    images: dict[str, Row] = {}
    for found in copy.walk():
        modality, camera = _MODALITIES[found.labels["modality"]]
        for row in found.rows(camera, modality):
            images[row.path] = row
            _check_name(copy, row)
    everyone = {row.identity for row in images.values()}
    copy.findings.count("identities", _IDENTITIES, len(everyone))
    for folder, (modality, _) in _MODALITIES.items():
        what = f"images in {folder}"
        copy.count(what, _IMAGES, images.values(), modality=modality)

    manifests: dict[str, Manifest] = {}
    for name, number in zip(names, numbers, strict=True):
        rows: list[Row] = []
        members: dict[str, set[int]] = {}
        for split in _SPLITS:
            what = f"split{number}/{split}"
            lines: dict[str, Line] = {}
            for folder in _MODALITIES:
                lines |= copy.index(_index(split, folder, number), folder, images)
            copy.check_pairing(lines.values())
            listed = [line.row._replace(split=split) for line in lines.values()]
            identities = {int(row.identity) for row in listed}
            members[f"{split}ing of split {number}"] = identities
            # Without an index all lack a modality; the index is reported as missing.
            indices = [copy.root / _index(split, f, number) for f in _MODALITIES]
            if all(index.is_file() for index in indices):
                copy.check_present(what, sorted(identities), listed)
            copy.findings.count(f"{what} identities", _SPLIT[0], len(identities))
            for folder, (modality, _) in _MODALITIES.items():
                copy.count(f"{what} {folder}", _SPLIT[1], listed, modality=modality)
            rows += listed
        copy.check_disjoint(members)
        manifests[name] = Manifest(rows=rows, root=copy.root)
    copy.check_absent()
    used = {row.path for manifest in manifests.values() for row in manifest.rows}
    left_out = [path for path in images if path not in used]
    for path in left_out:
        copy.findings.warning(
            "unlisted images",
            f"The file {copy.root / path} is in no index that was read and is left"
            " out.",
        )
    return copy.scan(manifests, left_out)


def protocol(direction: str = "visible_to_infrared") -> Protocol:
    """All test images of one modality against all of the other, in one of ten splits.

    Raises:
        InputError: there is no such direction.
    """
    query, gallery = DIRECTIONS[check_choice("direction", direction, [*DIRECTIONS])]
    words = ("visible", "thermal")
    return Protocol(
        name=f"regdb_{direction}",
        title=f"{words[query]} → {words[gallery]}",
        description=(
            f"Every {words[query]} image of the split's test identities is a query "
            f"against every {words[gallery]} image of them; nothing is removed, and "
            "the CMC counts images. Published metrics are means over the ten splits, "
            "each with a network of its own."
        ),
        query_modality=query,
        gallery_modality=gallery,
        published_queries=_SPLIT[1],
        published_gallery=_SPLIT[1],
    )


def _index(split: str, folder: str, number: int) -> str:
    return f"idx/{split}_{folder.lower()}_{number}.txt"


def _check_name(copy: Copy, row: Row) -> None:
    """Notes a file whose name says another modality or identity than its folder."""
    ending = re.search(r"_([vt])_[0-9]+_([0-9]+)\.bmp$", row.path)
    letter = row.path[0].lower()
    if ending and (ending[1], str(int(ending[2]))) != (letter, row.identity):
        copy.findings.problem(
            "labels that contradict folders",
            f"The file {copy.root / row.path} is named as an image of identity"
            f" {int(ending[2])} ({ending[1]}), but is in another folder; copy both"
            " folders from the archive of the data set.",
        )


_NAMES = tuple(f"regdb/split{number}" for number in _NUMBERS)
SOURCE = Source(
    name="regdb",
    datasets=_NAMES,
    ask=(
        "ask Dongguk University for it (http://dm.dgu.edu) and unpack it"
        " (docs/datasets.md shows the layout),"
    ),
    scan=scan,
    protocols=lambda: tuple(protocol(direction) for direction in DIRECTIONS),
    protocol=protocol,
    options=(DIRECTION_OF_TWO,),
    labels=Labels(
        dataset="RegDB",
        path=r"(?:^|/)(?P<modality>Visible|Thermal)/(?P<identity>\d+)/[^/]+\.bmp$",
        example="Thermal/285/male_back_t_05528_285.bmp",
        cameras={0: (1,), 1: (2,)},
        modality_of={"Visible": 0, "Thermal": 1},
    ),
    images_per_modality=dict.fromkeys(_NAMES, _SPLIT[1]),
    split_runs=SplitRuns("regdb/split{split}", _NUMBERS, "ten"),
)
