"""Devices as a mesh with one axis, `data`, and batches laid over it."""

import os
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mbn_jax.errors import InputError

_HOST_DEVICES_FLAG = "--xla_force_host_platform_device_count"


def request_cpu_devices(num_devices: int) -> None:
    """Makes `num_devices` devices of the CPU; to be called before JAX is used.

    XLA's flag `--xla_force_host_platform_device_count`, where it is given, has already
    said how many. Other platforms are not affected.
    """
    if num_devices > 1 and _HOST_DEVICES_FLAG not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", num_devices)


def make_mesh(num_devices: int = 0) -> Mesh:
    """A mesh over the first `num_devices` devices, or over all of them for 0.

    Raises:
      InputError: if there are fewer devices.
    """
    devices = jax.devices()
    if num_devices > len(devices):
        raise InputError(
            f"config.num_devices is {num_devices}, but JAX found {len(devices)} "
            f"({devices[0].platform}); give a smaller number, or 0 for all."
        )
    # Auto axes: losses over pairs (x @ x.T, labels against labels) mix the batch with
    # itself, which the Explicit axes that JAX makes by default refuse.
    return jax.make_mesh(
        (num_devices or len(devices),),
        ("data",),
        axis_types=(AxisType.Auto,),
        devices=devices[: num_devices or None],
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, P())


def over_data(mesh: Mesh) -> NamedSharding:
    """The first axis cut over the devices."""
    return NamedSharding(mesh, P("data"))


def process_rows(batch_size: int, mesh: Mesh) -> slice:
    """The rows of a batch that this process reads.

    Raises:
      InputError: if the batch does not divide over the devices.
    """
    devices = mesh.shape["data"]
    if batch_size % devices:
        raise InputError(
            f"A batch of {batch_size} images (config.batch.num_identities × num_images "
            f"× 2 modalities) does not divide over {devices} devices; change the batch "
            "or give a config.num_devices that divides it."
        )
    rows = batch_size // jax.process_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


def shard(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """The rows of every process as global arrays over the mesh axis `data`."""
    sharding = over_data(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows)
        for name, rows in batch.items()
    }
