"""Contexts that change what the layers of an existing network do: `by_modality`."""

import contextlib
import dataclasses
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mbn_jax.arguments import input_array, labels, layer_settings
from mbn_jax.norm import ModalityBatchNorm

_BATCH_NORM_CALL: Callable[..., Any] = inspect.unwrap(nn.BatchNorm.__call__)
# All except `use_fast_variance`, which has no counterpart, and those of every module.
_SHARED_ATTRIBUTES = (
    {field.name for field in dataclasses.fields(nn.BatchNorm)}
    & {field.name for field in dataclasses.fields(ModalityBatchNorm)}
) - {"axis", "dtype", "name", "parent"}
# Part of the key of all of JAX's trace caches, so that a function that was traced
# outside, or with another modality, is traced again.
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

    The code of the network does not change: each of these layers works as a
    `ModalityBatchNorm` with the attributes, arguments and variable names of the layer.

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

    To get the variables, call `init` inside the context, or convert those of the plain
    network with `mbn_jax.convert.from_batch_norm` and the same `at`.

    * Enter the context inside the function that `jax.jit` compiles, with the modality
      as an argument. Elsewhere the results are the same, but JAX compiles everything
      inside the context again for every new value of `modality`, or on every entry if
      it cannot see the value: if `modality` is traced, or is on other hosts.
    * An NNX model takes `modality` from the context and nothing else; see
      `mbn_jax.nnx.replace_batch_norm`.
    * Of nested contexts, the innermost one applies. The layers that its `at` excludes
      are plain batch normalizations. The context does not apply to other threads. In
      one thread contexts must end in reverse order, so do not `await` inside of one.
    * A `ModalityBatchNorm` uses the modality that is passed to it. One of `mbn_jax.nnx`
      uses the modality of the context if none is passed.
    * A mask means what it means to `nn.BatchNorm`: of rank 1, it is one of channels.
    * `use_fast_variance` has no effect: the variance is always computed stably. The
      statistics are float32 also with `force_float32_reductions=False`.

    Args:
      modality: `(B,)`, integer, in `[0, num_modalities)`, an array or a list: the
        modality of every row of the layers' inputs.
      num_modalities: number of modalities.
      share_affine: one scale and bias of shape `(C,)` for all modalities, or one each.
      at: function from the path of a layer, such as "backbone/norm1", to whether the
        layer normalizes by modality ("" is the path of a network that is itself the
        layer); None means all layers. JAX compiles again for every new function, so
        pass the same function each time, not a new lambda.
      unknown: what modality -1 means with running statistics: "nan" or "pooled", as in
        `ModalityBatchNorm`.
      pooled_weights: weights of the modalities in the mixture; None means equal.

    Raises:
      ValueError: if an argument does not fit. A layer raises it, with its path, if its
        input does not have one row per element of `modality`, if its channels are on
        axis 0 or on several axes, or if it does not call `nn.BatchNorm.__call__`.
    """
    number, weights = layer_settings(num_modalities, unknown, pooled_weights)
    if at is not None and not callable(at):
        raise ValueError(
            f"at is {at!r}, expected a function from the path of a layer, such as "
            '"backbone/norm1", to True or False, or None for every layer.'
        )
    context = _Context(
        labels("modality", modality),
        at,
        {
            "num_modalities": number,
            "share_affine": share_affine,
            "unknown": unknown,
            "pooled_weights": weights,
        },
        outer=_thread.active,
    )
    _thread.active = context
    try:
        with _trace_key(context.key()), nn.intercept_methods(context.intercept):
            yield
    finally:
        context.ended = True
        while _thread.active is not None and _thread.active.ended:
            _thread.active = _thread.active.outer


def current_modality() -> jax.Array | np.ndarray | None:
    """Returns the modality of this thread's innermost `by_modality`; None outside."""
    return None if _thread.active is None else _thread.active.modality


@contextlib.contextmanager
def intercepted(interceptor: Callable[..., Any]) -> Iterator[None]:
    """`nn.intercept_methods`, whose interceptor does nothing after the context.

    Flax removes an interceptor inside an assertion, which `python -O` leaves out. The
    interceptor of one trace would then be called in all later ones, with old tracers.

    Args:
      interceptor: as for `flax.linen.intercept_methods`.
    """
    active = True

    def intercept(next_fun: Any, args: Any, kwargs: Any, call: Any) -> Any:
        if active:
            return interceptor(next_fun, args, kwargs, call)
        return next_fun(*args, **kwargs)

    try:
        with nn.intercept_methods(intercept):
            yield
    finally:
        active = False


