"""Trains the missing runs of a grid, and collects the results of all of them."""

import concurrent.futures
import csv
import dataclasses
import io
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbn_jax.analysis.ablation import AS_TRAINED, METRICS, Result, Setting
from mbn_jax.analysis.curves import read_metrics, series
from mbn_jax.analysis.gap import GAPS, WAYS, Gap, read_gaps
from mbn_jax.errors import InputError
from mbn_jax.files import make_folder, read_json, write_atomically, write_json
from mbn_jax.training.checkpoint_damage import check_path
from mbn_jax.training.config import as_json
from mbn_jax.training.diagnostics import CONTROLS
from mbn_jax.training.grid import REPEATED, Run
from mbn_jax.training.run_data import load_splits
from mbn_jax.training.workdir import check_same


def carry_out(
    runs: Sequence[Run],
    workdir: Path,
    num_parallel: int,
    program: Sequence[str] = (sys.executable, "-m", "mbn_jax"),
) -> list[Run]:
    """Trains what is missing, and resumes what was interrupted.

    Every run is a process of its own, whose output is in `logs` beside it. If there are
    GPUs and several run at a time, each of these has a GPU of its own.

    Args:
        runs: From `mbn_jax.training.grid.make_runs`.
        workdir: The directory of all runs.
        num_parallel: Runs at a time.
        program: The program whose commands `train` and `controls` are called.

    Returns:
        The runs that have failed; the others are finished.

    Raises:
        InputError: A directory holds a run of another configuration or has a path that
            checkpoints cannot have, or there are fewer GPUs than runs at a time.
    """
    runs = list({run.workdir: run for run in runs}.values())
    for run in runs:
        check_path(run.workdir, to_write=True)
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
            succeeded = _carry_out(run, workdir, program, gpu, children)
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
    """The running processes. After `end`, no other is started."""

    running: set[subprocess.Popen] = dataclasses.field(default_factory=set)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    ended: bool = False

    def call(self, command: Sequence[str], **options: Any) -> int:
        """Returns the exit status of a command; 1 if it was not started."""
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
    """Returns the NVIDIA GPUs that this process may use, as in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    names = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia*"))
    return sorted((name for name in names if name.isdecimal()), key=int)


def _carry_out(
    run: Run,
    workdir: Path,
    program: Sequence[str],
    gpu: str | None,
    children: _Children,
) -> bool:
    """Trains one run and measures its controls; returns whether both succeeded."""
    config = workdir / "configs" / f"{run.workdir.name}.json"
    make_folder(run.log.parent)
    write_json(config, as_json(run.config))
    environment = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    commands = (
        ["train", f"--workdir={run.workdir}", f"--config={config}"],
        ["controls", f"--workdir={run.workdir}"],
    )
    with open(run.log, "a") as log:
        return not any(
            children.call([*program, *command], stdout=log, stderr=log, env=environment)
            for command in commands
        )


def without_known(runs: Sequence[Run], results: Sequence[Result]) -> list[Run]:
    """Returns the runs that are not among the results, by their setting and seed."""
    known = {(frozenset(r.setting), r.norm, r.seed) for r in results}
    return [
        run
        for run in runs
        if (frozenset(run.setting), run.config.model.norm, str(run.config.seed))
        not in known
    ]


def read_results(runs: Sequence[Run]) -> list[Result]:
    """Returns the results of the finished runs, by protocol and control.

    Raises:
        InputError: A file of a run is damaged.
    """
    return [r for run in runs if run.is_finished() for r in _results(run)]


def _results(run: Run) -> Iterator[Result]:
    facts = {"accuracy": _accuracy(run)}
    gaps = read_gaps(run.workdir / "gaps.json")
    for way in WAYS:
        lasting = [
            np.mean([*gap.lasting.values()])
            for gap in gaps.get(way, [])
            if gap.side == "after"
        ]
        facts[f"lasting_{way}"] = float(np.mean(lasting)) if lasting else math.nan
    network = run.setting, run.config.model.norm, str(run.config.seed)
    for statistics, protocols in _read_controls(run.workdir / CONTROLS).items():
        for name, metrics in protocols.items():
            yield Result(*network, name, statistics, metrics, facts, run.workdir.name)


def _accuracy(run: Run) -> float:
    """Returns the training accuracy over the last twentieth of the steps."""
    steps, accuracy = series(read_metrics(run.workdir / "metrics.jsonl"), "accuracy")
    values = accuracy[steps > 0.95 * run.config.num_steps]
    return float(np.mean(values)) if len(values) else math.nan


def _read_controls(path: Path) -> dict[str, dict[str, Any]]:
    controls = read_json(path)
    try:
        protocols_of_all = {tuple(protocols) for protocols in controls.values()}
        if len(protocols_of_all) != 1 or not controls.get(AS_TRAINED):
            raise LookupError
        for protocols in controls.values():
            for metrics in protocols.values():
                if not all(isinstance(metrics[m], int | float) for m in METRICS):
                    raise TypeError
    except (AttributeError, LookupError, TypeError) as error:
        raise InputError(
            f"{path} does not hold the metrics as the command controls writes them: "
            "delete it, and give the same command again."
        ) from error
    return controls


def write_layer_gaps(runs: Sequence[Run], workdir: Path) -> None:
    """Writes gaps.csv: the gaps of every layer, averaged over the seeds.

    One line for each setting, norm, way, layer and side; the columns are the axes,
    "norm", "seeds" (their number), "way", "layer", "side", and "intra", "lasting" and
    "inter", each averaged over the pairs of modalities or the modalities.

    Raises:
        InputError: gaps.json of a run is damaged, or has other layers than that of a
            run that differs from it in the seed alone.
    """
    groups: dict[Setting, dict[Path, dict[str, list[Gap]]]] = {}
    for run in runs:
        path = run.workdir / "gaps.json"
        gaps = read_gaps(path) if run.is_finished() else {}
        if gaps:
            setting = tuple((k, v) for k, v in run.values.items() if k != REPEATED)
            groups.setdefault(setting, {})[path] = gaps
    if not groups:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    axes = list(dict.fromkeys(name for setting in groups for name, _ in setting))
    writer.writerow([*axes, "seeds", "way", "layer", "side", *GAPS])
    for setting, of_runs in groups.items():
        _check_same_layers(of_runs)
        values = [dict(setting).get(axis, "") for axis in axes]
        for way in WAYS:
            of_way = (gaps.get(way, []) for gaps in of_runs.values())
            for of_layer in zip(*of_way, strict=True):
                names = [len(of_runs), way, of_layer[0].layer, of_layer[0].side]
                numbers = (
                    [
                        number
                        for gap in of_layer
                        for number in getattr(gap, kind).values()
                    ]
                    for kind in GAPS
                )
                means = [f"{np.mean(of_kind):.4f}" for of_kind in numbers]
                writer.writerow([*values, *names, *means])
    write_atomically(workdir / "gaps.csv", text.getvalue().encode())


def _check_same_layers(of_runs: Mapping[Path, Mapping[str, Sequence[Gap]]]) -> None:
    """Raises `InputError` where the seeds of one network have different layers."""
    layers = {
        path: [(way, g.layer, g.side) for way in WAYS for g in gaps.get(way, [])]
        for path, gaps in of_runs.items()
    }
    longest = max(layers, key=lambda path: len(layers[path]))
    for path, found in layers.items():
        if found != layers[longest]:
            raise InputError(
                f"{path} does not hold the gaps of the same layers as {longest}: delete"
                " it, or give the run's training command again."
            )
