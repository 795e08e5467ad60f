"""Scene patches: aligned photographs of two modalities, cut into cells to be found.

Folders of visible and of infrared photographs whose files have the same names become a
data set of *cross-modal scene-patch retrieval*: an identity is a place in a photograph,
and its images are crops of that place. The task needs no images of people
and no permission, and it is not re-identification: both modalities see the same moment.
docs/scene-patches.md says more and names two public sets. No photograph is part of this
project.

* The cells of a 2 × 3 grid over a pair of photographs are the identities. A cell is
  dropped where either modality has hardly any contrast (`MIN_STD`).
* Every crop has its own scale and shift, whatever its modality, so that nothing is
  aligned to the pixel. It may reach into the next cell, and stays in the photograph.
* Photographs, not cells, are divided between train and test.
* Crops are stored as JPEG of quality 95. PNG would be two to five times as large; JPEG
  is what the published data sets store, and here adds a root mean square error of two
  of 255 at most in color and of half of one in gray.

A crop is a pure function of (seed, names of photograph and cell, modality, number).
"""

import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mbn_jax import modalities
from mbn_jax.data.checks import check_images, unchanged
from mbn_jax.data.findings import Findings, some
from mbn_jax.data.images import decode, images_below
from mbn_jax.data.manifest import Manifest, Row
from mbn_jax.data.sources import Folders, Scan, Source
from mbn_jax.errors import InputError

GRID = (2, 3)  # rows and columns of a photograph
CROPS = 4  # of each modality, where the name of the data set does not say
SCALE = (0.75, 1.0)  # of the cell's height and width
SHIFT = 0.12  # of the cell's height and width, in every direction
MIN_STD = 6.0  # of the gray values of a cell, 0 to 255
JPEG_QUALITY = 95

_NAME = "aligned_pairs"
_PATTERN = re.compile(rf"{_NAME}/[A-Za-z0-9_]+(?:-x([1-9]\d*))?(?:-s(0|[1-9]\d*))?")
_TEST = "test_"  # before the names of the folders of test photographs
_SMALLEST = 16  # pixels of a cell's side
_NUM_THREADS = 2
# Decoded photographs that are kept: each thread works on one pair.
_KEPT = 2 * _NUM_THREADS


class _Pair(NamedTuple):
    """Two photographs of one moment."""

    name: str  # of both, without the suffix
    files: Mapping[str, Path]  # by modality
    is_test: bool  # whether they are from the folders of test photographs


class _Crop(NamedTuple):
    """Where an image comes from."""

    file: Path
    cell: tuple[int, int]  # its row and its column


def scan(folders: Folders, names: Sequence[str]) -> Scan:
    """Finds the pairs of photographs, checks them and chooses cells and crops.

    Args:
        folders: "visible" and "infrared", and "test_visible" and "test_infrared" if the
            test has photographs of its own; the first of one goes with the first of the
            other, and so on.
        names: one name, such as "aligned_pairs/msrs", "aligned_pairs/msrs-x2" (two
            crops of each modality) or "aligned_pairs/msrs-x2-s3" (seed 3).

    Raises:
        InputError: the folders or the name cannot be used at all.
    """
    name, num_crops, seed = _parse(names)
    findings = Findings()
    pairs = [*_pairs(folders, "", findings), *_pairs(folders, _TEST, findings)]
    _check_distinct(folders)
    has_test = any(pair.is_test for pair in pairs)
    if not has_test and len(pairs) < 3:
        raise InputError(
            f"There are {len(pairs)} pairs of photographs, but train and test need"
            " three or more; give more of them, or folders of test photographs with"
            " --test_visible and --test_infrared."
        )
    files = [file for pair in pairs for file in pair.files.values()]
    paths = list(map(os.fspath, files))
    digests = check_images(Path(), paths, findings, title=name).digests
    whole = [
        pair
        for pair in pairs
        if all(os.fspath(file) in digests for file in pair.files.values())
    ]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        examined = list(pool.map(_cells_with_contrast, whole))
    cells = {}
    for pair, (found, problem) in zip(whole, examined, strict=True):
        if problem:
            findings.problem("pairs of photographs that do not fit", problem)
        else:
            cells[pair.name] = found
    test = {pair.name for pair in pairs if pair.is_test}
    if not has_test:  # by hashes, so that a new photograph moves few others
        drawn = sorted((p.name for p in pairs), key=functools.partial(_hash, seed))
        test = set(drawn[: round(len(drawn) / 3)])
    crops: dict[Row, _Crop] = {}
    for split in ("train", "test"):
        for pair in sorted(whole):
            if pair.name in cells and (pair.name in test) == (split == "test"):
                crops |= _crops(pair, cells[pair.name], num_crops, split)
    _report_cells(crops, cells, findings)
    settings = {
        "grid": list(GRID),
        "crops": num_crops,
        "seed": seed,
        "scale": list(SCALE),
        "shift": SHIFT,
        "min_std": MIN_STD,
        "photographs": len(cells),
    }
    make = _maker(crops, seed, digests)
    manifest = Manifest(rows=list(crops), make=make, settings=settings)
    return Scan(files[0].parent, {name: manifest}, findings)


