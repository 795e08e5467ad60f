r"""Losses over a batch of features, as pure functions of arrays.

Numerical decisions common to all of them:

* Everything is computed in float32, whatever the type of the features.
* Distances come from one matrix product of features from which the batch mean has been
  subtracted: distances do not change by it, and the offset that rectified features have
  in common no longer costs digits. The product is taken in full float32 precision,
  which accelerators do not do by themselves.
* A distance below the rounding of that product is zero, and so is its gradient, where
  the derivative of the square root would be infinite.
* An anchor without a positive, or without a negative, is left out of the mean; a batch
  without any valid anchor has loss zero and gradient zero.

Pairs are formed over the whole array. Under ``jax.jit`` with the batch sharded over
devices that is the global batch; nothing has to be gathered by hand. Under ``pmap`` and
``shard_map``, where a function sees the rows of its own device, ``axis_name`` names the
mapped axis: features and identities of all devices are gathered, every device takes its
own rows as anchors against all, and the sums over anchors are added up. The result is
the loss of the global batch, the same on every device, and the gradient flows back to
the device that owns a row.
"""

import jax
import jax.numpy as jnp
import optax


def identity_loss(
    logits: jax.Array,
    identity: jax.Array,
    label_smoothing: float = 0.0,
    *,
    axis_name: str | None = None,
) -> jax.Array:
    r"""Cross-entropy of the identity classifier with label smoothing.

    .. math::
      L = -\frac{1}{B} \sum_i \sum_c q_{ic} \log \mathrm{softmax}(z_i)_c, \qquad
      q_{ic} = (1 - \epsilon) [c = y_i] + \frac{\epsilon}{N}

    Args:
        logits: :math:`z`, (B, N) floating.
        identity: :math:`y`, class labels, (B,) integers in 0..N-1.
        label_smoothing: :math:`\epsilon` in [0, 1], a Python number.
        axis_name: mapped axis under pmap and shard_map, over which the batch is cut.

    Returns:
        The mean over the batch, a float32 scalar; NaN if a label is outside the range.

    References:
        Szegedy et al., `Rethinking the Inception Architecture for Computer Vision
        <https://arxiv.org/abs/1512.00567>`_, 2016.

    Example:
        >>> logits = jnp.array([[2.0, 0.0], [0.0, 0.0]])
        >>> print(f"{identity_loss(logits, jnp.array([0, 1])):.4f}")
        0.4100
    """
    _check_shapes(logits, identity)
    logits = logits.astype(jnp.float32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, identity)
    if label_smoothing:
        # The cross-entropy with the uniform distribution, without a one-hot matrix.
        uniform = jax.nn.logsumexp(logits, axis=1) - jnp.mean(logits, axis=1)
        loss = (1.0 - label_smoothing) * loss + label_smoothing * uniform
    mean = jnp.mean(loss)
    # Every device has as many rows as the others, so the mean of means is the mean.
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


def batch_hard_triplet(
    features: jax.Array,
    identity: jax.Array,
    margin: float = 0.3,
    *,
    axis_name: str | None = None,
) -> jax.Array:
    r"""Triplet loss of each anchor with its hardest positive and negative.

    .. math::
      L = \frac{1}{|A|} \sum_{i \in A} \max\Big(0,\; m
          + \max_{j \ne i,\, y_j = y_i} d_{ij} - \min_{k:\, y_k \ne y_i} d_{ik}\Big),
      \qquad d_{ij} = \lVert f_i - f_j \rVert_2

    where :math:`A` are the anchors with a positive and a negative.

    Args:
        features: :math:`f`, (B, D) floating; not normalised here.
        identity: :math:`y`, (B,) integers.
        margin: :math:`m`.
        axis_name: mapped axis under pmap and shard_map, over which the batch is cut.

    Returns:
        A float32 scalar.

    References:
        Hermans et al., `In Defense of the Triplet Loss for Person Re-Identification
        <https://arxiv.org/abs/1703.07737>`_, 2017.

    Example:
        >>> features = jnp.array([[0.0], [1.0], [1.5]])
        >>> identity = jnp.array([0, 0, 1])
        >>> print(f"{batch_hard_triplet(features, identity):.4f}")
        0.4000
    """
    _check_shapes(features, identity)
    distance = _distances(features, _everyone(features, axis_name))
    positive, negative = _pairs(identity, axis_name)
    hardest_positive = jnp.max(distance, axis=1, where=positive, initial=0.0)
    hardest_negative = jnp.min(distance, axis=1, where=negative, initial=jnp.inf)
    loss = jax.nn.relu(margin + hardest_positive - hardest_negative)
    return _mean_over_valid_anchors(loss, positive, negative, axis_name)


