"""Miniature trees of the real data sets, whole or broken, for the tests.

Each `write_…` makes the folder `root` in the layout of a data set, with tiny images of
random colors, and returns it. Identity numbers have gaps and labels are not in their
order, so that mistaking one for the other shows.
"""

import math
import os
import random
import re
from pathlib import Path

import cv2
import numpy as np
import scipy.io

from mbn_jax.data.sources import source_of

VISIBLE_CAMERAS = (1, 2, 4, 5)  # of SYSU-MM01
INFRARED_CAMERAS = (3, 6)
# The official file names them nowhere; they reproduce the published counts.
SYSU_MM01_VAL = tuple(i for i in range(334, 434) if i != 347)


def encode(name, *, suffix=".jpg", gray=False, size=(16, 8)):
    """A small image file whose pixels depend on its name alone."""
    generator = np.random.default_rng(list(name.encode()))
    shape = size if gray else (*size, 3)
    pixels = generator.integers(0, 256, shape, np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def add_image(root, name, *, gray=False):
    """Writes an image where its name says, relative to the root."""
    path = Path(root) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(name, suffix=path.suffix, gray=gray))
    return path


def sysu_mm01_identities(*, train=4, val=2, test=3):
    """The identity numbers of each split: 6, 10, 14, … test, then train, then val."""
    numbers = [6 + 4 * k for k in range(test + train + val)]
    return {
        "train": numbers[test : test + train],
        "val": numbers[test + train :],
        "test": numbers[:test],
    }


def write_sysu_mm01(root, *, train=4, val=2, test=3, images=3):
    """SYSU-MM01 with so many identities and images of each in each of its cameras.

    Train and test identities are seen by all six cameras, val ones by 3, 4 and 5 only,
    as in the real set. Every other infrared file has one channel.
    """
    root = Path(root)
    identities = sysu_mm01_identities(train=train, val=val, test=test)
    for camera in range(1, 7):
        (root / f"cam{camera}").mkdir(parents=True)
    for split, numbers in identities.items():
        for camera in (3, 4, 5) if split == "val" else range(1, 7):
            for identity in numbers:
                for image in range(1, images + 1):
                    add_image(
                        root,
                        f"cam{camera}/{identity:04d}/{image:04d}.jpg",
                        gray=camera in INFRARED_CAMERAS and image % 2 == 1,
                    )
    write_sysu_mm01_lists(root, identities)
    return root


def write_sysu_mm01_lists(root, identities):
    """The lists of identities in exp/, as text."""
    exp = Path(root) / "exp"
    exp.mkdir(parents=True)
    identities = {
        **identities,
        "available": sorted(i for v in identities.values() for i in v),
    }
    for split, numbers in identities.items():
        line = ",".join(map(str, numbers))
        (exp / f"{split}_id.txt").write_text(line + "\n")


def write_rand_perm_cam(root, *, seed=0):
    """The file of galleries, exp/rand_perm_cam.mat, for the images that are there."""
    root = Path(root)
    largest = max(int(path.name) for path in root.glob("cam*/*"))
    generator = np.random.default_rng(seed)
    cameras = np.empty((6, 1), object)
    for camera in range(6):
        cameras[camera, 0] = np.empty((largest, 1), object)
        for i in range(largest):
            count = len(list((root / f"cam{camera + 1}/{i + 1:04d}").glob("*.jpg")))
            rows = [generator.permutation(count) + 1 for _ in range(10)]
            cameras[camera, 0][i, 0] = np.array(rows, np.uint8).reshape(10, count)
    path = root / "exp/rand_perm_cam.mat"
    scipy.io.savemat(path, {"rand_perm_cam": cameras})
    return path


def write_true_sysu_mm01(root, official, pictures=()):
    """SYSU-MM01 in its true shape: every folder and every file.

    These are 44,745 images of the 491 identities in the lists, and 1,118 of 22 others.

    Args:
        root: made by this function.
        official: folder of train_id.mat, test_id.mat and rand_perm_cam.mat.
        pictures: encoded JPEG files, linked again and again; one tiny one if none.
    """
    root, official = Path(root), Path(official)
    identities = {
        split: [int(i) for i in scipy.io.loadmat(official / f"{split}_id.mat")["id"][0]]
        for split in ("train", "test")
    }
    identities["val"] = list(SYSU_MM01_VAL)
    write_sysu_mm01_lists(root, identities)
    originals = []
    for i, content in enumerate(pictures or [encode("one")]):
        originals.append(root / f"picture{i}")
        originals[-1].write_bytes(content)

    # An entry is (10, number of images), and the identities of a camera end with the
    # last that it saw.
    galleries = scipy.io.loadmat(official / "rand_perm_cam.mat")["rand_perm_cam"]
    counts = {
        (camera, i + 1): entry.shape[1]
        for camera in range(1, 7)
        for i, entry in enumerate(galleries[camera - 1, 0][:, 0])
    }
    written = 0
    for (camera, identity), count in counts.items():
        folder = root / f"cam{camera}/{identity:04d}"
        if count:
            folder.mkdir(parents=True)
        for image in range(1, count + 1):
            os.link(originals[written % len(originals)], folder / f"{image:04d}.jpg")
            written += 1
    for original in originals:
        original.unlink()
    return root


