r"""Shows two to four finished runs of one data set side by side.

    python experiments/compare.py --output=runs/compare.html runs/bn runs/mbn

writes one HTML file: their figures, where the configurations differ, losses, validation
and CMC in common charts, and the two distribution gaps. It needs the work directories
only, neither data nor checkpoints. Means over seeds: experiments/ablate.py.
"""

import sys
from pathlib import Path

from absl import app, flags

from mbn_jax.analysis.compare import write_comparison
from mbn_jax.errors import InputError
from mbn_jax.training.config import parse_flags

_OUTPUT = flags.DEFINE_string(
    "output", "compare.html", "HTML file to write; its folder is made if need be."
)


def main(argv: list[str]) -> None:
    """Writes the file and prints its path."""
    try:
        write_comparison(argv[1:], _OUTPUT.value)
    except InputError as error:
        sys.exit(f"error: {error}")
    print(Path(_OUTPUT.value).resolve())


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
