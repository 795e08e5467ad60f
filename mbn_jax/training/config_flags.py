"""The configuration on the command line, and a parser of all flags."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.tuple_parser import TupleParser

from mbn_jax.errors import InputError
from mbn_jax.training.config import default_config, flatten, unknown


class _LastTuple(flags.ArgumentParser):
    """Parses a tuple, so that the last of several flags holds.

    ml_collections' own parser of tuples puts all of them together.
    """

    def parse(self, argument: Any) -> tuple[Any, ...]:
        return TupleParser().parse(argument)


def define_flag(default: Path) -> flags.FlagHolder[ConfigDict]:
    """Defines `--config=FILE` and `--config.key=value`; the last of a key holds.

    An unknown key ends the program with one sentence here already: ml_collections looks
    the keys up while the flag is being defined.

    Args:
      default: the file to read where the flag is not given.
    """
    known = flatten(default_config().to_dict())
    for argument in sys.argv[1:]:
        key, _, value = argument.lstrip("-").partition("=")
        # Of os.path, since pathlib raises for a name that is too long.
        if key == "config" and value and not os.path.isfile(value.partition(":")[0]):
            sys.exit(f"error: there is no configuration file {value}")
        if key.startswith("config.") and key.removeprefix("config.") not in known:
            sys.exit(f"error: {unknown(key.removeprefix('config.'))}")
    keys = "\n".join(f"--config.{key}={value!r}" for key, value in known.items())
    config_flags.register_flag_parser_for_type(tuple, _LastTuple())
    try:
        return config_flags.DEFINE_config_file(
            "config",
            str(default),
            "file whose get_config() returns the configuration; every key can be given "
            "on its own, too (mbn_jax/training/config.py says what they mean and may "
            f"be). They and their defaults:\n{keys}",
            lock_config=True,
        )
    except (flags.Error, OSError, ValueError) as error:  # of a --flagfile
        sys.exit(f"error: the flags cannot be read: {' '.join(str(error).split())}")


def parse_flags(argv: Sequence[str]) -> list[str]:
    """A parser for `absl.app.run` whose errors are one sentence each."""
    try:
        try:
            arguments = flags.FLAGS(list(argv))
        except SystemExit:
            # Of --help, --helpfull and so on, which end with 1 in absl.
            sys.exit(0)
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
    return arguments
