"""CMC, mAP and mINP, from distances or from features.

* The ranks of the matches come from the device (`search.py`), exact integers; the means
  are taken on the host in float64, so that they do not depend on chunks or devices.
* Queries are taken in chunks, those with equally many matches together. Beyond its
  arguments the memory is that of one chunk, so 10,000 x 100,000 fits.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from mbn_jax.errors import InputError
from mbn_jax.evaluation.distances import Distance, distance_function, numbers
from mbn_jax.evaluation.protocols import Protocol, check_protocol
from mbn_jax.evaluation.search import LabelArrays, Search, label_arrays

REPORTED_RANKS = (1, 5, 10, 20)
CMC_LENGTH = 50
# Distances in a chunk of queries: 16 MiB of float32. They are gone through many times,
# which is slower where they do not fit the processor's cache.
_CHUNK = 2**22
_Rows = np.ndarray | slice  # of queries; a slice where all are taken at once


class QueryFigures(NamedTuple):
    """What the figures are the means of, query by query.

    Attributes:
        rank: (Q,) int64, the rank that the CMC counts; 0: the query has no match.
        average_precision: (Q,) float64.
        inverse_penalty: (Q,) float64, INP.
        gallery_size: number of gallery images.
    """

    rank: np.ndarray
    average_precision: np.ndarray
    inverse_penalty: np.ndarray
    gallery_size: int

    def means(self) -> dict[str, Any]:
        """The dictionary of `retrieval_metrics`."""
        valid = self.rank > 0
        length = min(CMC_LENGTH, self.gallery_size)
        found_at = np.bincount(self.rank[valid], minlength=length + 1)
        return as_figures(
            cmc=np.cumsum(found_at[1 : length + 1]) / np.count_nonzero(valid),
            mean_ap=self.average_precision[valid].mean(),
            mean_inp=self.inverse_penalty[valid].mean(),
            num_queries=len(self.rank),
            num_valid_queries=int(valid.sum()),
            gallery_size=self.gallery_size,
        )


def retrieval_metrics(
    distances: ArrayLike,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
    *,
    protocol: Protocol,
) -> dict[str, Any]:
    r"""CMC, mAP and mINP of a matrix of distances, by the rules of a protocol.

    With the matches of a query at the ranks :math:`r_1 < \dots < r_R` of its gallery,

    .. math:: \mathrm{CMC}(k) = [r_1 \le k], \quad
       \mathrm{AP} = \frac1R \sum_i \frac{i}{r_i}, \quad
       \mathrm{INP} = \frac{R}{r_R},

    and each figure is the mean over the queries that have a match (Zheng et al.,
    "Scalable Person Re-identification", ICCV 2015, for CMC and mAP; Ye et al., "Deep
    Learning for Person Re-identification", TPAMI 2021, for mINP). Where the protocol
    counts identities, :math:`r_1` in the CMC, and there only, is the rank of the
    identity among the gallery's identities in the order of their first images.

    Args:
        distances: (Q, G), smaller is more alike; of any numeric type: what differs in
            float64 is no tie.
        query_ids: (Q,) identities.
        gallery_ids: (G,) identities.
        query_cameras: (Q,) cameras.
        gallery_cameras: (G,) cameras.
        protocol: what it removes and what its CMC counts are applied; the images given
            are its queries and the gallery of one trial. Ties are broken by the order
            of the gallery.

    Returns:
        ``rank1``, ``rank5``, ``rank10``, ``rank20``, ``mAP``, ``mINP`` as fractions;
        ``cmc``, a list for the first 50 ranks or the whole gallery if that is smaller;
        ``num_queries``, ``num_valid_queries`` (those with a match), ``gallery_size``.
        A rank beyond the end of the gallery counts as its end.

    Raises:
        InputError: shapes do not fit, the labels are not numbers or texts, a distance
            is not finite, or there is no match.
    """
    distances = numbers("distances", distances)
    labels = label_arrays(query_ids, gallery_ids, query_cameras, gallery_cameras)
    expected = (len(labels[0]), len(labels[1]))
    if distances.shape != expected:
        raise InputError(
            f"The distances have shape {distances.shape}, but there are {expected[0]} "
            f"queries and {expected[1]} gallery images: give one row per query and one "
            "column per gallery image."
        )
    # Not put on the device first: as arguments NumPy arrays need not be copied.
    return _by_query(
        lambda rows: _in_float32(distances[rows]),
        labels,
        protocol,
    ).means()


def feature_metrics(
    query_features: ArrayLike,
    gallery_features: ArrayLike,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
    *,
    protocol: Protocol,
    distance: Distance = "cosine",
) -> dict[str, Any]:
    """`retrieval_metrics` of features, whose distances are never held all at once.

    Args:
        query_features: (Q, D) floating.
        gallery_features: (G, D) floating.
        query_ids: (Q,) identities.
        gallery_ids: (G,) identities.
        query_cameras: (Q,) cameras.
        gallery_cameras: (G,) cameras.
        protocol: as in `retrieval_metrics`.
        distance: "cosine" or "euclidean".

    Returns:
        The dictionary of `retrieval_metrics`.

    Raises:
        InputError: as `retrieval_metrics` does, or there is no such distance.
    """
    return feature_query_figures(
        query_features,
        gallery_features,
        query_ids,
        gallery_ids,
        query_cameras,
        gallery_cameras,
        protocol=protocol,
        distance=distance,
    ).means()


def feature_query_figures(
    query_features: ArrayLike,
    gallery_features: ArrayLike,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
    *,
    protocol: Protocol,
    distance: Distance = "cosine",
) -> QueryFigures:
    """What `feature_metrics` is the mean of, by the same arguments."""
    function = jax.jit(distance_function(distance))
    query_features = np.asarray(numbers("query features", query_features), np.float32)
    gallery = jnp.asarray(numbers("gallery features", gallery_features), jnp.float32)
    labels = label_arrays(query_ids, gallery_ids, query_cameras, gallery_cameras)
    shapes = query_features.shape, gallery.shape
    sizes = len(labels[0]), len(labels[1])
    if any(len(shape) != 2 for shape in shapes) or shapes != (
        (sizes[0], shapes[1][1]),
        (sizes[1], shapes[1][1]),
    ):
        raise InputError(
            f"The features have shapes {shapes[0]} and {shapes[1]} for {sizes[0]} "
            f"queries and {sizes[1]} gallery images: give (Q, D) and (G, D), one row "
            "for each."
        )
    return _by_query(
        lambda chosen: function(query_features[chosen], gallery),
        labels,
        protocol,
    )


def _by_query(
    distances_of: Callable[[_Rows], jax.Array | np.ndarray],
    labels: LabelArrays,
    protocol: Protocol,
) -> QueryFigures:
    """The figures of all queries; ``distances_of(query indices)`` are their rows."""
    check_protocol(protocol)
    search = Search(*labels, protocol=protocol)
    if 0 in search.shape:
        raise no_match(protocol, *search.shape)
    num_queries, gallery_size = search.shape
    shown = np.zeros(num_queries, np.int64)
    precision, inverse_penalty = np.zeros((2, num_queries))
    for rows, padded in _chunks(search):
        finite, ranks, first = search.ranks(distances_of(padded), padded)
        if not finite:
            raise InputError(
                f"The distances of {protocol.title} hold NaN, infinity or a number "
                "beyond float32; look at the features that they are of, and at the "
                "loss of the network that made these."
            )
        count = len(shown[rows])
        shown[rows] = first[:count]
        precision[rows], inverse_penalty[rows] = _precision_and_penalty(ranks[:count])

    if not shown.any():
        raise no_match(protocol, *search.shape)
    return QueryFigures(shown, precision, inverse_penalty, gallery_size)


def _in_float32(distances: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Rows of distances in the same order, ties included, as float32."""
    if np.can_cast(distances.dtype, np.float32) or distances.dtype == jnp.bfloat16:
        return distances.astype(np.float32, copy=False)
    distances = np.asarray(distances)
    with np.errstate(over="ignore"):  # infinity is refused, with words
        rounded = distances.astype(np.float32)
    if (rounded == distances).all() or not np.isfinite(rounded).all():
        return rounded
    # Rounding could make ties. The places in the sorted row can be held exactly.
    order = np.argsort(distances, axis=1)
    ascending = np.take_along_axis(distances, order, axis=1)
    place = np.zeros(distances.shape, np.float32)
    place[:, 1:] = np.cumsum(ascending[:, 1:] != ascending[:, :-1], axis=1)
    np.put_along_axis(rounded, order, place, axis=1)
    return rounded


def _chunks(search: Search) -> Iterator[tuple[_Rows, _Rows]]:
    """Indices of queries, and the same filled up so that all chunks have one shape."""
    num_queries, gallery_size = search.shape
    size = max(1, _CHUNK // gallery_size)
    if num_queries <= size:
        yield slice(num_queries), slice(num_queries)
        return
    # The work on a chunk is that of its query with the most matches.
    order = np.argsort(search.num_candidates, kind="stable")
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        yield rows, np.resize(rows, size)


def _precision_and_penalty(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and inverse penalty, (q,) float64, of ranks (q, R), 0: none."""
    count = np.count_nonzero(ranks, axis=1)
    # What is no match is infinitely far, so that it adds nothing.
    ranks = np.sort(np.where(ranks > 0, ranks, np.inf), axis=1)
    found = np.arange(1, ranks.shape[1] + 1)
    divisor = np.maximum(count, 1)
    last = np.take_along_axis(ranks, divisor[:, None] - 1, axis=1)[:, 0]
    return (found[None, :] / ranks).sum(axis=1) / divisor, count / last


def as_figures(
    *,
    cmc: np.ndarray,
    mean_ap: float,
    mean_inp: float,
    num_queries: int,
    num_valid_queries: int,
    gallery_size: int,
) -> dict[str, Any]:
    """The figures under the names of ``results.json``, as plain Python numbers."""
    at_rank = {f"rank{k}": float(cmc[min(k, len(cmc)) - 1]) for k in REPORTED_RANKS}
    return {
        **at_rank,
        "mAP": float(mean_ap),
        "mINP": float(mean_inp),
        "cmc": [float(value) for value in cmc],
        "num_queries": num_queries,
        "num_valid_queries": num_valid_queries,
        "gallery_size": gallery_size,
    }


def no_match(protocol: Protocol, num_queries: int, gallery_size: int) -> InputError:
    """The error for a gallery in which nobody can be found."""
    return InputError(
        f"No query of {protocol.title} has a match among the {gallery_size} gallery "
        f"images ({num_queries} queries): check that the split holds both modalities "
        "of the same identities."
    )
