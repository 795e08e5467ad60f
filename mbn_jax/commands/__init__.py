"""The commands: `python -m mbn_jax COMMAND`, each in a module of its name.

A command's module defines flags and `main()`, and its docstring begins the text of
`--help`. If it takes arguments without a flag, `ARGUMENTS` names them and `main` gets
them as a list. A new command needs a module and a line in `SUMMARIES`.
"""

import importlib
import sys
from functools import partial
from typing import NoReturn

from mbn_jax.commands import runner

SUMMARIES = {
    "manifest": "list your own images in a table, which prepare reads",
    "prepare": "check and convert a data set",
    "train": "train a network, or resume its training, and evaluate it",
    "evaluate": "evaluate a network, or features of any framework, by a protocol",
    "compare": "show two to four runs side by side",
    "gap": "measure the two distribution gaps, layer by layer",
    "controls": "evaluate a run with other running statistics",
    "ablate": "train and compare BN and MBN over a grid",
    "embed": "extract features from a folder of images, and search with them",
    "adapt": "adapt a network to new cameras by unlabeled images",
    "export": "write a network to a file that needs only JAX, or as shared weights",
}
_USAGE = """\
usage: python -m mbn_jax COMMAND --flag=value ...

{commands}

python -m mbn_jax COMMAND --help says what a command does and lists its flags."""


def run(name: str) -> NoReturn:
    """Runs a command with the arguments of this program, and ends the program."""
    runner.run(name, partial(importlib.import_module, f"{__name__}.{name}"))


def main() -> NoReturn:
    """Runs the command that the first argument of this program names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in SUMMARIES:
        del sys.argv[1]
        run(name)
    lines = (f"  {command:<8}  {text}" for command, text in SUMMARIES.items())
    usage = _USAGE.format(commands="\n".join(lines))
    if name in ("--help", "-h", "help"):
        print(usage)
        sys.exit(0)
    sys.exit(f"error: there is no command {name!r}\n\n{usage}")
