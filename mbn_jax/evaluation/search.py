"""At which rank of its gallery a query finds each of its matches.

* Nothing is sorted. The rank of a match is one more than the number of gallery images
  before it, and these are counted, match by match: comparing a row with one number is
  about as fast as reading it. Sorting costs many times as much, as matches are few.
* A tie is broken by gallery order: an image is before another if its distance is
  smaller, or equal and its index is.
* What the protocol removes for a query is put at infinity, behind everything.
* Ranks are integers, and exact.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mbn_jax.errors import InputError
from mbn_jax.evaluation.protocols import Protocol


class Search:
    """Queries, a gallery, and who matches whom.

    Attributes:
        shape: (number of queries, number of gallery images).
        num_candidates: gallery images of each query's identity, (Q,) int64.
    """

    def __init__(
        self,
        query_ids: np.ndarray,
        gallery_ids: np.ndarray,
        query_cameras: np.ndarray,
        gallery_cameras: np.ndarray,
        *,
        protocol: Protocol,
    ) -> None:
        """Turns labels of any kind into small integers.

        Args:
            query_ids: (Q,) identities.
            gallery_ids: (G,) identities.
            query_cameras: (Q,) cameras.
            gallery_cameras: (G,) cameras.
            protocol: its rules of removal and its ``cmc``.

        Raises:
            InputError: there is not one identity and one camera for every image.
        """
        _check_labels("query", query_ids, query_cameras)
        _check_labels("gallery", gallery_ids, gallery_cameras)
        self.shape = (len(query_ids), len(gallery_ids))
        self._protocol = protocol
        self._query_identity, self._gallery_identity = _codes(query_ids, gallery_ids)
        self._query_camera, camera = _codes(query_cameras, gallery_cameras)
        num_cameras = 1 + max(self._query_camera.max(initial=0), camera.max(initial=0))
        # A view is an identity in a camera.
        self._query_view = self._query_identity * num_cameras + self._query_camera
        self._gallery_view = self._gallery_identity * num_cameras + camera
        self._removed = np.zeros((num_cameras, len(gallery_ids)), bool)
        for from_camera, hidden in protocol.removed_cameras:
            rows = np.unique(self._query_camera[query_cameras == from_camera])
            self._removed[rows[:, None], gallery_cameras == hidden] = True

        # The gallery images of an identity lie side by side in `_by_identity`.
        self._by_identity = np.argsort(self._gallery_identity, kind="stable")
        ordered = self._gallery_identity[self._by_identity]
        self._start = np.searchsorted(ordered, self._query_identity, "left")
        end = np.searchsorted(ordered, self._query_identity, "right")
        self.num_candidates = end - self._start

    def ranks(
        self, distances: jax.Array, rows: np.ndarray
    ) -> tuple[bool, np.ndarray, np.ndarray]:
        """Ranks of all the matches of some queries.

        Args:
            distances: (q, G) float32, to all the gallery images.
            rows: indices of the q queries.

        Returns:
            Whether all the distances are finite; the rank from 1 of every match, (q, R)
            int32, 0 for none; and the rank of the first match as the protocol's CMC
            counts it, (q,) int32, 0 for none.
        """
        matches = self._matches(rows)
        return jax.device_get(
            _rank(
                distances,
                matches,
                np.count_nonzero(matches >= 0, axis=1).max(initial=0),
                self._query_view[rows],
                self._gallery_view,
                self._removed,
                self._query_camera[rows],
                self._gallery_identity,
                remove_same_view=self._protocol.remove_same_camera,
                by_identity=self._protocol.cmc == "identities",
                num_identities=1 + int(self._gallery_identity.max()),
            )
        )

    def _matches(self, rows: np.ndarray) -> np.ndarray:
        """(q, R) int32 gallery images that queries are to find, then -1."""
        # A power of two, so that different galleries share a compiled program.
        most = 1 << (int(self.num_candidates[rows].max(initial=1)) - 1).bit_length()
        place = np.arange(most)[None, :]
        exists = place < self.num_candidates[rows, None]
        position = np.where(exists, self._start[rows, None] + place, 0)
        image = self._by_identity[position]
        exists &= ~self._removed[self._query_camera[rows, None], image]
        if self._protocol.remove_same_camera:
            exists &= self._gallery_view[image] != self._query_view[rows, None]
        front = np.argsort(~exists, axis=1, kind="stable")
        found = np.where(exists, image, -1).astype(np.int32)
        return np.take_along_axis(found, front, axis=1)


@functools.partial(
    jax.jit, static_argnames=("remove_same_view", "by_identity", "num_identities")
)
def _rank(
    distances: jax.Array,
    matches: jax.Array,
    most_matches: jax.Array,
    query_view: jax.Array,
    gallery_view: jax.Array,
    removed: jax.Array,
    query_camera: jax.Array,
    gallery_identity: jax.Array,
    *,
    remove_same_view: bool,
    by_identity: bool,
    num_identities: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The results of `Search.ranks`; no query has more than ``most_matches``."""
    finite = jnp.isfinite(distances).all()
    hidden = removed[query_camera]
    if remove_same_view:
        hidden |= query_view[:, None] == gallery_view[None, :]
    distances = jnp.where(hidden, jnp.inf, distances)
    index = jnp.arange(distances.shape[1], dtype=jnp.int32)[None, :]

    def before(image: jax.Array) -> jax.Array:
        """(q, G) bool: what comes before one image of each query's gallery, (q,)."""
        image = image[:, None]
        distance = jnp.take_along_axis(distances, image, axis=1)
        return (distances < distance) | ((distances == distance) & (index < image))

    def count(column: jax.Array, ranks: jax.Array) -> jax.Array:
        image = matches[:, column]
        rank = 1 + before(image).sum(axis=1, dtype=jnp.int32)
        return ranks.at[:, column].set(jnp.where(image < 0, 0, rank))

    # One after the other: side by side, XLA for the CPU writes out all the comparisons.
    ranks = jax.lax.fori_loop(0, most_matches, count, jnp.zeros_like(matches))
    is_match = ranks > 0
    first = jnp.argmin(jnp.where(is_match, ranks, jnp.iinfo(jnp.int32).max), axis=1)
    rank = jnp.take_along_axis(ranks, first[:, None], axis=1)[:, 0]
    if by_identity:
        image = jnp.take_along_axis(matches, first[:, None], axis=1)[:, 0]
        seen = jax.ops.segment_max(
            before(image).T.astype(jnp.int8), gallery_identity, num_identities
        )
        rank = 1 + (seen > 0).sum(axis=0, dtype=jnp.int32)
    return finite, ranks, jnp.where(is_match.any(axis=1), rank, 0)


def _check_labels(side: str, ids: np.ndarray, cameras: np.ndarray) -> None:
    """Raises `InputError` unless there is one identity and one camera per image."""
    if ids.ndim != 1 or ids.shape != cameras.shape:
        raise InputError(
            f"The {side} identities have shape {ids.shape} and its cameras shape "
            f"{cameras.shape}: give one of each for every {side} image."
        )


def _codes(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as int32 codes: names, or numbers beyond int32, would not fit a device."""
    codes = np.unique(np.concatenate([query, gallery]), return_inverse=True)[1]
    codes = codes.astype(np.int32)
    return codes[: len(query)], codes[len(query) :]
