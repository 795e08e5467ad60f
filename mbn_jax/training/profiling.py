"""A trace of a few steps, for TensorBoard or XProf."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import jax


class Profile:
    """Writes a trace of some steps into `workdir/profile`."""

    def __init__(self, workdir: Path, steps: range) -> None:
        """Traces these steps; none if the range is empty."""
        self._directory = workdir / "profile"
        self._steps = steps
        self._running = False

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Writes what there is, if the run ends within the steps of the trace."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Marks a step; what it hands to the device belongs into it."""
        if step not in self._steps:
            yield
            return
        if not self._running:
            jax.profiler.start_trace(self._directory)
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def stop_after(self, step: int, result: object) -> None:
        """Waits for the last step of the trace and writes it."""
        if self._running and step >= self._steps[-1]:
            jax.block_until_ready(result)
            self.__exit__()
