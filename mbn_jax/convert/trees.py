"""Finds and checks the normalizations in the variable trees of Linen models.

A normalization is a node of `batch_stats` that holds `mean` and `var`; its `scale` and
`bias`, if any, are at the same path in `params`.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from flax import nnx
from flax.core import FrozenDict, freeze
from flax.traverse_util import flatten_dict, unflatten_dict

# What a conversion takes, and returns another of the same kind.
Network = TypeVar("Network", bound=Mapping[str, Any] | nnx.Module)
Path = tuple[str, ...]
# The collection of each variable of a normalization.
_LEAVES = dict(mean="batch_stats", var="batch_stats", scale="params", bias="params")


def flatten(variables: Any) -> dict[Path, Any]:
    """Returns every leaf by its path, which starts with the collection.

    Raises:
      ValueError: if the variables are not a dict.
    """
    if not isinstance(variables, dict | FrozenDict):
        raise ValueError(
            f"The variables are a {type(variables).__name__}, expected the dict that "
            "model.init returns."
        )
    return flatten_dict(variables, keep_empty_nodes=True)


def unflatten(flat: dict[Path, Any], like: Any) -> Any:
    """Returns the tree of the leaves, a FrozenDict if `like` is one."""
    tree = unflatten_dict(flat)
    return freeze(tree) if isinstance(like, FrozenDict) else tree


def join(path: Sequence[str]) -> str:
    """Returns a path in the form of messages and arguments."""
    return "/".join(map(str, path))


def norm_leaves(flat: dict[Path, Any], norm: Path) -> dict[str, Path]:
    """Returns the paths of a normalization's mean, var, scale and bias, by name."""
    paths = {name: (_LEAVES[name], *norm, name) for name in _LEAVES}
    return {name: path for name, path in paths.items() if path in flat}


def find_norms(
    flat: dict[Path, Any], mean_shape: Sequence[str], hint: str
) -> list[Path]:
    """Returns the paths of the normalizations in tree order, after checking shapes.

    Args:
      flat: the result of `flatten`.
      mean_shape: names of the expected dimensions of the statistics; "…" at the start
        stands for any number of dimensions.
      hint: end of the message if the number of dimensions is wrong.

    Raises:
      ValueError: if one does not fit; the message names the first wrong path.
    """
    norms = _norm_paths(flat)
    if not norms:
        raise ValueError(
            "batch_stats holds no normalization, expected nodes with 'mean' and 'var': "
            "pass all variables, {'params': …, 'batch_stats': …}, as in model.init."
        )
    for norm in norms:
        mean = ("batch_stats", *norm, "mean")
        shape = shape_at(flat, mean)
        surplus = len(shape) - sum(name != "…" for name in mean_shape)
        if surplus < 0 or (surplus > 0 and "…" not in mean_shape):
            raise ValueError(
                f"{join(mean)} has shape {list(shape)}, expected "
                f"[{', '.join(mean_shape)}]: {hint}"
            )
        shape_at(flat, ("batch_stats", *norm, "var"))
        for path in norm_leaves(flat, norm).values():
            shared = {shape[:-2] + shape[-1:]} if path[0] == "params" else set()
            expect_shape(flat, path, *sorted({shape} | shared))
    return norms


def find_norms_by_modality(
    flat: dict[Path, Any], mean_shape: Sequence[str], hint: str
) -> list[Path]:
    """Like `find_norms`, but leaves out plain batch normalizations if there are others.

    A network may have both, for example if `mbn_at` names some of its places.
    """
    plain = [
        norm
        for norm in _norm_paths(flat)
        if np.ndim(flat.get(("batch_stats", *norm, "mean"), 0)) == 1
    ]
    others = _without(flat, plain)
    if not any(path[0] == "batch_stats" for path in others):
        return find_norms(flat, mean_shape, hint)
    if plain:
        of_plain = {path: flat[path] for path in flat if path not in others}
        find_norms(of_plain, ("C",), hint)
    return find_norms(others, mean_shape, hint)


def chosen_norms(
    flat: dict[Path, Any], at: Callable[[str], bool] | None
) -> dict[Path, Any]:
    """Returns the leaves without those of normalizations that `at` does not select.

    Raises:
      ValueError: if there are normalizations and `at` selects none of them.
    """
    norms = _norm_paths(flat)
    left_out = [norm for norm in norms if at is not None and not at(join(norm))]
    if norms and left_out == norms:
        raise ValueError(
            f"at chooses none of the {len(norms)} normalizations, expected True for at "
            f"least one path, such as {join(norms[0])!r}."
        )
    return _without(flat, left_out)


def _without(flat: dict[Path, Any], norms: Container[Path]) -> dict[Path, Any]:
    return {path: leaf for path, leaf in flat.items() if path[1:-1] not in norms}


def _norm_paths(flat: dict[Path, Any]) -> list[Path]:
    found = (path for path in flat if path[0] == "batch_stats")
    return list(dict.fromkeys(p[1:-1] for p in found if p[-1] in ("mean", "var")))


def shape_at(flat: dict[Path, Any], path: Path) -> tuple[int, ...]:
    """Returns the shape of a leaf.

    Raises:
      ValueError: if there is no leaf at the path, or if it is not an array.
    """
    if path not in flat:
        raise ValueError(
            f"{join(path)} does not exist, expected it beside the other leaves of "
            f"{join(path[:-1])}."
        )
    if not hasattr(flat[path], "shape"):
        raise ValueError(
            f"{join(path)} is a {type(flat[path]).__name__}, expected an array; "
            "flax.core.meta.unbox removes the metadata from arrays."
        )
    return tuple(flat[path].shape)


def expect_shape(flat: dict[Path, Any], path: Path, *shapes: tuple[int, ...]) -> None:
    """Raises a `ValueError` with the path if a leaf has none of the shapes."""
    shape = shape_at(flat, path)
    if shape not in shapes:
        raise ValueError(
            f"{join(path)} has shape {list(shape)}, expected "
            f"{' or '.join(str(list(shape)) for shape in shapes)}, like the "
            "statistics of its normalization."
        )
