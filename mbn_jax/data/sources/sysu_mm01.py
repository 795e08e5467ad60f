"""SYSU-MM01: pedestrians seen by four visible cameras and two near-infrared ones.

Cameras 1, 2, 4 and 5 are visible, 3 and 6 near-infrared; 1, 2 and 3 are indoors, and 3
is in the same room as 2. The splits are the official ones: 296 identities to train on,
99 for validation, 96 for the test. The validation identities are seen by cameras 3, 4
and 5 only, so they cannot replace the test; papers train on both.

Wu, Zheng, Yu, Gong and Lai, "RGB-Infrared Cross-Modality Person Re-Identification",
ICCV 2017.
"""

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from mbn_jax.data.findings import some
from mbn_jax.data.manifest import Manifest, Row
from mbn_jax.data.sources import Folders, Option, Scan, Source, check_choice
from mbn_jax.data.sources.published_folder import Copy, Layout
from mbn_jax.errors import InputError
from mbn_jax.evaluation.protocols import (
    NUM_TRIALS,
    Draw,
    Protocol,
    SeededDraw,
    by_identity_and_camera,
)
from mbn_jax.evaluation.records import Labels, Records
from mbn_jax.files import regular_size

# By (camera, identity): row t - 1 is the order of the image numbers in trial t.
Permutations = Mapping[tuple[int, int], np.ndarray]

_VISIBLE_CAMERAS, _INFRARED_CAMERAS = (1, 2, 4, 5), (3, 6)
# Identities, then images of the cameras 1 to 6, from the official lists and galleries.
_PUBLISHED = {
    "train": (296, (4721, 5753, 5929, 4821, 4989, 4000)),
    "val": (99, (0, 0, 1980, 990, 984, 0)),
    "test": (96, (1374, 1565, 1883, 1918, 1918, 1920)),
}
_LISTS = {split: f"exp/{split}_id.txt" for split in _PUBLISHED}
_LAYOUT = Layout(
    folders=(*(f"cam{camera}" for camera in range(1, 7)), "exp"),
    images=("cam(?P<camera>[1-6])", "(?P<identity>[0-9]{4})", r"[0-9]{4}\.jpg"),
    needed=tuple(_LISTS.values()),
    # The same lists also come as .mat files, and rand_perm_cam.mat belongs there.
    others=r"exp/(available_id\.txt|[^/]*\.mat)",
)


def scan(folders: Folders, names: Sequence[str]) -> Scan:
    """Walks SYSU-MM01 without reading an image.

    Args:
        folders: as ``manual_dir`` the one that holds cam1, …, cam6 and exp.
        names: "sysu_mm01".

    Returns:
        Its manifest: train, val and test, each by identity, then camera and file name.

    Raises:
        InputError: the folder is not one of this data set.
    """
    copy = Copy(folders, _LAYOUT)
    images: dict[int, list[Row]] = collections.defaultdict(list)
    numbers: dict[tuple[int, int], set[int]] = {}
    for found in copy.walk():
        camera, identity = int(found.labels["camera"]), int(found.labels["identity"])
        modality = "visible" if camera in _VISIBLE_CAMERAS else "infrared"
        images[identity] += found.rows(camera, modality)
        numbers[camera, identity] = {int(file[:4]) for file in found.files}

    listed = {split: copy.identities(_LISTS[split]) for split in _PUBLISHED}
    copy.check_disjoint({str(copy.root / _LISTS[s]): listed[s] for s in listed})
    rows: list[Row] = []
    for split, (num_identities, num_images) in _PUBLISHED.items():
        of_split = [
            row._replace(split=split)
            for identity in listed[split]
            for row in images.get(identity, [])
        ]
        copy.check_present(split, listed[split], of_split)
        copy.findings.count(f"{split} identities", num_identities, len(listed[split]))
        for camera, expected in enumerate(num_images, start=1):
            what = f"{split} images of cam{camera}"
            copy.count(what, expected, of_split, camera=str(camera))
        rows += of_split
    unlisted = sorted(set(images).difference(*listed.values()))
    left_out = [row.path for identity in unlisted for row in images[identity]]
    if unlisted:
        copy.findings.warning(
            "unlisted identities",
            f"{len(left_out):,} images of {len(unlisted)} identities"
            f" ({some(unlisted)}) are in no list of exp/ and are left out (1,118 of 22"
            " in the complete data set).",
        )
    _check_numbers(copy, numbers, listed)
    manifest = Manifest(rows=rows, root=copy.root)
    return copy.scan(dict.fromkeys(names, manifest), left_out)


