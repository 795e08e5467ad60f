"""A grid of configurations: its axes, and the runs that it means."""

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from mbn_jax.data.sources import check_name
from mbn_jax.errors import InputError
from mbn_jax.training.config import LOSSES, as_json, check, unknown
from mbn_jax.training.diagnostics import CONTROLS

PAIRED = "norm"  # the axis whose two values are compared
REPEATED = "seed"  # the axis that a mean is taken over


class Run(NamedTuple):
    """A run of the grid.

    Attributes:
        values: Values of the axes, as given: `{"norm": "mbn", "seed": "0", …}`.
        config: The configuration that it is trained with.
        workdir: The run's work directory.
    """

    values: dict[str, str]
    config: ConfigDict
    workdir: Path

    def is_finished(self) -> bool:
        """Returns whether it has been trained and its controls have been measured."""
        return (self.workdir / CONTROLS).exists()

    @property
    def setting(self) -> tuple[tuple[str, str], ...]:
        """The values of the axes except norm and seed."""
        return tuple(
            kv for kv in self.values.items() if kv[0] not in (PAIRED, REPEATED)
        )

    @property
    def log(self) -> Path:
        """Where its output goes; beside the work directory, which must start empty."""
        return self.workdir.parent / "logs" / f"{self.workdir.name}.txt"


def _unknown(axis: str, value: str, expected: str) -> InputError:
    return InputError(f"The {axis} {value!r} is not known, expected {expected}.")


def _backbone(name: str) -> dict[str, Any]:
    match = re.fullmatch(r"(se_)?resnet(\d+)(_ibn_a)?", name)
    if not match or (match[1] and match[3]):
        raise _unknown(
            "backbone", name, "for example resnet18, se_resnet50 or resnet50_ibn_a"
        )
    variant = f"{match[1] or ''}resnet{match[3] or ''}"
    return {"model.depth": int(match[2]), "model.variant": variant}


def _data(name: str) -> dict[str, Any]:
    check_name(name)
    return {"data.dataset": name}


def _seed(name: str) -> dict[str, Any]:
    if not name.isdecimal():
        raise _unknown("seed", name, "0, 1 and so on")
    return {"seed": int(name)}


def _affine(name: str) -> dict[str, Any]:
    if name not in ("shared", "separate"):
        raise _unknown("affine", name, "shared, separate")
    return {"model.share_affine": name == "shared"}


def _loss(name: str) -> dict[str, Any]:
    terms = name.split("+")
    for term in terms:
        if term not in LOSSES:
            expected = f"some of {', '.join(LOSSES)}, joined by +"
            raise _unknown("loss", term, expected)
    return {f"loss.{loss}": float(loss in terms) for loss in LOSSES}


# Short names of axes, and what a value of each changes in the configuration.
AXES: dict[str, Callable[[str], dict[str, Any]]] = {
    "norm": lambda value: {"model.norm": value},
    "data": _data,
    "backbone": _backbone,
    "loss": _loss,
    "sampler": lambda value: {"batch.sampler": value},
    "affine": _affine,
    "seed": _seed,
}


def read_grid(axes: Sequence[str]) -> dict[str, list[str]]:
    """Reads `["norm=bn,mbn", "seed=0,1"]` as a dictionary of axes and their values.

    A comma in brackets does not part values: `["model.mbn_at=[\"neck\"],[]"]`.

    Raises:
        InputError: An axis has no value, or it or a value stands there twice.
    """
    grid: dict[str, list[str]] = {}
    for axis in axes:
        name, _, text = axis.partition("=")
        values = re.split(r",(?![^\[]*\])", text)
        is_repeated = name in grid or len(set(values)) < len(values)
        if not name or not all(values) or is_repeated:
            raise InputError(
                f"--grid={axis} repeats an axis or a value, or lacks one of them, "
                "expected for example --grid=norm=bn,mbn."
            )
        grid[name] = values
    return grid


def make_runs(
    base: ConfigDict, grid: Mapping[str, Sequence[str]], workdir: Path, *, cross: bool
) -> list[Run]:
    """Makes the runs of a grid; those of equal configurations share a work directory.

    Args:
        base: What the runs have in common.
        grid: Values of each axis, by its short name or as a key of the configuration.
        workdir: The directory of all runs.
        cross: Whether to combine all values. Otherwise one axis at a time varies around
            the first values. Norm and seed are always combined with everything.

    Raises:
        InputError: An axis or a value is not known, or a configuration is of no use.
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
    # One seed of every setting before the next seed, so that a study that is stopped
    # has equally many seeds everywhere.
    seeds = list(always.get(REPEATED, []))
    return sorted(
        runs, key=lambda run: seeds.index(run.values[REPEATED]) if seeds else 0
    )


def _settings(axes: Mapping[str, Sequence[str]], cross: bool) -> list[dict[str, str]]:
    if cross:
        combined = itertools.product(*axes.values())
        return [dict(zip(axes, chosen, strict=True)) for chosen in combined]
    first = {name: values[0] for name, values in axes.items()}
    others = [{name: value} for name, values in axes.items() for value in values[1:]]
    return [first, *(first | other for other in others)]


def _change(config: ConfigDict, name: str, value: str) -> None:
    """Changes the configuration to what a value of an axis means."""
    known = flatten_dict(config.to_dict(), sep=".")
    if name not in AXES and name not in known:
        raise InputError(
            f"The axis {name!r} is not known, expected one of {', '.join(AXES)} or a "
            f"key of the configuration: {unknown(name)}"
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
            f"--grid={name}={value}: {value!r} is not a value of {name} ({error})."
        ) from error
