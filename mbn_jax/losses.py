r"""Losses over a batch of features, as pure functions of arrays.

Numerical decisions common to all of them:

* Everything is computed in float32, whatever the type of the features.
* Distances come from one matrix product of features from which the batch mean has been
  subtracted. Distances do not change by that, and the offset that rectified features
  have in common costs no digits. The product is taken in full float32 precision, which
  accelerators do not do by themselves.
* A distance below the rounding of that product is zero, and so is its gradient, where
  the derivative of the square root would be infinite.
* An anchor without a positive, or without a negative, is left out of the mean; a batch
  without any valid anchor has loss zero and gradient zero.
* A loss of features that are not finite, or whose squared distances are beyond float32,
  is not finite either.

Every loss takes a matrix of real numbers with at least one row and one column, and one
integer label per row, and returns a float32 scalar. Everything else is a `ValueError`.

Pairs are formed over the whole array. Under `jax.jit` with the batch sharded over
devices that is the global batch. Under `pmap` and `shard_map`, where a function sees
the rows of its own device, `axis_name` names the mapped axis: the rows of all devices
are gathered, every device takes its own rows as anchors against all, and the sums over
anchors are added up. The result is the loss of the global batch, the same on every
device, and the gradient flows back to the device that owns a row.
"""

from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from mbn_jax.arguments import labels
from mbn_jax.mesh import takes_explicit_axes

# A loss is the same on every device, however its arguments lie over a mesh.
_takes_explicit_axes = takes_explicit_axes(lambda *_, **__: PartitionSpec())


@_takes_explicit_axes
def identity_loss(
    logits: jax.Array,
    identity: jax.Array,
    label_smoothing: float = 0.0,
    *,
    axis_name: str | None = None,
) -> jax.Array:
    r"""Cross-entropy of the identity classifier with label smoothing.

    $$
    L = -\frac{1}{B} \sum_i \sum_c q_{ic} \log \mathrm{softmax}(z_i)_c, \qquad
    q_{ic} = (1 - \epsilon) [c = y_i] + \frac{\epsilon}{N}
    $$

    Args:
        logits: $z$, (B, N) floating.
        identity: $y$, class labels, (B,) integers in 0..N-1.
        label_smoothing: $\epsilon$ in [0, 1], a Python number.
        axis_name: the mapped axis under pmap and shard_map.

    Returns:
        A float32 scalar; NaN if a label is outside the range.

    References:
        Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
        2016, https://arxiv.org/abs/1512.00567

    Example:
        >>> logits = jnp.array([[2.0, 0.0], [0.0, 0.0]])
        >>> print(f"{identity_loss(logits, jnp.array([0, 1])):.4f}")
        0.4100
    """
    logits, identity = _checked(logits, identity)
    logits = logits.astype(jnp.float32)
    # Optax counts negative labels from the end, and gives NaN for those beyond it.
    identity = jnp.where(identity < 0, logits.shape[1], identity)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, identity)
    if label_smoothing:
        # The cross-entropy with the uniform distribution, without a one-hot matrix.
        uniform = jax.nn.logsumexp(logits, axis=1) - jnp.mean(logits, axis=1)
        loss = (1.0 - label_smoothing) * loss + label_smoothing * uniform
    mean = jnp.mean(loss)
    # Every device has as many rows as the others, so the mean of means is the mean.
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


@_takes_explicit_axes
def batch_hard_triplet(
    features: jax.Array,
    identity: jax.Array,
    margin: float = 0.3,
    *,
    axis_name: str | None = None,
) -> jax.Array:
    r"""Triplet loss of each anchor with its hardest positive and negative.

    $$
    L = \frac{1}{|A|} \sum_{i \in A} \max\Big(0,\; m
        + \max_{j \ne i,\, y_j = y_i} d_{ij} - \min_{k:\, y_k \ne y_i} d_{ik}\Big),
    \qquad d_{ij} = \lVert f_i - f_j \rVert_2
    $$

    where $A$ are the anchors with a positive and a negative.

    Args:
        features: $f$, (B, D) floating; not normalized here.
        identity: $y$, (B,) integers.
        margin: $m$.
        axis_name: the mapped axis under pmap and shard_map.

    Returns:
        A float32 scalar.

    References:
        Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification",
        2017, https://arxiv.org/abs/1703.07737

    Example:
        >>> features = jnp.array([[0.0], [1.0], [1.5]])
        >>> identity = jnp.array([0, 0, 1])
        >>> print(f"{batch_hard_triplet(features, identity):.4f}")
        0.4000
    """
    features, identity = _checked(features, identity)
    distance = _distances(features, _everyone(features, axis_name))
    positive, negative = _pairs(identity, axis_name)
    hardest_positive = jnp.max(distance, axis=1, where=positive, initial=0.0)
    hardest_negative = jnp.min(distance, axis=1, where=negative, initial=jnp.inf)
    loss = jax.nn.relu(margin + hardest_positive - hardest_negative)
    return _mean_over_anchors(distance, loss, _in_both(positive, negative), axis_name)


