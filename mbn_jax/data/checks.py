"""Whether a data set can be used: its rows against each other, and every image."""

import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mbn_jax import modalities as modality_names
from mbn_jax.data.findings import Findings, some
from mbn_jax.data.images import (
    MAX_MEGAPIXELS,
    NARROW_REMEDY,
    open_image,
    quiet_opencv,
    read_encoded,
)
from mbn_jax.data.manifest import Manifest
from mbn_jax.data.sixteen_bits import AUTO, Scale, eight_bits, narrow_range
from mbn_jax.errors import InputError
from mbn_jax.text import progress

# The splits that each part of the work is done on.
_PARTS = {
    "train": {"train"},
    "val": {"val"},
    "test": {"test", "query", "gallery"},
}
_NUM_THREADS = 2
_CHUNK = 32  # images that a thread takes at once


def check_rows(manifest: Manifest, findings: Findings) -> None:
    """Checks identities, cameras, modalities and splits against each other.

    Args:
        manifest: whose rows are each valid by themselves.
        findings: receives problems and warnings.
    """
    _check_splits(manifest.splits, findings)
    _check_modalities(manifest, findings)
    _check_identities(manifest, findings)
    for part in ("val", "test"):
        _check_matches(manifest, part, findings)
    by_camera: dict[str, set[str]] = {}
    for row in manifest.rows:
        by_camera.setdefault(row.camera, set()).add(row.modality)
    for camera, found in sorted(by_camera.items()):
        if len(found) > 1:
            findings.warning(
                "cameras of several modalities",
                f"The camera {camera} has images of {' and '.join(sorted(found))}; give"
                " the cameras different names unless one device takes both: gallery"
                " images of the query's identity and camera are ignored.",
            )


@dataclasses.dataclass(frozen=True)
class Checked:
    """What `check_images` found out about the images that can be decoded.

    Attributes:
        digests: SHA-256 of each file, by its path.
        num_bytes: size of all files together.
        num_sixteen_bits: number of files with 16 bits.
    """

    digests: dict[str, bytes] = dataclasses.field(default_factory=dict)
    num_bytes: int = 0
    num_sixteen_bits: int = 0


