r"""Trains a visible-infrared person re-identification network, or resumes a run.

  python -m mbn_jax train --workdir=runs/quick

This is the quick run on synthetic data. A recipe is chosen by its name, and any key of
the configuration can be changed:

  python -m mbn_jax train --workdir=runs/thermal --config=quick_thermal \
      --config.model.norm=bn
  python -m mbn_jax train --workdir=runs/agw --config=agw:sysu_mm01

The same command resumes an interrupted run and changes nothing in a finished one.
docs/launching.md has the commands for several GPUs, Slurm, Kubernetes and Cloud TPUs.
"""

import sys
from pathlib import Path

from absl import flags

from mbn_jax.commands import shared_flags
from mbn_jax.evaluation import format_table
from mbn_jax.files import check_named
from mbn_jax.training import launch
from mbn_jax.training.config import check
from mbn_jax.training.loop import train
from mbn_jax.training.processes import Terminated, is_main, joined_processes

_CONFIG = shared_flags.define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run; it is made if needed.", required=True
)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
    "coordinator_address",
    None,
    "host:port of process 0, for a run of several processes (docs/launching.md). It is "
    "not needed where JAX finds the processes: Slurm, Open MPI, Kubernetes, Cloud TPU.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes",
    None,
    "Number of processes of the run; 1 ignores what a cluster says.",
    lower_bound=1,
    upper_bound=2**20,
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Number of this process, from 0 to num_processes - 1."
)


def main() -> None:
    """Runs the training that the flags describe."""
    launch.silence_raised_errors()
    check_named(_WORKDIR.value)
    check(_CONFIG.value)
    workdir = Path(_WORKDIR.value)
    try:
        launch.request_cpu_devices(_CONFIG.value.num_devices)
        launch.use_compilation_cache(_CONFIG.value.compilation_cache, workdir)
        with joined_processes(
            _COORDINATOR_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value
        ):
            results = train(_CONFIG.value, workdir)
            if not is_main():
                return
    except Terminated as stop:
        print(
            f"terminated after step {stop.step}, which is saved; the same command "
            "resumes the run",
            file=sys.stderr,
        )
        raise
    print(format_table(results))
    print(f"\nReport: {(workdir / 'report' / 'index.html').resolve()}")
