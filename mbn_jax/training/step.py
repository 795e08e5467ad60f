"""One training step: augment, forward, losses, update; on one device or on many.

The same update runs in three ways (docs/scaling.md says which to choose and where each
of them communicates). Everything that goes across samples (statistics, losses,
augmentation) takes the name of the mapped axis, or None where the program sees the
global batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from mbn_jax import losses
from mbn_jax.data.augment import Augmentation, augment
from mbn_jax.evaluation.distances import unit_rows
from mbn_jax.mesh import AXIS, over_data, replicated
from mbn_jax.modalities import has_color
from mbn_jax.models.cpu import compiler_options, scan
from mbn_jax.models.reid import ReID, ReIDOutput
from mbn_jax.pixels import normalize
from mbn_jax.training.state import ModelState, learning_rate

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Step = Callable[[ModelState, Batch], tuple[ModelState, Metrics]]
# The same with one more argument, `axis_name`.
Update = Callable[..., tuple[ModelState, Metrics]]


def loss_terms(
    config: ConfigDict,
    output: ReIDOutput,
    identity: jax.Array,
    modality: jax.Array,
    axis_name: str | None = None,
) -> tuple[jax.Array, Metrics]:
    """Computes the weighted sum of the losses, and each of them, over the global batch.

    All but the cross-entropy act on the feature before the neck. A loss of weight 0 is
    not computed.

    Args:
        config: `config.loss`.
        output: what the network returned.
        identity: `(B,)` int32 class labels.
        modality: `(B,)` int32.
        axis_name: mapped axis over which the batch is sharded, under pmap and
            shard_map.
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
    """Compiles the step from a state and a batch to the next state and its metrics.

    The state is replicated, and donated except under pmap: the old state is gone. The
    batch is `{image: uint8 (B, H, W, 3), identity, modality, camera: int32 (B,)}`,
    sharded over `data`; everything across samples is over the global batch, or over
    each of its `config.batch.accumulation_steps` parts.
    """
    schedule = learning_rate(config.optimizer, config.num_steps)

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

    ways = {"jit": _jit, "shard_map": _shard_map, "pmap": _pmap}
    return ways[config.parallelism](update, mesh)


def _gradients(
    model: ReID, config: ConfigDict, state: ModelState, batch: Batch, num_shards: int
) -> tuple[Any, Any, Metrics]:
    """Gradients, statistics after the batch, and metrics.

    Args:
        model: with the name of the mapped axis, if there is one, as its `axis_name`.
        config: the run's configuration.
        state: the state before the step.
        batch: that of all devices, or of this one under pmap and shard_map.
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
    (gradients, batch_stats, metrics), _ = scan(
        add_part, (zeros[0], state.batch_stats, zeros[2]), parts
    )
    mean = partial(jax.tree.map, lambda x: x / num_parts)
    return mean(gradients), batch_stats, mean(metrics)


def _mean_over_devices(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def _jit(update: Update, mesh: Mesh) -> Step:
    """The global program; the compiler partitions it and inserts the collectives."""
    return jax.jit(
        partial(update, axis_name=None),
        donate_argnums=0,
        out_shardings=(replicated(mesh), replicated(mesh)),
        compiler_options=compiler_options(mesh),
    )


def _shard_map(update: Update, mesh: Mesh) -> Step:
    """The program of one device; the collectives are those that it names."""
    mapped = jax.shard_map(
        partial(update, axis_name=AXIS),
        mesh=mesh,
        in_specs=(P(), P(AXIS)),
        out_specs=(P(), P()),
        # With the check, JAX sums gradients of replicated parameters over the devices
        # itself; without it, as under pmap, the update does so. If both did, the
        # gradients would be too large by the number of devices.
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0, compiler_options=compiler_options(mesh))


def _pmap(update: Update, mesh: Mesh) -> Step:
    """As `_shard_map`, by JAX's oldest interface, which it only maintains.

    pmap knows the devices of this process only: it gets the local pieces of arrays over
    all devices, and the pieces that it returns are put together again. Nothing is
    copied but the batch, within the devices.
    """
    devices = list(mesh.devices.flat)
    local_mesh = Mesh(
        [d for d in devices if d.process_index == jax.process_index()], AXIS
    )
    mapped = jax.pmap(
        partial(update, axis_name=AXIS),
        AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=devices,
    )

    def relabel(sharding: NamedSharding, array: jax.Array, shape: tuple) -> jax.Array:
        pieces = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(shape, sharding, pieces)

    @partial(jax.jit, out_shardings=over_data(mesh))
    def by_device(batch: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(mesh.size, -1, *x.shape[1:]), batch)

    def local(stacked: jax.Array) -> jax.Array:
        shape = (local_mesh.size, *stacked.shape[1:])
        return relabel(over_data(local_mesh), stacked, shape)

    def everywhere(mesh: Mesh, array: jax.Array) -> jax.Array:
        return relabel(replicated(mesh), array, array.shape)

    def step(state: ModelState, batch: Batch) -> tuple[ModelState, Metrics]:
        results = mapped(
            jax.tree.map(partial(everywhere, local_mesh), state),
            jax.tree.map(local, by_device(batch)),
        )
        return jax.tree.map(partial(everywhere, mesh), results)

    return step


def make_feature_fn(
    model: ReID, *, flip_average: bool = False
) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
    """Returns the jitted map from variables, uint8 images and modality to `(B, D)`.

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
