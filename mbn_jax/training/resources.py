"""What a run needs and uses: memory, and time for compiling."""

import ctypes
import platform
import resource
import sys

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mbn_jax.errors import InputError
from mbn_jax.mesh import memory_of
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


_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_seconds = 0.0


def _count(event: str, duration_secs: float, **_: object) -> None:
    global _seconds
    if event == _COMPILE_EVENT:
        _seconds += duration_secs


# JAX keeps listeners for the life of the process: one for all runs in it.
jax.monitoring.register_event_duration_secs_listener(_count)


class CompileTime:
    """Seconds that JAX has spent compiling, or fetching from its cache.

    Once training is under way it should be none: a step that is compiled again shows.
    """

    def __init__(self) -> None:
        """Starts to count."""
        self._before = _seconds

    def since_last(self) -> float:
        """Seconds since the last call, or since the start."""
        seconds, self._before = _seconds - self._before, _seconds
        return seconds


def peak_memory() -> dict[str, float]:
    """The most memory held so far, in GiB (2^30 bytes), by the names of the log.

    Of the process and, where it has memory of its own, of the fullest of its devices.
    """
    # Linux counts in KiB.
    peak = {
        "host_memory_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    }
    statistics = [device.memory_stats() for device in jax.local_devices()]
    bytes_in_use = [of_one["peak_bytes_in_use"] for of_one in statistics if of_one]
    if bytes_in_use:
        peak["device_memory_peak"] = max(bytes_in_use) / 2**30
    return peak


def keep_freed_memory() -> None:
    """Tells the C library to reuse freed memory instead of returning it to the system.

    XLA for CPU allocates the temporary memory of every step anew. Getting fresh pages
    from the system took a fifth of the time of the quick run's step, and half of the
    CPU time of a ResNet-50's on a virtual machine. Without glibc nothing changes.
    """
    if has_glibc():
        libc = ctypes.CDLL(None)
        no_trim, no_mmap = (-1, 2**31 - 1), (-4, 0)  # M_TRIM_THRESHOLD, M_MMAP_MAX
        libc.mallopt(*no_trim)
        libc.mallopt(*no_mmap)


def has_glibc() -> bool:
    """Returns whether the C library is glibc."""
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
