"""LLCM: pedestrians seen in low light by nine cameras, in visible and near-infrared.

Every camera takes images of both modalities, so that its number does not tell the
modality. 713 identities to train on, 351 to test on.

Zhang and Wang, "Diverse Embedding Expansion Network and Low-Light Cross-Modality
Benchmark for Visible-Infrared Person Re-Identification", CVPR 2023.
"""

from collections.abc import Mapping, Sequence
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
    check_choice,
)
from mbn_jax.evaluation.galleries import SeededDraw
from mbn_jax.evaluation.rules import Protocol

_CAMERAS = tuple(range(1, 10))
# By folder: the split, the modality and the index file.
_PARTS = {
    "vis": ("train", "visible", "idx/train_vis.txt"),
    "nir": ("train", "infrared", "idx/train_nir.txt"),
    "test_vis": ("test", "visible", "idx/test_vis.txt"),
    "test_nir": ("test", "infrared", "idx/test_nir.txt"),
}
_TEST_LIST = "idx/test_id.txt"
# Identities, visible and near-infrared images.
_PUBLISHED = {"train": (713, 16946, 13975), "test": (351, 8680, 7166)}
_LAYOUT = reading.Layout(
    folders=(*_PARTS, "idx"),
    images=(
        r"(?P<part>vis|nir|test_vis|test_nir)/cam(?P<camera>[1-9])"
        r"/(?P<identity>[0-9]{4})/[^/]+\.jpg"
    ),
    needed=(
        *(
            f"{part}/cam{camera}/"
            for part in _PARTS
            for camera in _CAMERAS
            # Nobody was seen there, and an archive may leave the empty folder out.
            if (part, camera) != ("test_nir", 3)
        ),
        *(index for _, _, index in _PARTS.values()),
        _TEST_LIST,
    ),
)
_WORDS = ("visible", "infrared")
_DIRECTIONS = {"visible_to_infrared": (0, 1), "infrared_to_visible": (1, 0)}
_VARIANTS = ("plain", "swapped")


def scan(folders: Folders, names: Sequence[str]) -> Scan:
    """Walks LLCM without reading an image.

    Args:
        folders: as ``manual_dir`` the one that holds vis, nir, test_vis, test_nir, idx.
        names: "llcm".

    Returns:
        Its manifest: train is what the index files list, in their order, visible before
        near-infrared; test is what lies in the folders of the test identities, by
        identity, then camera, modality and file name. The identity is the number of the
        folder, not the label in an index.

    Raises:
        InputError: the folder is not one of this data set.
    """
    root, findings = folders["manual_dir"][0].expanduser(), Findings()
    images: dict[str, dict[str, Row]] = {part: {} for part in _PARTS}
    for found in reading.walk(root, _LAYOUT, findings):
        part = found.labels["part"]
        split, modality, _ = _PARTS[part]
        for row in found.rows(found.labels["camera"], modality):
            images[part][row.path] = row._replace(split=split)
    lines = {part: _read_index(root, part, images[part], findings) for part in _PARTS}
    # The two training lists share their labels; nothing says that those of test do.
    reading.check_pairing([*lines["vis"].values(), *lines["nir"].values()], findings)
    reading.check_pairing(lines["test_vis"].values(), findings)
    reading.check_pairing(lines["test_nir"].values(), findings)

    train = [line.row for part in ("vis", "nir") for line in lines[part].values()]
    test_identities = reading.read_identities(root / _TEST_LIST, findings)
    test = sorted(
        (
            row
            for part in ("test_vis", "test_nir")
            for row in images[part].values()
            if int(row.identity) in set(test_identities)
        ),
        # Those of a camera are sorted by modality and file name already.
        key=lambda row: (int(row.identity), row.camera),
    )
    used = {row.path for row in (*train, *test)}
    left_out = []
    for part, (split, _, index) in _PARTS.items():
        for path, row in images[part].items():
            if path not in used:
                left_out.append(path)
                why = (
                    f"is not in {root / index}"
                    if split == "train"
                    else f"is of identity {row.identity}, which {root / _TEST_LIST}"
                    " does not list,"
                )
                findings.warning(
                    "unlisted images", f"The file {root / path} {why} and is left out."
                )
            elif path not in lines[part]:
                findings.warning(
                    "images missing from a list",
                    f"The file {root / path} is not in {root / index}, but is used: the"
                    " protocol takes what is in the folders.",
                )
    train_identities = sorted({int(row.identity) for row in train})
    reading.check_present("train", train_identities, train, findings)
    reading.check_present("test", test_identities, test, findings)
    reading.check_disjoint(
        {
            "the training lists": train_identities,
            str(root / _TEST_LIST): test_identities,
        },
        findings,
    )
    for split, rows in (("train", train), ("test", test)):
        identities, visible, infrared = _PUBLISHED[split]
        found_identities = len({row.identity for row in rows})
        findings.count(f"{split} identities", identities, found_identities)
        for what, modality, expected in (
            ("visible", "visible", visible),
            ("near-infrared", "infrared", infrared),
        ):
            there = sum(row.modality == modality for row in rows)
            findings.count(f"{split} {what} images", expected, there)
    manifests = {name: Manifest(rows=[*train, *test], root=root) for name in names}
    return Scan(root=root, manifests=manifests, findings=findings, left_out=left_out)


