"""A grid of runs: which there are, and how those that are missing are carried out."""

import concurrent.futures
import itertools
import json
import os
import queue
import re
import subprocess
import sys
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

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
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
    "affine": lambda value: {"model.share_affine": value == "shared"},
    "seed": lambda value: {"seed": int(value)},
}


def read_grid(axes: Sequence[str]) -> dict[str, list[str]]:
    """`["norm=bn,mbn", "seed=0,1"]` as `{"norm": ["bn", "mbn"], "seed": ["0", "1"]}`.

    Raises:
      InputError: an axis has no value, or stands there twice.
    """
    grid: dict[str, list[str]] = {}
    for axis in axes:
        name, _, values = axis.partition("=")
        if not name or not all(values.split(",")) or name in grid:
            raise InputError(
                f"--grid={axis} is not an axis of its own with its values, expected "
                "for example --grid=norm=bn,mbn."
            )
        grid[name] = values.split(",")
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
                config.update_from_flattened_dict(_changes(base, name, value))
            if config.model.norm == "bn":  # which has one affine, so is one run
                config.model.share_affine = base.model.share_affine
            check(config)
            name = "-".join(
                re.sub(r"[^\w.+]+", "_", value) for value in values.values()
            )
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


def _changes(base: ConfigDict, name: str, value: str) -> dict[str, Any]:
    if name in AXES:
        return AXES[name](value)
    known = flatten(base.to_dict())
    if name not in known:
        raise InputError(
            f"The axis {name!r} is not known, expected one of {', '.join(AXES)} or a "
            "key of the configuration."
        )
    try:
        return {name: value if isinstance(known[name], str) else json.loads(value)}
    except ValueError as error:
        raise InputError(f"--grid={name}={value}: {value!r} is no value.") from error


def carry_out(runs: Sequence[Run], workdir: Path, num_parallel: int) -> None:
    """Trains what is missing, and resumes what was interrupted.

    Every run is a process of its own, whose output is in `logs` beside it.
    Where there are GPUs, the i-th of those that run at a time sees the i-th of them.

    Args:
      runs: of `make_runs`.
      workdir: of the whole.
      num_parallel: runs at a time.

    Raises:
      InputError: runs have failed; they are named, and the others are finished.
    """
    runs = list({run.workdir: run for run in runs}.values())
    missing = [run for run in runs if not run.is_finished()]
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are there", file=sys.stderr)
    # Here, so that no two of them render the same data at a time.
    for config in {run.config.data.dataset: run.config for run in missing}.values():
        load_splits(config)
    gpus: queue.SimpleQueue[int] = queue.SimpleQueue()
    for gpu in range(num_parallel):
        gpus.put(gpu)

    def carry_out_one(run: Run) -> bool:
        gpu, started = gpus.get(), time.monotonic()
        succeeded = _carry_out(run, workdir, gpu if num_parallel > 1 else None)
        gpus.put(gpu)
        minutes = (time.monotonic() - started) / 60
        outcome = "done" if succeeded else "FAILED"
        there = sum(other.is_finished() for other in runs)
        print(
            f"{there}/{len(runs)}  {run.workdir.name}: {outcome}, {minutes:.1f} min",
            file=sys.stderr,
        )
        return succeeded

    with concurrent.futures.ThreadPoolExecutor(num_parallel) as pool:
        succeeded = list(pool.map(carry_out_one, missing))
    failed = [run for run, good in zip(missing, succeeded, strict=True) if not good]
    if failed:
        logs = ", ".join(str(run.log) for run in failed)
        raise InputError(f"{len(failed)} of {len(runs)} runs have failed: see {logs}.")


def _carry_out(run: Run, workdir: Path, gpu: int | None) -> bool:
    """Trains and evaluates one run; whether both went well."""
    config = workdir / "configs" / f"{run.workdir.name}.json"
    for folder in (config.parent, run.log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(config, as_json(run.config))
    environment = dict(os.environ)
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
    saved = EXPERIMENTS / "configs" / "saved.py"
    part = run.workdir / f"part-{FEATURES}"
    commands = (
        ["train.py", f"--workdir={run.workdir}", f"--config={saved}:{config}"],
        ["evaluate.py", f"--workdir={run.workdir}", f"--save_features={part}"],
    )
    with open(run.log, "a") as log:
        for script, *arguments in commands:
            command = [sys.executable, str(EXPERIMENTS / script), *arguments]
            if subprocess.run(
                command, stdout=log, stderr=log, env=environment, check=False
            ).returncode:
                return False
    part.replace(run.workdir / FEATURES)
    return True


def write_outcome(runs: Sequence[Run], workdir: Path) -> str:
    """Writes ablation.csv, ablation.md and ablation.png.

    Args:
      runs: of `make_runs`, all carried out.
      workdir: of the whole.

    Returns:
      The table of ablation.md.
    """
    results = [result for run in runs for result in _results(run)]
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
        precisions = average_precisions(features, records, protocol)
        yield Result(
            setting,
            run.config.model.norm,
            str(run.config.seed),
            protocol.name,
            figures[protocol.name],
            precisions,
        )
