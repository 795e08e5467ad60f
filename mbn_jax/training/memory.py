"""The memory that a run needs at the least, compared with what there is."""

import os
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mbn_jax.errors import InputError
from mbn_jax.modalities import DEFAULT
from mbn_jax.training.optimizer import make_optimizer
from mbn_jax.training.step import init_state, make_model

_CGROUP = Path("/sys/fs/cgroup/memory.max")  # of a container


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


def memory_of(device: jax.Device) -> int:
    """Bytes of memory that a device has, or that its host lets the process have."""
    statistics = device.memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP.read_text().strip() if _CGROUP.exists() else ""
    return min(present, int(limit)) if limit.isdecimal() else present


def _size(tree: object) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def _gib(number: int) -> str:
    return f"{number / 2**30:,.1f} GiB"
