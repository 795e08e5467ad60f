"""CMC, mAP and mINP of a matrix of distances, one device call for all the queries.

* The gallery is sorted once per query, by (removed, distance) and stably: what the
  protocol removes comes last, so the ranks of all others are right, and equal
  distances stay in gallery order.
* Queries go through ``lax.map`` in chunks: beyond the distances themselves the memory
  is that of one chunk, so 10,000 x 10,000 fits.
* Distances are float32. Ranks and counts are integers. The mean over the queries is
  taken in float64 on the host, so that it does not depend on the chunks.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from mbn_jax.errors import InputError
from mbn_jax.evaluation.protocols import Protocol

REPORTED_RANKS = (1, 5, 10, 20)
CMC_LENGTH = 50
_QUERIES_PER_CHUNK = 64


def cosine_distances(query: ArrayLike, gallery: ArrayLike) -> jax.Array:
    """1 - cosine of the angle between L2-normalised features.

    Args:
        query: (Q, D) float32, rows of length one.
        gallery: (G, D) float32, rows of length one.

    Returns:
        (Q, G) float32.
    """
    query = jnp.asarray(query, jnp.float32)
    gallery = jnp.asarray(gallery, jnp.float32)
    # At the default precision a GPU or TPU would round the features to 10 or 8 bits,
    # which makes ties and so changes ranks.
    return 1.0 - jnp.matmul(query, gallery.T, precision=jax.lax.Precision.HIGHEST)


def retrieval_metrics(
    distances: ArrayLike,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
    *,
    protocol: Protocol,
) -> dict[str, Any]:
    r"""Image-level CMC, mAP and mINP.

    With the matches of a query at the ranks :math:`r_1 < \dots < r_R` of its gallery,

    .. math:: \mathrm{CMC}(k) = [r_1 \le k], \quad
       \mathrm{AP} = \frac1R \sum_i \frac{i}{r_i}, \quad
       \mathrm{INP} = \frac{R}{r_R},

    and each figure is the mean over the queries that have a match (Zheng et al.,
    "Scalable Person Re-identification", ICCV 2015, for CMC and mAP; Ye et al., "Deep
    Learning for Person Re-identification", TPAMI 2021, for mINP).

    Args:
        distances: (Q, G), smaller is more alike; used as float32.
        query_ids: (Q,) identities.
        gallery_ids: (G,) identities.
        query_cameras: (Q,) cameras.
        gallery_cameras: (G,) cameras.
        protocol: its ``remove_same_camera`` is applied.

    Returns:
        ``rank1``, ``rank5``, ``rank10``, ``rank20``, ``mAP``, ``mINP`` as fractions;
        ``cmc``, a list for the first 50 ranks or the whole gallery if that is smaller;
        ``num_queries``, ``num_valid_queries`` (those with a match), ``gallery_size``.
        A rank beyond the end of the gallery counts as its end.

    Raises:
        InputError: shapes do not fit, a distance is not finite, or there is no match.
    """
    _check_labels("query", query_ids, query_cameras)
    _check_labels("gallery", gallery_ids, gallery_cameras)
    query_ids, gallery_ids = _codes(query_ids, gallery_ids)
    query_cameras, gallery_cameras = _codes(query_cameras, gallery_cameras)
    distances = jnp.asarray(distances, jnp.float32)
    expected = (len(query_ids), len(gallery_ids))
    if distances.shape != expected:
        raise InputError(
            f"The distances have shape {distances.shape}, but there are {expected[0]} "
            f"queries and {expected[1]} gallery images: give one row per query and one "
            "column per gallery image."
        )
    if 0 in expected:
        raise no_match(protocol, *expected)
    finite, first, precision, inverse_penalty = jax.device_get(
        _score_queries(
            distances,
            query_ids,
            query_cameras,
            gallery_ids,
            gallery_cameras,
            remove_same_camera=protocol.remove_same_camera,
        )
    )
    if not finite:
        raise InputError(
            f"The distances of {protocol.title} hold NaN or infinity: the features are "
            "not finite, so look at the training loss or at what wrote the features."
        )
    valid = first > 0
    if not valid.any():
        raise no_match(protocol, *expected)
    ranks = np.arange(1, min(CMC_LENGTH, expected[1]) + 1)
    cmc = np.mean(first[valid][:, None] <= ranks[None, :], axis=0)
    return as_figures(
        cmc=cmc,
        mean_ap=np.mean(precision[valid], dtype=np.float64),
        mean_inp=np.mean(inverse_penalty[valid], dtype=np.float64),
        num_queries=expected[0],
        num_valid_queries=int(valid.sum()),
        gallery_size=expected[1],
    )


@functools.partial(jax.jit, static_argnames="remove_same_camera")
def _score_queries(
    distances: jax.Array,
    query_ids: jax.Array,
    query_cameras: jax.Array,
    gallery_ids: jax.Array,
    gallery_cameras: jax.Array,
    *,
    remove_same_camera: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Whether all is finite, and (Q,) first matching rank (0: none), AP and INP."""
    rank = jnp.arange(1, distances.shape[1] + 1)

    def score(query: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        distance, identity, camera = query
        same_identity = gallery_ids == identity
        if remove_same_camera:
            removed = same_identity & (gallery_cameras == camera)
        else:
            removed = jnp.zeros_like(same_identity)
        _, _, match = jax.lax.sort(
            (removed, distance, same_identity & ~removed), num_keys=2, is_stable=True
        )
        hits = jnp.cumsum(match)
        first = jnp.where(match.any(), jnp.argmax(match) + 1, 0)
        last = jnp.max(jnp.where(match, rank, 1))
        precision = jnp.sum(jnp.where(match, hits / rank, 0.0))
        return first, precision / jnp.maximum(hits[-1], 1), hits[-1] / last

    first, average_precision, inverse_penalty = jax.lax.map(
        score, (distances, query_ids, query_cameras), batch_size=_QUERIES_PER_CHUNK
    )
    return jnp.isfinite(distances).all(), first, average_precision, inverse_penalty


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


def _check_labels(side: str, ids: ArrayLike, cameras: ArrayLike) -> None:
    """Raises `InputError` unless there is one identity and one camera per image."""
    if np.ndim(ids) != 1 or np.shape(ids) != np.shape(cameras):
        raise InputError(
            f"The {side} identities have shape {np.shape(ids)} and its cameras shape "
            f"{np.shape(cameras)}: give one of each for every {side} image."
        )


def _codes(query: ArrayLike, gallery: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Labels as int32 codes: names, or numbers beyond int32, would not fit a device."""
    labels = np.concatenate([np.asarray(query), np.asarray(gallery)])
    codes = np.unique(labels, return_inverse=True)[1].astype(np.int32)
    return codes[: np.size(query)], codes[np.size(query) :]
