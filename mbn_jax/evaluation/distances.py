"""Distances between features: cosine, Euclidean, and re-ranked."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from numpy.typing import ArrayLike

from mbn_jax.arguments import integer
from mbn_jax.errors import InputError
from mbn_jax.evaluation.records import Records
from mbn_jax.mesh import memory_of_host, spec_of, takes_explicit_axes

Distance = Literal["cosine", "euclidean", "k_reciprocal"]
# Printed beside metrics, to say by which distance they were made.
DISTANCE_TITLES = {
    "cosine": "cosine distance",
    "euclidean": "euclidean distance",
    "k_reciprocal": "RE-RANKED (k-reciprocal, cosine distance)",
}
# Re-ranking holds so many matrices (Q + G, Q + G) of 4 bytes at once: distances and
# their order of 8 bytes, the vectors before and after the mean, two matrices of 1 byte,
# and copies.
_MATRICES = 7
# Re-ranking may take this share of the machine's memory; beyond it the process would
# end without a word.
_SHARE = 0.75
# A matrix of distances lies over the devices as the queries do.
_takes_explicit_axes = takes_explicit_axes(
    lambda query, *_, **__: PartitionSpec(*spec_of(query)[:1])
)


@_takes_explicit_axes
def cosine_distances(query: ArrayLike, gallery: ArrayLike) -> jax.Array:
    """1 - cosine of the angle between features.

    Args:
        query: (Q, D) floating.
        gallery: (G, D) floating.

    Returns:
        (Q, G) float32; 1 for a feature of zeros. The last digit depends on how the
        matrix product is split, so equal features need not have equal distances.

    Raises:
        InputError: the features are not two matrices of numbers of equal width.
    """
    query, gallery = _on_device(query, gallery)
    return 1.0 - _products(unit_rows(query), unit_rows(gallery))


@_takes_explicit_axes
def euclidean_distances(query: ArrayLike, gallery: ArrayLike) -> jax.Array:
    """Euclidean distances between features, which are not normalized.

    Args:
        query: (Q, D) floating.
        gallery: (G, D) floating.

    Returns:
        (Q, G) float32, with an error of about 1e-7 of the spread of the features, in
        which smaller differences are lost.

    Raises:
        InputError: the features are not two matrices of numbers of equal width.
    """
    query, gallery = _on_device(query, gallery)
    # What all features have in common does not change the distances, but would cost
    # digits: the square of a length is a small difference of large numbers.
    center = jnp.mean(gallery, axis=0, keepdims=True)
    query, gallery = query - center, gallery - center
    # The squares of very large or very small numbers would leave float32. The unit is a
    # power of two, which changes no digit.
    largest = (jnp.max(jnp.abs(side), initial=0) for side in (query, gallery))
    exponent = jnp.clip(jnp.frexp(jnp.maximum(*largest))[1], -125, 126)
    unit = jnp.ldexp(jnp.float32(1), exponent)
    query, gallery = query / unit, gallery / unit
    squares = (
        jnp.sum(query**2, axis=1)[:, None]
        + jnp.sum(gallery**2, axis=1)[None, :]
        - 2.0 * _products(query, gallery)
    )
    return unit * jnp.sqrt(jnp.maximum(squares, 0.0))


def distance_function(
    name: Distance,
) -> Callable[[ArrayLike, ArrayLike], jax.Array]:
    """Looks up the function of a distance between two features by its name.

    Raises:
        InputError: there is no such distance.
    """
    functions = {"cosine": cosine_distances, "euclidean": euclidean_distances}
    if name not in functions:
        raise InputError(
            f"The distance is {name!r}, but one of {', '.join(functions)} is expected."
        )
    return functions[name]


def l2_normalize(features: ArrayLike) -> np.ndarray:
    """Divides (N, D) rows by their length, in float32; a zero row stays zero.

    Raises:
        InputError: the features are not a matrix of numbers.
    """
    matrix = np.asarray(feature_matrix("features", features), np.float32)
    return np.asarray(unit_rows(matrix, np))


def unit_rows(features: Any, xp: ModuleType = jnp) -> Any:
    """Divides rows by their lengths, by NumPy or JAX; a row of zeros stays zero."""
    tiny = np.finfo(np.float32).tiny
    # Otherwise the squares of very large or very small numbers would leave float32.
    largest = xp.max(xp.abs(features), axis=1, keepdims=True, initial=0)
    features = features / xp.maximum(largest, tiny)
    length = xp.linalg.norm(features, axis=1, keepdims=True)
    return features / xp.maximum(length, tiny)


def numbers(what: str, values: ArrayLike) -> jax.Array | np.ndarray:
    """Returns an array of real numbers, on the device if it is there already.

    Raises:
        InputError: the values are something else.
    """
    try:
        array = values if isinstance(values, jax.Array) else np.asarray(values)
    except ValueError as error:  # of NumPy: rows of different lengths
        raise InputError(f"The {what} are not a matrix: {error}.") from error
    if not jnp.issubdtype(array.dtype, jnp.number) or jnp.iscomplexobj(array):
        raise InputError(
            f"The {what} are {array.dtype}, but real numbers are expected."
        )
    return array


def feature_matrix(what: str, features: ArrayLike) -> jax.Array | np.ndarray:
    """Returns features as a matrix (N, D) of `numbers`.

    Raises:
        InputError: they are something else.
    """
    matrix = numbers(what, features)
    if matrix.ndim != 2:
        raise InputError(
            f"The {what} have shape {matrix.shape}, but a matrix (N, D) with one row "
            "for each image is expected."
        )
    return matrix


def features_of(records: Records, features: ArrayLike) -> np.ndarray:
    """Returns features as a matrix with a row for each record.

    Raises:
        InputError: they are something else.
    """
    matrix = np.asarray(feature_matrix("features", features))
    if len(matrix) != len(records):
        raise InputError(
            f"There are features of {len(matrix)} images, but {len(records)} records: "
            "give one row for each record, in their order."
        )
    return matrix


def _pair(query: ArrayLike, gallery: ArrayLike) -> tuple[Any, Any]:
    """Returns two matrices of equal width."""
    query = feature_matrix("query features", query)
    gallery = feature_matrix("gallery features", gallery)
    if query.shape[1] != gallery.shape[1]:
        raise InputError(
            f"The query features have {query.shape[1]} dimensions and those of the "
            f"gallery {gallery.shape[1]}: give features of one network."
        )
    return query, gallery


def _on_device(query: ArrayLike, gallery: ArrayLike) -> tuple[jax.Array, jax.Array]:
    query, gallery = _pair(query, gallery)
    return jnp.asarray(query, jnp.float32), jnp.asarray(gallery, jnp.float32)


def _products(query: jax.Array, gallery: jax.Array) -> jax.Array:
    # At the default precision a GPU or TPU would round the features to 10 or 8 bits,
    # which makes ties and so changes ranks.
    return jnp.matmul(query, gallery.T, precision=jax.lax.Precision.HIGHEST)


def k_reciprocal_distances(
    query: ArrayLike,
    gallery: ArrayLike,
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
) -> np.ndarray:
    r"""Distances between sets of mutual neighbors, mixed with those of the features.

    Two images are alike if the same images are near both. Two images are mutual
    neighbors if each is among the `k1` nearest of the other. Every image i gets a
    vector $v_i$ over all images: $v_{ij} \propto e^{-d_{ij}}$ for its mutual neighbors
    j, and for the mutual neighbors of those j that share two thirds of theirs with i,
    and 0 elsewhere. The vectors are averaged over the `k2` nearest images. Then

    $$
    d^*_{ij} = (1 - w) \Big(1 - \frac{\sum_m \min(v_{im}, v_{jm})}
        {\sum_m \max(v_{im}, v_{jm})}\Big) + w\, d_{ij}
    $$

    where d are the squared Euclidean distances of unit features, divided by the largest
    one of each image (Zhong et al., "Re-ranking Person Re-identification with
    k-reciprocal Encoding", CVPR 2017, with its parameters). Re-ranking looks at all
    queries at once, so its metrics are not those of a system that sees one query at a
    time.

    Args:
        query: (Q, D) floating.
        gallery: (G, D) floating.
        k1: number of neighbors that may be mutual.
        k2: number of neighbors whose vectors are averaged.
        weight: $w$, the weight of the distances of the features.

    Returns:
        (Q, G) float32. This takes the memory of seven matrices (Q + G, Q + G), float32.

    Raises:
        ValueError: `k1` or `k2` is not a positive integer.
        InputError: the features are not two matrices of equal width, of finite numbers;
            or re-ranking would need more than three quarters of the machine's memory,
            which is known before any matrix is made.
    """
    query, gallery = map(_for_re_ranking, _pair(query, gallery))
    num_queries = len(query)
    k1, k2 = integer("k1", k1, least=1), integer("k2", k2, least=1)
    size = num_queries + len(gallery)
    needed, max_bytes = 4 * _MATRICES * size**2, int(_SHARE * memory_of_host())
    if needed > max_bytes:
        raise InputError(
            f"Re-ranking {size} images would take some {needed / 2**30:.1f} GiB of "
            f"memory, but it is limited to {max_bytes / 2**30:.1f} GiB: give fewer "
            "images, or take the cosine distance."
        )
    features = np.concatenate([query, gallery])
    # 2 - 2 cos is the squared distance of unit features; the factor cancels.
    distance = np.asarray(cosine_distances(features, features))
    distance = distance / np.maximum(distance.max(axis=1, keepdims=True), 1e-12)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, : max(k1, k2) + 1]

    mutual = _mutual_neighbors(nearest[:, : k1 + 1])
    closer = _mutual_neighbors(nearest[:, : round(k1 / 2) + 1])
    size = closer.sum(1)
    vectors = np.zeros_like(distance)
    for i, row in enumerate(mutual):
        neighbors = np.flatnonzero(row)
        shared = closer[neighbors] @ row.astype(np.float32)
        widened = row | closer[neighbors[shared > 2 / 3 * size[neighbors]]].any(0)
        similarity = np.exp(-distance[i, widened])
        vectors[i, widened] = similarity / similarity.sum()
    if k2 > 1:
        vectors = np.stack([vectors[near].mean(0) for near in nearest[:, :k2]])

    of_gallery = np.ascontiguousarray(vectors[num_queries:].T)  # (Q + G, G)
    result = np.empty((num_queries, of_gallery.shape[1]), np.float32)
    for i in range(num_queries):
        members = np.flatnonzero(vectors[i])
        # Rows add up to one, so that the sum of the maxima is 2 - that of the minima.
        minima = np.minimum(vectors[i, members, None], of_gallery[members]).sum(0)
        result[i] = 1 - minima / (2 - minima)
    return (1 - weight) * result + weight * distance[:num_queries, num_queries:]


def _for_re_ranking(features: jax.Array | np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinity is refused below
        matrix = np.asarray(features, np.float32)
    if matrix.size == 0 or not np.isfinite(matrix).all():
        raise InputError(
            f"The features of shape {list(matrix.shape)} cannot be re-ranked, expected "
            "[N, D], not empty, without NaN, infinity or a number beyond float32."
        )
    return matrix


def _mutual_neighbors(nearest: np.ndarray) -> np.ndarray:
    """Which images are among the nearest (N, k) of each other, (N, N) bool."""
    among = np.zeros((len(nearest), len(nearest)), bool)
    np.put_along_axis(among, nearest, True, axis=1)
    return among & among.T
