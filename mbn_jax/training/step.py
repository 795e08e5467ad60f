"""One training step: augment, forward, losses, update. Pure, jitted, donated.

The same update runs in all three ways of `mbn_jax.training.parallelism`: everything
that goes across samples (statistics, losses, augmentation) takes the name of the mapped
axis, or none where the program sees the global batch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mbn_jax import losses
from mbn_jax.data.augment import Augmentation, augment
from mbn_jax.evaluation.distances import unit_rows
from mbn_jax.mesh import replicated
from mbn_jax.modalities import DEFAULT, has_color
from mbn_jax.models import cpu
from mbn_jax.models.pretrained import load_backbone
from mbn_jax.models.reid import ReID, ReIDOutput
from mbn_jax.pixels import normalize
from mbn_jax.training.optimizer import learning_rate
from mbn_jax.training.parallelism import Step, parallelize

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@struct.dataclass
class ModelState:
    """All that changes in training; after step n a function of configuration and n.

    Attributes:
      step: int32 scalar, the number of steps done.
      params: trained weights.
      batch_stats: running statistics of the normalizations.
      opt_state: of the optimizer.
      skipped: int32 scalar, the number of steps that changed nothing, because their
        loss or gradient was not finite.
      skipped_in_a_row: int32 scalar, how many of these the last steps were.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def make_model(
    config: ConfigDict, num_identities: int, modalities: Sequence[str] = DEFAULT
) -> ReID:
    """Returns the network that a configuration describes, for the data of a run.

    Args:
      config: of the run.
      num_identities: classes of the classifier.
      modalities: the names of the data set's modalities, in the order of their indices.
    """
    fields = config.model.to_dict()
    del fields["pretrained"]
    fields["dtype"] = jnp.dtype(fields["dtype"])
    fields["modalities"] = tuple(modalities)
    return ReID(num_identities, tuple(config.data.image_size), **fields)


def init_state(
    model: ReID, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh
) -> ModelState:
    """The state before the first step, on every device of the mesh."""

    def init(key: jax.Array) -> ModelState:
        modality = jnp.arange(len(model.modalities), dtype=jnp.int32)
        images = jnp.zeros((len(modality), *model.image_size, 3), jnp.float32)
        variables = model.init(key, images, modality, train=True)
        return ModelState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            opt_state=optimizer.init(variables["params"]),
            skipped=jnp.zeros((), jnp.int32),
            skipped_in_a_row=jnp.zeros((), jnp.int32),
        )

    # Under jit every process computes the same weights; nothing is sent.
    return jax.jit(init, out_shardings=replicated(mesh))(jax.random.key(seed))


def with_pretrained(
    state: ModelState, model: ReID, source: str, mesh: Mesh
) -> tuple[ModelState, str]:
    """The state with the backbone's weights from elsewhere, and what was loaded.

    Args:
      state: before the first step.
      model: the network.
      source: see `mbn_jax.models.pretrained.load_backbone`.
      mesh: on every device of which the weights are then.
    """
    variables, note = load_backbone(source, model, state.variables)
    variables = jax.tree.map(
        lambda leaf: (
            leaf
            if isinstance(leaf, jax.Array)
            else jax.make_array_from_process_local_data(replicated(mesh), leaf)
        ),
        variables,
    )
    return dataclasses.replace(state, **variables), note


def loss_terms(
    config: ConfigDict,
    output: ReIDOutput,
    identity: jax.Array,
    modality: jax.Array,
    axis_name: str | None = None,
) -> tuple[jax.Array, Metrics]:
    """The weighted sum of the losses, and each of them, over the global batch.

    All but the cross-entropy act on the feature before the neck. A loss of weight 0 is
    not computed.

    Args:
      config: `config.loss`.
      output: of the network.
      identity: `(B,)` int32 class labels.
      modality: `(B,)` int32.
      axis_name: mapped axis over which the batch is cut, under pmap and shard_map.
    """
    pairs = output.pooled, identity
    groups = *pairs, modality
    wrt = losses.weighted_regularized_triplet
    terms: dict[str, Callable[..., jax.Array]] = {
        "identity": partial(
            losses.identity_loss, output.logits, identity, config.label_smoothing
        ),
        "wrt": partial(wrt, *pairs),
        "squared_wrt": partial(wrt, *pairs, squared=True),
        "triplet": partial(losses.batch_hard_triplet, *pairs, config.margin),
        "circle": partial(
            losses.circle, *pairs, config.circle_margin, config.circle_scale
        ),
        "hetero_center": partial(losses.hetero_center, *groups),
        "hetero_center_triplet": partial(
            losses.hetero_center_triplet, *groups, config.margin
        ),
    }
    values = {
        name: term(axis_name=axis_name)
        for name, term in terms.items()
        if config[name] > 0
    }
    weighted = (config[name] * value for name, value in values.items())
    total = sum(weighted, jnp.zeros((), jnp.float32))
    is_right = jax.lax.argmax(output.logits, 1, identity.dtype) == identity
    accuracy = jnp.mean(is_right, dtype=jnp.float32)
    return total, {
        "loss": total,
        **{f"{name}_loss": value for name, value in values.items()},
        "accuracy": _mean_over_devices(accuracy, axis_name),
    }