@dataclasses.dataclass(eq=False)
class _Context:
    """The settings of one `with by_modality(…)`; compared by identity."""

    modality: Any  # jax.Array or np.ndarray
    at: Callable[[str], bool] | None
    attributes: dict[str, Any]  # of every `ModalityBatchNorm` in it
    outer: "_Context | None"
    ended: bool = False
    replaced: tuple[str, ...] | None = None  # path of the last layer by modality

    def key(self) -> Any:
        """Returns a key, equal for contexts in which a function may share a trace.

        A concrete modality becomes a constant of the trace, so the key contains its
        values. A traced modality belongs to one trace only.
        """
        modality = self.modality
        if isinstance(modality, jax.core.Tracer) or not (
            isinstance(modality, np.ndarray) or modality.is_fully_addressable
        ):
            return object()
        values = jax.device_get(modality)
        content = (values.shape, str(values.dtype), values.tobytes())
        key = (content, *self.attributes.values(), self.at)
        try:
            hash(key)
        except TypeError:  # an `at` without a hash
            return object()
        return key

    def intercept(self, next_fun: Any, args: Any, kwargs: Any, call: Any) -> Any:
        """Replaces `nn.BatchNorm.__call__`, as a Flax interceptor."""
        layer = call.module
        if (
            _thread.active is not self
            or call.method_name != "__call__"
            or not isinstance(layer, nn.BatchNorm)
            or not (self.at is None or self.at("/".join(layer.path)))
        ):
            return next_fun(*args, **kwargs)
        # Compare the function, not the class: a subclass comes here first with its own
        # `__call__`, and then with this one, with other arguments.
        if getattr(call.orig_method, "func", None) is _BATCH_NORM_CALL:
            self.replaced = layer.path
            return self.normalize(layer, *args, **kwargs)
        self.replaced = None
        result = next_fun(*args, **kwargs)
        if self.replaced != layer.path:
            raise _misfit(
                layer,
                f"is a {type(layer).__name__}, whose __call__ does not call that of "
                "nn.BatchNorm, which by_modality replaces, expected one that does",
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
        """Calls the layer by modality; the arguments are those of `nn.BatchNorm`."""
        x = input_array(x)
        dtype = layer.dtype
        if jnp.issubdtype(x.dtype, jnp.integer):  # nn.BatchNorm takes these, too
            with jax.numpy_dtype_promotion("standard"):
                x = x.astype(jnp.promote_types(jnp.float32, layer.param_dtype))
            has_params = layer.use_scale or layer.use_bias
            dtype = dtype or (layer.param_dtype if has_params else jnp.float32)
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
            how = f" (jnp.repeat if a sample became {times} rows)" if times > 1 else ""
            raise _misfit(
                layer,
                f"has an input of {rows} rows, of shape {list(x.shape)}, but modality "
                f"has {given}, expected one per row",
                f"pass the modality of every row{how}, or ",
            )
        if mask is not None:
            # Broadcast as in NumPy, unlike in ModalityBatchNorm, where (B,) is samples.
            mask = jnp.asarray(mask, bool)
            mask = mask.reshape((1,) * (x.ndim - mask.ndim) + mask.shape)
        norm = ModalityBatchNorm(
            **{name: getattr(layer, name) for name in _SHARED_ATTRIBUTES},
            axis=axes[0],
            dtype=dtype,
            **self.attributes,
            parent=layer.scope,  # type: ignore  # its variables are there, by name
        )
        return norm(x, self.modality, use_running_average, mask)


class _Thread(threading.local):
    """The active context, one per thread like Flax's interceptors and JAX's key."""

    active: _Context | None = None


_thread = _Thread()


def _misfit(layer: nn.Module, problem: str, remedy: str = "") -> ValueError:
    path = "/".join(layer.path)
    return ValueError(
        f"The normalization {path or '(the network itself)'} {problem}: {remedy}"
        f"leave the layer out with at=lambda path: path != {path!r}."
    )
