"""Parses the flags of a command, among them those of the configuration of a run."""

import os
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.tuple_parser import TupleParser

from mbn_jax.errors import InputError
from mbn_jax.training import recipes
from mbn_jax.training.config import default_config, flatten, unknown

_HELP = {"--help", "-help", "-h", "-?", "--helpshort", "--helpfull"}


class _LastTuple(flags.ArgumentParser):
    """Parses a tuple, so that the last of several flags holds.

    ml_collections' own parser of tuples puts all of them together.
    """

    def parse(self, argument: Any) -> tuple[Any, ...]:
        return TupleParser().parse(argument)


def spell_out(argv: Sequence[str]) -> list[str]:
    """Puts the flags in a `--flagfile` in its place, and files in place of recipes.

    ml_collections looks for `--config` and `--config.key` in `sys.argv` and takes a
    Python file: a recipe becomes `mbn_jax/training/recipes.py:NAME`.

    Args:
      argv: of the program.
    """
    try:
        expanded = flags.FLAGS.read_flags_from_files(list(argv))
    except flags.Error as error:
        sys.exit(f"error: the flags cannot be read: {' '.join(str(error).split())}")
    return [_with_file(argument) for argument in expanded]


def _with_file(argument: str) -> str:
    key, _, value = argument.partition("=")
    if key.lstrip("-") != "config" or not value:
        return argument
    name = value.partition(":")[0]
    # Of os.path, since pathlib raises for a name that is too long.
    exists = os.path.isfile(name)
    if name in recipes.RECIPES or (name.endswith(".json") and exists):
        return f"{key}={recipes.__file__}:{value}"
    if not exists:
        sys.exit(
            f"error: there is no recipe and no file {name!r}; --config takes "
            f"{', '.join(recipes.RECIPES)}, a Python file with get_config(), or the "
            "config.json of a run."
        )
    return argument


def define_config() -> flags.FlagHolder[ConfigDict]:
    """Defines `--config` and `--config.key=value`; the last of a key holds.

    An unknown key ends the program with one sentence here already: ml_collections looks
    the keys up while the flag is being defined.
    """
    known = flatten(default_config().to_dict())
    for argument in sys.argv[1:]:
        key = argument.lstrip("-").partition("=")[0]
        if key.startswith("config.") and key.removeprefix("config.") not in known:
            sys.exit(f"error: {unknown(key.removeprefix('config.'))}")
    keys = "\n".join(f"--config.{key}={value!r}" for key, value in known.items())
    config_flags.register_flag_parser_for_type(tuple, _LastTuple())
    return config_flags.DEFINE_config_file(
        "config",
        f"{recipes.__file__}:quick",
        f"recipe ({', '.join(recipes.RECIPES)}), Python file whose get_config() "
        "returns the configuration, or config.json of a run; every key can be given on "
        "its own, too (docs/training.md says what they mean). They and their "
        f"defaults:\n{keys}",
        lock_config=True,
    )


def parse_flags(argv: Sequence[str], name: str, command: Any) -> list[str]:
    """Parses the flags of a command; errors and `--help` end the program.

    Args:
      argv: of the program.
      name: of the command.
      command: its module, see `mbn_jax.commands`.

    Returns:
      The arguments without a flag.
    """
    if _HELP & set(argv[1:]):
        named = getattr(command, "ARGUMENTS", "")
        print(f"usage: python -m mbn_jax {name} --flag=value ... {named}".rstrip())
        print(f"\n{command.__doc__}\nFlags:")
        listed = flags.FLAGS.module_help(command.__name__)
        print(listed.partition(f"{command.__name__}:\n")[2])
        sys.exit(0)
    try:
        _, *arguments = flags.FLAGS(list(argv))
        if "config" in flags.FLAGS:
            # A configuration file that failed to load says so when it is first used.
            flags.FLAGS.config.keys()
    except InputError as error:
        sys.exit(f"error: {error}")
    except flags.Error as error:
        # What a configuration file raises comes with its traceback, in one string.
        _, of_ours, message = str(error).rpartition("mbn_jax.errors.InputError: ")
        if of_ours:
            sys.exit(f"error: {message.strip()}")
        sys.exit(f"error: {' '.join(str(error).split())} (--help lists the flags)")
    except Exception as error:
        sys.exit(
            "error: the configuration cannot be read from the file and the overrides "
            f"given ({type(error).__name__}: {' '.join(str(error).split())})"
        )
    if arguments and not hasattr(command, "ARGUMENTS"):
        sys.exit(f"error: unexpected argument {arguments[0]!r}, expected --flag=value")
    return arguments
