"""Flags that several commands have, and how the flags of a command are parsed."""

import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.tuple_parser import TupleParser

from mbn_jax.data.images import MAX_HELP, MAX_MEGAPIXELS
from mbn_jax.data.sixteen_bits import FLAG, HELP
from mbn_jax.errors import InputError
from mbn_jax.training import recipes
from mbn_jax.training.config import default_config, unknown

_HELP = {"--help", "-help", "-h", "-?", "--helpshort", "--helpfull"}
# What is defined here is listed by the command that asks for it.
flags.disclaim_key_flags()


def define_network() -> tuple[flags.FlagHolder[str], flags.FlagHolder[str | None]]:
    """Defines `--workdir`, or `--model`, and `--checkpoint` of a network to change."""
    workdir = flags.DEFINE_string(
        "workdir", None, "Work directory, or a folder of shared weights.", required=True
    )
    flags.DEFINE_alias("model", "workdir")
    return workdir, flags.DEFINE_string(
        "checkpoint", None, "Of a work directory: last (the default), best, or a step."
    )


def define_data_dir() -> flags.FlagHolder[str | None]:
    """Defines `--data_dir` of the commands that look at a trained network."""
    return flags.DEFINE_string("data_dir", None, "Prepared data, if they have moved.")


def define_reading(
    of_scales: str, of_size: str = ""
) -> tuple[flags.FlagHolder[list[str]], flags.FlagHolder[float]]:
    """Defines `--sixteen_bits` and `--max_megapixels`, with a sentence for each."""
    scales = flags.DEFINE_multi_string(FLAG, [], f"{HELP} {of_scales}")
    text = f"{MAX_HELP} {of_size}".rstrip()
    return scales, flags.DEFINE_float("max_megapixels", MAX_MEGAPIXELS, text, 0)


def define_folders() -> flags.FlagHolder[list[str]]:
    """Defines the repeated flag `--folder=NAME=DIR`."""
    text = "NAME=DIR: a modality and the folder of its images."
    return flags.DEFINE_multi_string("folder", [], text)


def folders_by_name(values: Iterable[str]) -> dict[str, str]:
    """Returns the folders of the flag `--folder=NAME=DIR` by their names.

    Raises:
      InputError: a value has another form, or a name is given twice.
    """
    folders: dict[str, str] = {}
    for value in values:
        name, _, folder = value.partition("=")
        name = name.strip()
        if not name or not folder:
            raise InputError(
                f"--folder={value} names no modality or no folder; expected "
                "--folder=NAME=DIR, for example --folder=visible=photos/visible."
            )
        if name in folders:
            raise InputError(
                f"The folder of {name} is given twice, {folders[name]} and {folder}: "
                f"put all {name} images below one folder."
            )
        folders[name] = folder
    return folders


class _LastTuple(flags.ArgumentParser):
    """Parses a tuple, so that the last of several flags holds.

    The parser of ml_collections joins all of them.
    """

    def parse(self, argument: Any) -> tuple[Any, ...]:
        return TupleParser().parse(argument)


def define_config() -> flags.FlagHolder[ConfigDict]:
    """Defines `--config` and `--config.key=value`; the last of a key holds.

    An unknown key ends the program with one sentence already here, because
    ml_collections looks the keys up while the flag is being defined.
    """
    known = flatten_dict(default_config().to_dict(), sep=".")
    for argument in sys.argv[1:]:
        key = argument.lstrip("-").partition("=")[0]
        if key.startswith("config.") and key.removeprefix("config.") not in known:
            sys.exit(f"error: {unknown(key.removeprefix('config.'))}")
    keys = "\n".join(f"--config.{key}={value!r}" for key, value in known.items())
    config_flags.register_flag_parser_for_type(tuple, _LastTuple())
    return config_flags.DEFINE_config_file(
        "config",
        f"{recipes.__file__}:quick",
        f"Recipe ({', '.join(recipes.RECIPES)}; default: quick), Python file whose "
        "get_config() returns the configuration, or config.json of a run. Every key "
        "can also be given on its own (docs/training.md says what they mean). The keys "
        f"and their defaults:\n{keys}",
        lock_config=True,
    )


def spell_out(argv: Sequence[str]) -> list[str]:
    """Puts the flags in a `--flagfile` in its place, and files in place of recipes.

    ml_collections looks for `--config` and `--config.key` in `sys.argv` and takes a
    Python file: a recipe becomes `mbn_jax/training/recipes.py:NAME`.
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
    # os.path does not raise for a name that is too long, as pathlib does.
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


def _print_flag(flag: flags.Flag[Any]) -> None:
    # absl adds a sentence to the text of a flag that can be repeated.
    text, repeated, _ = flag.help.partition(";\n    repeat this option")
    remarks = [flag.parser.syntactic_help, "can be repeated" if repeated else ""]
    if isinstance(flag.default, bool | int | float | str):
        remarks.append(f"default: {flag.default}")
    about = ", ".join(filter(None, remarks))
    text, *lines = text.splitlines()
    print(f"  --{'[no]' if flag.boolean else ''}{flag.name}")
    for line in (f"{text} ({about})" if about else text, *lines):
        print(textwrap.indent(textwrap.fill(line, 82), " " * 6))


def parse_flags(argv: Sequence[str], name: str, command: Any) -> list[str]:
    """Returns the arguments without a flag; errors and `--help` end the program.

    Args:
      argv: of the program.
      name: of the command.
      command: its module, see `mbn_jax.commands`.
    """
    named = getattr(command, "ARGUMENTS", "")
    if _HELP & set(argv[1:]):
        print(f"usage: python -m mbn_jax {name} --flag=value ... {named}".rstrip())
        print(f"\n{command.__doc__}\nFlags:")
        defined = flags.FLAGS.get_key_flags_for_module(command.__name__)
        for flag in sorted(defined, key=lambda flag: flag.name):
            _print_flag(flag)
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
        _, is_ours, message = str(error).rpartition("mbn_jax.errors.InputError: ")
        if is_ours:
            sys.exit(f"error: {message.strip()}")
        sys.exit(f"error: {' '.join(str(error).split())} (--help lists the flags)")
    except Exception as error:
        sys.exit(
            "error: the configuration cannot be read from the file and the overrides "
            f"given ({type(error).__name__}: {' '.join(str(error).split())})"
        )
    if arguments and not named:
        sys.exit(f"error: unexpected argument {arguments[0]!r}, expected --flag=value")
    return arguments
