r"""Evaluates a finished run with other running statistics than its own.

  python -m mbn_jax controls --workdir=runs/quick
  python -m mbn_jax controls --workdir=runs/bn
  python -m mbn_jax controls --workdir=runs/bn --data_dir=/data/prepared

This prints mAP and rank-1 with statistics that are re-estimated from the unlabeled test
images (BN: of all images together, and of each modality; MBN: of each modality), with
those of the other modality (MBN), and with pooled ones (MBN). It writes controls.json
into the work directory. No weight changes, so the differences are effects of the
statistics alone.
"""

from absl import flags, logging

from mbn_jax.analysis.ablation_tables import title
from mbn_jax.commands import shared_flags
from mbn_jax.training.diagnostics import CONTROLS, measure_controls

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Work directory of a finished run.", required=True
)
_DATA_DIR = shared_flags.define_data_dir()


def main() -> None:
    """Measures and prints."""
    logging.set_verbosity(logging.ERROR)
    found = measure_controls(_WORKDIR.value, _DATA_DIR.value)
    print("running statistics            rank-1     mAP  protocol")
    for name, protocols in found.items():
        for protocol, metrics in protocols.items():
            print(
                f"{name:<28} {100 * metrics['rank1']:7.1f} {100 * metrics['mAP']:7.1f}"
                f"  {title(protocol)}"
            )
    print(f"{_WORKDIR.value}/{CONTROLS}")