def _check_numbers(
    copy: Copy,
    numbers: Mapping[tuple[int, int], set[int]],
    listed: Mapping[str, Sequence[int]],
) -> None:
    """Reports missing images: one of them changes most of a seeded gallery.

    Args:
        copy: of the data set.
        numbers: those of the images in every folder that is there, by (camera,
            identity).
        listed: the identities of each split.
    """
    path = copy.root / "exp/rand_perm_cam.mat"
    official: dict[tuple[int, int], int] = {}
    if os.path.lexists(path):
        try:
            orders = read_permutations(path)
            official = {pair: order.shape[1] for pair, order in orders.items()}
        except InputError as error:
            copy.findings.warning(
                "galleries that cannot be read",
                f"The images of the folders cannot be checked with {path.name}:"
                f" {error}",
            )
    members = set().union(*listed.values())
    with_images = {identity for (_, identity), found in numbers.items() if found}
    known_absent = members - with_images  # reported by `check_present`
    if not all(listed.values()):  # a list is missing, and may be of any identity
        members |= {identity for _, identity in official}
    for camera, identity in sorted({*numbers, *official}):
        folder = copy.root / f"cam{camera}/{identity:04d}"
        found, by_file = numbers.get((camera, identity)), ""
        if official and identity in members:
            # Where the folder of a camera is missing this is reported already.
            if found is None and (
                identity in known_absent or not folder.parent.is_dir()
            ):
                continue
            count = official.get((camera, identity), 0)
            by_file = f" and should have {count} by {path}"
        elif found is None:
            continue
        else:
            # Numbers that start at 0 are as many as if they started at 1.
            count = max(len(found), *found, 0)
        has = "is missing"
        if found is not None:
            has = "has 1 image" if len(found) == 1 else f"has {len(found)} images"
        found, expected = found or set(), {*range(1, count + 1)}
        differences = {"missing": expected - found, "unknown": found - expected}
        said = [f"{k}: {some(sorted(v), 5)}" for k, v in differences.items() if v]
        if said or not (found or by_file):
            copy.findings.warning(
                "folders that are not complete",
                f"The folder {folder} {has}{by_file}"
                f" ({'; '.join(said) or 'it is empty'}); copy it from the archive of"
                " the data set.",
            )


def read_permutations(path: str | Path) -> Permutations:
    """Reads ``rand_perm_cam.mat``, which comes with the data set.

    Args:
        path: of the file. Its variable of the same name is a cell array (6, 1) over
            cameras, of cell arrays over identities, of (10, number of images) numbers
            from 1: row t is the order of the images in trial t.

    Returns:
        The (10, n) integer arrays by (camera, identity), without the empty ones.

    Raises:
        InputError: the file is missing or is something else.
    """
    # Imported here: it takes a while, and few need it.
    import scipy.io

    if os.path.exists(path):
        regular_size(Path(path))  # to read a pipe would wait forever
    try:
        with open(path, "rb") as file:
            cameras = scipy.io.loadmat(file)["rand_perm_cam"]
        orders = {
            (camera, identity): np.asarray(order, np.int64)
            for camera, cell in enumerate(cameras[:, 0], start=1)
            for identity, order in enumerate(cell.ravel(), start=1)
            if order.size
        }
        if not orders or not all(map(_is_permutations, orders.values())):
            raise ValueError("it does not hold ten permutations of every folder")
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist; give the path of rand_perm_cam.mat, which lies in "
            "the folder exp of SYSU-MM01 or of its repository."
        ) from error
    # What scipy raises for a file that is no .mat, or a damaged one, and numpy for
    # another content have no class in common but this.
    except Exception as error:
        raise InputError(
            f"{path} is not the rand_perm_cam.mat of SYSU-MM01 ({error}); give that "
            "file."
        ) from error
    return orders


def _is_permutations(orders: np.ndarray) -> bool:
    numbers = np.arange(1, orders.shape[-1] + 1)
    return orders.shape == (NUM_TRIALS, len(numbers)) and bool(
        (np.sort(orders, axis=1) == numbers).all()
    )


@dataclasses.dataclass(frozen=True, eq=False)
class OfficialDraw:
    """The galleries of the authors, from their ``rand_perm_cam.mat``.

    Attributes:
        shots: images of an identity in a camera; all of them where there are fewer.
        permutations: from `read_permutations`.
    """

    shots: int
    permutations: Permutations

    def __call__(self, records: Records, indices: np.ndarray) -> list[np.ndarray]:
        """Returns the drawn indices, one array for each trial.

        Raises:
            InputError: an image that the permutations ask for is not there.
        """
        galleries: list[list[int]] = [[] for _ in range(NUM_TRIALS)]
        for (identity, camera), group in by_identity_and_camera(records, indices):
            orders = self.permutations.get((camera, identity))
            if orders is None:
                raise InputError(
                    f"rand_perm_cam.mat has no image of identity {identity} in camera "
                    f"{camera}, but {records.name[group[0]]} is there; give the file "
                    "that belongs to this data set, or leave that identity out."
                )
            by_number = {_image_number(records.name[i]): i for i in group}
            for gallery, order in zip(galleries, orders, strict=True):
                for number in order[: self.shots].tolist():
                    if number not in by_number:
                        raise InputError(
                            f"The official gallery holds image {number} of identity "
                            f"{identity} in camera {camera} "
                            f"(cam{camera}/{identity:04d}/{number:04d}.jpg), which is "
                            "missing; give the features of all test images."
                        )
                    gallery.append(by_number[number])
        return [np.array(gallery, np.int64) for gallery in galleries]


