"""At which ranks queries find their matches, and which gallery images come first.

* Nothing is sorted. The rank of a match is one more than the number of gallery images
  before it, and these are counted match by match: matches are few, and comparing a row
  with a number costs about as much as reading it. docs/benchmarks.md compares sorting.
* Ties keep the order of the gallery: an image is before another if its distance is
  smaller, or if its distance is equal and its index is smaller.
* XLA for CPU makes a slow pass over the distances for every sum that stands by itself,
  so one reduction of several arrays counts for several matches. Identities are counted
  as bits of 32-bit words.
* Queries are taken in chunks. Beyond the arguments the memory is that of one chunk, so
  10,000 x 100,000 fits.
* Ranks are integers, and exact.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from mbn_jax.arguments import integer
from mbn_jax.errors import InputError
from mbn_jax.evaluation.distances import cosine_distances, features_of
from mbn_jax.evaluation.protocols import Protocol, Trial, check_protocol
from mbn_jax.evaluation.records import LabelArrays, Records
from mbn_jax.mesh import takes_explicit_axes

# Distances in a chunk of queries: 16 MiB of float32. Each pass reads all of them, which
# is slower where they do not fit the processor's cache.
_CHUNK = 2**22
# Matches and words in a pass: the visible cameras and the 96 test identities of
# SYSU-MM01.
_MATCHES, _WORDS = 4, 3
# Indices of queries, or a slice where all of them are taken at once.
Rows = np.ndarray | slice
# Printed beside the lists, because a reader must know that nobody picked the good ones.
SELECTION = (
    "The queries are spread evenly over the identities of the split by a fixed rule "
    "that does not look at the result: they were not picked for success."
)


def match_ranks(
    distances_of: Callable[[Rows], jax.Array | np.ndarray],
    labels: LabelArrays,
    protocol: Protocol,
) -> Iterator[tuple[Rows, np.ndarray, np.ndarray]]:
    """Ranks the matches of all queries, one chunk of queries after the other.

    Args:
        distances_of: returns the distances of some queries, (q, G) float32.
        labels: as `label_arrays` returns them.
        protocol: its rules of removal and its CMC are applied.

    Yields:
        The q queries; the rank of each of their matches from 1, (q, R) int32, where 0
        is no match; and the rank that the CMC counts, (q,) int32, or 0.

    Raises:
        InputError: a distance is not finite, or the protocol names cameras by numbers
            and they are not numbers.
    """
    query_ids, gallery_ids = codes(*labels[:2])
    query_cameras, gallery_cameras = labels[2:]
    if protocol.removed_cameras:
        _check_numbered("query", query_cameras)
        _check_numbered("gallery", gallery_cameras)
    else:
        query_cameras, gallery_cameras = codes(query_cameras, gallery_cameras)
    # Here the gallery images of an identity lie side by side.
    by_identity = np.argsort(gallery_ids, kind="stable")
    ordered = gallery_ids[by_identity]
    start = np.searchsorted(ordered, query_ids)
    num_candidates = np.searchsorted(ordered, query_ids, "right") - start
    for rows, padded in _chunks(num_candidates, len(gallery_ids)):
        most = int(num_candidates[padded].max(initial=1))
        # A power of two, so that different galleries share a compiled program.
        place = np.arange(max(_MATCHES, 1 << (most - 1).bit_length()))
        exists = place < num_candidates[padded, None]
        images = by_identity[np.where(exists, start[padded, None] + place, 0)]
        candidates = np.where(exists, images, -1).astype(np.int32)
        seen = ~protocol.removed(
            query_ids[padded, None],
            query_cameras[padded, None],
            gallery_ids,
            gallery_cameras,
        )
        finite, ranks, first = jax.device_get(
            _rank(
                distances_of(padded),
                seen,
                candidates,
                most,
                gallery_ids,
                gallery_ids.max() + 1,
                by_identity=protocol.cmc == "identities",
            )
        )
        if not finite:
            raise InputError(
                f"The distances of {protocol.title} hold NaN, infinity or a number "
                "beyond float32; check the features that they were computed from, "
                "and the loss of the network that computed these features."
            )
        count = len(num_candidates[rows])
        yield rows, ranks[:count], first[:count]


def _chunks(
    num_candidates: np.ndarray, gallery_size: int
) -> Iterator[tuple[Rows, Rows]]:
    """Yields queries, and the same filled up so that all chunks have one shape."""
    size = max(1, _CHUNK // gallery_size)
    if len(num_candidates) <= size:
        yield slice(None), slice(None)
        return
    # The work on a chunk is that of its query with the most matches.
    order = np.argsort(num_candidates, kind="stable")
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        yield rows, np.resize(rows, size)


@functools.partial(jax.jit, static_argnames="by_identity")
@takes_explicit_axes(lambda *_, **__: (PartitionSpec(),) * 3)
def _rank(
    distances: jax.Array,
    seen: jax.Array,
    candidates: jax.Array,
    most: jax.Array,
    gallery_ids: jax.Array,
    num_identities: jax.Array,
    *,
    by_identity: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Whether all distances are finite, and the results of `match_ranks`.

    The candidates of a query, (q, R), are images of its identity; columns from `most`
    on are empty, which is -1.
    """
    index = jnp.arange(distances.shape[1], dtype=jnp.int32)[None, :]

    def before(images: jax.Array) -> list[jax.Array]:
        """What comes before each column of gallery images (q, n): n times (q, G)."""
        distance = jnp.take_along_axis(distances, images, axis=1)
        return [
            seen & ((distances < d) | ((distances == d) & (index < i)))
            for d, i in zip(_columns(distance), _columns(images), strict=True)
        ]

    def count(block: jax.Array, ranks_and_strange: Any) -> Any:
        start = block * _MATCHES
        images = lax.dynamic_slice_in_dim(candidates, start, _MATCHES, axis=1)
        counted = [*before(images), ~jnp.isfinite(distances)]
        *counts, strange = _reduce(lax.add, [b.astype(jnp.int32) for b in counted])
        rank = 1 + jnp.stack(counts, axis=1)
        ranks = lax.dynamic_update_slice_in_dim(ranks_and_strange[0], rank, start, 1)
        return ranks, strange

    def count_identities(block: jax.Array, total: jax.Array) -> jax.Array:
        word, bit = jnp.divmod(gallery_ids[None, :], 32)
        bits = jnp.left_shift(jnp.uint32(1), bit.astype(jnp.uint32))
        words = [
            jnp.where(closer & (word == block * _WORDS + i), bits, jnp.uint32(0))
            for i in range(_WORDS)
        ]
        return total + sum(map(lax.population_count, _reduce(lax.bitwise_or, words)))

    nothing = jnp.zeros(len(candidates), jnp.int32)
    ranks, strange = lax.fori_loop(
        0, -(-most // _MATCHES), count, (jnp.zeros_like(candidates), nothing)
    )
    found = (candidates >= 0) & jnp.take_along_axis(seen, candidates, axis=1)
    none = jnp.iinfo(jnp.int32).max
    first = jnp.argmin(jnp.where(found, ranks, none), axis=1, keepdims=True)
    if by_identity:
        (closer,) = before(jnp.take_along_axis(candidates, first, axis=1))
        num_blocks = -(-num_identities // (32 * _WORDS))
        closer_identities = lax.fori_loop(
            0, num_blocks, count_identities, nothing.astype(jnp.uint32)
        )
        shown = 1 + closer_identities.astype(jnp.int32)
    else:
        shown = jnp.take_along_axis(ranks, first, axis=1)[:, 0]
    shown = jnp.where(found.any(axis=1), shown, 0)
    return ~strange.any(), jnp.where(found, ranks, 0), shown


def _reduce(
    operation: Callable[[Any, Any], Any], operands: Sequence[jax.Array]
) -> Sequence[jax.Array]:
    """Reduces the rows of several (q, G) arrays in one pass over what they are of."""

    def combine(left: Sequence[Any], right: Sequence[Any]) -> list[Any]:
        return list(map(operation, left, right))

    return lax.reduce(operands, [x.dtype.type(0) for x in operands], combine, (1,))


def _columns(array: jax.Array) -> list[jax.Array]:
    return jnp.split(array, array.shape[1], axis=1)


def codes(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as int32 from 0 on without gaps: names do not fit a device."""
    labels = np.concatenate([query, gallery])
    if labels.dtype.kind == "f" and "f" not in query.dtype.kind + gallery.dtype.kind:
        # NumPy makes float64 of int64 and uint64, in which large numbers become equal.
        labels = np.concatenate([query.astype(object), gallery.astype(object)])
    codes = np.unique(labels, return_inverse=True)[1].astype(np.int32)
    return codes[: len(query)], codes[len(query) :]


def _check_numbered(side: str, cameras: np.ndarray) -> None:
    """Raises `InputError` unless a rule that names cameras by number can be applied."""
    if cameras.size and not np.issubdtype(cameras.dtype, np.integer):
        raise InputError(
            f"The {side} cameras are {cameras.dtype}, but the protocol names cameras "
            "by their numbers: give integers, 3 for cam3."
        )


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The head of one query's ranked gallery.

    Attributes:
        query: index of the query image in the split.
        gallery: (length,) indices of the first gallery images in the split.
        correct: (length,) bool, whether each shows the query's identity.
    """

    query: int
    gallery: np.ndarray
    correct: np.ndarray


def ranked_list(
    features: np.ndarray,
    records: Records,
    *,
    protocol: Protocol,
    num_queries: int = 8,
    length: int = 10,
) -> list[Ranking]:
    """Ranks the gallery for a few queries that are spread over the identities.

    The rules of the protocol hold: what it removes for a query is not in its list,
    and queries without a match are not shown. Of several trials, the first is taken.

    Args:
        features: (N, D) floating.
        records: N of them.
        protocol: says which images are queries and which are the gallery.
        num_queries: number of lists; fewer if there are fewer identities.
        length: number of gallery images in a list.

    Raises:
        ValueError: the features are not a matrix with a row for each record, or another
            argument is not as above.
    """
    check_protocol(protocol)
    features = features_of(records, features)
    num_queries = integer("num_queries", num_queries, least=0)
    length = integer("length", length, least=0)
    trial = protocol.trials(records)[0]
    identity, camera = records.identity, records.camera
    gallery_labels = identity[trial.gallery], camera[trial.gallery]
    rankings = []
    for index in _spread(records, protocol, trial, num_queries):
        removed = protocol.removed(identity[index], camera[index], *gallery_labels)
        allowed = trial.gallery[~removed]
        found = allowed[nearest(features[index], features[allowed], length)]
        rankings.append(Ranking(index, found, identity[found] == identity[index]))
    return rankings


def nearest(query: np.ndarray, gallery: np.ndarray, length: int = 10) -> np.ndarray:
    """Indices of the gallery features (G, D) closest to one query (D,), in order."""
    distance = jax.device_get(cosine_distances(query[None, :], gallery))[0]
    return np.argsort(distance, kind="stable")[:length]


def _spread(
    records: Records, protocol: Protocol, trial: Trial, num_queries: int
) -> Iterator[int]:
    """One query of each of evenly spaced identities, at varying places in it."""
    valid = trial.query[protocol.matched(records, trial)]
    people = np.unique(records.identity[valid])
    count = min(num_queries, len(people))
    chosen = people[np.linspace(0, len(people) - 1, count).round().astype(int)]
    for place, person in enumerate(chosen):
        # Images of a person lie camera by camera, so a moving place varies the camera.
        images = valid[records.identity[valid] == person]
        yield int(images[place * len(images) // count])
