"""At which rank of its gallery a query finds each of its matches.

* Nothing is sorted. The rank of a match is one more than the number of gallery images
  before it, and these are counted, match by match: comparing a row with one number is
  about as fast as reading it. Sorting costs many times as much, as matches are few.
* A tie is broken by gallery order: an image is before another if its distance is
  smaller, or equal and its index is.
* Several matches are counted in one pass, by one reduction of several arrays. XLA for
  the CPU makes a pass, and a slow one, of every sum that stands by itself.
* Identities are counted as bits of 32-bit words, several words in one pass.
* Ranks are integers, and exact.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from numpy.typing import ArrayLike

from mbn_jax.errors import InputError
from mbn_jax.evaluation.protocols import Protocol
from mbn_jax.evaluation.records import are_text, label_array
from mbn_jax.mesh import takes_explicit_axes

# In one pass over the distances: the cameras of SYSU-MM01, its 96 test identities.
_MATCHES = 4
_WORDS = 3
# Of query and gallery: identities, then cameras.
LabelArrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


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
        """Turns labels, as `label_arrays` gives them, into small integers.

        Args:
            query_ids: (Q,) identities.
            gallery_ids: (G,) identities.
            query_cameras: (Q,) cameras.
            gallery_cameras: (G,) cameras.
            protocol: its rules of removal and its ``cmc``.

        Raises:
            InputError: the protocol names cameras by numbers, and they are none.
        """
        if protocol.removed_cameras:
            _check_numbered("query", query_cameras)
            _check_numbered("gallery", gallery_cameras)
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
        num_identities = 1 + max(
            self._query_identity.max(initial=0), self._gallery_identity.max(initial=0)
        )
        images = np.bincount(self._gallery_identity, minlength=num_identities)
        self._start = (np.cumsum(images) - images)[self._query_identity]
        self.num_candidates = images[self._query_identity]

    def ranks(
        self, distances: jax.Array | np.ndarray, rows: np.ndarray | slice
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
                self.num_candidates[rows].max(initial=0),
                self._query_view[rows],
                self._gallery_view,
                self._removed,
                self._query_camera[rows],
                self._gallery_identity,
                1 + self._gallery_identity.max(),
                remove_same_view=self._protocol.remove_same_camera,
                by_identity=self._protocol.cmc == "identities",
            )
        )

    def _matches(self, rows: np.ndarray | slice) -> np.ndarray:
        """(q, R) int32 gallery images that queries are to find, -1 in empty places."""
        # A power of two, so that different galleries share a compiled program.
        most = int(self.num_candidates[rows].max(initial=1))
        place = np.arange(max(_MATCHES, 1 << (most - 1).bit_length()))[None, :]
        exists = place < self.num_candidates[rows, None]
        position = np.where(exists, self._start[rows, None] + place, 0)
        image = self._by_identity[position]
        exists &= ~self._removed[self._query_camera[rows, None], image]
        if self._protocol.remove_same_camera:
            exists &= self._gallery_view[image] != self._query_view[rows, None]
        return np.where(exists, image, -1).astype(np.int32)


@functools.partial(jax.jit, static_argnames=("remove_same_view", "by_identity"))
@takes_explicit_axes(lambda *_, **__: (PartitionSpec(),) * 3)
def _rank(
    distances: jax.Array,
    matches: jax.Array,
    most_matches: jax.Array,
    query_view: jax.Array,
    gallery_view: jax.Array,
    removed: jax.Array,
    query_camera: jax.Array,
    gallery_identity: jax.Array,
    num_identities: jax.Array,
    *,
    remove_same_view: bool,
    by_identity: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The results of `Search.ranks`; matches from column ``most_matches`` on are -1."""
    seen = ~removed[query_camera]
    if remove_same_view:
        seen &= query_view[:, None] != gallery_view[None, :]
    index = jnp.arange(distances.shape[1], dtype=jnp.int32)[None, :]

    def before(image: jax.Array) -> list[jax.Array]:
        """For each column of gallery images (q, n) what comes before it, (q, G)."""
        distance = jnp.take_along_axis(distances, image, axis=1)
        return [
            seen & ((distances < d) | ((distances == d) & (index < i)))
            for d, i in zip(_columns(distance), _columns(image), strict=True)
        ]

    def count(
        block: jax.Array, ranks_and_finite: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        ranks, _ = ranks_and_finite
        start = block * _MATCHES
        image = lax.dynamic_slice_in_dim(matches, start, _MATCHES, axis=1)
        *counts, finite = _reduce_rows(
            [*(b.astype(jnp.int32) for b in before(image)), jnp.isfinite(distances)],
            [*[lax.add] * _MATCHES, lax.bitwise_and],
            [*[0] * _MATCHES, True],
        )
        rank = jnp.where(image < 0, 0, 1 + jnp.stack(counts, axis=1))
        return lax.dynamic_update_slice_in_dim(ranks, rank, start, 1), finite.all()

    ranks, finite = lax.fori_loop(
        0,
        jnp.maximum(1, -(-most_matches // _MATCHES)),
        count,
        (jnp.zeros_like(matches), jnp.array(True)),
    )
    is_match = ranks > 0
    first = jnp.argmin(jnp.where(is_match, ranks, jnp.iinfo(jnp.int32).max), axis=1)
    if by_identity:
        image = jnp.take_along_axis(matches, first[:, None], axis=1)
        (chosen,) = before(image)
        rank = 1 + _num_identities(chosen, gallery_identity, num_identities)
    else:
        rank = jnp.take_along_axis(ranks, first[:, None], axis=1)[:, 0]
    return finite, ranks, jnp.where(is_match.any(axis=1), rank, 0)


def _num_identities(
    chosen: jax.Array, identity: jax.Array, num_identities: jax.Array
) -> jax.Array:
    """How many identities (G,) the chosen images (q, G) of each query show, (q,)."""
    bit = jnp.left_shift(jnp.uint32(1), (identity % 32).astype(jnp.uint32))[None, :]
    word = (identity // 32)[None, :]

    def count(block: jax.Array, total: jax.Array) -> jax.Array:
        words = _reduce_rows(
            [
                jnp.where(chosen & (word == block * _WORDS + i), bit, jnp.uint32(0))
                for i in range(_WORDS)
            ],
            [lax.bitwise_or] * _WORDS,
            [0] * _WORDS,
        )
        return total + sum(lax.population_count(w).astype(jnp.int32) for w in words)

    num_blocks = -(-num_identities // (32 * _WORDS))
    return lax.fori_loop(0, num_blocks, count, jnp.zeros(len(chosen), jnp.int32))


def _reduce_rows(
    operands: Sequence[jax.Array],
    operations: Sequence[Callable[[Any, Any], Any]],
    initial: Sequence[int | bool],
) -> Sequence[jax.Array]:
    """Reduces the rows of several (q, G) arrays in one pass over what they are of."""

    def combine(left: Any, right: Any) -> tuple[Any, ...]:
        return tuple(f(a, b) for f, a, b in zip(operations, left, right, strict=True))

    typed = [jnp.asarray(i, o.dtype) for i, o in zip(initial, operands, strict=True)]
    return lax.reduce(tuple(operands), tuple(typed), combine, (1,))


def _columns(array: jax.Array) -> list[jax.Array]:
    return jnp.split(array, array.shape[1], axis=1)


def label_arrays(
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
) -> LabelArrays:
    """The labels (Q,), (G,), (Q,), (G,) as arrays.

    Raises:
        InputError: there is not one identity and one camera for every image, or
            numbers and texts are mixed.
    """
    query = label_array("query identities", query_ids)
    gallery = label_array("gallery identities", gallery_ids)
    cameras = label_array("query cameras", query_cameras)
    of_gallery = label_array("gallery cameras", gallery_cameras)
    for side, ids, seen in (
        ("query", query, cameras),
        ("gallery", gallery, of_gallery),
    ):
        if ids.ndim != 1 or ids.shape != seen.shape:
            raise InputError(
                f"The {side} identities have shape {ids.shape} and its cameras shape "
                f"{seen.shape}: give one of each for every {side} image."
            )
    for what, left, right in (
        ("identities", query, gallery),
        ("cameras", cameras, of_gallery),
    ):
        if left.size and right.size and are_text(left) != are_text(right):
            raise InputError(
                f"The {what} are texts on one side, of query and gallery, and numbers "
                "on the other: give the same kind of labels for both."
            )
    return query, gallery, cameras, of_gallery


def _check_numbered(side: str, cameras: np.ndarray) -> None:
    """Raises `InputError` unless a rule that names cameras by number can be applied."""
    if cameras.size and not np.issubdtype(cameras.dtype, np.integer):
        raise InputError(
            f"The {side} cameras are {cameras.dtype}, but the protocol names cameras "
            "by their numbers: give integers, 3 for cam3."
        )


def _codes(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as int32 from 0 on without gaps: names do not fit a device."""
    labels = np.concatenate([query, gallery])
    if labels.dtype.kind == "f" and "f" not in query.dtype.kind + gallery.dtype.kind:
        # NumPy makes float64 of int64 and uint64, in which large numbers become equal.
        labels = np.concatenate([query.astype(object), gallery.astype(object)])
    span = None
    if labels.size and np.issubdtype(labels.dtype, np.integer):
        span = int(labels.max()) - int(labels.min())
    if span is not None and span < 8 * labels.size:
        # Numbers that lie close together, the usual case, need no sorting.
        place = (labels - labels.min()).astype(np.int64)
        occurs = np.zeros(span + 1, np.int32)
        occurs[place] = 1
        codes = (np.cumsum(occurs, dtype=np.int32) - 1)[place]
    else:
        codes = np.unique(labels, return_inverse=True)[1].astype(np.int32)
    return codes[: len(query)], codes[len(query) :]
