"""Devices as a mesh, batches and functions over its axes, and the devices' memory."""

import os
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mbn_jax.errors import InputError

AXIS = "data"
Function = TypeVar("Function", bound=Callable[..., Any])


def make_mesh(num_devices: int = 0) -> Mesh:
    """Makes a mesh of the first `num_devices` devices, or of all of them for 0.

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
            f"{max(shares)} each, expected equal shares; give 0 for all, or start "
            "all processes with the same number of devices."
        )
    # Auto axes, with which the step is tested. The layer, the losses and the distances
    # also take the Explicit axes that JAX makes by default.
    return jax.make_mesh(
        (len(chosen),), (AXIS,), axis_types=(AxisType.Auto,), devices=chosen
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that is the same on every device."""
    return NamedSharding(mesh, P())


def over_data(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array whose first axis is split over the devices."""
    return NamedSharding(mesh, P(AXIS))


def process_rows(batch_size: int, mesh: Mesh, num_parts: int = 1) -> np.ndarray:
    """Returns the rows of a batch that this process reads, in the order of `shard`.

    Args:
      batch_size: rows of the global batch.
      mesh: the mesh over which it is split.
      num_parts: number of consecutive parts of the batch, each of which is split over
        all devices. A device holds its rows of the first part, then of the second, so
        that the parts are the same for any number of devices.

    Returns:
      `(batch_size / number of processes,)` int64.

    Raises:
      InputError: if a part does not divide over the devices.
    """
    num_devices = mesh.size
    if batch_size % (num_devices * num_parts):
        in_parts = f"in {num_parts} parts " if num_parts > 1 else ""
        raise InputError(
            f"A batch of {batch_size} images (config.batch.num_identities × num_images "
            f"× modalities of the data set) {in_parts}cannot be split evenly "
            f"over {num_devices} devices; change the batch or give a "
            "config.num_devices that divides it."
        )
    by_part = np.arange(batch_size).reshape(num_parts, num_devices, -1)
    by_device = by_part.swapaxes(0, 1).reshape(-1)
    # Ask the sharding which rows they are: if the devices of a process are not side by
    # side in the mesh, neither are its rows.
    pieces = over_data(mesh).addressable_devices_indices_map((batch_size,)).values()
    mine = sorted(piece[0].indices(batch_size)[:2] for piece in pieces if piece)
    return np.concatenate([by_device[start:stop] for start, stop in mine])


def shard(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Makes global arrays, split over the devices, of the rows of every process."""
    # With several processes, JAX counts this as an implicit transfer.
    with jax.transfer_guard_host_to_device("allow"):
        return {
            name: jax.make_array_from_process_local_data(over_data(mesh), rows)
            for name, rows in batch.items()
        }


def takes_explicit_axes(specs: Callable[..., Any]) -> Callable[[Function], Function]:
    """Decorates a function that is written for mesh axes of the type `Auto`.

    On axes of the type `Explicit`, the default of `jax.make_mesh`, JAX refuses every
    operation whose result could be laid over the devices in several ways, such as a
    comparison of all samples of a batch with each other. In the function such axes are
    therefore `Auto`. Without explicit axes, the function is called as it is.

    Args:
      specs: function from the arguments of the function to the `PartitionSpec` of each
        of its results, over the explicit axes.
    """

    def decorate(function: Function) -> Function:
        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            leaves, structure = jax.tree.flatten((args, kwargs))
            arrays = {i: a for i, a in enumerate(leaves) if isinstance(a, jax.Array)}
            context = jax.sharding.get_abstract_mesh()
            meshes = [context] if context.axis_names else map(_mesh_of, arrays.values())
            mesh = next((m for m in meshes if _explicit_axes(m)), None)
            if mesh is None:
                return function(*args, **kwargs)

            def of_arrays(*new: jax.Array) -> Any:
                changed = dict(zip(arrays, new, strict=True))
                rebuilt = [changed.get(i, leaf) for i, leaf in enumerate(leaves)]
                args, kwargs = jax.tree.unflatten(structure, rebuilt)
                return function(*args, **kwargs)

            shardings = jax.tree.map(
                lambda spec: NamedSharding(mesh, spec),
                specs(*args, **kwargs),
                is_leaf=lambda spec: isinstance(spec, P),
            )
            automatic = jax.sharding.auto_axes(
                of_arrays, axes=_explicit_axes(mesh), out_sharding=shardings
            )
            return automatic(*arrays.values())

        return wrapper  # type: ignore[return-value]

    return decorate


def spec_of(array: Any) -> P:
    """Returns how an array lies over explicit axes, with one entry per dimension."""
    return jax.typeof(array).sharding.spec if isinstance(array, jax.Array) else P()


def _mesh_of(array: jax.Array) -> Any:
    # Outside jit, JAX needs the mesh with its devices.
    traced = isinstance(array, jax.core.Tracer)
    if not traced and isinstance(array.sharding, NamedSharding):
        return array.sharding.mesh
    return jax.typeof(array).sharding.mesh


def _explicit_axes(mesh: Any) -> tuple[str, ...]:
    return mesh.abstract_mesh.explicit_axes


def memory_of(device: jax.Device) -> int:
    """Returns the bytes of memory of a device, or of its host if it has none."""
    statistics = device.memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return memory_of_host()


def memory_of_host() -> int:
    """Returns the bytes of memory of the host, or of this process's container."""
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    container = Path("/sys/fs/cgroup/memory.max")
    limit = container.read_text().strip() if container.exists() else ""
    return min(present, int(limit)) if limit.isdecimal() else present
