"""Finds the layers of an NNX model and changes them in place."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.sharding import NamedSharding, PartitionSpec

Layer = TypeVar("Layer", bound=nnx.Module)


def find_layers(model: Any, kind: type[Layer]) -> dict[str, Layer]:
    """Finds the layers of a class and its subclasses, in the order of the graph.

    Returns:
      Each layer once, under the first of its paths, such as "blocks/0/bn"; the path of
      the model itself is "".
    """
    return {
        "/".join(map(str, path)): node
        for path, node in nnx.iter_graph(model, graph=True)
        if isinstance(node, kind)
    }


def change_class(
    layer: nnx.Module,
    kind: type[nnx.Module],
    remove: Iterable[str] = (),
    **attributes: Any,
) -> None:
    """Changes the class of a layer, and sets or removes some of its attributes.

    The object stays the same, so that everything that holds the layer, such as a list,
    a tuple, two modules that share it or a variable of the user, holds the changed one.

    Raises:
      flax.errors.TraceContextError: if the layer was created outside the current trace;
        the layer is then unchanged.
    """
    for name, value in attributes.items():
        setattr(layer, name, value)
    for name in remove:
        delattr(layer, name)
    # `layer.__class__ = kind` would add the class to the attributes of the graph.
    object.__setattr__(layer, "__class__", kind)


def own_method(layer: nnx.Module, base: type[nnx.Module]) -> str | None:
    """Returns the name of a method or property that a subclass of `base` has, if any.

    `__init__` is ignored, because the attributes of the layer hold its effect.
    """
    for cls in (c for c in type(layer).__mro__ if c not in base.__mro__):
        for name, value in vars(cls).items():
            special = name.startswith("__") and name != "__call__"
            if not special and (callable(value) or hasattr(value, "__get__")):
                return name
    return None


def obstacle(layer: nnx.BatchNorm) -> str | None:
    """Says why a layer cannot be replaced, as the end of a sentence; None if it can."""
    method = own_method(layer, nnx.BatchNorm)
    if method is not None:
        return f"is a {type(layer).__name__} with a {method} of its own"
    if layer.promote_dtype not in (promote_dtype, keep_wide_statistics):
        return "has a promote_dtype of its own"
    if not isinstance(layer.axis, int) or layer.axis == 0:
        return f"has axis={layer.axis}, not one axis other than that of the samples"
    if layer.mean.shape[-1] != layer.num_features:
        return (
            f"has a mean of shape {list(layer.mean.shape)}, not "
            f"[{layer.num_features}] or a stack of these along the first axis"
        )
    return None


def keep_wide_statistics(arrays: Any, *, dtype: Any) -> Any:
    """A `promote_dtype` with which `nnx.BatchNorm` does not round its statistics.

    By default `nnx.BatchNorm` computes in `dtype`, and a bfloat16 mean is off by a
    fraction of a standard deviation. The result has `dtype` in either case.
    """
    return promote_dtype(arrays)


def edit_variables(
    layers: Iterable[Any],
    names: Sequence[str],
    edit: Callable[[Any, str, nnx.Variable], nnx.Variable],
) -> list[dict[str, nnx.Variable]]:
    """Makes new variables for every layer; variables that were shared stay shared.

    Args:
      layers: the layers, in order.
      names: names of the attributes; an attribute that is None is left out.
      edit: function from a layer, a name and the old variable to the new variable.

    Returns:
      The new variables of each layer by name.
    """
    done: dict[int, nnx.Variable] = {}

    def edited(layer: Any, name: str) -> nnx.Variable:
        variable = getattr(layer, name)
        if id(variable) not in done:
            done[id(variable)] = edit(layer, name, variable)
        return done[id(variable)]

    return [
        {
            name: edited(layer, name)
            for name in names
            if getattr(layer, name) is not None
        }
        for layer in layers
    ]


def with_value(
    variable: nnx.Variable,
    value: jax.Array,
    partition: Callable[[list[Any]], list[Any]],
) -> nnx.Variable:
    """Copies a variable, with its type and metadata but another value.

    Args:
      variable: the old one.
      value: the new value.
      partition: function from the old entries of the variable's `out_sharding`, one per
        axis, to the new entries; it is called if the variable has an `out_sharding`.
    """
    sharding = variable.get_metadata().get("out_sharding")
    if not sharding:
        return variable.copy(value)
    entries = list(getattr(sharding, "spec", sharding))
    entries += [None] * (variable[...].ndim - len(entries))
    new: Any = tuple(partition(entries))
    if isinstance(sharding, NamedSharding | PartitionSpec):
        new = PartitionSpec(*new)
    if isinstance(sharding, NamedSharding):
        new = NamedSharding(sharding.mesh, new)
    return variable.copy(value, out_sharding=new)
