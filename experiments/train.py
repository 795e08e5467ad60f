r"""Trains, or resumes, a visible-infrared person re-identification network.

    python experiments/train.py --workdir=runs/quick

is the quick run on embedded data. Any key of the configuration can be given, too:

    python experiments/train.py --workdir=runs/thermal \
        --config=experiments/configs/quick_thermal.py --config.model.norm=bn

The same command again resumes an interrupted run and changes nothing in a finished one.
docs/launching.md has the commands for several GPUs, Slurm, Kubernetes and Cloud TPUs.
"""

import sys
from pathlib import Path

import command
from absl import flags

from mbn_jax.evaluation import format_table
from mbn_jax.files import check_named
from mbn_jax.training import config_flags, runtime
from mbn_jax.training.checkpoint_errors import raise_and_do_not_log
from mbn_jax.training.config import check
from mbn_jax.training.loop import train
from mbn_jax.training.processes import is_main
from mbn_jax.training.termination import Terminated

_CONFIG = config_flags.define_flag(Path(__file__).parent / "configs" / "quick.py")
for module in (config_flags, runtime):
    flags.adopt_module_key_flags(module)  # for --help
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "directory of the run, made if need be", required=True
)


def main(argv: list[str]) -> None:
    """Runs the training that the flags describe."""
    if argv[1:]:
        sys.exit(f"error: unexpected argument {argv[1]!r}, expected --flag=value")
    raise_and_do_not_log()
    check_named(_WORKDIR.value)
    check(_CONFIG.value)
    workdir = Path(_WORKDIR.value)
    try:
        runtime.request_cpu_devices(_CONFIG.value.num_devices)
        runtime.use_compilation_cache(_CONFIG.value.compilation_cache, workdir)
        with runtime.joined_processes():
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


if __name__ == "__main__":
    command.run(main)
