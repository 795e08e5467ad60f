r"""Measures the two distribution gaps of trained networks, layer by layer.

    python experiments/gap.py --output=runs/gaps runs/nir-bn runs/nir-mbn

draws batches as in training (statistics of the batch, augmented training images) and
as in evaluation (running statistics, test images) and writes gap.png, the gaps over the
depth of the network; gap.md, their means over the layers; and gap.csv, all of them.
Work directories follow without a flag; those that differ in
their seed alone are taken for one network. What the gaps are:
docs/distribution-gaps.md.
"""

import sys
from pathlib import Path

import command
from absl import flags, logging

from mbn_jax.analysis import gap_charts
from mbn_jax.files import check_writable
from mbn_jax.text import printable
from mbn_jax.training.gaps import measure_workdir, name_networks

_OUTPUT = flags.DEFINE_string("output", "gaps", "Folder to write to, made if need be.")
_TITLE = flags.DEFINE_string("title", "The two distribution gaps", "Of the figure.")
_NUM_BATCHES = flags.DEFINE_integer(
    "num_batches", 64, "Of each kind.", lower_bound=2, upper_bound=2**31 - 1
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared data, if they moved.")


def main(argv: list[str]) -> None:
    """Measures and writes."""
    logging.set_verbosity(logging.WARNING)
    workdirs = argv[1:]
    if not workdirs:
        sys.exit("error: no work directory; give one, or several to be compared.")
    check_writable(_OUTPUT.value)
    measured = []
    for name, workdir in zip(name_networks(workdirs), workdirs, strict=True):
        print(printable(f"{name}: {workdir}"), file=sys.stderr)
        by_way = measure_workdir(workdir, _NUM_BATCHES.value, _DATA_DIR.value)
        measured += [
            gap_charts.Measured(name, Path(workdir).name, way, gaps)
            for way, gaps in by_way.items()
        ]
    gap_charts.write_gaps(measured, _OUTPUT.value, _TITLE.value)
    print(gap_charts.as_markdown(measured))
    print(f"{_OUTPUT.value}: gap.png, gap.md and gap.csv")


if __name__ == "__main__":
    command.run(main)
