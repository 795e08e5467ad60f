"""Modality batch normalization in a network as it is: the context `by_modality`."""

import contextlib
import dataclasses
import inspect
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mbn_jax.functional import modality_weights
from mbn_jax.norm import ModalityBatchNorm

_BATCH_NORM_CALL: Callable[..., Any] = inspect.unwrap(nn.BatchNorm.__call__)
# All but `use_fast_variance`, which has no counterpart, and those of every module.
_SHARED_ATTRIBUTES = set.intersection(
    *(
        {f.name for f in dataclasses.fields(c)}
        for c in (nn.BatchNorm, ModalityBatchNorm)
    )
) - {"axis", "name", "parent"}
# A part of the key of all of JAX's caches of traces, so that a function is traced again
# that was traced outside, or with another modality.
_trace_key = jax.make_user_context(default_value=None)


@contextlib.contextmanager
def by_modality(
    modality: Any,
    num_modalities: int = 2,
    *,
    share_affine: bool = True,
    at: Callable[[str], bool] | None = None,
    unknown: str = "nan",
    pooled_weights: Sequence[float] | None = None,
) -> Iterator[None]:
    """Normalizes by modality in every `nn.BatchNorm` that is called inside.

    The network need not know: each of its layers works as a `ModalityBatchNorm` with
    that layer's own attributes and arguments, under the names that its variables have.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from flax import linen as nn
    >>> import mbn_jax
    >>> network = nn.Sequential([nn.Dense(8), nn.BatchNorm(False), nn.Dense(4)])
    >>> x, modality = jnp.ones((3, 5)), jnp.array([0, 1, 1])
    >>> @jax.jit
    ... def step(variables, x, modality):
    ...     with mbn_jax.by_modality(modality):
    ...         return network.apply(variables, x, mutable=["batch_stats"])
    >>> variables = network.init(jax.random.key(0), x)  # pretrained, for example
    >>> variables = mbn_jax.convert.from_batch_norm(variables)
    >>> y, updates = step(variables, x, modality)
    >>> updates["batch_stats"]["layers_1"]["mean"].shape
    (2, 8)

    ```

    Variables come from `init` inside the context, or from those of the plain network
    through `mbn_jax.convert.from_batch_norm`, with the same `at`.

    * Enter the context inside the function that `jax.jit` compiles, where the modality
      is an argument. Elsewhere results are the same, but JAX compiles everything in it
      again for every new content of `modality`.
    * Of nested contexts the inner one holds, also for the layers that its `at` leaves
      out: they are plain. Another thread is outside.
    * A `ModalityBatchNorm` keeps the modality that it is given; one of `mbn_jax.nnx`
      takes this one where it is given none.
    * `use_fast_variance` has no effect: the variance is always the stable one.

    Args:
      modality: `(B,)`, integer, in `[0, num_modalities)`: of every row of the inputs of
        the layers; an array or a list.
      num_modalities: number of modalities.
      share_affine: one scale and bias of shape `(C,)` for all modalities, or one each.
      at: whether the layer of a path, such as "backbone/norm1", is normalized by
        modality ("" is a network that is itself the layer); None: all of them. As part
        of what JAX compiles for, it is better one function than a new lambda each time.
      unknown: what a modality of -1 means with running statistics: "nan" or "pooled",
        as in `ModalityBatchNorm`.
      pooled_weights: of the modalities in the mixture; None: equal.

    Raises:
      ValueError: if an argument does not fit; and in a layer, which is named by path,
        if its input has not one row per element of `modality`, if its channels are on
        axis 0 or several axes, or if it does not call `nn.BatchNorm.__call__`.
    """
    context = _Context(
        _array(modality), num_modalities, share_affine, at, unknown, pooled_weights
    )
    before = _thread.active
    with _trace_key(context.key()), nn.intercept_methods(context.intercept):
        _thread.active = context
        try:
            yield
        finally:
            _thread.active = before


def current_modality() -> jax.Array | np.ndarray | None:
    """The modality of the innermost `by_modality` of this thread; None outside."""
    return None if _thread.active is None else _thread.active.modality