@_takes_explicit_axes
def weighted_regularized_triplet(
    features: jax.Array,
    identity: jax.Array,
    *,
    squared: bool = False,
    axis_name: str | None = None,
) -> jax.Array:
    r"""Soft-plus of the softmax-weighted positive minus negative distances.

    $$
    L = \frac{1}{|A|} \sum_{i \in A} \log\Big(1 + \exp\Big(
        \sum_{j \in P_i} w^+_{ij} d_{ij} - \sum_{k \in N_i} w^-_{ik} d_{ik}
        \Big)\Big), \quad
    w^+_{ij} = \frac{e^{d_{ij}}}{\sum_{j' \in P_i} e^{d_{ij'}}}, \quad
    w^-_{ik} = \frac{e^{-d_{ik}}}{\sum_{k' \in N_i} e^{-d_{ik'}}}
    $$

    with $d_{ij} = \lVert f_i - f_j \rVert_2$, $P_i$ the other samples of the anchor's
    identity, $N_i$ the samples of other identities, and $A$ the anchors for which
    neither is empty. Far positives and near negatives weigh most; there is no margin.
    The gradient flows through the weights too.

    The authors' code counts the anchor among its own positives, at distance zero, which
    shrinks the positive term; here it is not counted.

    Args:
        features: $f$, (B, D) floating; not normalized here.
        identity: $y$, (B,) integers.
        squared: whether to take the square of the difference, with its sign, in place
            of the difference. This is the loss of CAJ, which weighs large errors more.
            (Its code cuts the square off at 88, since its soft-plus would overflow.)
        axis_name: the mapped axis under pmap and shard_map.

    Returns:
        A float32 scalar.

    References:
        Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook"
        (the loss of AGW), TPAMI 2021, https://arxiv.org/abs/2001.04193
        Ye et al., "Channel Augmented Joint Learning for Visible-Infrared Recognition"
        (the square), ICCV 2021,
        https://openaccess.thecvf.com/content/ICCV2021/html/Ye_Channel_Augmented_Joint_Learning_for_Visible-Infrared_Recognition_ICCV_2021_paper.html

    Example:
        >>> features = jnp.array([[0.0], [1.0], [3.0]])
        >>> identity = jnp.array([0, 0, 1])
        >>> print(f"{weighted_regularized_triplet(features, identity):.4f}")
        0.2201
    """
    features, identity = _checked(features, identity)
    distance = _distances(features, _everyone(features, axis_name))
    positive, negative = _pairs(identity, axis_name)
    far_positive = _softmax_weighted_sum(distance, distance, positive)
    near_negative = _softmax_weighted_sum(distance, -distance, negative)
    difference = far_positive - near_negative
    if squared:
        difference *= jnp.abs(difference)
    loss = jax.nn.softplus(difference)
    return _mean_over_anchors(distance, loss, _in_both(positive, negative), axis_name)


