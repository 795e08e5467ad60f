"""Merges a normalization with its convolution into one convolution."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from mbn_jax.context import intercepted
from mbn_jax.convert.batch_norm import to_batch_norm
from mbn_jax.convert.trees import (
    Path,
    expect_shape,
    find_norms,
    flatten,
    join,
    norm_leaves,
    shape_at,
    unflatten,
)
from mbn_jax.norm import ModalityBatchNorm
from mbn_jax.numerics import promoted

# The path of the convolution that each normalization follows.
Convolutions = Mapping[str, str] | Callable[[str], str | None]


def fold(
    variables: Mapping[str, Any],
    modality: int | Literal["pooled"],
    *,
    convolutions: Convolutions | None = None,
    epsilon: float = 1e-5,
) -> dict[str, Any]:
    r"""Merges one modality's normalizations with their convolutions, for inference.

    A normalization that directly follows a convolution $w * x + b$ can be part of it:

    $$ \gamma \frac{w * x + b - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta
       = (m w) * x + (m b + \beta - m \mu),
       \quad m = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} . $$

    The result is for a network with `use_bias=True` in the merged convolutions and
    without their normalizations, such as this library's with `norm="none"`. Other
    convolutions do not change, and other normalizations, such as a neck after pooling,
    become the plain `nn.BatchNorm` that `to_batch_norm` gives.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from mbn_jax import convert
    >>> from mbn_jax.models.resnet import ResNet
    >>> model = ResNet(depth=18)
    >>> batch = jnp.ones((2, 64, 32, 3)), jnp.array([0, 1])
    >>> def infrared(key):
    ...     return convert.fold(model.init(key, *batch, train=False), modality=1)
    >>> folded = jax.eval_shape(infrared, jax.random.key(0))
    >>> {name: leaf.shape for name, leaf in folded["params"]["conv1"].items()}
    {'bias': (64,), 'kernel': (7, 7, 3, 64)}
    >>> inference = ResNet(depth=18, norm="none")
    >>> jax.eval_shape(lambda v: inference.apply(v, *batch, train=False), folded).shape
    (2, 4, 2, 512)

    ```

    Outputs agree up to rounding, about 1e-6 of their size for a ResNet-50 in float32.
    If $|\mu|$ is thousands of $\sigma$, the form $m x + c$ has larger rounding errors
    than the layer. To fold an `nn.BatchNorm` network, use
    `fold(from_batch_norm(variables, 1), 0)`.

    Args:
      variables: variables of an MBN network, but not an NNX model, which calls its
        normalizations whatever its variables hold.
      modality: index of the modality, or "pooled", as in `to_batch_norm`, with equal
        weights.
      convolutions: dict or function from the path of a normalization to the path of the
        convolution that it directly follows (a normalization that is absent or maps to
        None is not merged). By default, a name with the word `norm` or `bn` belongs to
        the name with `conv` in its place, if there is one: `norm1` to `conv1`,
        `shortcut_norm` to `shortcut_conv`. Pass the result of `find_convolutions` for
        networks that normalize before they convolve, or have automatic names
        (`Conv_0`, `BatchNorm_0`), which do not show which layer follows which.
      epsilon: epsilon of the normalizations.

    Returns:
      The variables of the folded network. Kernels keep their dtype; new biases have the
      dtype of the kernel. Normalizations that were not merged remain in `batch_stats`.

    Raises:
      ValueError: as for `to_batch_norm`; and if nothing can be merged, if a path in
        `convolutions` does not exist or occurs twice, or if the last dimension of a
        kernel is not the number of channels.
    """
    _refuse_nnx(variables)
    flat = flatten(to_batch_norm(variables, modality))
    for norm, convolution in _pairs(flat, convolutions).items():
        kernel_path = ("params", *convolution, "kernel")
        bias_path = ("params", *convolution, "bias")
        kernel, old_bias = flat[kernel_path], flat.get(bias_path)
        leaves = {n: flat.pop(path) for n, path in norm_leaves(flat, norm).items()}
        biases = [] if old_bias is None else [old_bias]
        given = (kernel, *biases, *leaves.values())
        dtype = promoted(jnp.float32, *(a.dtype for a in given))
        leaves = {name: leaf.astype(dtype) for name, leaf in leaves.items()}
        # A power instead of a function of jnp keeps NumPy trees in NumPy.
        multiplier = (leaves["var"] + epsilon) ** -0.5
        if "scale" in leaves:
            multiplier = multiplier * leaves["scale"]
        mean = leaves["mean"]
        away = -mean if old_bias is None else old_bias.astype(dtype) - mean
        bias = away * multiplier
        if "bias" in leaves:
            bias = bias + leaves["bias"]
        per_output = multiplier.reshape((1,) * (kernel.ndim - 1) + (-1,))
        scaled = kernel.astype(dtype) * per_output
        flat[kernel_path] = scaled.astype(kernel.dtype)
        flat[bias_path] = bias.astype((kernel if old_bias is None else old_bias).dtype)
    return unflatten(flat, variables)


def find_convolutions(
    apply: Callable[..., Any], variables: Mapping[str, Any], *arguments: Any
) -> dict[str, str]:
    """Finds which convolution every normalization directly follows, by tracing.

    Convolutions are `nn.Conv`, `nn.ConvTranspose` and `nn.Dense`. A pair is reported
    only if every call of the normalization takes the array that the convolution
    returned, and every call of the convolution feeds that normalization. You must make
    sure that nothing else uses the output of the convolution, such as a branch around
    the normalization, and that no wrapper such as `nn.SpectralNorm` transforms its
    kernel.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from flax import linen as nn
    >>> from mbn_jax import ModalityBatchNorm, convert
    >>> class Net(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, modality):
    ...         x = nn.relu(nn.Conv(4, (3, 3))(x))
    ...         x = nn.Conv(4, (3, 3))(x)
    ...         return ModalityBatchNorm(use_running_average=True)(x, modality)
    >>> batch = jnp.ones((2, 8, 8, 3)), jnp.array([0, 1])
    >>> variables = Net().init(jax.random.key(0), *batch)
    >>> pairs = convert.find_convolutions(Net().apply, variables, *batch)
    >>> pairs
    {'ModalityBatchNorm_0': 'Conv_1'}
    >>> folded = convert.fold(variables, 1, convolutions=pairs)

    ```

    Args:
      apply: the `apply` of the model, not jitted, in evaluation mode, such as
        `functools.partial(model.apply, train=False)`.
      variables: variables of the network, as arrays or `jax.ShapeDtypeStruct`.
      *arguments: what `apply` takes after the variables, such as images and modality.

    Returns:
      The path of the convolution of each normalization by its path, for `fold`.

    Raises:
      ValueError: for an NNX model, which `fold` does not take.
    """
    _refuse_nnx(variables)
    made: list[tuple[str, Any]] = []
    taken: list[tuple[str, Any]] = []

    def watch(next_fun: Any, args: Any, kwargs: Any, call: Any) -> Any:
        layer = call.module
        result = next_fun(*args, **kwargs)
        if call.method_name == "__call__":
            # A subclass may transform its kernel, so that scaling it has no effect.
            if type(layer) in (nn.Conv, nn.ConvTranspose, nn.Dense):
                if not getattr(layer, "transpose_kernel", False):
                    made.append((join(layer.path), result))
            elif isinstance(layer, nn.BatchNorm | ModalityBatchNorm):
                taken.append((join(layer.path), args[0] if args else kwargs["x"]))
        return result

    with intercepted(watch):
        # A new function, which has no cached trace.
        jax.eval_shape(lambda *all_: apply(*all_), variables, *arguments)
    before: dict[str, set[str | None]] = {}
    for norm, x in taken:
        source = next((name for name, output in made if output is x), None)
        before.setdefault(norm, set()).add(source)
    after: dict[str, set[str | None]] = {}
    for name, output in made:
        users = {norm for norm, x in taken if output is x}
        after.setdefault(name, set()).update(users or {None})
    return {
        norm: source
        for norm, sources in before.items()
        for source in sources
        if source is not None and len(sources) == 1 and after[source] == {norm}
    }


def _refuse_nnx(variables: Any) -> None:
    if isinstance(variables, nnx.Module):
        raise ValueError(
            f"The variables are an NNX model, {type(variables).__name__}, expected "
            "those of a Linen model, because fold cannot remove the calls of "
            "normalizations from an NNX model; to_batch_norm makes a model that needs "
            "no modality."
        )


def _pairs(
    flat: dict[Path, Any], convolutions: Convolutions | None
) -> dict[Path, Path]:
    """Maps the path of every normalization to be merged to that of its convolution."""
    norms = {join(norm): norm for norm in find_norms(flat, ("C",), "")}
    kernels = {
        join(path[1:-1]): path[1:-1]
        for path in flat
        if path[0] == "params" and path[-1] == "kernel"
    }
    rule = _conv_for_norm if convolutions is None else convolutions
    if isinstance(rule, Mapping):
        if unknown := [name for name in rule if name not in norms]:
            raise ValueError(
                f"convolutions names {unknown[0]!r}, which is not a normalization in "
                f"batch_stats, expected some of {', '.join(norms)}."
            )
        rule = rule.get

    pairs: dict[Path, Path] = {}
    for name, norm in norms.items():
        convolution = rule(name)
        if convolution is None or (convolutions is None and convolution not in kernels):
            continue
        if convolution not in kernels:
            raise ValueError(
                f"params/{convolution}/kernel does not exist, expected that of the "
                f"convolution that batch_stats/{name} follows."
            )
        path = kernels[convolution]
        if path in pairs.values():
            raise ValueError(
                f"params/{convolution}/kernel would be merged with batch_stats/{name} "
                "after another normalization, expected a convolution of its own."
            )
        shape = shape_at(flat, ("params", *path, "kernel"))
        (channels,) = shape_at(flat, ("batch_stats", *norm, "mean"))
        if shape[-1:] != (channels,):
            raise ValueError(
                f"params/{convolution}/kernel has shape {list(shape)}, expected "
                f"[…, {channels}] like batch_stats/{name}: does this normalization "
                "follow another convolution? find_convolutions finds it."
            )
        if ("params", *path, "bias") in flat:
            expect_shape(flat, ("params", *path, "bias"), (channels,))
        pairs[norm] = path
    if not pairs:
        raise ValueError(
            f"No normalization, such as batch_stats/{next(iter(norms))}, has a "
            "convolution to be merged with, expected names such as norm1 and conv1, or "
            "the argument convolutions, which find_convolutions returns."
        )
    return pairs


def _conv_for_norm(norm: str) -> str | None:
    """Returns the path of the convolution, from the path of its normalization."""
    parent, slash, name = norm.rpartition("/")
    name, number = re.subn(r"(?<![a-z])(norm|bn)(?![a-z])", "conv", name)
    return parent + slash + name if number == 1 else None
