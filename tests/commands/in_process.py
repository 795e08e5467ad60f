"""Runs a command in the process of the tests, which has imported what it needs."""

import contextlib
import functools
import importlib
import io
import sys
import warnings
from typing import NamedTuple
from unittest import mock

import grain  # noqa: F401  # Its flags are not those of a command, and stay.
from absl import flags

from mbn_jax.commands import runner


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@contextlib.contextmanager
def program(name, *arguments):
    """What a program has for itself: its arguments, and flags that are not defined."""
    known = set(flags.FLAGS)
    argv = [name, *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv), warnings.catch_warnings():
        # ml_collections uses what is deprecated, of which a program says nothing.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            yield
        finally:
            for flag in set(flags.FLAGS) - known:
                delattr(flags.FLAGS, flag)


def run(name, *arguments):
    """What `python -m mbn_jax NAME ARGUMENTS` prints, and its exit status."""
    module = f"mbn_jax.commands.{name}"
    output, errors = io.BytesIO(), io.BytesIO()
    with (
        program(name, *arguments),
        mock.patch.object(sys, "stdout", io.TextIOWrapper(output, "utf-8")),
        mock.patch.object(sys, "stderr", io.TextIOWrapper(errors, "utf-8")),
    ):
        status, line = 0, ""
        try:
            runner.execute(name, functools.partial(importlib.import_module, module))
        except SystemExit as end:
            status, line = runner.outcome(end)
        finally:
            sys.modules.pop(module, None)
        print(line, end="\n" if line else "", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        return Done(status, output.getvalue().decode(), errors.getvalue().decode())


def succeed(name, *arguments):
    """What a command prints that has to succeed."""
    done = run(name, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fail(name, *arguments):
    """The last line of a command that has to fail."""
    done = run(name, *arguments)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]