@_takes_explicit_axes
def hetero_center(
    features: jax.Array,
    identity: jax.Array,
    modality: jax.Array,
    *,
    axis_name: str | None = None,
) -> jax.Array:
    r"""Mean squared distance between the modality centers of an identity.

    $$
    L = \frac{1}{|Y|} \sum_{y \in Y} \frac{2}{|M_y| (|M_y| - 1)}
        \sum_{\{m, m'\} \subseteq M_y} \lVert c_{ym} - c_{ym'} \rVert_2^2, \qquad
    c_{ym} = \frac{1}{|S_{ym}|} \sum_{i \in S_{ym}} f_i
    $$

    where $S_{ym}$ are the samples of identity y in modality m, $M_y$ the modalities in
    which y has samples in the batch, and $Y$ the identities that have two modalities or
    more. The inner sum is over the unordered pairs of different modalities. With two
    modalities it has one term, and the loss is that of the authors, except that they
    sum over the identities: the mean keeps the loss independent of their number.

    Args:
        features: $f$, (B, D) floating; not normalized here.
        identity: $y$, (B,) integers.
        modality: (B,) integers.
        axis_name: the mapped axis under pmap and shard_map.

    Returns:
        A float32 scalar; 0 if no identity has two modalities.

    References:
        Zhu et al., "Hetero-Center Loss for Cross-Modality Person Re-Identification",
        Neurocomputing 2020, https://arxiv.org/abs/1910.09830

    Example:
        >>> features = jnp.array([[0.0], [2.0], [4.0], [9.0]])
        >>> identity, modality = jnp.array([0, 0, 0, 1]), jnp.array([0, 0, 1, 1])
        >>> print(f"{hetero_center(features, identity, modality):.4f}")
        9.0000
    """
    features, identity, modality = _checked(features, identity, modality)
    groups = _Groups.of(features, identity, modality, axis_name)
    # Let n be the number of centers of an identity, c one of them, c' the mean of the
    # others, and c* the mean of all. The sum over pairs is n times the sum of
    # |c - c*|^2 over centers, and c - c* = (n - 1) / n (c - c'). So the mean over pairs
    # is the mean of 2 (n - 1) / n |c - c'|^2 over centers.
    distance = jnp.sum((groups.own_center - groups.mean_of_others) ** 2, axis=1)
    num_centers = groups.num_others + 1.0
    return _mean_over_anchors(
        features,
        2.0 * (groups.num_others / num_centers) * distance,
        groups.num_others > 0,
        axis_name,
        1.0 / (groups.size_of_own * num_centers),
    )


@_takes_explicit_axes
def hetero_center_triplet(
    features: jax.Array,
    identity: jax.Array,
    modality: jax.Array,
    margin: float = 0.3,
    *,
    axis_name: str | None = None,
) -> jax.Array:
    r"""Triplet loss between the centers of identities in the modalities.

    $$
    L = \frac{1}{|A|} \sum_{(y, m) \in A} \max\Big(0,\; \rho
        + \max_{m' \ne m} \lVert c_{ym} - c_{ym'} \rVert_2
        - \min_{y' \ne y,\, m'} \lVert c_{ym} - c_{y'm'} \rVert_2\Big)
    $$

    with the centers of `hetero_center`, and $A$ the centers whose identity has another
    modality and is not the only identity. The positive is the farthest center of the
    same identity; with two modalities it is that of the other modality, as in the
    authors' definition. The authors sum over the centers; the mean keeps the loss
    independent of their number.

    Args:
        features: $f$, (B, D) floating; not normalized here.
        identity: $y$, (B,) integers.
        modality: (B,) integers.
        margin: $\rho$.
        axis_name: the mapped axis under pmap and shard_map.

    Returns:
        A float32 scalar.

    References:
        Liu et al., "Parameter Sharing Exploration and Hetero-Center Triplet Loss for
        Visible-Thermal Person Re-Identification", IEEE Transactions on Multimedia 2020,
        https://arxiv.org/abs/2008.06223

    Example:
        >>> features = jnp.array([[0.0], [1.0], [1.5], [1.5]])
        >>> identity, modality = jnp.array([0, 0, 1, 1]), jnp.array([0, 1, 0, 1])
        >>> print(f"{hetero_center_triplet(features, identity, modality):.4f}")
        0.2000
    """
    features, identity, modality = _checked(features, identity, modality)
    groups = _Groups.of(features, identity, modality, axis_name)
    # Every sample stands for its center: largest and smallest distances are the same.
    centers = _everyone(groups.own_center, axis_name)
    distance = _distances(groups.own_center, centers)
    negative = identity[:, None] != _everyone(identity, axis_name)[None, :]
    nearest_negative = jnp.min(distance, axis=1, where=negative, initial=jnp.inf)
    farthest = jnp.argmax(jnp.where(groups.positive, distance, -1.0), axis=1)
    # By subtraction, which loses no digits where the centers of an identity are close.
    hardest_positive = _lengths(groups.own_center - centers[farthest])
    loss = jax.nn.relu(margin + hardest_positive - nearest_negative)
    valid = (groups.num_others > 0) & jnp.any(negative, axis=1)
    return _mean_over_anchors(
        distance, loss, valid, axis_name, 1.0 / groups.size_of_own
    )


