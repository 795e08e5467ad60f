r"""Measures the two distribution gaps of trained networks, layer by layer.

  python -m mbn_jax gap runs/quick
  python -m mbn_jax gap --output=runs/gaps runs/nir-bn runs/nir-mbn
  python -m mbn_jax gap --num_batches=16 runs/bn-0 runs/bn-1 runs/mbn-0 runs/mbn-1

This measures the gaps in batches as in training (statistics of the batch, augmented
training images) and as in evaluation (running statistics, test images). It writes
gap.png, the gaps over the depth of the network; gap.md, their means over the layers;
and gap.csv, with the gaps of every layer.
Runs that differ only in their seed are shown as one network, by their mean.
docs/distribution-gaps.md says what the gaps are.
"""

import sys
from pathlib import Path

from absl import flags

from mbn_jax.analysis import gap_charts
from mbn_jax.commands import shared_flags
from mbn_jax.files import check_writable
from mbn_jax.text import printable
from mbn_jax.training.diagnostics import name_networks, workdir_gaps

ARGUMENTS = "WORKDIR ..."
_OUTPUT = flags.DEFINE_string("output", "gaps", "Folder to write; made if needed.")
_TITLE = flags.DEFINE_string("title", "The two distribution gaps", "Of the chart.")
_NUM_BATCHES = flags.DEFINE_integer(
    "num_batches",
    64,
    "Number of batches of each kind.",
    lower_bound=2,
    upper_bound=2**31 - 1,
)
_DATA_DIR = shared_flags.define_data_dir()


def main(workdirs: list[str]) -> None:
    """Measures and writes."""
    if not workdirs:
        sys.exit("error: no work directory; give one, or several to be compared.")
    check_writable(_OUTPUT.value)
    measured = []
    for name, workdir in zip(name_networks(workdirs), workdirs, strict=True):
        print(printable(f"{name}: {workdir}"), file=sys.stderr)
        by_way = workdir_gaps(workdir, _NUM_BATCHES.value, _DATA_DIR.value)
        measured += [
            gap_charts.Measured(name, Path(workdir).name, way, gaps)
            for way, gaps in by_way.items()
        ]
    gap_charts.write_gaps(measured, _OUTPUT.value, _TITLE.value)
    print(gap_charts.as_markdown(measured))
    print(f"{_OUTPUT.value}: gap.png, gap.md and gap.csv")