def _parse(names: Sequence[str]) -> tuple[str, int, int]:
    """The one name, its number of crops and its seed."""
    match = _PATTERN.fullmatch(names[0])
    if len(names) != 1 or match is None:
        raise InputError(
            f"{' and '.join(names)} cannot be made from these folders; give one name,"
            f" for example --dataset={_NAME}/msrs, and add -x2 for two crops of each"
            " modality and -s3 for seed 3."
        )
    crops, seed = match.groups()
    return names[0], int(crops or CROPS), int(seed or 0)


def _pairs(folders: Folders, prefix: str, findings: Findings) -> Iterator[_Pair]:
    """Pairs of photographs by their names, folder by folder.

    Where there are several folders of a modality, their numbers are part of the names.
    """
    flags = {modality: prefix + modality for modality in modalities.DEFAULT}
    given = {m: folders.get(flag, ()) for m, flag in flags.items()}
    numbers = set(map(len, given.values()))
    if len(numbers) != 1:
        counts = " and ".join(
            f"--{flag} is given {len(given[m])} times" for m, flag in flags.items()
        )
        raise InputError(
            f"{counts}; give both for every pair of folders, in the same order."
        )
    for number in range(numbers.pop()):
        folder = {m: paths[number].expanduser() for m, paths in given.items()}
        files = {m: _photographs(folder[m], flags[m], findings) for m in folder}
        first, second = files.values()
        common = sorted(first.keys() & second.keys())
        if not common:
            what = " and ".join(f"{folder[m]} ({len(files[m])})" for m in folder)
            raise InputError(
                f"No photographs directly in {what} have a name in common; the two of a"
                " pair must have the same name, for example 0001.png and 0001.jpg."
            )
        for modality, found in files.items():
            single = sorted(found.keys() - set(common))
            if single:
                findings.warning(
                    "photographs of one modality",
                    f"{len(single)} of {len(found)} photographs in {folder[modality]}"
                    f" are not in the other folder and are left out ({some(single)}).",
                )
        start = f"{number + 1}/" if len(given[modalities.DEFAULT[0]]) > 1 else ""
        for name in common:
            yield _Pair(
                (prefix and "test/") + start + name,
                {modality: found[name] for modality, found in files.items()},
                bool(prefix),
            )


def _photographs(folder: Path, flag: str, findings: Findings) -> dict[str, Path]:
    """The photographs in a folder, by their names without the suffix."""
    if not folder.is_dir():
        raise InputError(
            f"--{flag}={folder} is not a folder; give the one that holds the"
            f" {flag.removeprefix(_TEST)} photographs."
        )
    found: dict[str, Path] = {}
    for path in sorted(images_below(folder, 0)):
        if path.stem in found:
            findings.problem(
                "photographs of one name",
                f"{folder} has two photographs {path.stem}: {found[path.stem].name} and"
                f" {path.name}; move one of the two away.",
            )
        found[path.stem] = path
    return found


def _check_distinct(folders: Folders) -> None:
    seen: dict[Path, str] = {}
    for flag, paths in folders.items():
        for path in paths:
            resolved = path.expanduser().resolve()
            if resolved in seen:
                raise InputError(
                    f"The folder {path} is given twice, as --{seen[resolved]} and as"
                    f" --{flag}; every folder holds the photographs of one modality,"
                    " for train or for test."
                )
            seen[resolved] = flag


