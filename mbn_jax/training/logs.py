"""What is logged while a run goes on: metrics, progress, and traces."""

import contextlib
import json
import resource
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self, TextIO

import jax
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TimeRemainingColumn,
)
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from mbn_jax.analysis.curves import read_metrics
from mbn_jax.files import write_atomically
from mbn_jax.text import printable, terminal_of
from mbn_jax.training.processes import is_main

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_compile_seconds = 0.0


def _count(event: str, duration_secs: float, **_: object) -> None:
    global _compile_seconds
    if event == _COMPILE_EVENT:
        _compile_seconds += duration_secs


# JAX keeps listeners for the life of the process: one for all runs in it.
jax.monitoring.register_event_duration_secs_listener(_count)


class MetricWriter:
    """Writes scalars to `metrics.jsonl` and to TensorBoard event files, in process 0.

    A resumed run repeats the steps after its checkpoint. It removes what an earlier
    process wrote about them, so that every step is in the file once.
    """

    def __init__(self, workdir: Path, *, start_step: int) -> None:
        self._file: TextIO | None = None
        self._events: EventFile | None = None
        if not is_main():
            return
        path = workdir / "metrics.jsonl"
        kept = [
            json.dumps(line) + "\n"
            for line in read_metrics(path)
            if line["step"] <= start_step
        ]
        write_atomically(path, "".join(kept).encode())
        self._file = path.open("a")
        self._folder, self._start_step = workdir / "tensorboard", start_step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for file in (self._file, self._events):
            try:
                if file:
                    file.close()
            except OSError:
                if kind is None:  # an earlier error is the one to report
                    raise

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends the scalars of a step."""
        if not self._file:
            return
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()
        # Made at the first write: a run that had ended already adds no file.
        self._events = self._events or EventFile(self._folder, self._start_step)
        self._events.write(
            step,
            {n if "/" in n else f"train/{n}": value for n, value in scalars.items()},
        )


class EventFile:
    """An event file for TensorBoard, on disk when `write` returns.

    tensorboardX's own SummaryWriter writes in a thread, which a full disk ends; ten
    values later the run would wait for it forever.
    """

    def __init__(self, folder: Path, start_step: int) -> None:
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        self._writer = RecordWriter(str(folder / name))
        self._add(Event(file_version="brain.Event:2"))
        # Makes TensorBoard drop what earlier files say of the steps beyond.
        session = SessionLog(status=SessionLog.START)
        self._add(Event(step=start_step + 1, session_log=session))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends the scalars of a step."""
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in scalars.items()
        ]
        self._add(Event(step=step, summary=Summary(value=values)))
        self._writer.flush()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


