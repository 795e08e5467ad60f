"""SIGTERM: what a cluster sends before it takes the machine away."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

EXIT_STATUS = 128 + signal.SIGTERM


class Terminated(SystemExit):
    """A run was asked to end by SIGTERM, and its state is saved.

    Attributes:
      step: after which it ended.
    """

    def __init__(self, step: int) -> None:
        """Has the exit status that shells give a process which SIGTERM has ended."""
        super().__init__(EXIT_STATUS)
        self.step = step


class Termination:
    """Whether the run was asked to end, asked for at the end of every step."""

    def __init__(self) -> None:
        """Not yet."""
        self._requested = False

    def requested(self, step: int) -> bool:
        """Whether to end after a step: the same step in every process.

        Of several processes each asks at each step. One of them gets the signal, or all
        do; JAX finds a step that none has passed.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._requested

    @contextlib.contextmanager
    def awaited(self) -> Iterator[None]:
        """Notes SIGTERM instead of ending at once. Of several processes JAX does."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        if jax.process_count() > 1 or not in_main_thread:  # where signals may be set
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            self._requested = True

        before: Any = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
