"""Flax's interceptors, taken back with or without Python's assertions."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from flax import linen as nn


@contextlib.contextmanager
def intercepted(interceptor: Callable[..., Any]) -> Iterator[None]:
    """`nn.intercept_methods`, whose interceptor does nothing once the context is left.

    Flax removes an interceptor inside an assertion. `python -O` takes that out, and the
    interceptor of one trace would be called in all later ones, with tracers of its own.

    Args:
      interceptor: as for `flax.linen.intercept_methods`.
    """
    active = True

    def intercept(
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        if active:
            return interceptor(function, args, kwargs, context)
        return function(*args, **kwargs)

    try:
        with nn.intercept_methods(intercept):
            yield
    finally:
        active = False