def regdb_identities(*, identities=8):
    """The folder numbers: 2, 5, 8 and so on."""
    return [2 + 3 * k for k in range(identities)]


def write_regdb(root, *, identities=8, images=4):
    """RegDB: half of the identities train in each of ten splits, all different.

    With fewer than six identities there are not ten halves, and some come again.
    """
    root = Path(root)
    numbers = regdb_identities(identities=identities)
    names = {}
    for modality in ("Visible", "Thermal"):
        for k, identity in enumerate(numbers):
            names[modality, identity] = [
                f"{modality}/{identity}/{('male', 'female')[k % 2]}"
                f"_{('front', 'back')[image % 2]}_{modality[0].lower()}"
                f"_{100 * k + image:05d}_{identity}.bmp"
                for image in range(images)
            ]
            for name in names[modality, identity]:
                add_image(root, name)
    (root / "idx").mkdir()
    drawn = set()
    generator = random.Random(0)
    for split in range(1, 11):
        while True:
            order = generator.sample(numbers, identities)
            half = frozenset(order[: identities // 2])
            if half not in drawn or len(drawn) == math.comb(identities, len(half)):
                break
        drawn.add(half)
        parts = {"train": order[: identities // 2], "test": order[identities // 2 :]}
        for part, members in parts.items():
            for modality in ("Visible", "Thermal"):
                lines = [
                    f"{name} {label}\n"
                    for label, identity in enumerate(members)
                    for name in names[modality, identity]
                ]
                index = root / f"idx/{part}_{modality.lower()}_{split}.txt"
                index.write_text("".join(lines))
    return root


def llcm_identities(*, train=4, test=3):
    """The identity numbers of each split: 3, 5, 7, … test, then train."""
    numbers = [3 + 2 * k for k in range(test + train)]
    return {"train": numbers[test:], "test": numbers[:test]}


def write_llcm(root, *, train=4, test=3, images=2):
    """LLCM: everyone in every camera and both modalities; test_nir/cam3 is empty."""
    root = Path(root)
    identities = llcm_identities(train=train, test=test)
    (root / "idx").mkdir(parents=True)
    folders = {"vis": "train", "nir": "train", "test_vis": "test", "test_nir": "test"}
    for folder, split in folders.items():
        lines = []
        for camera in range(1, 10):
            (root / f"{folder}/cam{camera}").mkdir(parents=True)
            if (folder, camera) == ("test_nir", 3):
                continue
            # From the last to the first, so that a label is not a rank.
            for label, identity in enumerate(reversed(identities[split])):
                for image in range(1, images + 1):
                    name = (
                        f"{folder}/cam{camera}/{identity:04d}/{identity:04d}"
                        f"_c{camera:02d}_f{image:04d}_{folder[-3:]}.jpg"
                    )
                    add_image(root, name, gray=folder[-3:] == "nir" and image % 2 == 1)
                    lines.append(f"{name} {label}\n")
        index = folder if split == "test" else f"train_{folder}"
        (root / f"idx/{index}.txt").write_text("".join(lines))
    (root / "idx/test_id.txt").write_text(",".join(map(str, identities["test"])) + "\n")
    return root


def scan(dataset, root):
    """What the source of a data set finds in a folder."""
    source = source_of(dataset)
    names = [dataset] if source.knows(dataset) else source.datasets
    return source.scan({"manual_dir": [Path(root)]}, names)


def sentences(findings, kind=None):
    """The sentences of findings, of one kind or of all, a line each."""
    return "\n".join(f.sentence for f in findings if kind in (None, f.kind))


def rows_of(found, dataset, split):
    """The rows of a split in what `scan` has found."""
    return found.manifests[dataset].of(split)


def assert_rows_follow_paths(rows, pattern, modality_of):
    """The labels of rows are what a pattern of their paths says."""
    for row in rows:
        said = re.fullmatch(pattern, row.path).groupdict()
        assert row.identity == str(int(said["identity"]))
        assert row.modality == modality_of(said)
        if "camera" in said:
            assert row.camera == said["camera"]


def truncate(path):
    """Keeps the first half of a file, as an interrupted copy does."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def edit(path, old, new):
    """Replaces the first occurrence of some text in a file; it must be there."""
    content = path.read_text()
    assert old in content, f"{path} holds no {old!r}"
    path.write_text(content.replace(old, new, 1))


def remove_matching(root, pattern):
    """Deletes the files that match a pattern, at least one; returns their names."""
    paths = sorted(path for path in Path(root).glob(pattern) if path.is_file())
    assert paths, f"{root} holds no {pattern}"
    for path in paths:
        path.unlink()
    return [path.relative_to(root).as_posix() for path in paths]