def make_train_step(
    model: ReID,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    mesh: Mesh,
) -> Step:
    """The compiled step from a state and a batch to the next state and its metrics.

    The state's memory is given up to the result (donated): the old state is gone. The
    batch is `{image: uint8 (B, H, W, 3), identity, modality, camera: int32 (B,)}`,
    sharded over `data`; everything across samples is over the global batch, or over
    each of its `config.batch.accumulation_steps` parts.
    """

    def update(
        state: ModelState, batch: Batch, axis_name: str | None
    ) -> tuple[ModelState, Metrics]:
        num_shards = mesh.size if axis_name is None else 1
        gradients, batch_stats, metrics = _gradients(
            model.copy(axis_name=axis_name), config, state, batch, num_shards
        )
        # The loss is the same on every device, so each of them has differentiated it as
        # often as there are devices: the gradient of one is the mean and not the sum.
        gradients = _mean_over_devices(gradients, axis_name)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        with jax.numpy_dtype_promotion("standard"):  # of what happens in optax
            metrics["learning_rate"] = jnp.asarray(schedule(state.step - state.skipped))
            updates, opt_state = optimizer.update(
                gradients, state.opt_state, state.params
            )

        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        params, batch_stats, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (optax.apply_updates(state.params, updates), batch_stats, opt_state),
            (state.params, state.batch_stats, state.opt_state),
        )
        state = ModelState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            skipped=jnp.where(finite, state.skipped, state.skipped + 1),
            skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
        )
        metrics["skipped"] = state.skipped
        metrics["skipped_in_a_row"] = state.skipped_in_a_row
        return state, metrics

    schedule = learning_rate(config.optimizer, config.num_steps)
    return parallelize(update, config.parallelism, mesh)


def _gradients(
    model: ReID, config: ConfigDict, state: ModelState, batch: Batch, num_shards: int
) -> tuple[Any, Any, Metrics]:
    """Gradients, statistics after the batch, and metrics.

    Args:
      model: whose `axis_name` is that of the mapped axis, if there is one.
      config: of the run.
      state: before the step.
      batch: of all devices, or of this one under pmap and shard_map.
      num_shards: devices whose rows the batch holds, one after the other.
    """
    augmentation = Augmentation(**config.augmentation.to_dict())
    color = tuple(map(has_color, model.modalities))
    key = jax.random.key(config.seed + 1)  # not the stream of the weights
    key = jax.random.fold_in(key, state.step)
    num_parts = config.batch.accumulation_steps

    def of_part(
        batch_stats: Any, key: jax.Array, part: Batch
    ) -> tuple[Any, Any, Metrics]:
        images = augment(
            key,
            part["image"],
            part["modality"],
            augmentation,
            color=color,
            axis_name=model.axis_name,
        )

        def objective(params: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
            output, updates = model.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                part["modality"],
                train=True,
                mutable=["batch_stats"],
            )
            loss, metrics = loss_terms(
                config.loss, output, part["identity"], part["modality"], model.axis_name
            )
            return loss, (updates["batch_stats"], metrics)

        gradients, (batch_stats, metrics) = jax.grad(objective, has_aux=True)(
            state.params
        )
        return gradients, batch_stats, metrics

    if num_parts == 1:
        return of_part(state.batch_stats, key, batch)

    def add_part(sums: Any, part: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        total, batch_stats, total_metrics = sums
        gradients, batch_stats, metrics = of_part(batch_stats, *part)
        add = partial(jax.tree.map, jnp.add)
        return (add(total, gradients), batch_stats, add(total_metrics, metrics)), None

    def in_parts(rows: jax.Array) -> jax.Array:
        """(B, …) to (parts, B / parts, …); each device keeps the rows that it has."""
        by_device = rows.reshape(num_shards, num_parts, -1, *rows.shape[1:])
        return by_device.swapaxes(0, 1).reshape(num_parts, -1, *rows.shape[1:])

    parts = jax.random.split(key, num_parts), jax.tree.map(in_parts, batch)
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(of_part, state.batch_stats, *first),
    )
    (gradients, batch_stats, metrics), _ = cpu.scan(
        add_part, (zeros[0], state.batch_stats, zeros[2]), parts
    )
    mean = partial(jax.tree.map, lambda x: x / num_parts)
    return mean(gradients), batch_stats, mean(metrics)


def _mean_over_devices(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


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

        images = normalize(images)
        if flip_average:
            mirrored = embedding(jnp.flip(images, axis=2))
            return (unit_rows(embedding(images)) + unit_rows(mirrored)) / 2
        return embedding(images)

    return features
