r"""Shows two to four finished runs on one data set side by side.

  python -m mbn_jax compare runs/bn runs/mbn
  python -m mbn_jax compare --output=runs/compare.html runs/bn runs/mbn
  python -m mbn_jax compare runs/quick runs/wide runs/deep

This writes one HTML file with their metrics, the differences of their configurations,
charts of losses, validation and CMC, and the two distribution gaps. It needs only the
work directories, no data and no checkpoints. For means over seeds, use ablate.
"""

from pathlib import Path

from absl import flags

from mbn_jax.analysis.compare import write_comparison

ARGUMENTS = "WORKDIR ..."
_OUTPUT = flags.DEFINE_string(
    "output", "compare.html", "HTML file to write; its folder is made if needed."
)


def main(workdirs: list[str]) -> None:
    """Writes the file and prints its path."""
    write_comparison(workdirs, _OUTPUT.value)
    print(Path(_OUTPUT.value).resolve())
