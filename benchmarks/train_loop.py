"""What the training loop adds to the time of its steps; see `train_step.py --loop`."""

import contextlib
import dataclasses
import statistics
import tempfile
import time
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import turns
from mbn_jax.training import loop
from mbn_jax.training.run_data import load_splits
from mbn_jax.training.step import make_train_step


class Measured(BaseException):
    """Ends the run once all windows have been measured."""


class Windows:
    """A step that stands in for the loop's own and keeps the time between its calls.

    Every `length` calls it stops the watch, takes as many steps by itself on one batch
    and a copy of the state, and goes on: so the run and the bare steps take turns in
    one process, with one program. It stops midway between two checkpoints, when the
    threads that write the last one have ended.
    """

    def __init__(self, step: Any, length: int, rounds: int) -> None:
        self._step, self._length, self._rounds = step, length, rounds
        self._calls = 0
        self._started = 0.0
        self.in_loop: list[float] = []
        self.bare: list[float] = []

    def __call__(self, state: Any, batch: Any) -> Any:
        """Takes a step of the run."""
        # The first window, which is short and compiles, does not count.
        if self._calls % self._length == self._length // 2:
            jax.block_until_ready(state)
            self.in_loop.append(time.perf_counter() - self._started)
            with jax.transfer_guard("allow"):
                self.bare.append(self._bare(state, batch))
            if len(self.bare) > self._rounds:
                raise Measured
            self._started = time.perf_counter()
        self._calls += 1
        return self._step(state, batch)

    def _bare(self, state: Any, batch: Any) -> float:
        copy = jax.block_until_ready(jax.tree.map(jnp.copy, state))
        start = time.perf_counter()
        for _ in range(self._length):
            copy, _ = self._step(copy, batch)
        jax.block_until_ready(copy)
        return time.perf_counter() - start


def compare_loop(config: Any, rounds: int) -> None:
    """Prints the time of the run over that of its steps alone.

    The run is `mbn_jax.training.loop.train` on the embedded near-infrared data with
    reading, resizing, augmentation, a line of metrics every 10 steps and a checkpoint
    in every window. Validation and the test, which are work of another kind, are left
    out.

    Args:
      config: of the run; its data set is replaced.
      rounds: windows that count.
    """
    # A checkpoint every 10 steps costs an accelerator more than the steps do.
    length = 10 if jax.default_backend() == "cpu" else 200
    config.data.dataset = "synthetic_vireid/nir"
    config.num_steps = (rounds + 2) * length
    config.eval_every = length
    config.compilation_cache = ""
    windows: list[Windows] = []

    def watched_step(*arguments: Any) -> Windows:
        windows.append(Windows(make_train_step(*arguments), length, rounds))
        return windows[0]

    def without_validation(config: Any) -> Any:
        return dataclasses.replace(load_splits(config), validation=None)

    with (
        tempfile.TemporaryDirectory() as workdir,
        mock.patch.object(loop, "make_train_step", watched_step),
        mock.patch.object(loop, "load_splits", without_validation),
        mock.patch.object(loop, "split_features", return_value=np.zeros((1, 1))),
        contextlib.suppress(Measured),
    ):
        loop.train(config, f"{workdir}/run")
    in_loop, bare = (
        [seconds / length for seconds in values[1:]]
        for values in (windows[0].in_loop, windows[0].bare)
    )
    overhead = [100 * (a / b - 1) for a, b in zip(in_loop, bare, strict=True)]
    low, high = min(overhead), max(overhead)
    print(f"\nWindows of {length} steps, with a checkpoint in each:\n")
    print("| a step in the loop, s | a bare step, s | overhead |\n|---|---|---|")
    print(
        f"| {turns.spread(in_loop, 3)} | {turns.spread(bare, 3)} "
        f"| {statistics.median(overhead):.1f} % ({low:.1f}–{high:.1f} %) |"
    )
