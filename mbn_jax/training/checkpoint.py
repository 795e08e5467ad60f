"""Checkpoints in a work directory: written by all processes, restored, set aside."""

import contextlib
import errno
import functools
import itertools
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from mbn_jax.errors import InputError
from mbn_jax.training.processes import gather, on_main
from mbn_jax.training.step import ModelState

METRIC = "mean_mAP"
DAMAGED = "damaged_checkpoints"  # beside them


def raise_and_do_not_log() -> None:
    """Silences what Orbax and what it uses print about errors that they also raise.

    Of a disk that is full they print a thousand lines around the one that helps. It is
    for programs whose only work is a run: it holds for the whole process.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # TensorStore answers to whom Orbax, after the first error, no longer awaits.
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = hook


def _score(metrics: dict[str, float]) -> float:
    return metrics[METRIC]


class Checkpoints:
    """The latest two checkpoints and the best on validation, written asynchronously.

    A context manager; leaving it waits for what is still being written.
    """

    def __init__(self, workdir: str | Path, *, to_write: bool = True) -> None:
        """Opens `workdir/checkpoints`; if `to_write`, makes it and clears debris."""
        self.directory = Path(workdir).absolute() / "checkpoints"
        if to_write:
            on_main(lambda: self._check_scores(self._move_aside))
        else:
            self._check_scores(self._refuse)
        best = managers.BestN(
            get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False
        )
        # `max_to_keep` with `best_fn` would evict the newest checkpoint, and with it
        # the point to resume from.
        keep = managers.AnyPreservationPolicy([managers.LatestN(2), best])
        self._manager = ocp.CheckpointManager(
            self.directory,
            # Named here, so that a manager that has saved nothing yet can read.
            item_handlers=ocp.PyTreeCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                create=to_write,
                cleanup_tmp_directories=to_write,
                # The policy alone decides what is kept; without best_fn the metrics
                # that it asks for are not written.
                best_fn=_score,
                preservation_policy=keep,
            ),
        )

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Waits for what is still being written."""
        if error is None:
            self.wait()
            self._manager.close()
            return
        # The first error is the one to be told; these tell that of a save, each anew.
        with contextlib.suppress(Exception):
            self._manager.wait_until_finished()
        with contextlib.suppress(Exception):
            self._manager.close()

    def _check_scores(self, answer: Callable[[int, Exception], None]) -> None:
        """Finds what Orbax's manager, which reads all scores first, stumbles over."""
        for directory in sorted(self.directory.glob("*/metrics")):
            if not directory.parent.name.isdecimal():  # an unfinished one
                continue
            try:
                _score(json.loads((directory / "metrics").read_text()))
            except (OSError, ValueError, KeyError, TypeError) as error:
                answer(int(directory.parent.name), error)

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, in order."""
        self._manager.wait_until_finished()
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The best step on validation, the later of equals; None without validation."""
        scores = {step: self._manager.metrics(step) for step in self.steps()}
        return max(
            (step for step, metrics in scores.items() if metrics),
            key=lambda step: (_score(scores[step]), step),
            default=None,
        )

    def save(self, step: int, state: ModelState, mean_map: float | None) -> None:
        """Starts to write a checkpoint; returns before it is on disk.

        Args:
          step: of the state.
          state: after this step; every process writes a part of it.
          mean_map: by which the best step is chosen; None without validation.

        Raises:
          InputError: this one, or the one before, cannot be written.
        """
        try:
            self._manager.save(
                step,
                args=ocp.args.PyTreeSave(state),
                metrics=None if mean_map is None else {METRIC: mean_map},
            )
        except jax.errors.JaxRuntimeError:  # another process, or the device
            raise
        except Exception as error:
            raise self._not_written(error) from error

    def wait(self) -> None:
        """Waits until all checkpoints are on disk.

        Raises:
          InputError: if one cannot be written.
        """
        try:
            self._manager.wait_until_finished()
        except jax.errors.JaxRuntimeError:
            raise
        except Exception as error:
            raise self._not_written(error) from error

    def _not_written(self, error: Exception) -> InputError:
        kept = sorted(int(p.name) for p in self.directory.glob("*") if p.name.isdigit())
        others = ", ".join(map(str, kept)) or "none"
        return InputError(
            f"A checkpoint cannot be written to {self.directory} ({_reason(error)}); "
            f"whole ones there: {others}. Mend that, or make room, and start the same "
            "command again."
        )

    def restore(self, step: int, like: ModelState) -> ModelState:
        """Reads a checkpoint into arrays of the types and shardings of `like`."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._read(step, abstract, partial=False)

    def restore_newest(self, like: ModelState) -> tuple[int, ModelState] | None:
        """The newest checkpoint that can be read, or None.

        All are read, since the best may be asked for at the end of the run. Those that
        cannot be read are moved to `damaged_checkpoints/` beside the others.

        Args:
          like: a state of the types and shardings of the result.
        """
        newest = None
        for step in self.steps():
            error, state = None, like
            try:
                self._manager.metrics(step)
                state = self.restore(step, like)
            except jax.errors.JaxRuntimeError:  # another process, or the device
                raise
            except Exception as raised:
                error = raised
            if gather(np.array([error is not None])).any():
                on_main(functools.partial(self._move_aside, step, error))
                self._manager.reload()
            else:
                newest = step, state
        return newest

    def _move_aside(self, step: int, error: Exception | None) -> None:
        aside = self.directory.with_name(DAMAGED)
        aside.mkdir(exist_ok=True)
        names = (f"{step}-{number}" for number in itertools.count(1))
        target = next(aside / n for n in names if not (aside / n).exists())
        (self.directory / str(step)).rename(target)
        print(
            f"The checkpoint of step {step} cannot be read "
            f"({_reason(error) if error else 'in another process'}); it was "
            f"moved to {target}: the run goes on from the newest of the others and, if "
            "this one was the best on validation, reports the best of them.",
            file=sys.stderr,
        )

    def restore_variables(self, step: int) -> dict[str, Any]:
        """Reads parameters and statistics of a checkpoint, on one device.

        Raises:
          InputError: if the checkpoint is damaged.
        """
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        try:
            stored = self._manager.item_metadata(step).tree
            wanted = {
                name: jax.tree.map(
                    lambda leaf: jax.ShapeDtypeStruct(
                        leaf.shape, leaf.dtype, sharding=device
                    ),
                    stored[name],
                )
                for name in ("params", "batch_stats")
            }
            return self._read(step, wanted, partial=True)
        except Exception as error:
            self._refuse(step, error)

    def _refuse(self, step: int, error: Exception) -> NoReturn:
        names = (path.name for path in self.directory.glob("*"))
        others = sorted({int(n) for n in names if n.isdecimal()} - {step})
        raise InputError(
            f"The checkpoint of step {step} in {self.directory} cannot be read "
            f"({_reason(error)}); the others are {others or 'none'}: take one of "
            "them, or go on with the training, which leaves a damaged one aside."
        ) from error

    def _read(self, step: int, abstract: Any, *, partial: bool) -> Any:
        return self._manager.restore(
            step,
            args=ocp.args.PyTreeRestore(
                abstract,
                restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                partial_restore=partial,
            ),
        )


def _reason(error: BaseException) -> str:
    """A library's error in the shortest form that still says what is wrong."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space left on the device"
    if "No space left on device" in text:
        return "no space left on the device"
    return f"{type(error).__name__}: {text[:200]}"
