"""Three ways to run one step on the devices of a mesh.

All take the same function `update(state, batch, axis_name)` and give the same program
from a replicated state and a batch cut over the mesh axis `data` to a replicated state
and metrics. docs/scaling.md says which to choose and where each of them communicates.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mbn_jax.mesh import AXIS, over_data, replicated
from mbn_jax.models.cpu import compiler_options

Update = Callable[..., tuple[Any, Any]]
Step = Callable[[Any, Any], tuple[Any, Any]]


def parallelize(update: Update, parallelism: str, mesh: Mesh) -> Step:
    """Compiles an update for the devices of a mesh; all but pmap donate the state.

    Args:
      update: pure; with `axis_name` None it sees the global batch, with a name the rows
        of one device, and reduces over that axis itself.
      parallelism: "jit", "shard_map" or "pmap".
      mesh: with the axis `data`.

    Returns:
      A function of the state, replicated, and the batch, cut over `data`.
    """
    return {"jit": _jit, "shard_map": _shard_map, "pmap": _pmap}[parallelism](
        update, mesh
    )


def _jit(update: Update, mesh: Mesh) -> Step:
    """The global program; the compiler cuts it and puts in the collectives."""
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
        # With the check, gradients of replicated parameters are summed over devices
        # without being asked; without it, as under pmap, the update does so. One of
        # the two, or the gradients are too large by the number of devices.
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0, compiler_options=compiler_options(mesh))


def _pmap(update: Update, mesh: Mesh) -> Step:
    """As shard_map, by JAX's oldest interface, which it maintains and no more.

    pmap knows the devices of this process only: arrays over all devices are given to it
    by their pieces here, and put together from the pieces that it returns. Nothing is
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

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        results = mapped(
            jax.tree.map(partial(everywhere, local_mesh), state),
            jax.tree.map(local, by_device(batch)),
        )
        return jax.tree.map(partial(everywhere, mesh), results)

    return step
