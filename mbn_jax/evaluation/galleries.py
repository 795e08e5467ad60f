"""Which images make up a gallery where a protocol does not take all of them.

Published figures depend on it: one image of each identity in each camera is drawn, ten
times over, and every code base draws its own. Two draws are in use, and both are here.
"""

import dataclasses
import random
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Protocol

import numpy as np

from mbn_jax.data.sysu_mm01.permutations import (
    NUM_TRIALS,
    Permutations,
    read_permutations,
)
from mbn_jax.errors import InputError
from mbn_jax.evaluation.records import Records

__all__ = [
    "NUM_TRIALS",
    "Draw",
    "OfficialDraw",
    "Permutations",
    "SeededDraw",
    "read_permutations",
]


class Draw(Protocol):
    """Draws a gallery for every trial out of the images that may be in it."""

    def __call__(self, records: Records, indices: np.ndarray) -> list[np.ndarray]:
        """Returns the drawn indices, one array for each trial."""


@dataclasses.dataclass(frozen=True)
class SeededDraw:
    """The galleries of AGW, used by most published figures.

    For each trial Python's ``random`` is seeded with its number, 0 to 9; identities in
    ascending order, cameras in ascending order within an identity, and the images are
    drawn from the sorted file names. ``random.sample`` of one image takes the same one
    as AGW's ``random.choice``; several are drawn as CM-NAS does. The sequence goes on
    from identity to identity, so one missing image changes most of the gallery.

    Attributes:
        shots: images of an identity in a camera; all of them where there are fewer.
    """

    shots: int

    def __call__(self, records: Records, indices: np.ndarray) -> list[np.ndarray]:
        """Returns the drawn indices, one array for each trial."""
        groups = [
            group.tolist() for _, group in _by_identity_and_camera(records, indices)
        ]
        galleries = []
        for seed in range(NUM_TRIALS):
            generator = random.Random(seed)
            drawn = [
                index
                for group in groups
                for index in generator.sample(group, min(self.shots, len(group)))
            ]
            galleries.append(np.array(drawn, np.int64))
        return galleries


@dataclasses.dataclass(frozen=True, eq=False)
class OfficialDraw:
    """The galleries of the authors of SYSU-MM01, from their ``rand_perm_cam.mat``.

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
        for (identity, camera), group in _by_identity_and_camera(records, indices):
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


def _by_identity_and_camera(
    records: Records, indices: np.ndarray
) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Groups by ascending identity, then camera; in each, sorted by name."""
    keys = (records.name[indices], records.camera[indices], records.identity[indices])
    indices = indices[np.lexsort(keys)]
    pairs = np.stack([records.identity[indices], records.camera[indices]], axis=1)
    starts = np.flatnonzero(np.any(pairs[1:] != pairs[:-1], axis=1)) + 1
    for group in np.split(indices, starts):
        if group.size:
            first = group[0]
            yield (int(records.identity[first]), int(records.camera[first])), group


def _image_number(name: str) -> int:
    """17 of cam1/0006/0017.jpg."""
    stem = PurePosixPath(name).stem
    if not stem.isdecimal():
        raise InputError(
            f"The image name {str(name)!r} does not end in a number, as in "
            "cam1/0006/0017.jpg, by which the official galleries name their images; "
            "give the names of the files on disk."
        )
    return int(stem)
