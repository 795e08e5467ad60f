"""RegDB: pedestrians seen by a visible and a thermal camera side by side.

412 identities with ten images of each in each camera. A data set, regdb/split1 to
regdb/split10, is one of ten halvings into 206 identities to train on and 206 to test
on; the result of a method is the mean over ten networks, one for each.

Nguyen, Hong, Kim and Park, "Person Recognition System Based on a Combination of Body
Images from Visible Light and Thermal Cameras", Sensors 17(3), 605, 2017.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from mbn_jax.data.findings import Findings
from mbn_jax.data.manifest import Manifest, Row
from mbn_jax.data.sources import folders as reading
from mbn_jax.data.sources.source import (
    Folders,
    Labels,
    Option,
    Scan,
    Source,
    SplitRuns,
    check_choice,
)
from mbn_jax.evaluation.rules import Protocol

_NUMBERS = tuple(range(1, 11))
_SPLITS = ("train", "test")
# By its folder, the name and the camera of a modality. The data set does not number its
# two cameras; these are the numbers in the field.
_MODALITIES = {"Visible": ("visible", 1), "Thermal": ("infrared", 2)}
_IDENTITIES, _IMAGES = 412, 4120  # images of each modality
_SPLIT_IDENTITIES, _SPLIT_IMAGES = 206, 2060  # images of each modality
_DIRECTIONS = {"visible_to_infrared": (0, 1), "infrared_to_visible": (1, 0)}


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
    root, findings = folders["manual_dir"][0].expanduser(), Findings()
    numbers = [int(name.removeprefix("regdb/split")) for name in names]
    layout = reading.Layout(
        folders=(*_MODALITIES, "idx"),
        images=r"(?P<modality>Visible|Thermal)/(?P<identity>[0-9]{1,6})/[^/]+\.bmp",
        needed=tuple(
            _index(split, folder, number)
            for number in numbers
            for split in _SPLITS
            for folder in _MODALITIES
        ),
        others=r"idx/(train|test)_(visible|thermal)_([1-9]|10)\.txt",
    )
    images: dict[str, Row] = {}
    for found in reading.walk(root, layout, findings):
        modality, camera = _MODALITIES[found.labels["modality"]]
        for row in found.rows(camera, modality):
            images[row.path] = row
            _check_name(root, row, findings)

    findings.count(
        "identities", _IDENTITIES, len({row.identity for row in images.values()})
    )
    for folder, (modality, _) in _MODALITIES.items():
        there = sum(row.modality == modality for row in images.values())
        findings.count(f"images in {folder}", _IMAGES, there)
    manifests: dict[str, Manifest] = {}
    absent: dict[str, list[str]] = {}
    for name, number in zip(names, numbers, strict=True):
        rows: list[Row] = []
        members = {}
        for split in _SPLITS:
            what = f"split{number}/{split}"
            lines: dict[str, reading.Line] = {}
            for folder in _MODALITIES:
                index = root / _index(split, folder, number)
                pattern = rf"{folder}/[0-9]{{1,6}}/[^/]+\.bmp"
                lines |= reading.read_index(index, pattern, images, absent, findings)
            reading.check_pairing(lines.values(), findings)
            listed = [line.row._replace(split=split) for line in lines.values()]
            identities = {int(row.identity) for row in listed}
            # Without an index everyone lacks a modality, for a reason that is noted.
            if all((root / _index(split, f, number)).is_file() for f in _MODALITIES):
                reading.check_present(what, sorted(identities), listed, findings)
            members[f"{split}ing of split {number}"] = identities
            findings.count(f"{what} identities", _SPLIT_IDENTITIES, len(identities))
            for folder, (modality, _) in _MODALITIES.items():
                there = sum(row.modality == modality for row in listed)
                findings.count(f"{what} {folder}", _SPLIT_IMAGES, there)
            rows += listed
        reading.check_disjoint(members, findings)
        manifests[name] = Manifest(rows=rows, root=root)
    reading.check_absent(root, absent, findings)
    used = {row.path for manifest in manifests.values() for row in manifest.rows}
    left_out = [path for path in images if path not in used]
    for path in left_out:
        findings.warning(
            "unlisted images",
            f"The file {root / path} is in no index that was read and is left out.",
        )
    return Scan(root=root, manifests=manifests, findings=findings, left_out=left_out)


def protocol(direction: str = "visible_to_infrared") -> Protocol:
    """All test images of one modality against all of the other, in one of ten splits.

    Raises:
        InputError: there is no such direction.
    """
    query, gallery = _DIRECTIONS[check_choice("direction", direction, [*_DIRECTIONS])]
    words = ("visible", "thermal")
    return Protocol(
        name=f"regdb_{direction}",
        title=f"{words[query]} → {words[gallery]}",
        description=(
            f"Every {words[query]} image of the split's test identities is a query "
            f"against every {words[gallery]} image of them; nothing is removed, and "
            "the CMC counts images. Published figures are means over the ten splits, "
            "each with a network of its own."
        ),
        query_modality=query,
        gallery_modality=gallery,
        published_queries=_SPLIT_IMAGES,
        published_gallery=_SPLIT_IMAGES,
    )


def _index(split: str, folder: str, number: int) -> str:
    return f"idx/{split}_{folder.lower()}_{number}.txt"


def _check_name(root: Path, row: Row, findings: Findings) -> None:
    """Notes a file whose name says another modality or identity than its folder."""
    ending = re.search(r"_([vt])_[0-9]+_([0-9]+)\.bmp$", row.path)
    letter = row.path[0].lower()
    if ending and (ending[1], str(int(ending[2]))) != (letter, row.identity):
        findings.problem(
            "labels that contradict folders",
            f"The file {root / row.path} is named as an image of identity"
            f" {int(ending[2])} ({ending[1]}), but lies in another folder; copy both"
            " folders from the archive of the data set.",
        )


_NAMES = tuple(f"regdb/split{number}" for number in _NUMBERS)
SOURCE = Source(
    name="regdb",
    datasets=_NAMES,
    ask="""Ask Dongguk University (http://dm.dgu.edu) and unpack, so that the folder
holds

    Visible/  {identity}/{male,female}_{front,back}_v_{frame:05d}_{identity}.bmp
    Thermal/  {identity}/{male,female}_{front,back}_t_{frame:05d}_{identity}.bmp
    idx/      {train,test}_{visible,thermal}_{1..10}.txt, in each line
              "Visible/285/male_back_v_05528_285.bmp 0"
""",
    scan=scan,
    protocols=lambda: tuple(protocol(direction) for direction in _DIRECTIONS),
    protocol=protocol,
    options=(
        Option(
            "direction",
            tuple(_DIRECTIONS),
            "visible_to_infrared (the default) or infrared_to_visible.",
        ),
    ),
    labels=Labels(
        dataset="RegDB",
        path=r"(?:^|/)(?P<modality>Visible|Thermal)/(?P<identity>\d+)/[^/]+\.bmp$",
        example="Thermal/285/male_back_t_05528_285.bmp",
        cameras={0: (1,), 1: (2,)},
        modality_of={"Visible": 0, "Thermal": 1},
    ),
    images_per_modality=dict.fromkeys(_NAMES, _SPLIT_IMAGES),
    split_runs=SplitRuns("regdb/split{split}", _NUMBERS, "ten"),
)