@dataclasses.dataclass(eq=False)
class _Context:
    """What one `with by_modality(…)` says; compared by identity."""

    modality: Any  # jax.Array or np.ndarray
    num_modalities: int
    share_affine: bool
    at: Callable[[str], bool] | None
    unknown: str
    pooled_weights: Sequence[float] | None
    replaced: int = 0  # calls of layers that were normalized by modality

    def __post_init__(self) -> None:
        number = self.num_modalities
        if not isinstance(number, int | np.integer) or number < 1:
            raise ValueError(
                f"num_modalities is {number!r}, expected a positive integer."
            )
        if self.at is not None and not callable(self.at):
            raise ValueError(
                f"at is {self.at!r}, expected a function from the path of a layer, "
                'such as "backbone/norm1", to True or False, or None for every layer.'
            )
        if self.unknown not in ("nan", "pooled"):
            raise ValueError(
                f'unknown is {self.unknown!r}, expected "nan" or "pooled".'
            )
        if self.pooled_weights is not None:
            modality_weights(self.pooled_weights, number)
            self.pooled_weights = tuple(map(float, self.pooled_weights))

    def key(self) -> Any:
        """Equal for contexts in which a function may share a trace.

        A known modality becomes a constant of the trace, so that the key has its
        content. A traced one belongs to its trace alone.
        """
        array = isinstance(self.modality, jax.Array)
        traced = isinstance(self.modality, jax.core.Tracer)
        known = not array or (not traced and self.modality.is_fully_addressable)
        if not known or not isinstance(self.at, Hashable):
            return object()
        modality = jax.device_get(self.modality)
        content = (modality.shape, str(modality.dtype), modality.tobytes())
        rest = (self.num_modalities, self.share_affine, self.unknown)
        return (content, rest, self.pooled_weights, self.at)

    def intercept(
        self,
        next_fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        call: nn.module.InterceptorContext,
    ) -> Any:
        """Takes the place of `nn.BatchNorm.__call__`; an interceptor of Flax."""
        layer = call.module
        if (
            _thread.active is not self
            or call.method_name != "__call__"
            or not isinstance(layer, nn.BatchNorm)
            or not (self.at is None or self.at("/".join(layer.path)))
        ):
            return next_fun(*args, **kwargs)
        # The function itself, and not the class: one that inherits passes here first
        # with its own, and then with this one, with other arguments.
        if getattr(call.orig_method, "func", None) is _BATCH_NORM_CALL:
            self.replaced += 1
            return self.normalize(layer, *args, **kwargs)
        before = self.replaced
        result = next_fun(*args, **kwargs)
        if self.replaced == before:
            raise _misfit(
                layer,
                f"is a {type(layer).__name__}, whose __call__ does not call that of "
                "nn.BatchNorm, expected one that does, as that is what is replaced",
            )
        return result

    def normalize(
        self,
        layer: nn.BatchNorm,
        x: Any,
        use_running_average: bool | None = None,
        *,
        mask: Any = None,
    ) -> jax.Array:
        """What the layer gives by modality; arguments are those of `nn.BatchNorm`."""
        x = jnp.asarray(x)
        axes = layer.axis if isinstance(layer.axis, Sequence) else (layer.axis,)
        if len(axes) != 1 or not -x.ndim <= axes[0] < x.ndim or axes[0] % x.ndim == 0:
            raise _misfit(
                layer,
                f"has axis={layer.axis} for an input of shape {list(x.shape)}, "
                "expected one axis other than 0, which holds the samples",
            )
        rows, given = x.shape[0], len(self.modality)
        if rows != given:
            times = rows // given if given and rows % given == 0 else 0
            raise _misfit(
                layer,
                f"has an input of {rows} rows, of shape {list(x.shape)}, but modality "
                f"has {given}, expected one per row",
                f"give jnp.repeat(modality, {times}), or " if times else "",
            )
        if mask is not None:
            # As in NumPy, and unlike ModalityBatchNorm's, where (B,) are samples.
            mask = jnp.asarray(mask, bool)
            mask = mask.reshape((1,) * (x.ndim - mask.ndim) + mask.shape)
        norm = ModalityBatchNorm(
            **{name: getattr(layer, name) for name in _SHARED_ATTRIBUTES},
            axis=axes[0],
            num_modalities=self.num_modalities,
            share_affine=self.share_affine,
            unknown=self.unknown,
            pooled_weights=self.pooled_weights,
            parent=layer.scope,  # type: ignore  # where its variables are, by name
        )
        return norm(x, self.modality, use_running_average, mask)


class _Thread(threading.local):
    """What is active here; by thread, as the interceptors of Flax and JAX's key are."""

    active: _Context | None = None


_thread = _Thread()


def _array(modality: Any) -> jax.Array | np.ndarray:
    """The modality as an array; a copy, if it is one that could be written to."""
    expected = "expected one integer per sample, of shape [B]."
    if not isinstance(modality, jax.Array):
        try:
            # Not by JAX, which would wrap 64-bit indices.
            modality = np.array(modality)
        except ValueError:
            raise ValueError(f"modality is {modality!r}, {expected}") from None
    if modality.ndim != 1 or not jnp.issubdtype(modality.dtype, jnp.integer):
        found = f"{modality.dtype}{list(modality.shape)}"
        raise ValueError(f"modality is {found}, {expected}")
    return modality


def _misfit(layer: nn.Module, problem: str, remedy: str = "") -> ValueError:
    path = "/".join(layer.path)
    return ValueError(
        f"The normalization {path or '(the network itself)'} {problem}: {remedy}"
        f"leave the layer out with at=lambda path: path != {path!r}."
    )