def _read_index(
    root: Path, part: str, images: Mapping[str, Row], findings: Findings
) -> dict[str, reading.Line]:
    absent: dict[str, list[str]] = {}
    lines = reading.read_index(
        root / _PARTS[part][2],
        rf"{part}/cam[1-9]/[0-9]{{4}}/[^/]+\.jpg",
        images,
        absent,
        findings,
    )
    reading.check_absent(root, absent, findings)
    return lines


def protocol(
    direction: str = "visible_to_infrared", variant: str = "plain"
) -> Protocol:
    """All images of one modality against drawn ones of the other, in two readings.

    Args:
        direction: which modality is looked for in which.
        variant: "plain" draws the gallery. "swapped" exchanges the roles afterwards, as
            the authors' test script does for visible → infrared: the drawn images
            are the queries and all images of the other modality the gallery.

    Raises:
        InputError: an option is not one of the above.
    """
    whole, drawn = _DIRECTIONS[check_choice("direction", direction, [*_DIRECTIONS])]
    swapped = check_choice("variant", variant, _VARIANTS) == "swapped"
    one_each = f"one {_WORDS[drawn]} image of each identity in each camera"
    if swapped:
        rule = f"Every {_WORDS[whole]} image is in the gallery"
        if direction == "visible_to_infrared":
            rule += ", although such figures are published as visible → infrared"
        rule += f"; the queries are {one_each}"
    else:
        rule = f"Every {_WORDS[whole]} image is a query; the gallery holds {one_each}"
    num_whole = _PUBLISHED["test"][1 + whole]
    return Protocol(
        name=f"llcm_{direction}_{variant}",
        title=f"{_WORDS[whole]} → {_WORDS[drawn]}, {variant}",
        description=(
            f"{rule}, drawn by Python's random with the seeds 0 to 9; gallery images "
            "with both the identity and the camera of a query are removed for that "
            "query, queries left without a match are not scored, and the CMC counts "
            "identities."
        ),
        query_modality=drawn if swapped else whole,
        gallery_modality=whole if swapped else drawn,
        draw=SeededDraw(1),
        queries_are_drawn=swapped,
        remove_same_camera=True,
        cmc="identities",
        published_queries=None if swapped else num_whole,
        published_gallery=num_whole if swapped else None,
    )


SOURCE = Source(
    name="llcm",
    datasets=("llcm",),
    ask="""Ask the authors (https://github.com/ZYK100/LLCM), who give it to researchers
who sign an agreement, and unpack, so that the folder holds

    vis/ nir/            cam{1..9}/{identity:04d}/*.jpg, training
    test_vis/ test_nir/  the same, test; test_nir/cam3 is empty
    idx/                 train_vis.txt, train_nir.txt, test_vis.txt, test_nir.txt:
                         "path label" in each line;
                         test_id.txt: test identities, comma separated
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
        Option(
            "variant",
            _VARIANTS,
            "The gallery is drawn (plain, the default), or the queries are.",
        ),
    ),
    labels=Labels(
        dataset="LLCM",
        path=(
            r"(?:^|/)test_(?P<modality>vis|nir)/cam(?P<camera>[1-9])"
            r"/(?P<identity>\d{4})/[^/]+\.jpg$"
        ),
        example="test_nir/cam1/0003/….jpg",
        cameras={0: _CAMERAS, 1: _CAMERAS},
        modality_of={"vis": 0, "nir": 1},
    ),
    images_per_modality={"llcm": _PUBLISHED["train"][1]},
)