@_takes_explicit_axes
def circle(
    features: jax.Array,
    identity: jax.Array,
    margin: float = 0.25,
    scale: float = 64.0,
    *,
    axis_name: str | None = None,
) -> jax.Array:
    r"""Circle loss: the farther a similarity is from its optimum, the more it weighs.

    $$
    L = \frac{1}{|A|} \sum_{i \in A} \log\Big(1 +
        \sum_{k \in N_i} e^{\gamma [s_{ik} + m]_+ (s_{ik} - m)}
        \sum_{j \in P_i} e^{-\gamma [1 + m - s_{ij}]_+ (s_{ij} - 1 + m)}\Big),
    \qquad s_{ij} = \frac{f_i \cdot f_j}{\lVert f_i \rVert \lVert f_j \rVert}
    $$

    with $P_i$ the other samples of the anchor's identity, $N_i$ the samples of other
    identities, $A$ the anchors for which neither is empty. The weights in brackets are
    constant to the gradient.

    Args:
        features: $f$, (B, D) floating, of any length.
        identity: $y$, (B,) integers.
        margin: $m$.
        scale: $\gamma$.
        axis_name: the mapped axis under pmap and shard_map.

    Returns:
        A float32 scalar.

    References:
        Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization"
        (the form for pairs), CVPR 2020, https://arxiv.org/abs/2002.10857

    Example:
        >>> features = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> print(f"{circle(features, jnp.array([0, 0, 1])):.4f}")
        0.0003
    """
    features, identity = _checked(features, identity)
    directions = _directions(features)
    similarity = jnp.matmul(
        directions,
        _everyone(directions, axis_name).T,
        precision=jax.lax.Precision.HIGHEST,
    )
    positive, negative = _pairs(identity, axis_name)
    press = jax.lax.stop_gradient
    too_small = press(jax.nn.relu(1 + margin - similarity))
    too_large = press(jax.nn.relu(similarity + margin))
    loss = jax.nn.softplus(
        _logsumexp(-scale * too_small * (similarity - 1 + margin), positive)
        + _logsumexp(scale * too_large * (similarity - margin), negative)
    )
    return _mean_over_anchors(features, loss, _in_both(positive, negative), axis_name)


class _Groups(NamedTuple):
    """The centers of each sample's identity, in its own modality and in the others.

    They are relative to the mean of the batch.
    """

    own_center: jax.Array  # (b, D) float32
    size_of_own: jax.Array  # (b,) float32, samples that it is the mean of
    mean_of_others: jax.Array  # (b, D), mean of its centers in other modalities, or 0
    num_others: jax.Array  # (b,) float32, centers that it is the mean of; 0 without
    positive: jax.Array  # (b, B) bool, samples of the identity in another modality

    @classmethod
    def of(
        cls,
        features: jax.Array,
        identity: jax.Array,
        modality: jax.Array,
        axis_name: str | None,
    ) -> Self:
        everyone = _everyone(features.astype(jnp.float32), axis_name)
        everyone -= jax.lax.stop_gradient(jnp.mean(everyone, axis=0, keepdims=True))
        same = identity[:, None] == _everyone(identity, axis_name)[None, :]
        alike = modality[:, None] == _everyone(modality, axis_name)[None, :]

        def total(weights: jax.Array) -> jax.Array:
            return jnp.matmul(weights, everyone, precision=jax.lax.Precision.HIGHEST)

        own = (same & alike).astype(jnp.float32)
        size_of_own = jnp.sum(own, axis=1)
        # A sample weighs one over the samples of its center, so a center weighs one.
        share = 1.0 / _everyone(size_of_own, axis_name)
        others = jnp.where(same & ~alike, share[None, :], 0.0)
        num_others = jnp.round(jnp.sum(others, axis=1))
        return cls(
            total(own) / size_of_own[:, None],
            size_of_own,
            total(others) / jnp.maximum(num_others, 1.0)[:, None],
            num_others,
            same & ~alike,
        )


def _everyone(rows: jax.Array, axis_name: str | None) -> jax.Array:
    """The rows of all devices, (B, …), in their order along the mapped axis."""
    if axis_name is None:
        return rows
    return jax.lax.all_gather(rows, axis_name, tiled=True)


def _distances(features: jax.Array, others: jax.Array) -> jax.Array:
    """Distances (b, B) of anchors among others, with zero gradient where zero."""
    features, others = features.astype(jnp.float32), others.astype(jnp.float32)
    center = jax.lax.stop_gradient(jnp.mean(others, axis=0, keepdims=True))
    features, others = features - center, others - center
    product = jnp.matmul(features, others.T, precision=jax.lax.Precision.HIGHEST)
    scale = jnp.sum(features**2, axis=1)[:, None] + jnp.sum(others**2, axis=1)[None, :]
    squared = scale - 2.0 * product
    # Not "apart where greater": NaN would be together, at distance zero. So would what
    # is infinitely far, because infinity is not greater than infinity.
    together = squared <= 4.0 * jnp.finfo(jnp.float32).eps * scale
    together &= jnp.isfinite(scale)
    return _root(squared, together)