class TrainingProgress:
    """Step, loss, accuracy, images/s and time left: a bar, or lines without a terminal.

    Process 0 shows it.
    """

    def __init__(self, num_steps: int, start_step: int, images_per_step: int) -> None:
        self._num_steps = num_steps
        self._images_per_step = images_per_step
        self._last = (start_step, time.monotonic())
        self._bar: Progress | None = None
        console = Console(file=terminal_of(sys.stderr))
        if console.is_terminal and is_main():
            self._bar = Progress(
                "step",
                MofNCompleteColumn(),
                BarColumn(),
                "{task.fields[note]}",
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task(
                "train", total=num_steps, completed=start_step, note="compiling"
            )

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, step: int, loss: float, accuracy: float) -> float:
        """Shows a finished step; returns images per second since the last call."""
        before, then = self._last
        self._last = step, time.monotonic()
        seconds = max(self._last[1] - then, 1e-9)
        rate = (step - before) * self._images_per_step / seconds
        note = f"loss {loss:.3f}  accuracy {accuracy:.1%}  {rate:.0f} images/s"
        if self._bar:
            self._bar.update(self._task, completed=step, note=note)
        else:
            left = (self._num_steps - step) * self._images_per_step / max(rate, 1e-9)
            minutes, seconds_left = divmod(round(left), 60)
            self.print(
                f"step {step}/{self._num_steps}  {note}  "
                f"{minutes}:{seconds_left:02d} left"
            )
        return rate

    def pause(self) -> None:
        """Leaves the time since the last step out of images per second."""
        self._last = self._last[0], time.monotonic()

    def print(self, text: str) -> None:
        """Prints a line above the bar."""
        if not is_main():
            return
        if self._bar:
            self._bar.console.print(printable(text), markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


class StepLog:
    """Turns the metrics of steps that are still running into lines, without waiting.

    A step is read once the one after it has been handed to the device, so that the
    device always has work. Every step is read in the end: no loss that is not finite
    goes unseen.
    """

    def __init__(
        self,
        writer: MetricWriter,
        progress: TrainingProgress,
        *,
        log_every: int,
        max_skipped_in_a_row: int,
    ) -> None:
        self._writer = writer
        self._progress = progress
        self._log_every = log_every
        self._max_skipped_in_a_row = max_skipped_in_a_row
        self._running: list[tuple[int, Mapping[str, jax.Array]]] = []
        self._compiled = _compile_seconds

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the metrics of a step that has been handed to the device.

        Every `log_every` steps it writes a line with the means over them.

        Raises:
            FloatingPointError: more steps in a row than allowed were skipped, because
                their loss or gradient was not finite.
        """
        if self._running and self._running[-1][0] % self._log_every == 0:
            self.flush()
        self._running.append((step, metrics))

    def flush(self) -> None:
        """Waits for all steps, checks them and writes their line.

        Raises:
            FloatingPointError: as `add`.
        """
        if not self._running:
            return
        finished = [(step, jax.device_get(metrics)) for step, metrics in self._running]
        self._running.clear()
        for step, metrics in finished:
            self._check(step, metrics)
        step, last = finished[-1]
        scalars: dict[str, float] = {"skipped": int(last["skipped"])}
        learned = [m for _, m in finished if not m["skipped_in_a_row"]]
        if learned:
            scalars |= {
                name: float(np.mean([metrics[name] for metrics in learned]))
                for name in last
                if not name.startswith("skipped")
            }
            rate = self._progress.update(step, scalars["loss"], scalars["accuracy"])
            scalars["images_per_second"] = rate
        scalars["compile_seconds"] = _compile_seconds - self._compiled
        self._compiled = _compile_seconds
        self._writer.write(step, scalars | _peak_memory())

    def _check(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        in_a_row = int(metrics["skipped_in_a_row"])
        if not in_a_row:
            return
        name = "gradient_norm" if np.isfinite(metrics["loss"]) else "loss"
        what = f"The {name.replace('_', ' ')} is {metrics[name]} at step {step}"
        if in_a_row > self._max_skipped_in_a_row:
            raise FloatingPointError(
                what + (f", {in_a_row} such in a row" if in_a_row > 1 else "")
            )
        self._progress.print(
            f"{what}: skipped, {in_a_row} in a row, {metrics['skipped']} in all"
        )


def _peak_memory() -> dict[str, float]:
    """The most memory held so far, in GiB, of the process and of the fullest device."""
    # Linux counts in KiB.
    peak = {
        "host_memory_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    }
    statistics = [device.memory_stats() for device in jax.local_devices()]
    bytes_in_use = [of_one["peak_bytes_in_use"] for of_one in statistics if of_one]
    if bytes_in_use:  # a CPU reports none
        peak["device_memory_peak"] = max(bytes_in_use) / 2**30
    return peak


class Profile:
    """Writes a trace of some steps into `workdir/profile`."""

    def __init__(self, workdir: Path, steps: range) -> None:
        self._directory = workdir / "profile"
        self._steps = steps
        self._running = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:  # also where the run ends within the steps of the trace
            jax.profiler.stop_trace()
            self._running = False

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Marks a step; what it hands to the device belongs to it."""
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
