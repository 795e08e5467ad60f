"""The runs of a grid: those that are missing are carried out, and all are compared."""

import concurrent.futures
import dataclasses
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mbn_jax.analysis.ablation import Result, as_csv, as_markdown, draw
from mbn_jax.data.sources import protocols_of
from mbn_jax.errors import InputError
from mbn_jax.evaluation import average_precisions
from mbn_jax.evaluation.feature_file import read_features
from mbn_jax.files import read_json, write_atomically, write_json
from mbn_jax.training.config import as_json
from mbn_jax.training.grid import FEATURES, PAIRED, REPEATED, Run
from mbn_jax.training.splits import load_splits
from mbn_jax.training.workdir import check_same


def carry_out(
    runs: Sequence[Run], workdir: Path, num_parallel: int, experiments: Path
) -> list[Run]:
    """Trains what is missing, and resumes what was interrupted.

    Every run is a process of its own, whose output is in `logs` beside it. Where there
    are GPUs and several run at a time, each of these has a GPU of its own.

    Args:
      runs: of `make_runs`.
      workdir: of the whole.
      num_parallel: runs at a time.
      experiments: folder of `train.py` and `evaluate.py`.

    Returns:
      The runs that have failed; the others are finished.

    Raises:
      InputError: a directory holds a run of another configuration, or there are fewer
        GPUs than runs at a time.
    """
    runs = list({run.workdir: run for run in runs}.values())
    for run in runs:
        if run.workdir.exists():
            check_same(run.config, run.workdir)
    missing = [run for run in runs if not run.is_finished()]
    gpus = _gpus()
    if gpus and num_parallel > len(gpus):
        raise InputError(
            f"{num_parallel} runs at a time need as many GPUs, but there are "
            f"{len(gpus)}: give --num_parallel={len(gpus)}."
        )
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are there", file=sys.stderr)
    # Here, so that no two of them render the same data at a time.
    for config in {run.config.data.dataset: run.config for run in missing}.values():
        load_splits(config)
    free: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for i in range(num_parallel):
        # One run at a time has all of them.
        free.put(gpus[i] if gpus and num_parallel > 1 else None)
    children = _Children()

    def carry_out_one(run: Run) -> bool:
        gpu, started = free.get(), time.monotonic()
        try:
            succeeded = _carry_out(run, workdir, experiments, gpu, children)
        finally:
            free.put(gpu)
        minutes = (time.monotonic() - started) / 60
        outcome = "done" if succeeded else "FAILED"
        there = sum(other.is_finished() for other in runs)
        print(
            f"{there}/{len(runs)}  {run.workdir.name}: {outcome}, {minutes:.1f} min",
            file=sys.stderr,
        )
        return succeeded

    with concurrent.futures.ThreadPoolExecutor(num_parallel) as pool:
        try:
            succeeded = list(pool.map(carry_out_one, missing))
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            children.end()
            if isinstance(error, OSError):
                raise InputError(f"{workdir} cannot be written to: {error}.") from error
            raise
    return [run for run, good in zip(missing, succeeded, strict=True) if not good]


@dataclasses.dataclass
class _Children:
    """The processes under way; once they were ended, none is started any more."""

    running: set[subprocess.Popen] = dataclasses.field(default_factory=set)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    ended: bool = False

    def call(self, command: Sequence[str], **options: Any) -> int:
        """Exit status of a command; 1 if it was not started."""
        with self.lock:
            if self.ended:
                return 1
            process = subprocess.Popen(command, **options)
            self.running.add(process)
        status = process.wait()
        self.running.discard(process)
        return status

    def end(self) -> None:
        """Asks all to end: a training run saves its step."""
        with self.lock:
            self.ended = True
            for process in list(self.running):
                process.terminate()


def _gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    numbers = (
        path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia*")
    )
    return sorted((n for n in numbers if n.isdecimal()), key=int)


def _carry_out(
    run: Run, workdir: Path, experiments: Path, gpu: str | None, children: _Children
) -> bool:
    """Trains and evaluates one run; whether both went well."""
    config = workdir / "configs" / f"{run.workdir.name}.json"
    for folder in (config.parent, run.log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(config, as_json(run.config))
    environment = dict(os.environ)
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    saved = experiments / "configs" / "saved.py"
    part = run.workdir / f"part-{FEATURES}"
    commands = (
        ["train.py", f"--workdir={run.workdir}", f"--config={saved}:{config}"],
        ["evaluate.py", f"--workdir={run.workdir}", f"--save_features={part}"],
    )
    with open(run.log, "a") as log:
        for script, *arguments in commands:
            command = [sys.executable, str(experiments / script), *arguments]
            if children.call(command, stdout=log, stderr=log, env=environment):
                return False
    part.replace(run.workdir / FEATURES)
    return True


def write_outcome(runs: Sequence[Run], workdir: Path) -> str:
    """Writes ablation.csv, ablation.md and ablation.png.

    Args:
      runs: of `make_runs`; those that are finished count.
      workdir: of the whole.

    Returns:
      The table of ablation.md.

    Raises:
      InputError: no run is finished.
    """
    results = [r for run in runs if run.is_finished() for r in _results(run)]
    if not results:
        raise InputError(f"No run in {workdir} is finished.")
    table = as_markdown(results)
    write_atomically(workdir / "ablation.csv", as_csv(results).encode())
    write_atomically(workdir / "ablation.md", table.encode())
    draw(results).savefig(workdir / "ablation.png", dpi=150)
    return table


def _results(run: Run) -> Iterator[Result]:
    """The run by each of its protocols, query by query from the stored features."""
    features, records, _ = read_features(run.workdir / FEATURES)
    figures = read_json(run.workdir / "results.json")["figures"]["last"]
    setting = tuple(
        (name, value)
        for name, value in run.values.items()
        if name not in (PAIRED, REPEATED)
    )
    for protocol in protocols_of(run.config.data.dataset, records.modalities):
        if protocol.name not in figures:
            continue  # no query of it has a match
        yield Result(
            setting,
            run.config.model.norm,
            str(run.config.seed),
            protocol.name,
            figures[protocol.name],
            average_precisions(features, records, protocol),
            run.workdir.name,
        )
