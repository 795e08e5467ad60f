"""Functions that also take arrays over the explicit axes of a mesh."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import jax
from jax.sharding import NamedSharding, PartitionSpec

Function = TypeVar("Function", bound=Callable[..., Any])


def takes_explicit_axes(specs: Callable[..., Any]) -> Callable[[Function], Function]:
    """Decorates a function that is written for mesh axes of the type `Auto`.

    On axes of the type `Explicit`, the default of `jax.make_mesh`, JAX refuses every
    operation whose result could be laid over the devices in several ways, such as a
    comparison of all samples of a batch with each other. In the function such axes are
    therefore `Auto`. Without explicit axes, the function is called as it is.

    Args:
      specs: function from the arguments of the function to the `PartitionSpec` of each
        of its results, over the explicit axes.

    Returns:
      The decorator.
    """

    def decorate(function: Function) -> Function:
        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            leaves, structure = jax.tree.flatten((args, kwargs))
            arrays = {i: a for i, a in enumerate(leaves) if isinstance(a, jax.Array)}
            context = jax.sharding.get_abstract_mesh()
            meshes = [context] if context.axis_names else map(_mesh, arrays.values())
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
                is_leaf=lambda spec: isinstance(spec, PartitionSpec),
            )
            automatic = jax.sharding.auto_axes(
                of_arrays, axes=_explicit_axes(mesh), out_sharding=shardings
            )
            return automatic(*arrays.values())

        return wrapper  # type: ignore[return-value]

    return decorate


def spec_of(array: Any) -> PartitionSpec:
    """Returns how an array lies over explicit axes, with one entry per dimension."""
    if isinstance(array, jax.Array):
        return jax.typeof(array).sharding.spec
    return PartitionSpec()


def _mesh(array: jax.Array) -> Any:
    # Outside jit, JAX needs the mesh with its devices.
    traced = isinstance(array, jax.core.Tracer)
    if not traced and isinstance(array.sharding, NamedSharding):
        return array.sharding.mesh
    return jax.typeof(array).sharding.mesh


def _explicit_axes(mesh: Any) -> tuple[str, ...]:
    return mesh.abstract_mesh.explicit_axes
