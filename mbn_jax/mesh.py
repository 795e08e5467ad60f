"""Devices as a mesh with one axis, `data`, batches laid over it, and their memory."""

import os
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mbn_jax.errors import InputError

AXIS = "data"


def make_mesh(num_devices: int = 0) -> Mesh:
    """A mesh over the first `num_devices` devices, or over all of them for 0.

    Raises:
      InputError: if there are fewer devices, or processes would have unequal shares.
    """
    devices = jax.devices()
    if num_devices > len(devices):
        raise InputError(
            f"config.num_devices is {num_devices}, but JAX found {len(devices)} "
            f"({devices[0].platform}); give a smaller number, or 0 for all."
        )
    chosen = devices[: num_devices or None]
    processes = [device.process_index for device in chosen]
    shares = {processes.count(process) for process in range(jax.process_count())}
    if len(shares) > 1:
        raise InputError(
            f"Of {len(chosen)} devices (config.num_devices is {num_devices}) the "
            f"{jax.process_count()} processes would have {min(shares)} to "
            f"{max(shares)} each, expected equal shares; give 0 for all, or start the "
            "processes with as many devices as each other."
        )
    # Auto axes, with which the step is tested. The layer, the losses and the distances
    # also take the Explicit axes that JAX makes by default.
    return jax.make_mesh(
        (len(chosen),), (AXIS,), axis_types=(AxisType.Auto,), devices=chosen
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, P())


def over_data(mesh: Mesh) -> NamedSharding:
    """The first axis cut over the devices."""
    return NamedSharding(mesh, P(AXIS))


def process_rows(batch_size: int, mesh: Mesh, num_parts: int = 1) -> np.ndarray:
    """The rows of a batch that this process reads, in the order that `shard` takes.

    Args:
      batch_size: rows of the global batch.
      mesh: over whose devices it is cut.
      num_parts: parts that follow each other in the batch, each of which is cut over
        all devices by itself. A device holds its rows of the first part, then of the
        second: the parts are the same however many devices there are.

    Returns:
      `(batch_size / number of processes,)` int64.

    Raises:
      InputError: if a part does not divide over the devices.
    """
    num_devices = mesh.size
    if batch_size % (num_devices * num_parts):
        raise InputError(
            f"A batch of {batch_size} images (config.batch.num_identities × num_images "
            "× modalities of the data set) "
            + (f"in {num_parts} parts " if num_parts > 1 else "")
            + f"does not divide over {num_devices} devices; change the batch or give a "
            "config.num_devices that divides it."
        )
    by_part = np.arange(batch_size).reshape(num_parts, num_devices, -1)
    by_device = by_part.swapaxes(0, 1).reshape(-1)
    # Which rows they are is asked of the sharding: where the devices of a process do
    # not lie side by side in the mesh, neither do its rows.
    pieces = over_data(mesh).addressable_devices_indices_map((batch_size,)).values()
    mine = sorted(piece[0].indices(batch_size)[:2] for piece in pieces if piece)
    return np.concatenate([by_device[start:stop] for start, stop in mine])


def shard(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """The rows of every process as global arrays over the mesh axis `data`."""
    # Of several processes JAX counts this among the transfers that nobody asked for.
    with jax.transfer_guard_host_to_device("allow"):
        return {
            name: jax.make_array_from_process_local_data(over_data(mesh), rows)
            for name, rows in batch.items()
        }


_CGROUP = Path("/sys/fs/cgroup/memory.max")  # of a container


def memory_of(device: jax.Device) -> int:
    """Bytes of memory that a device has, or that its host lets the process have."""
    statistics = device.memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return memory_of_host()


def memory_of_host() -> int:
    """Bytes of memory that the host has, or lets this process have in a container."""
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP.read_text().strip() if _CGROUP.exists() else ""
    return min(present, int(limit)) if limit.isdecimal() else present
