"""LLCM: pedestrians seen in low light by nine cameras, in visible and near-infrared.

Every camera takes images of both modalities, so that its number does not tell the
modality. There are 713 training and 351 test identities.

Zhang and Wang, "Diverse Embedding Expansion Network and Low-Light Cross-Modality
Benchmark for Visible-Infrared Person Re-Identification", CVPR 2023.
"""

from collections.abc import Sequence

from mbn_jax.data.manifest import Manifest, Row
from mbn_jax.data.sources import (
    DIRECTION_OF_TWO,
    DIRECTIONS,
    Folders,
    Option,
    Scan,
    Source,
    check_choice,
)
from mbn_jax.data.sources.published_folder import Copy, Layout
from mbn_jax.evaluation.protocols import Protocol, SeededDraw
from mbn_jax.evaluation.records import Labels

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
_LAYOUT = Layout(
    folders=(*_PARTS, "idx"),
    images=(
        "(?P<part>vis|nir|test_vis|test_nir)",
        "cam(?P<camera>[1-9])",
        "(?P<identity>[0-9]{4})",
        r"[^/]+\.jpg",
    ),
    needed=(
        *(
            f"{part}/cam{camera}/"
            for part in _PARTS
            for camera in _CAMERAS
            # It is empty, and an archive may leave it out.
            if (part, camera) != ("test_nir", 3)
        ),
        *(index for _, _, index in _PARTS.values()),
        _TEST_LIST,
    ),
)
_WORDS = ("visible", "infrared")
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
    copy = Copy(folders, _LAYOUT)
    images: dict[str, dict[str, Row]] = {part: {} for part in _PARTS}
    for found in copy.walk():
        part = found.labels["part"]
        split, modality, _ = _PARTS[part]
        rows = found.rows(found.labels["camera"], modality, split)
        images[part] |= {row.path: row for row in rows}
    lines = {p: copy.index(_PARTS[p][2], p, images[p]) for p in _PARTS}
    copy.check_absent()
    # The two training lists share their labels; nothing says that those of test do.
    copy.check_pairing([*lines["vis"].values(), *lines["nir"].values()])
    copy.check_pairing(lines["test_vis"].values())
    copy.check_pairing(lines["test_nir"].values())

    train = [line.row for part in ("vis", "nir") for line in lines[part].values()]
    train_identities = sorted({int(row.identity) for row in train})
    test_identities = copy.identities(_TEST_LIST)
    candidates = [*images["test_vis"].values(), *images["test_nir"].values()]
    test = sorted(
        (row for row in candidates if int(row.identity) in test_identities),
        # Those of a camera are sorted by modality and file name already.
        key=lambda row: (int(row.identity), row.camera),
    )
    left_out = []
    used = {row.path for row in (*train, *test)}
    for part, (split, _, index) in _PARTS.items():
        for path, row in images[part].items():
            where = f"is not in {copy.root / index}"
            if path not in used:
                left_out.append(path)
                if split == "test":
                    unlisted = f"which is not in {copy.root / _TEST_LIST},"
                    where = f"is of identity {row.identity}, {unlisted}"
                copy.findings.warning(
                    "unlisted images",
                    f"The file {copy.root / path} {where} and is left out.",
                )
            elif path not in lines[part]:
                copy.findings.warning(
                    "images missing from a list",
                    f"The file {copy.root / path} {where}, but is used: the protocol"
                    " takes what is in the folders.",
                )
    copy.check_present("train", train_identities, train)
    copy.check_present("test", test_identities, test)
    copy.check_disjoint(
        {
            "the training lists": train_identities,
            str(copy.root / _TEST_LIST): test_identities,
        }
    )
    for split, rows in (("train", train), ("test", test)):
        identities, visible, infrared = _PUBLISHED[split]
        members = {row.identity for row in rows}
        copy.findings.count(f"{split} identities", identities, len(members))
        copy.count(f"{split} visible images", visible, rows, modality="visible")
        what = f"{split} near-infrared images"
        copy.count(what, infrared, rows, modality="infrared")
    manifest = Manifest(rows=[*train, *test], root=copy.root)
    return copy.scan(dict.fromkeys(names, manifest), left_out)


def protocol(
    direction: str = "visible_to_infrared", variant: str = "plain"
) -> Protocol:
    """All images of one modality against drawn ones of the other, in two readings.

    Args:
        direction: the modality of the queries, then that of the gallery.
        variant: "plain" draws the gallery. "swapped" exchanges the roles afterwards, as
            the authors' test script does for visible → infrared: the drawn images
            are the queries and all images of the other modality the gallery.

    Raises:
        InputError: an option is not one of the above.
    """
    whole, drawn = DIRECTIONS[check_choice("direction", direction, [*DIRECTIONS])]
    swapped = check_choice("variant", variant, _VARIANTS) == "swapped"
    one_each = f"one {_WORDS[drawn]} image of each identity in each camera"
    if swapped:
        rule = f"Every {_WORDS[whole]} image is in the gallery"
        if direction == "visible_to_infrared":
            rule += ", although such metrics are published as visible → infrared"
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
    ask=(
        "ask its authors for it (https://github.com/ZYK100/LLCM, an agreement is"
        " signed) and unpack it (docs/datasets.md shows the layout),"
    ),
    scan=scan,
    protocols=lambda: tuple(protocol(direction) for direction in DIRECTIONS),
    protocol=protocol,
    options=(
        DIRECTION_OF_TWO,
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
