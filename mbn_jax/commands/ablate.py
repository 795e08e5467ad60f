r"""Compares BN with MBN over a grid of data sets, backbones, losses and samplers.

  python -m mbn_jax ablate --workdir=runs/ablation --num_parallel=2 \
      --grid=data=synthetic_vireid/nir,synthetic_vireid/thermal \
      --grid=backbone=resnet18,resnet18_ibn_a --grid=sampler=balanced,natural

This trains what is missing, resumes what was interrupted, and evaluates every network
also with other running statistics (see controls). It writes ablation.csv; ablation.md,
with the differences and their intervals, every direction, and the controls;
ablation.png and by_gap.png; and gaps.csv. It varies one axis at a time around the first
values, or with --cross all axes together; norm (bn, mbn) and seed (0, 1, 2) are always
combined with everything. A loss is a sum, such as identity+wrt. --config and
--config.key=value set what all runs have in common:

  python -m mbn_jax ablate --workdir=runs/wide --config.model.width=0.5 \
      --grid=loss=identity+wrt,identity+circle --grid=seed=0,1,2,3,4

--results=FILE uses the results in an earlier ablation.csv, for example from another
machine, instead of training those runs. Runs are recognized by the values of the axes,
norm and seed, not by the rest of the configuration. This makes only the tables and
charts:

  python -m mbn_jax ablate --workdir=runs/tables --notrain \
      --results=docs/study/synthetic.csv
"""

import sys
from pathlib import Path

import jax
from absl import flags

from mbn_jax.analysis.ablation import Result, read_csv
from mbn_jax.analysis.ablation_tables import write_tables
from mbn_jax.commands import shared_flags
from mbn_jax.errors import InputError
from mbn_jax.files import check_named, read_bytes
from mbn_jax.training import run_grid
from mbn_jax.training.grid import AXES, make_runs, read_grid

_CONFIG = shared_flags.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of all runs.", required=True)
_GRID = flags.DEFINE_multi_string(
    "grid",
    [],
    f"An axis and its values: {', '.join(AXES)}, or a key of the configuration; for "
    "example loss=identity+wrt,identity+circle.",
)
_CROSS = flags.DEFINE_bool("cross", False, "Train all combinations of all axes.")
_PARALLEL = flags.DEFINE_integer(
    "num_parallel",
    1,
    "Number of runs at a time; with GPUs, each run has its own.",
    lower_bound=1,
    upper_bound=1024,
)
_RESULTS = flags.DEFINE_multi_string(
    "results", [], "An ablation.csv whose runs count as finished."
)
_TRAIN = flags.DEFINE_bool("train", True, "Train what --results does not have.")
_DRY = flags.DEFINE_bool("dry_run", False, "Only list the runs.")


def read_results(path: str) -> list[Result]:
    """Returns the results in an ablation.csv.

    Raises:
      InputError: it cannot be read, or is something else.
    """
    try:
        text = read_bytes(Path(path)).decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not text (byte {error.start}); give an ablation.csv."
        ) from error
    return read_csv(text, path)


def main() -> None:
    """Trains the grid and writes its tables and charts."""
    jax.config.update("jax_platforms", "cpu")  # GPUs are for the runs
    check_named(_WORKDIR.value)
    workdir = Path(_WORKDIR.value)
    grid = read_grid(_GRID.value)
    grid = {"norm": ["bn", "mbn"], "seed": ["0", "1", "2"]} | grid
    results = [r for path in _RESULTS.value for r in read_results(path)]
    if not (results or _TRAIN.value):
        raise InputError("--notrain needs --results=FILE, an earlier ablation.csv.")
    runs = []
    if _TRAIN.value:
        runs = make_runs(_CONFIG.value, grid, workdir, cross=_CROSS.value)
        runs = run_grid.without_known(runs, results)
    if _DRY.value:
        for path, run in {run.workdir: run for run in runs}.items():
            print(f"{path}{'  (done)' if run.is_finished() else ''}")
        return
    failed = []
    if runs:
        failed = run_grid.carry_out(runs, workdir, _PARALLEL.value)
    results += run_grid.read_results(runs)
    print(write_tables(results, workdir))
    run_grid.write_layer_gaps(runs, workdir)
    if failed:
        sys.exit(
            f"error: {len(failed)} runs have failed and are not in the table; see "
            f"{', '.join(str(run.log) for run in failed)}"
        )