def _image_number(name: str) -> int:
    """Returns the number of an image: 17 for cam1/0006/0017.jpg."""
    stem = PurePosixPath(name).stem
    if not stem.isdecimal():
        raise InputError(
            f"The image name {str(name)!r} does not end in a number, as in "
            "cam1/0006/0017.jpg, by which the official galleries name their images; "
            "give the names of the files on disk."
        )
    return int(stem)


def protocol(
    search: str = "all",
    shots: int = 1,
    gallery: str = "agw",
    rand_perm_cam: Permutations | str | Path | None = None,
) -> Protocol:
    """Infrared queries against drawn visible galleries.

    Args:
        search: "all" takes the gallery from cameras 1, 2, 4 and 5, "indoor" from 1, 2.
        shots: gallery images of each identity in each camera; all of them where there
            are fewer.
        gallery: "agw" draws it by the seeds 0 to 9, as most published metrics do;
            "official" by the authors' permutations.
        rand_perm_cam: for "official", the path of their file, or its content from
            `read_permutations`.

    Raises:
        InputError: an option is not one of the above, or the file cannot be read.
    """
    check_choice("search", search, ("all", "indoor"))
    check_choice("gallery", gallery, ("agw", "official"))
    if not isinstance(shots, int) or shots < 1:
        raise InputError(
            f"shots is {shots!r}, but a whole number of gallery images, 1 or more, is "
            "expected."
        )
    draw: Draw
    if gallery == "agw":
        if rand_perm_cam is not None:
            raise InputError(
                "The authors' rand_perm_cam.mat was given, but the galleries agw do "
                "not use it: leave it out, or take the official galleries."
            )
        draw = SeededDraw(shots)
        how = "by Python's random with the seeds 0 to 9, as AGW does"
    else:
        if rand_perm_cam is None:
            raise InputError(
                "The official galleries need the authors' rand_perm_cam.mat, which "
                "comes with SYSU-MM01: give its path (--rand_perm_cam)."
            )
        if isinstance(rand_perm_cam, str | Path):
            rand_perm_cam = read_permutations(rand_perm_cam)
        draw = OfficialDraw(shots, rand_perm_cam)
        how = "by the authors' permutations, trials 1 to 10"
    cameras = _VISIBLE_CAMERAS if search == "all" else (1, 2)
    # 301 and 112 pairs of an identity and a camera; every one has at least ten images.
    pairs = 301 if search == "all" else 112
    up_to = "one visible image" if shots == 1 else f"up to {shots} visible images"
    return Protocol(
        name=f"sysu_mm01_{search}_{shots}shot_{gallery}",
        title=(
            f"{search}-search, {'single' if shots == 1 else shots}-shot, "
            f"{gallery} galleries"
        ),
        description=(
            f"Every infrared image is a query; the gallery holds {up_to} of each "
            f"identity in each of the cameras {', '.join(map(str, cameras))}, drawn "
            f"{how}; a query of camera 3 skips camera 2 (the same room), queries left "
            "without a match are not scored, and the CMC counts identities."
        ),
        query_modality=1,
        gallery_modality=0,
        gallery_cameras=cameras,
        draw=draw,
        removed_cameras=((3, 2),),
        cmc="identities",
        published_queries=3803,
        published_gallery=pairs * shots if shots <= 10 else None,
    )


SOURCE = Source(
    name="sysu_mm01",
    datasets=("sysu_mm01",),
    ask=(
        "ask its authors for it (https://github.com/wuancong/SYSU-MM01, an agreement is"
        " signed) and unpack it (docs/datasets.md shows the layout),"
    ),
    scan=scan,
    training="train+val",
    protocols=lambda: (protocol("all"), protocol("indoor")),
    protocol=protocol,
    options=(
        Option(
            "search",
            ("all", "indoor"),
            "The gallery is of cameras 1, 2, 4, 5 (all, the default) or 1, 2 (indoor).",
        ),
        Option(
            "shots", int, "Number of gallery images of an identity in a camera (1)."
        ),
        Option(
            "gallery",
            ("agw", "official"),
            "Galleries are drawn by seeds (agw) or are those of --rand_perm_cam.",
        ),
        Option("rand_perm_cam", str, "Path of the authors' rand_perm_cam.mat."),
    ),
    labels=Labels(
        dataset="SYSU-MM01",
        path=r"(?:^|/)cam(?P<camera>[1-6])/(?P<identity>\d{4})/\d+\.jpg$",
        example="cam3/0006/0001.jpg",
        cameras={0: _VISIBLE_CAMERAS, 1: _INFRARED_CAMERAS},
    ),
    # The visible images of train and val.
    images_per_modality={"sysu_mm01": 22_258},
)
