"""Protocols: which images are queries, and which galleries they search.

Published metrics depend on how galleries are drawn: one image of each identity in each
camera, ten times, and every code base draws its own. This file has the draw that most
papers use, and the protocols of data that have none of their own. The protocols of
published data sets stand with all other facts about them in `mbn_jax.data.sources`;
docs/protocols.md explains them.
"""

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from mbn_jax import modalities as names
from mbn_jax.errors import InputError
from mbn_jax.evaluation.records import GALLERY_ONLY, QUERY_ONLY, Records

# Draws a gallery for each trial from the indices of the images that may be in one.
Draw = Callable[[Records, np.ndarray], list[np.ndarray]]
NUM_TRIALS = 10


class Trial(NamedTuple):
    """One gallery and the queries against it, as indices into the records.

    Attributes:
        query: (Q,) int64.
        gallery: (G,) int64; equal distances are ranked in this order.
    """

    query: np.ndarray
    gallery: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way to ask the question "can this person be found again?".

    Attributes:
        name: key in `results.json`.
        title: the same for a person to read.
        description: the rules in a few clauses; printed with all metrics.
        query_modality: index of the modality of the query images.
        gallery_modality: index of the modality of the gallery images.
        gallery_cameras: the only cameras that the gallery is taken from; None for all.
        draw: draws the gallery of every trial; None for one trial with all images.
        queries_are_drawn: whether `draw` draws the queries instead, and the gallery is
            all images of its modality.
        remove_same_camera: whether the gallery images that share both the identity and
            the camera of a query are removed for that query, because finding the next
            frame of the same camera is tracking, not re-identification.
        removed_cameras: pairs (query camera, gallery camera): for a query of the first
            every gallery image of the second is removed, of whatever identity.
        cmc: "images" counts ranks in gallery images; "identities" in the gallery
            identities in the order of their first images. Rank 1 is the same.
        published_queries: their number in the complete data set, if it is known.
        published_gallery: the number of gallery images in it, if it is known.
    """

    name: str
    title: str
    description: str
    query_modality: int
    gallery_modality: int
    gallery_cameras: tuple[int, ...] | None = None
    draw: Draw | None = None
    queries_are_drawn: bool = False
    remove_same_camera: bool = False
    removed_cameras: tuple[tuple[int, int], ...] = ()
    cmc: Literal["images", "identities"] = "images"
    published_queries: int | None = None
    published_gallery: int | None = None

    def trials(self, records: Records) -> list[Trial]:
        """The queries and the galleries among the records of a test set.

        An image whose role is query only is in no gallery, and the other way round.

        Raises:
            InputError: an official gallery asks for an image that is not there.
        """
        role = np.zeros(len(records)) if records.role is None else records.role
        query = np.flatnonzero(
            (records.modality == self.query_modality) & (role != GALLERY_ONLY)
        )
        in_gallery = (records.modality == self.gallery_modality) & (role != QUERY_ONLY)
        if self.gallery_cameras is not None:
            in_gallery &= np.isin(records.camera, self.gallery_cameras)
        gallery = np.flatnonzero(in_gallery)
        if self.draw is None:
            return [Trial(query, gallery)]
        if self.queries_are_drawn:
            return [Trial(drawn, gallery) for drawn in self.draw(records, query)]
        return [Trial(query, drawn) for drawn in self.draw(records, gallery)]

    def has_match(self, records: Records) -> bool:
        """Returns whether any query of any trial has a match.

        Raises:
            InputError: as `trials` does.
        """
        return any(self.matched(records, t).any() for t in self.trials(records))

    def matched(self, records: Records, trial: Trial) -> np.ndarray:
        """Returns which queries of a trial have a match in its gallery, (Q,) bool."""
        ids, cameras = records.identity[trial.gallery], records.camera[trial.gallery]
        pairs = [
            (records.identity[index], records.camera[index]) for index in trial.query
        ]
        found = {
            (identity, camera): np.any(
                (ids == identity) & ~self.removed(identity, camera, ids, cameras)
            )
            for identity, camera in set(pairs)
        }
        return np.array([found[pair] for pair in pairs], bool)

    def removed(
        self,
        query_ids: Any,
        query_cameras: Any,
        gallery_ids: np.ndarray,
        gallery_cameras: np.ndarray,
    ) -> np.ndarray:
        """Returns which gallery images are removed for a query.

        Args:
            query_ids: the identity of one query, or those of several, (Q, 1).
            query_cameras: cameras, likewise.
            gallery_ids: (G,).
            gallery_cameras: (G,).

        Returns:
            (G,) bool, or (Q, G).
        """
        removed = np.zeros(np.broadcast(query_ids, gallery_ids).shape, bool)
        if self.remove_same_camera:
            removed |= (gallery_ids == query_ids) & (gallery_cameras == query_cameras)
        for of, to in self.removed_cameras:
            removed |= (query_cameras == of) & (gallery_cameras == to)
        return removed


def check_protocol(protocol: object) -> None:
    """Raises `InputError` unless it is a `Protocol`."""
    if not isinstance(protocol, Protocol):
        raise InputError(
            f"The protocol is {protocol!r}, but a Protocol is expected, for example "
            "mbn_jax.evaluation.every_pair()[0]."
        )


@dataclasses.dataclass(frozen=True)
class SeededDraw:
    """The galleries of AGW, which most published metrics use.

    For each trial Python's `random` is seeded with its number, 0 to 9. Identities are
    in ascending order, and cameras within them; images are drawn from the sorted file
    names. `random.sample` of one image takes the same one as AGW's `random.choice`;
    several are drawn as CM-NAS does. The random sequence goes on from identity to
    identity, so one missing image changes most of the gallery.

    Attributes:
        shots: number of images of an identity in a camera; where there are fewer, all
            of them are taken.
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
    """Yields groups by ascending identity, then camera, each sorted by name."""
    keys = (records.name[indices], records.camera[indices], records.identity[indices])
    indices = indices[np.lexsort(keys)]
    pairs = np.stack([records.identity[indices], records.camera[indices]], axis=1)
    starts = np.flatnonzero(np.any(pairs[1:] != pairs[:-1], axis=1)) + 1
    for group in np.split(indices, starts):
        if group.size:
            first = group[0]
            yield (int(records.identity[first]), int(records.camera[first])), group


def every_pair(modalities: Sequence[str] = names.DEFAULT) -> tuple[Protocol, ...]:
    """Every image of one modality against every image of another, for all pairs.

    Args:
        modalities: the names of the modalities, by index.

    Returns:
        M * (M - 1) protocols, named for example "infrared_to_visible": the queries from
        the last modality to the first, and for each of them the galleries from the
        first to the last.
    """
    return tuple(
        _pair(query, gallery, modalities)
        for query in reversed(range(len(modalities)))
        for gallery in range(len(modalities))
        if gallery != query
    )


def _pair(query: int, gallery: int, modalities: Sequence[str]) -> Protocol:
    of, to = modalities[query], modalities[gallery]
    return Protocol(
        name=f"{of}_to_{to}",
        title=f"{of} → {to}",
        description=(
            f"Every {of} image of the split is a query against every {to} image of it, "
            "except for images that are marked as query or gallery only (one gallery, "
            "no sampling); gallery images with both the identity and the "
            "camera of a query are removed for that query, queries left without a "
            "match are not scored, and the CMC counts images, not identities."
        ),
        query_modality=query,
        gallery_modality=gallery,
        remove_same_camera=True,
    )
