"""One training step over many devices, in each of the ways that JAX has."""

from functools import cache, partial

import jax
import numpy as np
from jax import lax
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from .layers import objective

AXIS = "data"
STYLES = ("jit", "shard_map", "shard_map_unchecked", "pmap")
SHARDED = ("y", "by_x")  # one row per sample; the rest is the same everywhere


def step(layer, variables, batch):
    """Everything that can be compared after a step."""
    x, modality, weights, mask = batch

    def loss(params, x):
        new = {**variables, "params": params}
        return objective(layer, new, x, modality, weights, mask)

    (total, (y, stats)), (by_params, by_x) = jax.value_and_grad(
        loss, argnums=(0, 1), has_aux=True
    )(variables["params"], x)
    return dict(loss=total, y=y, batch_stats=stats, by_params=by_params, by_x=by_x)


def forward(layer, variables, batch):
    """The layer's part of the step alone."""
    x, modality, _, mask = batch
    y, after = layer.train(variables, x, modality, mask)
    return dict(y=y, batch_stats=after["batch_stats"])


def shard_of_step(layer, variables, batch, summed):
    """The step where this device sees its rows only, of a loss that is a sum."""
    result = step(layer.copy(axis_name=AXIS), variables, batch)
    if not summed:
        result["by_params"] = lax.psum(result["by_params"], AXIS)
    return {**result, "loss": lax.psum(result["loss"], AXIS)}


def shard_of_forward(layer, variables, batch, summed):
    return forward(layer.copy(axis_name=AXIS), variables, batch)


@cache
def one_device(layer):
    return jax.jit(partial(step, layer))


@cache
def program(style, layer, whole=step, shard=shard_of_step):
    """The compiled step, from (variables, batch)."""
    names = ["y", "batch_stats"]
    names += ["loss", "by_params", "by_x"] if whole is step else []
    if style == "jit":
        return jax.jit(partial(whole, layer))
    if style == "pmap":
        return jax.pmap(
            lambda variables, batch: shard(layer, variables, batch, summed=False),
            AXIS,
            in_axes=(None, 0),
        )
    checked = style == "shard_map"
    mapped = jax.shard_map(
        # With check_vma gradients of replicated arguments are summed already.
        lambda variables, batch: shard(layer, variables, batch, summed=checked),
        mesh=data_mesh(),
        in_specs=(P(), P(AXIS)),
        out_specs={name: P(AXIS) if name in SHARDED else P() for name in names},
        check_vma=checked,
    )
    return jax.jit(mapped)


def data_mesh():
    # Auto: comparing samples with modalities needs no explicit shardings.
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def arguments(style, variables, batch):
    """The NumPy arrays on all devices, of all processes, as the style wants them."""
    if style == "pmap":
        return variables, jax.tree.map(rows_per_local_device, batch)
    mesh = data_mesh()
    return place(variables, mesh, P()), place(batch, mesh, P(AXIS))


def place(tree, mesh, spec):
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda a: jax.make_array_from_callback(a.shape, sharding, a.__getitem__), tree
    )


def rows_per_local_device(a):
    rows = a.reshape(jax.device_count(), -1, *a.shape[1:])
    return np.split(rows, jax.process_count())[jax.process_index()]


def run(style, layer, variables, batch):
    """One step over all devices; its result, whole, as NumPy arrays."""
    result = program(style, layer)(*arguments(style, variables, batch))
    result = jax.tree.map(fetch, result)
    if style == "pmap":
        for name, tree in result.items():
            result[name] = (
                tree.reshape(batch[0].shape)
                if name in SHARDED
                else jax.tree.map(the_same_on_every_device, tree)
            )
    return result


def the_same_on_every_device(a):
    np.testing.assert_array_equal(a, np.broadcast_to(a[:1], a.shape))
    return a[0]


def fetch(a):
    if a.is_fully_replicated:
        return np.asarray(a.addressable_data(0))
    return np.asarray(process_allgather(a, tiled=True))
