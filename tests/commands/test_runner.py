"""How commands end: one line, an exit status, and nothing after it."""

import os
import signal
import subprocess
import sys
import time

import pytest


def start(body, *, flags=(), before="pass", **environment):
    """Starts a command whose `main` has this body; `before` stands in for imports."""
    lines = "\n    ".join(body.splitlines())
    program = (
        # A job in the background ignores Ctrl-C, and so would the command.
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import gc, sys, time\n"
        "from types import SimpleNamespace\n"
        "from mbn_jax.commands import runner\n"
        f"def main():\n    print('begun', flush=True)\n    {lines}\n"
        f"def load():\n    {before}\n    return SimpleNamespace(main=main)\n"
        "runner.run('test', load)\n"
    )
    return subprocess.Popen(
        [sys.executable, *flags, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def ended_by(process, number):
    """Sends a signal once the first line is there; status, and standard error."""
    with process:
        try:
            process.stdout.readline()
            time.sleep(0.1)
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, errors


SWALLOW = """
def busy(phase, info):
    time.sleep(0.05)
gc.callbacks.append(busy)
while True:
    gc.collect()
    time.sleep(0.02)
"""


@pytest.mark.parametrize(
    ("number", "word", "body"),
    [
        (signal.SIGINT, "interrupted", SWALLOW),
        (signal.SIGTERM, "terminated", "time.sleep(60)"),
    ],
    ids=["Ctrl-C in a garbage collection", "SIGTERM"],
)
def test_one_signal_ends_a_command_in_one_line(number, word, body):
    status, errors = ended_by(start(body), number)
    assert status == 128 + number
    assert errors.startswith(f"{word}; the same command goes on")
    assert errors.count("\n") == 1


def test_a_signal_during_imports_does_too():
    before = "print('begun', flush=True); time.sleep(60)"
    status, errors = ended_by(start("pass", before=before), signal.SIGINT)
    assert (status, errors.count("\n")) == (130, 1)


def test_an_error_of_the_user_is_one_line_and_escapes_what_it_names():
    body = """
from mbn_jax.errors import InputError
raise InputError("no folder a\\x1b[2Jb\\ndone")
"""
    process = start(body)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (1, "error: no folder a\\x1b[2Jb\\ndone\n")


def test_output_that_the_terminal_cannot_show_is_no_failure_and_the_end_is_quiet():
    body = """
class Late:
    def __del__(self):
        raise RuntimeError("too late")
sys.late = Late()
print("47.5 ± 1.2 → \u56f3")
"""
    process = start(body, PYTHONIOENCODING="ascii")
    assert process.communicate() == ("begun\n47.5 ? 1.2 ? ?\n", "")
    assert process.returncode == 0


@pytest.mark.parametrize("end", ["pass", "sys.exit(0)"])
def test_an_unfinished_last_line_is_not_lost(end):
    body = f"sys.stdout.write('1 of')\nsys.stderr.write('2 of')\n{end}"
    process = start(body, PYTHONUNBUFFERED="")
    assert process.communicate() == ("begun\n1 of", "2 of")
    assert process.returncode == 0


def test_without_standard_error_the_status_says_how_a_command_ended():
    body = """
import os, signal
from mbn_jax.errors import InputError
os.close(2)
{}
"""
    for end, status in (
        ("os.kill(os.getpid(), signal.SIGTERM)", 143),
        ("raise InputError('no')", 1),
        ("pass", 0),
    ):
        process = start(body.format(end), PYTHONUNBUFFERED="")
        assert process.communicate() == ("begun\n", "")
        assert process.returncode == status


def test_without_assertions_no_command_starts():
    process = start("pass", flags=["-O"])
    output, errors = process.communicate()
    assert (process.returncode, output) == (1, "")
    assert errors.startswith("error: Python was started with -O")
    assert errors.count("\n") == 1


def test_devices_that_are_not_there_are_one_sentence():
    # As cuda is without a plugin for it.
    process = start("import jax; jax.devices()", JAX_PLATFORMS="nonsense")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.startswith("error: JAX cannot use the devices of JAX_PLATFORMS=")
    assert errors.count("\n") == 1


def test_a_name_that_is_too_long_is_one_sentence_wherever_it_is_used():
    process = start("from pathlib import Path\nPath('x' * 300).exists()")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors == f"error: File name too long: {'x' * 300}; give a shorter one.\n"


def test_other_errors_keep_their_traceback():
    process = start("raise KeyError('a bug')")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.startswith("Traceback")
    assert errors.endswith("KeyError: 'a bug'\n")


def test_a_closed_pipe_ends_a_command_without_a_word():
    with start("for _ in range(10**6): print('a line')") as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE
