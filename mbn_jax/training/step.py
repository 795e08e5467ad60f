"""One training step: augment, forward, losses, update. Pure, jitted, donated."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mbn_jax import losses
from mbn_jax.data.augment import Augmentation, augment, normalise
from mbn_jax.evaluation.distances import unit_rows
from mbn_jax.models.reid import ReID, ReIDOutput
from mbn_jax.training.mesh import replicated
from mbn_jax.training.optimizer import learning_rate

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@struct.dataclass
class ModelState:
    """All that changes in training; after step n a function of configuration and n.

    Attributes:
      step: int32 scalar, the number of updates done.
      params: trained weights.
      batch_stats: running statistics of the normalisations.
      opt_state: of the optimiser.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def make_model(config: ConfigDict, num_identities: int) -> ReID:
    """The network that a configuration describes."""
    return ReID(
        num_identities=num_identities,
        image_size=tuple(config.data.image_size),
        depth=config.model.depth,
        norm=config.model.norm,
        width=config.model.width,
        last_stride=config.model.last_stride,
        share_affine=config.model.share_affine,
        momentum=config.model.momentum,
        dtype=jnp.dtype(config.model.dtype),
    )


def init_state(
    model: ReID, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh
) -> ModelState:
    """The state before the first step, on every device of the mesh."""

    def init(key: jax.Array) -> ModelState:
        images = jnp.zeros((2, *model.image_size, 3))
        variables = model.init(key, images, jnp.arange(2), train=True)
        return ModelState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            opt_state=optimizer.init(variables["params"]),
        )

    # Under jit every process computes the same weights; nothing is sent.
    return jax.jit(init, out_shardings=replicated(mesh))(jax.random.key(seed))


def loss_terms(
    config: ConfigDict, output: ReIDOutput, identity: jax.Array
) -> tuple[jax.Array, Metrics]:
    """The weighted sum of the losses, and each of them.

    The pairwise loss acts on the feature before the neck and sees the global batch.

    Args:
      config: `config.loss`.
      output: of the network.
      identity: `(B,)` int32 class labels.
    """
    identity_loss = losses.identity_loss(
        output.logits, identity, config.label_smoothing
    )
    pairwise_loss = jnp.zeros(())
    if config.pairwise == "wrt":
        pairwise_loss = losses.weighted_regularised_triplet(output.pooled, identity)
    elif config.pairwise == "triplet":
        pairwise_loss = losses.batch_hard_triplet(
            output.pooled, identity, config.margin
        )
    total = (
        config.identity_weight * identity_loss + config.pairwise_weight * pairwise_loss
    )
    return total, {
        "loss": total,
        "identity_loss": identity_loss,
        "pairwise_loss": pairwise_loss,
        "accuracy": jnp.mean(jnp.argmax(output.logits, -1) == identity),
    }


def make_train_step(
    model: ReID,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    mesh: Mesh,
) -> Callable[[ModelState, Batch], tuple[ModelState, Metrics]]:
    """The jitted step from a state and a batch to the next state and its metrics.

    The state's memory is given up to the result (donated): the old state is gone. The
    batch is `{image: uint8 (B, H, W, 3), identity, modality, camera: int32 (B,)}`,
    sharded over `data`; everything across samples is over the global batch.
    """
    augmentation = Augmentation(**config.augmentation.to_dict())
    loss_config = config.loss
    schedule = learning_rate(config.optimizer, config.num_steps)
    key = jax.random.key(config.seed + 1)  # not the stream of the weights

    def train_step(state: ModelState, batch: Batch) -> tuple[ModelState, Metrics]:
        step_key = jax.random.fold_in(key, state.step)
        images = augment(step_key, batch["image"], augmentation)

        def objective(params: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
            output, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                batch["modality"],
                train=True,
                mutable=["batch_stats"],
            )
            loss, metrics = loss_terms(loss_config, output, batch["identity"])
            return loss, (updates["batch_stats"], metrics)

        gradients, (batch_stats, metrics) = jax.grad(objective, has_aux=True)(
            state.params
        )
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        metrics["learning_rate"] = jnp.asarray(schedule(state.step))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        state = ModelState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return state, metrics

    everywhere = replicated(mesh)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(everywhere, everywhere))


def make_feature_fn(
    model: ReID, *, flip_average: bool = False
) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
    """The jitted map from variables, uint8 images and modality to embeddings (B, D).

    Args:
      model: the network.
      flip_average: whether the result is the mean of the embeddings of the image and
        of its mirror image, each of unit length, as CAJ's public code tests.
    """

    @jax.jit
    def features(variables: Any, images: jax.Array, modality: jax.Array) -> jax.Array:
        def embedding(images: jax.Array) -> jax.Array:
            output: Any = model.apply(variables, images, modality, train=False)
            return output.embedding

        images = normalise(images)
        if flip_average:
            mirrored = embedding(jnp.flip(images, axis=2))
            return (unit_rows(embedding(images)) + unit_rows(mirrored)) / 2
        return embedding(images)

    return features
