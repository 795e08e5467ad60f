"""Checkpoints in a work directory: written by all processes, restored, set aside."""

import asyncio
import contextlib
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers
from orbax.checkpoint.path import atomicity

from mbn_jax.errors import InputError
from mbn_jax.files import make_folder, move_durably, read_json
from mbn_jax.training.checkpoint_damage import (
    check_arrays,
    check_path,
    checksums,
    is_of_content,
    reason,
)
from mbn_jax.training.processes import gather, is_main, on_main
from mbn_jax.training.state import ModelState

METRIC = "mean_mAP"
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged_checkpoints"  # beside them
# The folders of a checkpoint; of the latter two, also the file in each.
_STATE, _SCORE, _RECORD = "default", "metrics", "record"


def finished_steps(workdir: str | Path) -> list[int]:
    """Returns the steps of all complete checkpoints of a work directory, in order."""
    names = (path.name for path in (Path(workdir) / CHECKPOINTS).glob("*"))
    return sorted(int(name) for name in names if name.isdecimal())


class Checkpoints:
    """The latest two checkpoints and the best on validation, written asynchronously.

    Each keeps its step, its score and the checksums of its arrays, which are compared
    whenever it is read. A context manager; leaving it waits for what is still being
    written.
    """

    def __init__(self, workdir: str | Path, *, to_write: bool = True) -> None:
        """Opens `workdir/checkpoints`; if `to_write`, makes it and clears debris.

        Raises:
            InputError: its path cannot be used, see `checkpoint_damage.check_path`.
        """
        check_path(workdir, to_write=to_write)
        self._workdir = Path(workdir).absolute()
        self.directory = self._workdir / CHECKPOINTS
        self._scores: dict[int, float | None] = {}
        if to_write:
            on_main(lambda: make_folder(self.directory))
        json_handler = ocp.JsonCheckpointHandler
        self._manager = ocp.CheckpointManager(
            self.directory,
            # Named here, so that a manager that has saved nothing yet can read.
            item_handlers={
                _STATE: ocp.PyTreeCheckpointHandler(),
                _SCORE: json_handler(filename=_SCORE),
                _RECORD: json_handler(filename=_RECORD),
            },
            options=ocp.CheckpointManagerOptions(
                create=to_write,
                cleanup_tmp_directories=to_write,
                # Otherwise it reads all scores first, and a damaged one ends the run.
                lightweight_initialize=True,
                temporary_path_class=_Synced,
                preservation_policy=_LatestTwoAndBest(self._best_of),
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.wait()
            self._manager.close()
            return
        # The first error is the one to report; these would raise that of a save again.
        with contextlib.suppress(Exception):
            self._manager.wait_until_finished()
        with contextlib.suppress(Exception):
            self._manager.close()

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, in order, once all are written."""
        self._manager.wait_until_finished()
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Returns the best step on validation, the later of equals; None without it.

        Raises:
            InputError: the score of a checkpoint cannot be read.
        """
        return self._best_of(self.steps())

    def _best_of(self, steps: Sequence[int]) -> int | None:
        for step in steps:
            if step not in self._scores:
                with self._reading(step):
                    self._scores[step], _ = self._read_record(step)
        scored = [step for step in steps if self._scores[step] is not None]
        return max(scored, key=lambda s: (self._scores[s], s), default=None)

    def save(self, step: int, state: ModelState, mean_map: float | None) -> None:
        """Starts to write a checkpoint; returns before it is on disk.

        Args:
            step: the step of the state.
            state: the state, replicated; every process writes a part of it.
            mean_map: by which the best step is chosen; None without validation.

        Raises:
            InputError: this one, or the one before, cannot be written.
        """
        record = {"step": step, METRIC: mean_map, "checksums": checksums(state)}
        items = {_STATE: ocp.args.PyTreeSave(state), _RECORD: ocp.args.JsonSave(record)}
        if mean_map is not None:
            items[_SCORE] = ocp.args.JsonSave({METRIC: mean_map})
        self._scores[step] = mean_map
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**items))

    def wait(self) -> None:
        """Waits until all checkpoints are on disk.

        Raises:
            InputError: one cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns an error while writing into one that says what is there."""
        try:
            yield
        except jax.errors.JaxRuntimeError:  # another process, or the device
            raise
        except Exception as error:
            kept = ", ".join(map(str, finished_steps(self._workdir))) or "none"
            raise InputError(
                f"A checkpoint cannot be written to {self.directory} ({reason(error)});"
                f" complete ones there: {kept}. Fix that, or make room, and start the"
                " same command again."
            ) from error

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Turns an error while reading a checkpoint into one that names it."""
        try:
            yield
        except jax.errors.JaxRuntimeError:  # another process, or the device
            raise
        except Exception as error:
            others = [other for other in finished_steps(self._workdir) if other != step]
            advice = (
                f"the others are {others or 'none'}: take one of them, or go on with "
                "the training, which sets a damaged one aside."
                if is_of_content(error)
                else "fix that, and start the same command again."
            )
            raise InputError(
                f"The checkpoint of step {step} in {self.directory} cannot be read "
                f"({reason(error)}); {advice}"
            ) from error

    def restore(self, step: int, like: ModelState) -> ModelState:
        """Reads a checkpoint into arrays of the types and shardings of `like`.

        Raises:
            InputError: the checkpoint is damaged, or cannot be read.
        """
        with self._reading(step):
            return self._read(step, like)

    def restore_newest(self, like: ModelState) -> tuple[int, ModelState] | None:
        """Reads the newest checkpoint that can be read; None if there is no checkpoint.

        All are read, since the best may be needed at the end of the run. Those that are
        damaged are moved to `damaged_checkpoints/` beside the others, unless no other
        can be read.

        Args:
            like: a state of the types and shardings of the result.

        Raises:
            InputError: none can be read, or one cannot for a reason outside of it, such
                as an error of the disk. All are left where they are.
        """
        newest = None
        damaged: dict[int, Exception | None] = {}
        for step in self.steps():
            error, state = None, like
            try:
                state = self._read(step, like)
            except jax.errors.JaxRuntimeError:  # another process, or the device
                raise
            except Exception as raised:
                error = raised
            may_pass = error is not None and not is_of_content(error)
            # In any of the processes.
            is_bad, may_pass = np.any(
                gather(np.array([error is not None, may_pass])), axis=0
            )
            if may_pass:
                raise InputError(
                    f"The checkpoint of step {step} in {self.directory} cannot be read "
                    f"now ({_or_elsewhere(error)}); nothing was moved. Fix that, and "
                    "start the same command again."
                ) from error
            if is_bad:
                damaged[step] = error
            else:
                newest = step, state
        if damaged and newest is None:
            reasons = "; ".join(f"{s}: {_or_elsewhere(e)}" for s, e in damaged.items())
            raise InputError(
                f"No checkpoint in {self.directory} can be read ({reasons}); nothing "
                "was moved. Replace them with a copy, or remove that directory to "
                "begin again at step 0."
            )
        for step, error in damaged.items():
            on_main(functools.partial(self._move_aside, step, error))
            self._manager.reload()
        return newest

    def _move_aside(self, step: int, error: Exception | None) -> None:
        aside = self.directory.with_name(DAMAGED)
        aside.mkdir(exist_ok=True)
        targets = (aside / f"{step}-{number}" for number in itertools.count(1))
        target = next(target for target in targets if not target.exists())
        (self.directory / str(step)).rename(target)
        print(
            f"The checkpoint of step {step} cannot be read ({_or_elsewhere(error)}); "
            f"it was moved to {target}: the run goes on from the newest of the others "
            "and, if this one was the best on validation, reports the best of them.",
            file=sys.stderr,
        )

    def restore_variables(self, step: int) -> dict[str, Any]:
        """Reads parameters and statistics of a checkpoint.

        They are on one device, and JAX moves them where a computation needs them, such
        as to the devices of `jax.set_mesh`.

        Raises:
            InputError: the checkpoint is damaged, or cannot be read.
        """
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        with self._reading(step):
            stored = self._manager.item_metadata(step)[_STATE].tree
            wanted = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=device
                ),
                {name: stored[name] for name in ("params", "batch_stats")},
            )
            variables = self._read(step, wanted, partial=True)
        # JAX does not move arrays that Orbax has placed.
        return jax.device_put(jax.device_get(variables))

    def _read(self, step: int, like: Any, *, partial: bool = False) -> Any:
        self._scores[step], kept = self._read_record(step)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restore = ocp.args.PyTreeRestore(
            abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=partial,
        )
        items = ocp.args.Composite(**{_STATE: restore})
        arrays = self._manager.restore(step, args=items)[_STATE]
        if kept is not None:
            check_arrays(arrays, kept)
        elif is_main():
            print(
                f"warning: The checkpoint of step {step} has no checksums, as version "
                "0.1 wrote it: damage to its arrays would go unnoticed.",
                file=sys.stderr,
            )
        return arrays

    def _read_record(self, step: int) -> tuple[float | None, dict[str, int] | None]:
        """The score of a checkpoint and its checksums; both None where there are none.

        Raises:
            ValueError, KeyError, TypeError: they cannot be read, or are of another
                step.
        """
        folder = self.directory / str(step)
        score = None
        if (folder / _SCORE).is_dir():
            score = float(read_json(folder / _SCORE / _SCORE)[METRIC])
        if not (folder / _RECORD).is_dir():
            return score, None
        record = read_json(folder / _RECORD / _RECORD)
        for name, found in (("step", step), (METRIC, score)):
            if record[name] != found:
                raise ValueError(f"its {name} is {found} and was {record[name]}")
        return score, record["checksums"]


class _Synced(atomicity.AtomicRenameTemporaryPath):
    """A checkpoint that gets its name once all of it is on the disk.

    Orbax syncs the arrays alone: after a loss of power a finished checkpoint would have
    its name, and its other files would be empty.
    """

    async def finalize(self) -> None:
        final = self.get_final()
        written = self.get().with_name(self.get().name + "-written")
        self._final_path = written
        await super().finalize()
        self._final_path = final
        await asyncio.to_thread(move_durably, Path(written), Path(final))


class _LatestTwoAndBest(managers.PreservationPolicy):
    """Keeps the point to resume from, one before it, and the best on validation."""

    def __init__(self, best_of: Callable[[Sequence[int]], int | None]) -> None:
        self._best_of = best_of

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: managers.PreservationContext
    ) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(steps)[-2:], self._best_of(steps)}
        return [step in kept for step in steps]


def _or_elsewhere(error: Exception | None) -> str:
    return reason(error) if error else "in another process"
