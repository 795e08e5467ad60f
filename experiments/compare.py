r"""Shows two to four finished runs of one data set side by side.

    python experiments/compare.py --output=runs/compare.html runs/bn runs/mbn

writes one HTML file: their figures, where the configurations differ, losses, validation
and CMC in common charts, and the two distribution gaps. It needs the work directories
only, neither data nor checkpoints. Means over seeds: experiments/ablate.py.
"""

from pathlib import Path

import command
from absl import flags

from mbn_jax.analysis.compare import write_comparison

_OUTPUT = flags.DEFINE_string(
    "output", "compare.html", "HTML file to write; its folder is made if need be."
)


def main(argv: list[str]) -> None:
    """Writes the file and prints its path."""
    write_comparison(argv[1:], _OUTPUT.value)
    print(Path(_OUTPUT.value).resolve())


if __name__ == "__main__":
    command.run(main)
