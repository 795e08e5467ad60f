"""The memory that a run needs at the least, compared with what there is."""

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mbn_jax.errors import InputError
from mbn_jax.memory import memory_of
from mbn_jax.modalities import DEFAULT
from mbn_jax.training.optimizer import make_optimizer
from mbn_jax.training.step import init_state, make_model


def check_memory(config: ConfigDict, mesh: Mesh) -> None:
    """Refuses a network or images for which there is not enough memory in any case.

    It counts what cannot be avoided: the state and the gradient on every device, and
    each device's images of a batch, as bytes and in float32. A step also keeps
    activations, so a run that passes may need more than there is.

    Args:
      config: of the run.
      mesh: the devices of the run.

    Raises:
      InputError: says how much is needed, and how much there is.
    """
    model = make_model(config, 1, DEFAULT)
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state = jax.eval_shape(lambda: init_state(model, optimizer, 0, mesh))
    of_network = _size(state) + _size(state.params)  # the gradient
    height, width = (n + 2 * config.augmentation.pad for n in config.data.image_size)
    batch = config.batch
    number = batch.num_identities * batch.num_images * len(DEFAULT)
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


def _size(tree: object) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def _gib(number: int) -> str:
    return f"{number / 2**30:,.1f} GiB"
