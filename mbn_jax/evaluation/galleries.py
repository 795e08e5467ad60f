"""Which images make up a gallery where a protocol does not take all of them.

Published metrics depend on it: one image of each identity in each camera is drawn, ten
times, and every code base draws its own. The draw that most papers use is here; a data
set with galleries of its own draws them in its file in `mbn_jax.data.sources`.
"""

import dataclasses
import random
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from mbn_jax.evaluation.records import Records

NUM_TRIALS = 10


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
            group.tolist() for _, group in by_identity_and_camera(records, indices)
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


def by_identity_and_camera(
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