def check_images(
    root: Path,
    paths: Sequence[str],
    findings: Findings,
    *,
    title: str,
    left_out: Sequence[str] = (),
    place: Callable[[str], str] = lambda path: "",
    remedy: str = "copy it from the archive again",
    too_large: str = "scale it down or leave it out",
    scales: Mapping[str, Scale] | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Checked:
    """Decodes every image once, as training does.

    Args:
        root: folder that the paths are relative to.
        paths: of the images of the data set, each once.
        findings: receives a problem for every image that cannot be decoded, or a
            warning if the image is left out anyway; and a warning for every one that is
            nearly uniform once its 16 bits are scaled.
        title: of the data set, for the progress bar.
        left_out: paths of further images, which belong to no split.
        place: where an image is listed, as the beginning of a sentence.
        remedy: what to do about an image that cannot be decoded.
        too_large: what to do about an image that has too many pixels.
        scales: of images of 16 bits by their path, where it is not `AUTO`.
        max_megapixels: a larger image cannot be used.
    """
    scales = scales or {}

    def look_at(names: Sequence[str]) -> list[_Image]:
        return [
            _look_at(root / name, scales.get(name, AUTO), max_megapixels)
            for name in names
        ]

    names = [*paths, *left_out]
    chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    digests: dict[str, bytes] = {}
    num_bytes = num_sixteen_bits = 0
    with (
        quiet_opencv(),
        progress("Checking", "Checked", title, len(names)) as advance,
        ThreadPoolExecutor(_NUM_THREADS) as pool,
    ):
        images = itertools.chain.from_iterable(pool.map(look_at, chunks))
        for number, (name, image) in enumerate(zip(names, images, strict=True)):
            advance()
            what = f"{place(name)}The image {root / name}"
            todo = too_large if image.is_too_large else image.remedy or remedy
            is_used = number < len(paths)
            if image.problem and is_used:
                findings.problem(
                    "unreadable images", f"{what} {image.problem}; {todo}."
                )
            elif image.problem:
                # It may be in no split only because a list is missing.
                findings.warning(
                    "unreadable images",
                    f"{what} {image.problem}; it is in no split and is left out,"
                    f" but if a list that names it is missing, {todo}.",
                )
            elif is_used:
                digests[name] = image.digest
                num_bytes += image.num_bytes
                num_sixteen_bits += image.is_sixteen_bits
                if image.narrow:
                    findings.warning(
                        "images of a narrow range",
                        f"{what} {image.narrow}; {NARROW_REMEDY}.",
                    )
    return Checked(digests, num_bytes, num_sixteen_bits)


def unchanged(path: Path, digest: bytes) -> Path:
    """Returns the path of an image, which is still the one that was checked.

    Raises:
        InputError: the file is gone, or is another.
    """
    try:
        same = hashlib.sha256(path.read_bytes()).digest() == digest
    except OSError as error:
        raise InputError(
            f"The image {path} was checked, but now cannot be read"
            f" ({error.strerror or error}); leave the folder alone and start again."
        ) from error
    if not same:
        raise InputError(
            f"The image {path} has changed since it was checked; leave the folder alone"
            " and start again."
        )
    return path


class _Image(NamedTuple):
    problem: str = ""  # empty if there is none
    remedy: str = ""  # if it is not the usual one
    is_too_large: bool = False
    digest: bytes = b""
    num_bytes: int = 0
    is_sixteen_bits: bool = False
    narrow: str = ""  # a phrase if it is nearly uniform


def _look_at(path: Path, scale: Scale, max_megapixels: float) -> _Image:
    try:
        encoded = read_encoded(path, max_megapixels)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        return _Image(problem, "make it a file that you may read")
    pixels, problem, is_too_large = open_image(encoded, max_megapixels)
    if pixels is None:
        return _Image(problem, is_too_large=is_too_large)
    return _Image(
        digest=hashlib.sha256(encoded).digest(),
        num_bytes=len(encoded),
        is_sixteen_bits=pixels.dtype == np.uint16,
        narrow=narrow_range(pixels, eight_bits(pixels, scale)),
    )


def _check_splits(splits: Sequence[str], findings: Findings) -> None:
    roles = {"query", "gallery"} & set(splits)
    if "train" not in splits:
        findings.problem(
            "missing splits",
            "The manifest has no row of the split train; add rows of train.",
        )
    if "test" not in splits and not roles:
        findings.problem(
            "missing splits",
            "The manifest has no row of the split test; add rows of test, or of query"
            " and gallery.",
        )
    if "test" in splits and roles:
        findings.problem(
            "mixed test splits",
            "The manifest has rows of test and rows of query or gallery; write test"
            " for all, or query and gallery for all.",
        )
    elif len(roles) == 1:
        (given,) = roles
        (missing,) = {"query", "gallery"} - roles
        findings.problem(
            "missing splits",
            f"The manifest has rows of {given} and none of {missing}; add them, or"
            " write test, in which every image is query and gallery in turn.",
        )


def _check_modalities(manifest: Manifest, findings: Findings) -> None:
    names = manifest.modalities
    if len(names) < 2:
        findings.problem(
            "too few modalities",
            f"All images are of the modality {' '.join(names) or '(none)'}, but two or"
            " more are expected; write the name of each image's modality in the column"
            " modality.",
        )
        return
    protocols = [f"{a}_to_{b}" for a, b in itertools.permutations(names, 2)]
    if len(set(protocols)) < len(protocols):
        findings.problem(
            "modalities that cannot be told apart",
            f"The modalities {', '.join(names)} give two protocols the same"
            " name, because they contain '_to_'; give them other names.",
        )
    if not any(map(modality_names.has_color, names)):
        findings.warning(
            "no modality with color",
            f"None of the modalities {', '.join(names)} is called"
            f" {', '.join(modality_names.COLOR)}; augmentation treats all images as"
            " gray.",
        )
    train, test = (
        {row.modality for row in manifest.rows if row.split in _PARTS[part]}
        for part in ("train", "test")
    )
    for name in sorted(train ^ test) if train and test else ():
        have, lack = ("train", "test") if name in train else ("test", "train")
        findings.problem(
            "modalities of one split",
            f"The modality {name} has images in {have} and none in {lack}; add some or"
            " remove those rows.",
        )


def _check_identities(manifest: Manifest, findings: Findings) -> None:
    seen: dict[str, dict[str, set[str]]] = {}
    for part, splits in _PARTS.items():
        seen[part] = collections.defaultdict(set)
        for row in manifest.rows:
            if row.split in splits:
                seen[part][row.identity].add(row.modality)
    for first, second in itertools.combinations(_PARTS, 2):
        for identity in sorted(seen[first].keys() & seen[second].keys()):
            findings.problem(
                "identities in two splits",
                f"The identity {identity} is in {first} and in {second}; move all its"
                " rows to one of them.",
            )
    num_modalities = len(manifest.modalities)
    for part, of_identity in seen.items():
        single = sorted(i for i, found in of_identity.items() if len(found) == 1)
        lacking = sorted(
            i for i, found in of_identity.items() if 1 < len(found) < num_modalities
        )
        where = f"of {len(of_identity)} identities in {part} have images"
        if single:
            what = (
                "balanced batches leave them out"
                if part == "train"
                else "no search across the modalities can find them"
            )
            findings.warning(
                "identities of one modality",
                f"{len(single)} {where} of one modality only ({some(single)}): {what}.",
            )
        if lacking and part == "train":
            findings.warning(
                "identities that lack a modality",
                f"{len(lacking)} {where} of several modalities, but not of all"
                f" {num_modalities} ({some(lacking)}): balanced batches leave them"
                " out.",
            )


def _check_matches(manifest: Manifest, part: str, findings: Findings) -> None:
    """Reports the ordered pairs of modalities in which no query has a match."""
    queries: dict[str, set[tuple[str, str]]] = {}
    galleries: dict[str, dict[str, set[str]]] = {}
    for row in manifest.rows:
        if row.split not in _PARTS[part]:
            continue
        if row.split != "gallery":
            queries.setdefault(row.modality, set()).add((row.identity, row.camera))
        if row.split != "query":
            of_identity = galleries.setdefault(row.modality, {})
            of_identity.setdefault(row.identity, set()).add(row.camera)
    if not queries or not galleries:
        return

    def has_match(query: str, gallery: str) -> bool:
        there = galleries.get(gallery, {})
        return any(
            there.get(identity, set()) - {camera}
            for identity, camera in queries.get(query, ())
        )

    pairs = list(itertools.permutations(manifest.modalities, 2))
    without = [f"{a} → {b}" for a, b in pairs if not has_match(a, b)]
    if len(without) == len(pairs):
        findings.problem(
            "splits without a match",
            f"No query of {part} has a match: no identity in it was seen in two"
            " modalities by different cameras; add such images.",
        )
    elif without:
        findings.warning(
            "searches without a match",
            f"In {part} no query has a match in the searches {', '.join(without)};"
            " they are left out of the evaluation.",
        )