def _pairs(identity: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Which pairs (b, B) are positive, without the anchor itself, and negative."""
    others = _everyone(identity, axis_name)
    same = identity[:, None] == others[None, :]
    anchor = jnp.arange(identity.shape[0])
    if axis_name is not None:
        anchor += jax.lax.axis_index(axis_name) * identity.shape[0]
    itself = anchor[:, None] == jnp.arange(others.shape[0])[None, :]
    return same & ~itself, ~same


def _in_both(positive: jax.Array, negative: jax.Array) -> jax.Array:
    """Which anchors have a positive and a negative, (b,) bool."""
    return jnp.any(positive, axis=1) & jnp.any(negative, axis=1)


def _softmax_weighted_sum(
    values: jax.Array, logits: jax.Array, where: jax.Array
) -> jax.Array:
    """Sum of values by the softmax of logits over `where`; 0 for an empty row."""
    weights = jax.nn.softmax(_or_lowest(logits, where), axis=1)
    return jnp.sum(weights * values, axis=1, where=where)


def _logsumexp(values: jax.Array, where: jax.Array) -> jax.Array:
    """Logarithm of a sum of exponentials over `where`; very low for an empty row."""
    return jax.nn.logsumexp(_or_lowest(values, where), axis=1)


def _or_lowest(values: jax.Array, where: jax.Array) -> jax.Array:
    # The lowest finite number rather than -inf, which gives NaN in an empty row.
    return jnp.where(where, values, jnp.finfo(values.dtype).min)


def _directions(features: jax.Array) -> jax.Array:
    """Rows of unit length, float32; a row of zeros stays, with a finite gradient."""
    features = features.astype(jnp.float32)
    largest = jnp.max(jnp.abs(features), axis=1, keepdims=True)
    features /= jax.lax.stop_gradient(jnp.where(largest > 0, largest, 1.0))
    length = _lengths(features)
    return features / jnp.where(length > 0, length, 1.0)[:, None]


def _lengths(rows: jax.Array) -> jax.Array:
    """Euclidean norms of the rows, with zero gradient where they are zero."""
    squared = jnp.sum(rows**2, axis=1)
    return _root(squared, squared == 0)


def _root(squared: jax.Array, zero: jax.Array) -> jax.Array:
    # `where` after the root alone would let 0 * inf = NaN into the gradient.
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squared)))


def _mean_over_anchors(
    finite: jax.Array,
    loss: jax.Array,
    valid: jax.Array,
    axis_name: str | None,
    weight: jax.Array | float = 1.0,
) -> jax.Array:
    """Mean over the valid anchors of all devices; 0 if there is none.

    It is NaN if a number in `finite` is not, also one that no valid anchor looks at.
    """
    weight = jnp.asarray(weight, jnp.float32)
    total = jnp.sum(weight * loss, where=valid)
    total += jnp.sum(0.0 * finite.astype(jnp.float32))
    count = jnp.sum(jnp.broadcast_to(weight, valid.shape), where=valid)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return total / jnp.where(count > 0, count, 1)


def _checked(rows: Any, identity: Any, *modality: Any) -> tuple[jax.Array, ...]:
    """Returns the arguments as arrays that fit each other, labels as signed integers.

    Raises:
        ValueError: they do not fit.
    """
    rows = rows if isinstance(rows, jax.Array) else np.asarray(rows)
    is_real = jnp.issubdtype(rows.dtype, jnp.number) and not jnp.iscomplexobj(rows)
    if rows.ndim != 2 or 0 in rows.shape or not is_real:
        raise ValueError(
            "A loss takes a matrix of real numbers, one row per sample, that is not "
            f"empty, but the rows are {rows.dtype}{list(rows.shape)}."
        )
    named = zip(("identity", "modality"), (identity, *modality), strict=False)
    return jnp.asarray(rows), *(
        _signed(name, labels(name, values, rows)) for name, values in named
    )


def _signed(name: str, labels: jax.Array | np.ndarray) -> jax.Array:
    """Labels as int32 or int64; labels that differ stay different."""
    if isinstance(labels, np.ndarray) and labels.dtype.itemsize > 4:
        if not np.array_equal(labels, labels.astype(np.int32)):
            raise ValueError(
                f"A loss takes integers of 32 bits as {name}, but the largest is"
                f" {labels.max()}: number them from 0."
            )
        labels = labels.astype(np.int32)
    return jnp.asarray(labels).astype(
        jnp.int64 if labels.dtype.itemsize > 4 else jnp.int32
    )