def _cells_with_contrast(pair: _Pair) -> tuple[list[tuple[int, int]], str]:
    """Returns the cells of a pair that are kept, and its problem or ""."""
    images = {file: _pixels(file) for file in pair.files.values()}
    sizes = {file: image.shape[:2] for file, image in images.items()}
    (height, width), *others = set(sizes.values())
    if others:
        one, other = (f"{f} has {w} × {h} pixels" for f, (h, w) in sizes.items())
        return [], (
            f"{one}, but {other}; aligned photographs must have the same size:"
            " resize one of the two, or leave both out."
        )
    if height < _SMALLEST * GRID[0] or width < _SMALLEST * GRID[1]:
        return [], (
            f"{next(iter(images))} has {width} × {height} pixels, fewer than"
            f" {_SMALLEST * GRID[1]} × {_SMALLEST * GRID[0]}; leave the pair out."
        )
    gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images.values()]
    found = []
    for cell in np.ndindex(GRID):
        top, bottom, left, right = _bounds(cell, (height, width))
        if all(image[top:bottom, left:right].std() >= MIN_STD for image in gray):
            found.append(cell)
    return found, ""


def _bounds(cell: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a cell in a photograph of (height, width)."""
    (row, column), (rows, columns), (height, width) = cell, GRID, size
    return (
        height * row // rows,
        height * (row + 1) // rows,
        width * column // columns,
        width * (column + 1) // columns,
    )


def _crops(
    pair: _Pair, cells: Sequence[tuple[int, int]], num_crops: int, split: str
) -> dict[Row, _Crop]:
    crops = {}
    for cell in cells:
        identity = f"{pair.name}/{cell[0] + 1}-{cell[1] + 1}"
        for modality, file in pair.files.items():
            for number in range(1, num_crops + 1):
                path = f"{identity}/{modality}_{number}.jpg"
                row = Row(path, identity, modality, modality, split)
                crops[row] = _Crop(file, cell)
    return crops


def _report_cells(
    crops: Mapping[Row, _Crop], cells: Mapping[str, Sequence], findings: Findings
) -> None:
    number = GRID[0] * GRID[1] * len(cells)
    dropped = number - sum(map(len, cells.values()))
    if dropped:
        findings.warning(
            "cells of little contrast",
            f"{dropped:,} of {number:,} cells are left out: their gray values have a"
            f" standard deviation under {MIN_STD:g} of 255 in one modality or both.",
        )
    for split in {"train", "test"} - {row.split for row in crops}:
        findings.problem(
            "splits without images",
            f"No cell of the photographs of {split} can be used; add photographs with"
            " more contrast.",
        )


def _maker(
    crops: Mapping[Row, _Crop], seed: int, digests: Mapping[str, bytes]
) -> Callable[[Row], bytes]:
    # The rows of a photograph follow one another, so that it is decoded once or twice.
    @functools.lru_cache(_KEPT)
    def photograph(file: Path) -> np.ndarray:
        return _pixels(unchanged(file, digests[os.fspath(file)]))

    def make(row: Row) -> bytes:
        file, cell = crops[row]
        crop = _cut(photograph(file), cell, _hash(seed, row.path))
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        return cv2.imencode(".jpg", crop[..., ::-1], quality)[1].tobytes()

    return make


def _cut(image: np.ndarray, cell: tuple[int, int], seed: int) -> np.ndarray:
    """One crop of a cell; moved back where it leaves the photograph."""
    top, bottom, left, right = _bounds(cell, image.shape[:2])
    random = np.random.default_rng(seed)
    scale = random.uniform(*SCALE)
    shifts = random.uniform(-SHIFT, SHIFT, 2)

    def part(start: int, end: int, shift: float, limit: int) -> slice:
        size = round(scale * (end - start))
        first = round((start + end - size) / 2 + shift * (end - start))
        first = min(max(first, 0), limit - size)
        return slice(first, first + size)

    rows = part(top, bottom, shifts[0], image.shape[0])
    columns = part(left, right, shifts[1], image.shape[1])
    return image[rows, columns]


def _pixels(file: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    return decode(file.read_bytes(), None, os.fspath(file))


def _hash(seed: int, text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{text}".encode()).digest()[:16])


SOURCE = Source(
    name=_NAME,
    datasets=(f"{_NAME}/msrs", f"{_NAME}/roadscene"),
    pattern=_PATTERN.pattern,
    ask=(
        "clone aligned photographs, for example github.com/Linfeng-Tang/MSRS or"
        " github.com/hanna-xu/RoadScene, or take two folders of your own whose files"
        " have the same names"
    ),
    folders=modalities.DEFAULT,
    optional_folders=tuple(_TEST + modality for modality in modalities.DEFAULT),
    scan=scan,
    task="cross-modal scene-patch retrieval",
)
