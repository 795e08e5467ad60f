r"""Measures the two distribution gaps of trained networks, layer by layer.

    python experiments/gap.py --output=runs/gap runs/nir-bn-0 runs/nir-mbn-0

draws batches as in training (batch statistics, augmented training images) and as in
evaluation (running statistics, test images), and writes for each of the two a figure,
a table and the figures of every normalisation: gap_training.png, .md and .csv, and
gap_evaluation. What they mean: docs/distribution-gaps.md.
"""

import sys
from pathlib import Path

from absl import app, flags, logging

from mbn_jax.analysis import gap
from mbn_jax.errors import InputError
from mbn_jax.files import write_atomically
from mbn_jax.training.config import parse_flags
from mbn_jax.training.gaps import measure_workdir

_OUTPUT = flags.DEFINE_string("output", "gap", "Folder to write to, made if need be.")
_BATCHES = flags.DEFINE_integer("num_batches", 64, "Of each kind.", lower_bound=2)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared data, if they moved.")


def main(argv: list[str]) -> None:
    """Measures and writes."""
    logging.set_verbosity(logging.WARNING)
    workdirs = argv[1:]
    if not workdirs:
        sys.exit("error: no work directory; give one, or several to be compared.")
    output = Path(_OUTPUT.value)
    try:
        measured = {
            Path(workdir).name: measure_workdir(
                workdir, _BATCHES.value, _DATA_DIR.value
            )
            for workdir in workdirs
        }
    except InputError as error:
        sys.exit(f"error: {error}")
    output.mkdir(parents=True, exist_ok=True)
    for way, words in gap.WAYS.items():
        gaps = {network: of_network[way] for network, of_network in measured.items()}
        table = gap.as_markdown(gaps)
        write_atomically(output / f"gap_{way}.md", table.encode())
        write_atomically(output / f"gap_{way}.csv", gap.as_csv(gaps).encode())
        gap.draw_gaps(gaps, words).savefig(output / f"gap_{way}.png", dpi=120)
        print(f"{way}: {words}\n{table}")
    print(f"{output}: gap_training and gap_evaluation, each .png, .md and .csv")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
