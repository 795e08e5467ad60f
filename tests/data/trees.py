"""Miniature trees of the real data sets, and ways to change them, for the tests.

Each `write_…` makes the folder `root` in the layout of a data set, with tiny images of
random colors, and returns it. Identity numbers have gaps and labels are not in their
order, so that mistaking one for the other shows.
"""

import os
import random
import re
import shutil
from itertools import combinations, cycle, product
from pathlib import Path

import cv2
import numpy as np
import scipy.io

from mbn_jax.data.sources import source_of

# The official file names them nowhere; they reproduce the published counts.
SYSU_MM01_VAL = tuple(i for i in range(334, 434) if i != 347)


def encode(name, *, suffix=".jpg", gray=False, size=(16, 8)):
    """A small image file whose pixels depend on its name alone."""
    generator = np.random.default_rng(list(name.encode()))
    shape = size if gray else (*size, 3)
    pixels = generator.integers(0, 256, shape, np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def write(root, name, content):
    """Writes a file of some text or bytes where its name says, relative to the root."""
    path = Path(root) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def add_image(root, name, *, gray=False):
    """Writes an image where its name says, relative to the root."""
    return write(root, name, encode(name, suffix=Path(name).suffix, gray=gray))


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
    for split, numbers in identities.items():
        cameras = (3, 4, 5) if split == "val" else range(1, 7)
        for camera, identity, image in product(cameras, numbers, range(1, images + 1)):
            gray = camera in (3, 6) and image % 2 == 1
            add_image(root, f"cam{camera}/{identity:04d}/{image:04d}.jpg", gray=gray)
    write_sysu_mm01_lists(root, identities)
    return root


def write_sysu_mm01_lists(root, identities):
    """The lists of identities in exp/, as text."""
    available = sorted(i for numbers in identities.values() for i in numbers)
    for split, numbers in {**identities, "available": available}.items():
        write(root, f"exp/{split}_id.txt", ",".join(map(str, numbers)) + "\n")


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


def write_true_sysu_mm01(root, official):
    """SYSU-MM01 in its true shape: every folder and every file, all of one tiny image.

    These are 44,745 images of the 491 identities in the lists, and 1,118 of 22 others;
    the folder `official` holds train_id.mat, test_id.mat and rand_perm_cam.mat.
    """
    root, official = Path(root), Path(official)
    identities = {
        split: [int(i) for i in scipy.io.loadmat(official / f"{split}_id.mat")["id"][0]]
        for split in ("train", "test")
    }
    write_sysu_mm01_lists(root, {**identities, "val": SYSU_MM01_VAL})
    image = add_image(root, "image.jpg")
    galleries = scipy.io.loadmat(official / "rand_perm_cam.mat")["rand_perm_cam"]
    # An order is (10, number of images), and the identities of a camera end with the
    # last that it saw.
    for camera, orders in enumerate(galleries[:, 0], start=1):
        for identity, order in enumerate(orders[:, 0], start=1):
            folder = root / f"cam{camera}/{identity:04d}"
            if order.shape[1]:
                folder.mkdir(parents=True)
            for number in range(1, order.shape[1] + 1):
                os.link(image, folder / f"{number:04d}.jpg")
    image.unlink()
    return root


def write_regdb(root, *, identities=8, images=4):
    """RegDB of the identities 2, 5, 8, …: half of them train in each of ten splits.

    With fewer than six identities there are not ten halves, and some come again.
    """
    root = Path(root)
    numbers = [2 + 3 * k for k in range(identities)]
    names = {}
    for modality, (k, identity) in product(("Visible", "Thermal"), enumerate(numbers)):
        names[modality, identity] = [
            f"{modality}/{identity}/male_{('front', 'back')[image % 2]}"
            f"_{modality[0].lower()}_{100 * k + image:05d}_{identity}.bmp"
            for image in range(images)
        ]
        for name in names[modality, identity]:
            add_image(root, name)
    # Not in the order of their numbers, and other ones in every split.
    halves = combinations(random.Random(0).sample(numbers, identities), identities // 2)
    for split, half in zip(range(1, 11), cycle(halves), strict=False):
        rest = [identity for identity in numbers[::-1] if identity not in half]
        for part, modality in product(("train", "test"), ("Visible", "Thermal")):
            lines = [
                f"{name} {label}\n"
                for label, identity in enumerate(half if part == "train" else rest)
                for name in names[modality, identity]
            ]
            write(root, f"idx/{part}_{modality.lower()}_{split}.txt", "".join(lines))
    return root


def llcm_identities(*, train=4, test=3):
    """The identity numbers of each split: 3, 5, 7, … test, then train."""
    numbers = [3 + 2 * k for k in range(test + train)]
    return {"train": numbers[test:], "test": numbers[:test]}


def write_llcm(root, *, train=4, test=3, images=2):
    """LLCM: everyone in every camera and both modalities; test_nir/cam3 is empty."""
    root = Path(root)
    identities = llcm_identities(train=train, test=test)
    folders = {"vis": "train", "nir": "train", "test_vis": "test", "test_nir": "test"}
    for folder, split in folders.items():
        lines = []
        # From the last to the first, so that a label is not a rank.
        people = list(enumerate(reversed(identities[split])))
        for camera, (label, identity) in product(range(1, 10), people):
            for image in range(1, images + 1):
                if (folder, camera) == ("test_nir", 3):
                    continue
                name = (
                    f"{folder}/cam{camera}/{identity:04d}/{identity:04d}"
                    f"_c{camera:02d}_f{image:04d}_{folder[-3:]}.jpg"
                )
                add_image(root, name, gray=folder[-3:] == "nir" and image % 2 == 1)
                lines.append(f"{name} {label}\n")
        index = folder if split == "test" else f"train_{folder}"
        write(root, f"idx/{index}.txt", "".join(lines))
    (root / "test_nir/cam3").mkdir()
    write(root, "idx/test_id.txt", ",".join(map(str, identities["test"])) + "\n")
    return root


def scan(dataset, root):
    """What the source of a data set, or of all of a name, finds in its folder."""
    source = source_of(dataset)
    names = [dataset] if source.knows(dataset) else source.datasets
    return source.scan({"manual_dir": [Path(root)]}, names)


def sentences(findings, kind=None):
    """The sentences of findings, of one kind or of all, a line each."""
    return "\n".join(f.sentence for f in findings if kind in (None, f.kind))


def truncate(path):
    """Keeps the first half of a file, as an interrupted copy does."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def edit(path, pattern, new):
    """Replaces the first match of a pattern in a file; there must be one."""
    content, found = re.subn(pattern, new, path.read_text(), count=1)
    assert found, f"{path} holds no {pattern!r}"
    path.write_text(content)


def remove_matching(root, pattern):
    """Deletes what matches a pattern, one thing at least; returns the names."""
    paths = sorted(Path(root).glob(pattern))
    assert paths, f"{root} holds no {pattern}"
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return [path.relative_to(root).as_posix() for path in paths]
