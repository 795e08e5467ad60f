"""Arrays over explicit mesh axes give what one device gives, in every function."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mbn_jax import modality_moments

from .layers import make, random_input, random_variables
from .reference import assert_close
from .styles import one_device, step

EXPLICIT, AUTO = AxisType.Explicit, AxisType.Auto
MESHES = {
    "explicit": ((8,), ("data",), (EXPLICIT,)),
    "auto": ((8,), ("data",), (AUTO,)),
    "mixed": ((4, 2), ("data", "model"), (EXPLICIT, AUTO)),
    "channels": ((4, 2), ("data", "model"), (EXPLICIT, EXPLICIT)),
}


@pytest.fixture(params=MESHES)
def mesh(request):
    shape, names, types = MESHES[request.param]
    return jax.make_mesh(shape, names, axis_types=types)


def test_a_step_of_the_layer_is_that_of_one_device(kind, mesh):
    """Output, statistics and gradients, with a mask; channels may be cut as well."""
    layer = make(kind, features=4, num_modalities=3, share_affine=False)
    variables = random_variables(layer)
    batch = (
        random_input((16, 2, 4)),
        np.arange(16) % 3,
        random_input((16, 2, 4), seed=9),
        np.arange(16) % 5 > 0,
    )
    cut_channels = len(mesh.explicit_axes) == 2
    by_rank = {1: P("data"), 3: P("data", None, "model" if cut_channels else None)}
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(a, NamedSharding(mesh, by_rank[a.ndim])) for a in batch
        ]
        result = jax.jit(partial(step, layer))(variables, placed)
        for name in ("y", "by_x"):
            assert jax.typeof(result[name]).sharding == jax.typeof(placed[0]).sharding
        moments = jax.jit(modality_moments, static_argnums=2)(*placed[:2], 3)
    expected = one_device(layer)(variables, batch)
    assert_close(result, jax.tree.map(np.asarray, expected), rtol=1e-5, atol=1e-5)
    whole = modality_moments(batch[0], batch[1], 3)
    assert_close(moments, jax.tree.map(np.asarray, whole), rtol=1e-5, atol=1e-5)


def test_the_mesh_of_the_arguments_is_enough(kind):
    """Inside and outside jit, without jax.set_mesh."""
    mesh = jax.make_mesh((8,), ("data",))
    layer = make(kind)
    variables, x = random_variables(layer), random_input((8, 3))
    modality = np.arange(8) % 2
    on_data = NamedSharding(mesh, P("data"))
    placed = jax.device_put((jnp.asarray(x), jnp.asarray(modality)), on_data)
    expected, _ = layer.train(variables, x, modality)
    for train in (layer.train, jax.jit(layer.train)):
        y, _ = train(variables, *placed)
        assert y.sharding.is_equivalent_to(on_data, 2)
        assert_close(y, expected, rtol=1e-5, atol=1e-6)
