import doctest
import functools
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from mbn_jax import losses
from mbn_jax.losses import (
    batch_hard_triplet,
    circle,
    hetero_center,
    hetero_center_triplet,
    identity_loss,
    weighted_regularized_triplet,
)

MODALITY = np.array([0, 1, 1, 0] * 4)


def squared_wrt(features, identity):
    return weighted_regularized_triplet(features, identity, squared=True)


def hetero_center_of(features, identity):
    """With modalities in a fixed order, for the tests that hold for all losses."""
    return hetero_center(features, identity, jnp.asarray(MODALITY[: len(identity)]))


def hetero_center_triplet_of(features, identity):
    modality = jnp.asarray(MODALITY[: len(identity)])
    return hetero_center_triplet(features, identity, modality)


OF_DISTANCES = [
    batch_hard_triplet,
    weighted_regularized_triplet,
    squared_wrt,
    hetero_center_of,
    hetero_center_triplet_of,
]
PAIRWISE = [*OF_DISTANCES, circle]
OF_ANCHORS = [batch_hard_triplet, weighted_regularized_triplet, squared_wrt, circle]


def batch(num_identities=4, num_images=4, dimension=6, seed=0):
    rng = np.random.default_rng(seed)
    identity = rng.permutation(np.repeat(np.arange(num_identities), num_images))
    features = rng.normal(size=(identity.size, dimension)).astype(np.float32)
    return jnp.asarray(features), jnp.asarray(identity, dtype=jnp.int32)


def identity_loss_by_loops(logits, identity, label_smoothing):
    total = 0.0
    for z, y in zip(logits, identity, strict=True):
        log_probability = z - np.log(np.sum(np.exp(z)))
        for c in range(len(z)):
            target = (1 - label_smoothing) * (c == y) + label_smoothing / len(z)
            total -= target * log_probability[c]
    return total / len(logits)


def distances_of_anchor(features, identity, i):
    """The distances from one anchor to its positives and to its negatives."""
    positives, negatives = [], []
    for j in range(len(features)):
        distance = np.sqrt(np.sum((features[i] - features[j]) ** 2))
        if identity[j] != identity[i]:
            negatives.append(distance)
        elif j != i:
            positives.append(distance)
    return np.array(positives), np.array(negatives)


def mean_over_anchors_by_loops(of_anchor, features, identity):
    features = np.asarray(features, np.float64)
    identity = np.asarray(identity)
    values = []
    for i in range(len(features)):
        positives, negatives = distances_of_anchor(features, identity, i)
        if len(positives) and len(negatives):
            values.append(of_anchor(positives, negatives))
    return np.mean(values) if values else 0.0


def batch_hard_triplet_by_loops(features, identity, margin=0.3):
    def of_anchor(positives, negatives):
        return max(0.0, margin + max(positives) - min(negatives))

    return mean_over_anchors_by_loops(of_anchor, features, identity)


def weighted_regularized_triplet_by_loops(features, identity, squared=False):
    def of_anchor(positives, negatives):
        positive_weights = np.exp(positives) / np.sum(np.exp(positives))
        negative_weights = np.exp(-negatives) / np.sum(np.exp(-negatives))
        difference = positive_weights @ positives - negative_weights @ negatives
        if squared:
            difference = np.sign(difference) * difference**2
        return np.log(1 + np.exp(difference))

    return mean_over_anchors_by_loops(of_anchor, features, identity)


def centers_by_loops(features, identity, modality):
    """The center of every identity in every modality that it has."""
    features = np.asarray(features, np.float64)
    members = {}
    for feature, y, m in zip(features, np.asarray(identity), modality, strict=True):
        members.setdefault((int(y), int(m)), []).append(feature)
    return {key: np.mean(rows, axis=0) for key, rows in members.items()}


