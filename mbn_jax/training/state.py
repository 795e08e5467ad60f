"""What a run trains: the network, its optimizer, and the state that a step changes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mbn_jax.errors import InputError
from mbn_jax.mesh import memory_of, replicated
from mbn_jax.modalities import DEFAULT
from mbn_jax.models.pretrained import load_backbone
from mbn_jax.models.reid import ReID


@struct.dataclass
class ModelState:
    """All that training changes; after step n a function of configuration and n.

    Attributes:
        step: int32 scalar, the number of steps done.
        params: the trained weights.
        batch_stats: the running statistics of the normalizations.
        opt_state: the optimizer's state.
        skipped: int32 scalar, the number of steps that changed nothing, because their
            loss or gradient was not finite.
        skipped_in_a_row: int32 scalar, how many of these are the last steps.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """The variables, as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def make_model(
    config: ConfigDict, num_identities: int, modalities: Sequence[str] = DEFAULT
) -> ReID:
    """Returns the network that a configuration describes.

    Args:
        config: the run's configuration.
        num_identities: the number of classes of the classifier.
        modalities: the names of the data set's modalities, in the order of their
            indices.
    """
    fields = config.model.to_dict()
    del fields["pretrained"]
    fields["dtype"] = jnp.dtype(fields["dtype"])
    fields["modalities"] = tuple(modalities)
    return ReID(num_identities, tuple(config.data.image_size), **fields)


def learning_rate(config: ConfigDict, num_steps: int) -> optax.Schedule:
    """Returns a schedule: linear warm-up, then cosine decay to 0, steps, or a constant.

    Args:
        config: `config.optimizer`.
        num_steps: the number of steps of the run, the end of the cosine.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, max(1, num_steps - warmup))
    elif config.schedule == "step":
        after = optax.piecewise_constant_schedule(
            peak, {step - warmup: config.decay_factor for step in config.decay_steps}
        )
    else:
        after = optax.constant_schedule(peak)
    if warmup == 0:
        return after
    # The first step takes peak / warmup and not 0, which would change nothing.
    rising = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    return optax.join_schedules([rising, after], [warmup])


def make_optimizer(config: ConfigDict, num_steps: int) -> optax.GradientTransformation:
    """Returns SGD with momentum and coupled weight decay, or AdamW.

    The weight decay applies to every parameter, as in the common re-identification
    code. `backbone_factor` multiplies the learning rate of the backbone.

    Args:
        config: `config.optimizer`.
        num_steps: the number of steps of the run.
    """
    schedule = learning_rate(config, num_steps)
    if config.name == "sgd":
        optimizer = optax.chain(
            optax.add_decayed_weights(config.weight_decay),
            optax.sgd(schedule, momentum=config.momentum, nesterov=config.nesterov),
        )
    else:
        optimizer = optax.adamw(schedule, weight_decay=config.weight_decay)
    if config.backbone_factor == 1:
        return optimizer
    return optax.chain(
        optimizer,
        optax.masked(
            optax.scale(config.backbone_factor),
            lambda params: {name: name == "backbone" for name in params},
        ),
    )


def init_state(
    model: ReID, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh
) -> ModelState:
    """Returns the state before the first step, on every device of the mesh."""

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
    """Replaces the weights of the backbone by pretrained ones, on every device.

    Args:
        state: the state before the first step.
        model: the network.
        source: a file or a name, see `mbn_jax.models.pretrained.load_backbone`.
        mesh: the devices of the run.

    Returns:
        The new state, and a note on what was loaded.
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


def check_memory(config: ConfigDict, mesh: Mesh) -> None:
    """Refuses a network or images for which the memory cannot be enough.

    It counts what cannot be avoided: the state and the gradient on every device, and
    each device's images of a batch, as bytes and in float32. A step also keeps
    activations, so a run that passes may still need more than there is.

    Raises:
        InputError: says how much is needed, and how much there is.
    """
    model = make_model(config, 1, DEFAULT)
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state = jax.eval_shape(lambda: init_state(model, optimizer, 0, mesh))
    leaves = jax.tree.leaves((state, state.params))  # the latter for the gradient
    of_network = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    height, width = (n + 2 * config.augmentation.pad for n in config.data.image_size)
    number = config.batch.num_identities * config.batch.num_images * len(DEFAULT)
    of_images = number * height * width * 3 * (1 + 4) // mesh.size
    device = mesh.local_devices[0]
    share = 1 if device.platform != "cpu" else len(mesh.local_devices)
    needed, present = (of_network + of_images) * share, memory_of(device)
    if needed > present:
        size = " × ".join(map(str, config.data.image_size))
        raise InputError(
            f"The run needs at least {_gib(needed)} of memory, but there are "
            f"{_gib(present)}: on each device {_gib(of_network)} for the network "
            f"(config.model.width is {config.model.width:g}) and {_gib(of_images)} for "
            f"a batch of {number} images of {size} (config.data.image_size); make them "
            "smaller."
        )


def _gib(number: int) -> str:
    return f"{number / 2**30:,.1f} GiB"
