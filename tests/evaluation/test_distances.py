"""Distances against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbn_jax.data.sources.llcm import protocol as llcm
from mbn_jax.data.sources.sysu_mm01 import protocol as sysu_mm01
from mbn_jax.errors import InputError
from mbn_jax.evaluation import (
    cosine_distances,
    euclidean_distances,
    every_pair,
    feature_metrics,
    l2_normalize,
    retrieval_metrics,
)
from mbn_jax.evaluation.distances import distance_function, k_reciprocal_distances

INFRARED_TO_VISIBLE, _ = every_pair()


def features(seed, *shape, offset=0.0):
    values = np.random.default_rng(seed).normal(size=shape) + offset
    return values.astype(np.float32)


def test_cosine_distances_of_unit_vectors():
    query = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    np.testing.assert_allclose(
        cosine_distances(query, query), [[0, 0.4], [0.4, 0]], atol=1e-6
    )


def test_a_cosine_does_not_depend_on_lengths():
    query, gallery = features(0, 5, 8), features(1, 7, 8)
    lengths = np.array([1e-30, 1e-3, 1.0, 1e3, 1e30], np.float32)[:, None]
    expected = cosine_distances(l2_normalize(query), l2_normalize(gallery))
    np.testing.assert_allclose(
        cosine_distances(query * lengths, gallery), expected, atol=1e-6
    )


def test_a_feature_of_zeros_is_at_cosine_distance_one():
    distances = cosine_distances(np.zeros((1, 4)), features(0, 3, 4))
    np.testing.assert_array_equal(distances, [[1, 1, 1]])
    np.testing.assert_array_equal(l2_normalize(np.zeros((2, 3))), np.zeros((2, 3)))


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_euclidean_distances_equal_numpy_in_float64_far_from_zero_too(offset):
    query, gallery = features(0, 5, 8, offset=offset), features(1, 7, 8, offset=offset)
    difference = query[:, None].astype(float) - gallery[None].astype(float)
    expected = np.sqrt((difference**2).sum(axis=2))
    np.testing.assert_allclose(euclidean_distances(query, gallery), expected, rtol=1e-4)


def test_the_euclidean_distance_to_itself_is_nearly_zero_and_never_nan():
    values = features(0, 6, 8)
    distances = np.asarray(euclidean_distances(values, values))
    assert np.isfinite(distances).all()
    np.testing.assert_allclose(np.diag(distances), 0, atol=5e-3)


@pytest.mark.parametrize("exponent", [-66, -30, 40, 66])
def test_the_size_of_the_features_changes_no_digit_of_euclidean_distances(exponent):
    query, gallery = features(0, 5, 8), features(1, 7, 8)
    unit = np.float32(2.0) ** exponent
    np.testing.assert_array_equal(
        euclidean_distances(query * unit, gallery * unit),
        euclidean_distances(query, gallery) * unit,
    )


def test_distances_over_explicit_axes_are_those_of_one_device():
    query, gallery = features(0, 8, 4), features(1, 16, 4)
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    cut = jax.sharding.NamedSharding(mesh, jax.P("data", "model"))
    for function in (cosine_distances, euclidean_distances):
        found = function(*jax.device_put((query, gallery), cut))
        assert jax.typeof(found).sharding.spec == jax.P("data", None)
        np.testing.assert_allclose(found, function(query, gallery), atol=1e-6)


def test_a_distance_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="'manhattan', but one of cosine, euclidean"):
        distance_function("manhattan")


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("protocol", [INFRARED_TO_VISIBLE, sysu_mm01(), llcm()])
def test_figures_of_features_are_those_of_their_distances(distance, protocol):
    rng = np.random.default_rng(2)
    query, gallery = features(3, 30, 8), features(4, 24, 8)
    labels = (
        rng.integers(6, size=30),
        rng.integers(6, size=24),
        rng.choice([3, 6], 30),
        rng.choice([1, 2, 3, 4], 24),
    )
    expected = retrieval_metrics(
        distance_function(distance)(query, gallery), *labels, protocol=protocol
    )
    found = feature_metrics(
        query, gallery, *labels, protocol=protocol, distance=distance
    )
    assert found == expected


def test_features_and_labels_of_different_numbers_are_refused():
    with pytest.raises(InputError, match=r"shapes \(2, 4\) and \(3, 4\)"):
        feature_metrics(
            features(0, 2, 4), features(1, 3, 4), [1, 2], [1, 2], [0, 0], [1, 1],
            protocol=INFRARED_TO_VISIBLE,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones(3), r"shape \(3,\).* matrix"),
        (np.ones((1, 4, 3)), r"shape \(1, 4, 3\).* matrix"),
        (1.0, r"shape \(\).* matrix"),
        (None, "are object"),
        (["a", "b"], "are <U1"),
        ([[1.0], [1.0, 2.0]], "are not a matrix"),
        (np.ones((4, 3), complex), "real numbers"),
        (np.ones((4, 3), bool), "real numbers"),
        (np.ones((4, 2)), "features of one network"),
        (np.ones((4, 0)), "features of one network"),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "function", [cosine_distances, euclidean_distances, k_reciprocal_distances]
)
def test_what_are_no_two_matrices_is_refused_in_one_sentence(
    function, features, message
):
    right = np.ones((4, 3))
    for pair in ((features, right), (right, features)):
        with pytest.raises(InputError, match=f"{message}|be re-ranked") as error:
            function(*pair)
        assert "\n" not in str(error.value)
    if "network" not in message:
        with pytest.raises(InputError):
            l2_normalize(features)


@pytest.mark.parametrize("number", [0, -1, 1.5, True])
@pytest.mark.parametrize("name", ["k1", "k2"])
def test_a_number_of_neighbors_is_a_positive_integer(name, number):
    with pytest.raises(ValueError, match=f"{name} is {number}, expected an integer"):
        k_reciprocal_distances(np.eye(3), np.eye(3), **{name: number})


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int64, np.float64, jnp.int4, jnp.float8_e4m3fn, list]
)
def test_features_may_be_numbers_of_any_type(dtype):
    plain = np.arange(6, dtype=np.float32).reshape(2, 3)
    features = plain.tolist() if dtype is list else plain.astype(dtype)
    for function in (cosine_distances, euclidean_distances, k_reciprocal_distances):
        of_plain = function(plain, plain[:1])
        assert np.array_equal(function(features, features[:1]), of_plain)
    assert np.array_equal(l2_normalize(features), l2_normalize(plain))


def test_there_may_be_no_features():
    for function in (cosine_distances, euclidean_distances):
        assert function(np.ones((0, 3)), np.ones((4, 3))).shape == (0, 4)
        assert function(np.ones((4, 3)), np.ones((0, 3))).shape == (4, 0)
