"""A grid of runs: which there are, and how those that are missing are carried out."""

import concurrent.futures
import dataclasses
import itertools
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mbn_jax.analysis.ablation import Result, as_csv, as_markdown, draw
from mbn_jax.errors import InputError
from mbn_jax.evaluation import average_precisions, standard_protocols
from mbn_jax.evaluation.feature_file import read_features
from mbn_jax.files import read_json, write_atomically, write_json
from mbn_jax.training.config import LOSSES, as_json, check, flatten
from mbn_jax.training.splits import load_splits
from mbn_jax.training.workdir import check_same

PAIRED = "norm"  # the axis whose two values are compared
REPEATED = "seed"  # the axis that a mean is taken over
FEATURES = "test_features.npz"


class Run(NamedTuple):
    """A run of the grid.

    Attributes:
      values: of the axes, as they were given: `{"norm": "mbn", "seed": "0", …}`.
      config: what it is trained with.
      workdir: of the run.
    """

    values: dict[str, str]
    config: ConfigDict
    workdir: Path

    def is_finished(self) -> bool:
        """Whether it has been trained and its features are there."""
        return (self.workdir / FEATURES).exists()

    @property
    def log(self) -> Path:
        """Where its output goes; beside the work directory, which must start empty."""
        return self.workdir.parent / "logs" / f"{self.workdir.name}.txt"


def _backbone(name: str) -> dict[str, Any]:
    match = re.fullmatch(r"(se_)?resnet(\d+)(_ibn_a)?", name)
    if not match or (match[1] and match[3]):
        raise InputError(
            f"The backbone {name!r} is not known, expected for example resnet18, "
            "se_resnet50 or resnet50_ibn_a."
        )
    variant = f"{match[1] or ''}resnet{match[3] or ''}"
    return {"model.depth": int(match[2]), "model.variant": variant}


def _affine(name: str) -> dict[str, Any]:
    if name not in ("shared", "separate"):
        raise InputError(
            f"The affine {name!r} is not known, expected shared, separate."
        )
    return {"model.share_affine": name == "shared"}


def _loss(name: str) -> dict[str, Any]:
    weights = dict.fromkeys((f"loss.{loss}" for loss in LOSSES), 0.0)
    for term in name.split("+"):
        if f"loss.{term}" not in weights:
            raise InputError(
                f"The loss {term!r} is not known, expected some of "
                f"{', '.join(LOSSES)}, joined by +."
            )
        weights[f"loss.{term}"] = 1.0
    return weights


# Short names of axes, and what a value of each changes in the configuration.
AXES: dict[str, Callable[[str], dict[str, Any]]] = {
    "norm": lambda value: {"model.norm": value},
    "data": lambda value: {"data.dataset": value},
    "backbone": _backbone,
    "loss": _loss,
    "sampler": lambda value: {"batch.sampler": value},
    "affine": _affine,
    "seed": lambda value: {"seed": int(value)},
}


def read_grid(axes: Sequence[str]) -> dict[str, list[str]]:
    """`["norm=bn,mbn", "seed=0,1"]` as `{"norm": ["bn", "mbn"], "seed": ["0", "1"]}`.

    A comma in brackets does not part values: `["model.mbn_at=[\"neck\"],[]"]`.

    Raises:
      InputError: an axis has no value, or stands there twice.
    """
    grid: dict[str, list[str]] = {}
    for axis in axes:
        name, _, text = axis.partition("=")
        values = re.split(r",(?![^\[]*\])", text)
        if not name or not all(values) or name in grid:
            raise InputError(
                f"--grid={axis} is not an axis of its own with its values, expected "
                "for example --grid=norm=bn,mbn."
            )
        grid[name] = values
    return grid


def make_runs(
    base: ConfigDict, grid: Mapping[str, Sequence[str]], workdir: Path, *, cross: bool
) -> list[Run]:
    """The runs of a grid; those of equal configurations share a work directory.

    Args:
      base: what the runs have in common.
      grid: values of each axis, by its short name or as a key of the configuration.
      workdir: of the whole.
      cross: all combinations; else one axis at a time leaves its first value, but for
        norm and seed, which are always combined with all.

    Raises:
      InputError: an axis or a value is not known, or a configuration is of no use.
    """
    always = {name: grid[name] for name in (PAIRED, REPEATED) if name in grid}
    others = {name: values for name, values in grid.items() if name not in always}
    runs: list[Run] = []
    workdirs: dict[str, Path] = {}
    for setting in _settings(others, cross):
        for repeated in itertools.product(*always.values()):
            values = setting | dict(zip(always, repeated, strict=True))
            config = base.copy_and_resolve_references()
            for name, value in values.items():
                _change(config, name, value)
            if config.model.norm == "bn":  # for which these change nothing: one run
                config.model.share_affine = base.model.share_affine
                config.model.mbn_at = base.model.mbn_at
            check(config)
            name = ",".join(f"{axis}={value}" for axis, value in values.items())
            name = re.sub(r"[^\w.+=,-]+", "_", name)
            key = json.dumps(as_json(config), sort_keys=True)
            runs.append(Run(values, config, workdirs.setdefault(key, workdir / name)))
    return runs


def _settings(
    axes: Mapping[str, Sequence[str]], cross: bool
) -> Iterator[dict[str, str]]:
    if cross:
        for chosen in itertools.product(*axes.values()):
            yield dict(zip(axes, chosen, strict=True))
        return
    first = {name: values[0] for name, values in axes.items()}
    yield first
    for name, values in axes.items():
        for value in values[1:]:
            yield first | {name: value}


def _change(config: ConfigDict, name: str, value: str) -> None:
    """Sets what a value of an axis means."""
    known = flatten(config.to_dict())
    if name not in AXES and name not in known:
        raise InputError(
            f"The axis {name!r} is not known, expected one of {', '.join(AXES)} or a "
            "key of the configuration."
        )
    try:
        if name in AXES:
            changes = AXES[name](value)
        elif isinstance(known[name], str):
            changes = {name: value}
        else:
            read = json.loads(value)
            changes = {name: tuple(read) if isinstance(read, list) else read}
        config.update_from_flattened_dict(changes)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"--grid={name}={value}: {value!r} is no value of it ({error})."
        ) from error


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
            for process in self.running:
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
    for protocol in standard_protocols(run.config.data.dataset):
        yield Result(
            setting,
            run.config.model.norm,
            str(run.config.seed),
            protocol.name,
            figures[protocol.name],
            average_precisions(features, records, protocol),
            run.workdir.name,
        )