def weighted_regularised_triplet(
    features: jax.Array, identity: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
    r"""Soft-plus of the softmax-weighted positive minus negative distances.

    .. math::
      L = \frac{1}{|A|} \sum_{i \in A} \log\Big(1 + \exp\Big(
          \sum_{j \in P_i} w^+_{ij} d_{ij} - \sum_{k \in N_i} w^-_{ik} d_{ik}
          \Big)\Big), \quad
      w^+_{ij} = \frac{e^{d_{ij}}}{\sum_{j' \in P_i} e^{d_{ij'}}}, \quad
      w^-_{ik} = \frac{e^{-d_{ik}}}{\sum_{k' \in N_i} e^{-d_{ik'}}}

    with :math:`d_{ij} = \lVert f_i - f_j \rVert_2`, :math:`P_i` the other samples of
    the anchor's identity, :math:`N_i` the samples of other identities, and :math:`A`
    the anchors for which neither is empty. Far positives and near negatives weigh most;
    there is no margin. The gradient goes through the weights too.

    The authors' code counts the anchor among its own positives, at distance zero, which
    shrinks the positive term; here it is not counted.

    Args:
        features: :math:`f`, (B, D) floating; not normalised here.
        identity: :math:`y`, (B,) integers.
        axis_name: mapped axis under pmap and shard_map, over which the batch is cut.

    Returns:
        A float32 scalar.

    References:
        Ye et al., `Deep Learning for Person Re-identification: A Survey and Outlook
        <https://arxiv.org/abs/2001.04193>`_, TPAMI 2021 (the loss of AGW).

    Example:
        >>> features = jnp.array([[0.0], [1.0], [3.0]])
        >>> identity = jnp.array([0, 0, 1])
        >>> print(f"{weighted_regularised_triplet(features, identity):.4f}")
        0.2201
    """
    _check_shapes(features, identity)
    distance = _distances(features, _everyone(features, axis_name))
    positive, negative = _pairs(identity, axis_name)
    far_positive = _softmax_weighted_sum(distance, distance, positive)
    near_negative = _softmax_weighted_sum(distance, -distance, negative)
    loss = jax.nn.softplus(far_positive - near_negative)
    return _mean_over_valid_anchors(loss, positive, negative, axis_name)


def _everyone(rows: jax.Array, axis_name: str | None) -> jax.Array:
    """The rows of all devices, (B, …), in their order along the mapped axis."""
    if axis_name is None:
        return rows
    return jax.lax.all_gather(rows, axis_name, tiled=True)


def _distances(features: jax.Array, others: jax.Array) -> jax.Array:
    """Euclidean distances, (b, B) float32, with zero gradient where they are zero.

    Args:
        features: (b, D), the anchors, which are among the others.
        others: (B, D).
    """
    features, others = features.astype(jnp.float32), others.astype(jnp.float32)
    centre = jax.lax.stop_gradient(jnp.mean(others, axis=0, keepdims=True))
    features, others = features - centre, others - centre
    product = jnp.matmul(features, others.T, precision=jax.lax.Precision.HIGHEST)
    scale = jnp.sum(features**2, axis=1)[:, None] + jnp.sum(others**2, axis=1)[None, :]
    squared = scale - 2.0 * product
    apart = squared > 4.0 * jnp.finfo(jnp.float32).eps * scale
    # Where after the root alone would let 0 * inf = NaN into the gradient.
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)


def _pairs(identity: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Which pairs (b, B) are positive (without the anchor itself), which negative."""
    others = _everyone(identity, axis_name)
    same = identity[:, None] == others[None, :]
    anchor = jnp.arange(identity.shape[0])
    if axis_name is not None:
        anchor += jax.lax.axis_index(axis_name) * identity.shape[0]
    itself = anchor[:, None] == jnp.arange(others.shape[0])[None, :]
    return same & ~itself, ~same


def _softmax_weighted_sum(
    values: jax.Array, logits: jax.Array, where: jax.Array
) -> jax.Array:
    """Sum of values by the softmax of logits over ``where``; 0 for an empty row."""
    # The lowest finite number rather than -inf, which gives NaN in an empty row.
    lowest = jnp.finfo(logits.dtype).min
    weights = jax.nn.softmax(jnp.where(where, logits, lowest), axis=1)
    return jnp.sum(weights * values, axis=1, where=where)


def _mean_over_valid_anchors(
    loss: jax.Array, positive: jax.Array, negative: jax.Array, axis_name: str | None
) -> jax.Array:
    valid = jnp.any(positive, axis=1) & jnp.any(negative, axis=1)
    total, count = jnp.sum(loss, where=valid), jnp.sum(valid)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return total / jnp.maximum(count, 1)


def _check_shapes(rows: jax.Array, identity: jax.Array) -> None:
    if rows.ndim != 2 or identity.shape != rows.shape[:1]:
        raise ValueError(
            "A loss takes a matrix with one row a sample and a vector of as many"
            f" identities, but the shapes are {rows.shape} and {identity.shape}."
        )