def hetero_center_by_loops(features, identity, modality=None):
    modality = MODALITY[: len(identity)] if modality is None else modality
    centers = centers_by_loops(features, identity, modality)
    values = []
    for identity in {y for y, _ in centers}:
        of_identity = [center for (y, _), center in centers.items() if y == identity]
        pairs = list(itertools.combinations(of_identity, 2))
        if pairs:
            values.append(np.mean([np.sum((a - b) ** 2) for a, b in pairs]))
    return np.mean(values) if values else 0.0


def hetero_center_triplet_by_loops(features, identity, modality=None, margin=0.3):
    modality = MODALITY[: len(identity)] if modality is None else modality
    centers = centers_by_loops(features, identity, modality)
    values = []
    for (y, m), center in centers.items():
        distances = {
            key: np.sqrt(np.sum((center - other) ** 2))
            for key, other in centers.items()
        }
        positives = [d for (z, n), d in distances.items() if z == y and n != m]
        negatives = [d for (z, _), d in distances.items() if z != y]
        if positives and negatives:
            values.append(max(0.0, margin + max(positives) - min(negatives)))
    return np.mean(values) if values else 0.0


def circle_by_loops(features, identity, margin=0.25, scale=64.0):
    features = np.asarray(features, np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    identity = np.asarray(identity)
    values = []
    for i in range(len(features)):
        positives, negatives = 0.0, 0.0
        for j in range(len(features)):
            s = features[i] @ features[j]
            if identity[j] != identity[i]:
                weight = max(0.0, s + margin)
                negatives += np.exp(scale * weight * (s - margin))
            elif j != i:
                weight = max(0.0, 1 + margin - s)
                positives += np.exp(-scale * weight * (s - (1 - margin)))
        if positives and negatives:
            values.append(np.log(1 + positives * negatives))
    return np.mean(values) if values else 0.0


@functools.cache
def value_and_gradient(loss):
    """Compiled once for all tests that have batches of one shape."""
    return jax.jit(jax.value_and_grad(loss))


BY_LOOPS = {
    batch_hard_triplet: batch_hard_triplet_by_loops,
    weighted_regularized_triplet: weighted_regularized_triplet_by_loops,
    squared_wrt: partial(weighted_regularized_triplet_by_loops, squared=True),
    circle: circle_by_loops,
    hetero_center_of: hetero_center_by_loops,
    hetero_center_triplet_of: hetero_center_triplet_by_loops,
}


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
def test_identity_loss_agrees_with_loops(label_smoothing):
    logits, identity = batch()
    got = identity_loss(logits, identity, label_smoothing)
    expected = identity_loss_by_loops(
        np.asarray(logits, np.float64), np.asarray(identity), label_smoothing
    )
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("loss", PAIRWISE)
@pytest.mark.parametrize("sizes", [(4, 4), (2, 8), (8, 2), (5, 3)])
def test_pairwise_loss_agrees_with_loops(loss, sizes):
    features, identity = batch(*sizes)
    np.testing.assert_allclose(
        loss(features, identity), BY_LOOPS[loss](features, identity), rtol=1e-5
    )


@pytest.mark.parametrize("margin", [0.0, 0.3, 5.0])
def test_margin_of_the_triplet(margin):
    features, identity = batch()
    np.testing.assert_allclose(
        batch_hard_triplet(features, identity, margin),
        batch_hard_triplet_by_loops(features, identity, margin),
        rtol=1e-5,
    )


@pytest.mark.parametrize("margin", [0.0, 0.3, 5.0])
def test_margin_of_the_hetero_center_triplet(margin):
    features, identity = batch()
    np.testing.assert_allclose(
        hetero_center_triplet(features, identity, jnp.asarray(MODALITY), margin),
        hetero_center_triplet_by_loops(features, identity, margin=margin),
        rtol=1e-5,
    )


@pytest.mark.parametrize(("margin", "scale"), [(0.25, 128.0), (0.4, 16.0), (0.0, 1.0)])
def test_margin_and_scale_of_the_circle_loss(margin, scale):
    features, identity = batch()
    np.testing.assert_allclose(
        circle(features, identity, margin, scale),
        circle_by_loops(features, identity, margin, scale),
        rtol=1e-5,
    )


def test_the_weights_of_the_circle_loss_are_constant_to_the_gradient():
    """Two alike and a stranger: the slope of (s + m)(s - m) is s + m, and not 2 s."""
    margin, angle = 0.25, 1.0

    def loss(angle):
        angles = jnp.array([0.0, 0.0, 1.0]) * angle
        features = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
        return circle(features, jnp.array([0, 0, 1]), margin, scale=1.0)

    s = np.cos(angle)
    exponent = (s + margin) * (s - margin) - margin * margin
    expected = (s + margin) * -np.sin(angle) / (1 + np.exp(-exponent))
    np.testing.assert_allclose(jax.grad(loss)(angle), expected, rtol=1e-5)


OF_CENTERS = {
    hetero_center: hetero_center_by_loops,
    hetero_center_triplet: hetero_center_triplet_by_loops,
}


def uneven_batch(num_modalities, size=16, seed=0):
    """Any mix of modalities; identity 2 lacks the first one, and 3 has one alone."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(size, 6)).astype(np.float32)
    identity = rng.integers(0, 4, size)
    modality = rng.integers(0, num_modalities, size)
    modality[(identity == 2) & (modality == 0)] = 1
    modality[identity == 3] = 1
    return jnp.asarray(features), jnp.asarray(identity), jnp.asarray(modality)


@pytest.mark.parametrize("loss", OF_CENTERS)
@pytest.mark.parametrize("num_modalities", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_centers_of_unequal_groups_weigh_alike(loss, num_modalities, seed):
    labeled = uneven_batch(num_modalities, seed=seed)
    expected = OF_CENTERS[loss](*labeled)
    assert (expected > 0) == (num_modalities > 1)
    np.testing.assert_allclose(loss(*labeled), expected, rtol=1e-5)


def test_two_centers_are_compared_by_their_squared_distance():
    features = jnp.array([[0.0, 1.0], [2.0, 1.0], [4.0, 5.0]])
    identity, modality = jnp.array([7, 7, 7]), jnp.array([0, 0, 1])
    loss, gradient = jax.value_and_grad(hetero_center)(features, identity, modality)
    assert loss == (4 - 1) ** 2 + (5 - 1) ** 2
    np.testing.assert_array_equal(gradient, [[-3.0, -4.0], [-3.0, -4.0], [6.0, 8.0]])


def test_three_centers_are_compared_by_their_mean_squared_distance():
    features = jnp.array([[0.0], [1.0], [3.0]])
    identity = jnp.zeros(3, int)
    loss = hetero_center(features, identity, jnp.arange(3))
    np.testing.assert_allclose(loss, (1 + 4 + 9) / 3, rtol=1e-6)


def test_the_farthest_center_of_the_identity_is_the_positive():
    """Centers 0, 1, 3 of one identity; the nearest negative is at -4."""
    features = jnp.array([[0.0], [1.0], [3.0], [-4.0]])
    identity, modality = jnp.array([0, 0, 0, 1]), jnp.array([0, 1, 2, 0])
    loss = hetero_center_triplet(features, identity, modality, 2.0)
    expected = [2 + 3 - 4, max(0, 2 + 2 - 5), max(0, 2 + 3 - 7)]
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-6)


@pytest.mark.parametrize("loss", OF_CENTERS)
def test_gradient_of_three_modalities_agrees_with_finite_differences(loss):
    features, identity, modality = uneven_batch(3)
    check_grads(
        lambda f: loss(f, identity, modality),
        (features,),
        order=1,
        modes=["rev"],
        rtol=2e-2,
    )


@pytest.mark.parametrize("loss", OF_CENTERS)
def test_the_order_of_the_modalities_makes_no_difference(loss):
    features, identity, modality = uneven_batch(3)
    renamed = jnp.array([2, 0, 1])[modality]
    np.testing.assert_allclose(
        loss(features, identity, renamed),
        loss(features, identity, modality),
        rtol=1e-6,
    )


def test_an_identity_of_one_modality_has_no_hetero_center_loss():
    features, identity, modality = uneven_batch(3)
    others = identity != 3
    assert not np.all(others)
    np.testing.assert_allclose(
        hetero_center(features, identity, modality),
        hetero_center(features[others], identity[others], modality[others]),
        rtol=1e-6,
    )
    gradient = jax.grad(hetero_center)(features, identity, modality)
    np.testing.assert_array_equal(gradient[~others], 0.0)


@pytest.mark.parametrize("loss", [hetero_center, hetero_center_triplet])
def test_a_modality_for_every_sample_is_asked_for(loss):
    features, identity = batch()
    with pytest.raises(ValueError, match=r"modality is int32\[15\], .* shape \[16\], "):
        loss(features, identity, jnp.asarray(MODALITY[1:], jnp.int32))


def test_well_separated_identities_have_no_triplet_loss():
    _, identity = batch()
    features = 100.0 * jax.nn.one_hot(identity, 4)
    assert batch_hard_triplet(features, identity) == 0.0


@pytest.mark.parametrize("loss", [identity_loss, *OF_DISTANCES])
def test_gradient_agrees_with_finite_differences(loss):
    features, identity = batch()
    check_grads(
        lambda f: loss(f, identity), (features,), order=1, modes=["rev"], rtol=2e-2
    )


@pytest.mark.parametrize("loss", PAIRWISE)
def test_anchor_without_positive_is_left_out(loss):
    features, identity = batch()
    lonely = identity.at[0].set(99)
    np.testing.assert_allclose(
        loss(features, lonely), BY_LOOPS[loss](features, lonely), rtol=1e-5
    )


@pytest.mark.parametrize("loss", OF_ANCHORS)
@pytest.mark.parametrize(
    "identity",
    [np.arange(16), np.zeros(16, int), np.arange(16) // 15],
    ids=["no positives", "no negatives", "one without positive"],
)
def test_gradient_is_finite_without_positives_or_negatives(loss, identity):
    features, _ = batch()
    identity = jnp.asarray(identity, jnp.int32)
    value, gradient = value_and_gradient(loss)(features, identity)
    np.testing.assert_allclose(value, BY_LOOPS[loss](features, identity), rtol=1e-5)
    assert np.all(np.isfinite(gradient))
    if np.unique(identity).size in (1, 16):
        assert value == 0.0
        assert np.all(gradient == 0.0)


@pytest.mark.parametrize("loss", PAIRWISE)
def test_gradient_of_a_single_sample_is_zero(loss):
    value, gradient = jax.value_and_grad(loss)(jnp.ones((1, 3)), jnp.array([0]))
    assert value == 0.0
    assert np.all(gradient == 0.0)


@pytest.mark.parametrize("loss", PAIRWISE)
def test_gradient_is_finite_at_identical_features(loss):
    _, identity = batch()
    gradient = jax.grad(loss)(jnp.full((16, 6), 0.7), identity)
    assert np.all(gradient == 0.0)
    features = batch()[0].at[1].set(batch()[0][0])
    assert np.all(np.isfinite(jax.grad(loss)(features, identity)))


@pytest.mark.parametrize("loss", PAIRWISE)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_gradient_is_finite_at_every_scale(loss, scale):
    features, identity = batch()
    value, gradient = value_and_gradient(loss)(scale * features, identity)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("loss", OF_DISTANCES)
def test_a_common_offset_of_the_features_costs_no_digits(loss):
    features, identity = batch()
    # Multiples of 2^-8, so that adding the offset is exact.
    features = jnp.round(features * 256) / 256
    np.testing.assert_allclose(
        loss(features + 1024.0, identity), loss(features, identity), rtol=1e-5
    )


@pytest.mark.parametrize("loss", [identity_loss, *PAIRWISE])
def test_bfloat16_features_give_a_float32_loss(loss):
    features, identity = batch()
    features = features.astype(jnp.bfloat16)
    value, gradient = jax.value_and_grad(loss)(features, identity)
    assert value.dtype == jnp.float32
    assert value.shape == ()
    assert gradient.dtype == jnp.bfloat16
    assert value == loss(features.astype(jnp.float32), identity)


@pytest.mark.parametrize("loss", [identity_loss, *PAIRWISE])
def test_batch_over_eight_devices_has_the_loss_of_one(loss):
    features, identity = batch(num_identities=8, num_images=2, dimension=8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    on_data = NamedSharding(mesh, PartitionSpec("data"))
    of_batch = value_and_gradient(loss)
    one = of_batch(features, identity)
    eight = of_batch(*jax.device_put((features, identity), on_data))
    assert len(eight[1].sharding.device_set) == 8
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), one, eight
    )


@pytest.mark.parametrize("loss", [identity_loss, *PAIRWISE])
def test_explicit_axes_give_the_loss_of_one_device(loss):
    """Of the samples, and of the dimensions, which auto axes may be cut by as well."""
    features, identity = batch(num_identities=8, num_images=2, dimension=8)
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    specs = PartitionSpec("data", "model"), PartitionSpec("data")
    of_batch = value_and_gradient(loss)
    one = of_batch(features, identity)
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(a, NamedSharding(mesh, spec))
            for a, spec in zip((features, identity), specs, strict=True)
        ]
        eight = of_batch(*placed)
        assert jax.typeof(eight[1]).sharding.spec == specs[0]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), one, eight
    )


@pytest.mark.parametrize("loss", [identity_loss, *PAIRWISE])
@pytest.mark.parametrize("hidden", [False, True], ids=["anchors", "no anchors"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_never_hidden(loss, hidden, value):
    features, identity = batch()
    identity = jnp.zeros_like(identity) if hidden else identity
    assert not np.isfinite(loss(features.at[3].set(value), identity))


@pytest.mark.parametrize("loss", OF_DISTANCES)
@pytest.mark.parametrize(("dimension", "scale"), [(6, 1e20), (512, 1e18), (512, 1e20)])
def test_distances_beyond_float32_are_not_hidden(loss, dimension, scale):
    """In many dimensions all features are opposite to each other, in few not."""
    features, identity = batch(dimension=dimension)
    assert not np.isfinite(loss(scale * features, identity))


@pytest.mark.parametrize("loss", PAIRWISE)
@pytest.mark.parametrize("scale", [5e18, 7e18, 1e19, 1.4e19, 2e19])
def test_a_finite_loss_has_a_finite_gradient(loss, scale):
    """Where the largest squared distances leave float32 and the others do not."""
    for seed in range(5):
        features, identity = batch(seed=seed)
        value, gradient = value_and_gradient(loss)(scale * features, identity)
        assert np.isfinite(gradient).all() or not np.isfinite(value)


@pytest.mark.parametrize("label", [-1, -6, 6, 2**31 - 1])
def test_identity_loss_of_a_label_outside_the_range_is_nan(label):
    logits, identity = batch()
    assert np.isnan(identity_loss(logits, identity.at[3].set(label)))


@pytest.mark.parametrize("dtype", ["int64", "uint8", "int8", "uint4", "int4", "list"])
@pytest.mark.parametrize("loss", [identity_loss, *PAIRWISE])
def test_labels_may_be_integers_of_any_type(loss, dtype):
    features, identity = batch()
    given = np.asarray(identity).tolist()
    if dtype != "list":
        given = np.array(given).astype(jnp.dtype(dtype))
    assert loss(features, given) == loss(features, identity)


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("loss", [identity_loss, *PAIRWISE])
def test_a_loss_is_float32_under_x64_and_strict_promotion(loss, x64):
    features, identity = batch()
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        assert loss(features, identity).dtype == jnp.float32


MISUSE = {
    "text": (np.ones((2, 3)), np.array(["a", "b"])),
    "mixed": (np.ones((2, 3)), np.array(["a", 1], object)),
    "fractions": (np.ones((2, 3)), np.array([0.0, 1.0])),
    "too large": (np.ones((2, 3)), np.array([0, 2**32])),
    "one dimension": (np.ones(2), np.array([0, 1])),
    "no rows": (np.ones((0, 3)), np.zeros(0, int)),
    "no columns": (np.ones((2, 0)), np.array([0, 1])),
    "no numbers": (np.array([["a"], ["b"]]), np.array([0, 1])),
    "complex": (np.ones((2, 3), complex), np.array([0, 1])),
}


@pytest.mark.parametrize("rows", MISUSE.values(), ids=MISUSE)
@pytest.mark.parametrize("loss", [identity_loss, *OF_ANCHORS])
def test_what_does_not_fit_is_refused_in_one_sentence(loss, rows):
    with pytest.raises(ValueError, match=r"^(A loss takes|identity is) .*\.$") as error:
        loss(*rows)
    assert "\n" not in str(error.value)


OF_SAMPLES = {
    "identity": lambda x, y, m, **a: identity_loss(x, y, 0.1, **a),
    "triplet": lambda x, y, m, **a: batch_hard_triplet(x, y, 0.3, **a),
    "wrt": lambda x, y, m, **a: weighted_regularized_triplet(x, y, **a),
    "squared wrt": lambda x, y, m, **a: weighted_regularized_triplet(
        x, y, squared=True, **a
    ),
    "circle": lambda x, y, m, **a: circle(x, y, **a),
    "hetero-center": hetero_center,
    "hetero-center triplet": hetero_center_triplet,
}


@pytest.mark.parametrize("loss", OF_SAMPLES.values(), ids=OF_SAMPLES)
def test_on_a_mapped_axis_every_device_has_the_loss_of_the_global_batch(loss):
    features, identity = batch(num_identities=8, num_images=2, dimension=8)
    assert_same_on_a_mapped_axis(loss, (features, identity, jnp.asarray(MODALITY)))


@pytest.mark.parametrize("loss", OF_CENTERS)
def test_on_a_mapped_axis_three_modalities_are_those_of_the_global_batch(loss):
    assert_same_on_a_mapped_axis(loss, uneven_batch(3))


def assert_same_on_a_mapped_axis(loss, whole):
    """Value and gradient over eight devices are those of the whole batch."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    of_device = jax.value_and_grad(lambda *rows: loss(*rows, axis_name="data"))
    on_data = PartitionSpec("data")
    mapped = jax.shard_map(
        lambda *rows: jax.tree.map(lambda leaf: leaf[None], of_device(*rows)),
        mesh=mesh,
        in_specs=on_data,
        out_specs=on_data,
        check_vma=False,
    )
    values, gradients = jax.jit(mapped)(*whole)
    value, gradient = value_and_gradient(loss)(*whole)
    np.testing.assert_allclose(values, np.full(8, value), rtol=1e-5)
    # Each of eight devices has differentiated the loss of all.
    np.testing.assert_allclose(
        gradients.reshape(gradient.shape) / 8, gradient, atol=1e-6
    )


@pytest.mark.parametrize("loss", [identity_loss, *PAIRWISE])
def test_shapes_that_do_not_fit_are_an_error(loss):
    features, identity = batch()
    with pytest.raises(ValueError, match=r"\[16, 1\], .* of shape \[16, 6\]"):
        loss(features, identity[:, None])
    with pytest.raises(ValueError, match=r"\[15\], .* of shape \[16, 6\]"):
        loss(features, identity[1:])


def test_examples_in_the_docstrings():
    assert doctest.testmod(losses).failed == 0
