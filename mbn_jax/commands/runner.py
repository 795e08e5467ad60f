"""How every command begins and ends.

It begins before the packages that it needs are imported: from then on, Ctrl-C and
SIGTERM end the program with one line and the exit status 130 or 143. At its end, what
comes out of the command becomes one line and an exit status.
"""

import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from mbn_jax.errors import require_system

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_PIPE_CLOSED = 128 + signal.SIGPIPE  # as a shell reports it, for example of `| head`
_received: list[int] = []
_dropped: list[bool] = []
_started: list[bool] = []  # once what is imported can be in the middle of something


def run(name: str, load: Callable[[], Any]) -> NoReturn:
    """Loads a command, parses its flags, calls its `main`, and ends the program.

    An `InputError` is one line, "error: …", and exit status 1.

    Args:
      name: of the command, for messages.
      load: imports and returns its module, see `mbn_jax.commands`.
    """
    _begin()
    try:
        _run(name, load)
    except BaseException as error:
        _end(error)
    _end(SystemExit(0))


def _run(name: str, load: Callable[[], Any]) -> None:
    try:
        require_system(f"The command {name}")
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}")
    # Not before the signals are taken care of: this takes seconds.
    from absl import logging

    from mbn_jax.commands.config_flags import parse_flags, spell_out
    from mbn_jax.errors import InputError
    from mbn_jax.text import PrintableOutput, one_line

    sys.argv = spell_out(sys.argv)
    command = load()
    _started.append(True)
    if sys.stdout:  # None where it is closed
        sys.stdout = PrintableOutput(sys.stdout)
    if sys.stderr:
        sys.stderr = PrintableOutput(sys.stderr)
    logging.use_absl_handler()
    arguments = parse_flags(sys.argv, name, command)
    try:
        command.main(*([arguments] if hasattr(command, "ARGUMENTS") else []))
    except InputError as error:
        # A name with a line feed in it could pass for a line of ours.
        sys.exit(f"error: {one_line(str(error))}")


def _begin() -> None:
    if not __debug__:
        sys.exit(
            "error: Python was started with -O or PYTHONOPTIMIZE, which takes the "
            "assertions out of Flax and JAX, some of which do work; start it without."
        )
    for number in _WORDS:
        # Ignored, as by nohup or for a job in the background, it stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    signal.signal(signal.SIGALRM, _stop_again)
    sys.unraisablehook = _unraisable


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    _received.append(number)
    if not _started:
        # Nothing is to be undone, and an exception can crash an extension module whose
        # import it interrupts.
        _end(KeyboardInterrupt())
    raise KeyboardInterrupt


def _stop_again(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _unraisable(unraisable: Any) -> None:
    """Raises again what came where Python drops exceptions.

    JAX has a callback in Python's garbage collection, which runs at any time.
    """
    if _received and issubclass(unraisable.exc_type, KeyboardInterrupt):
        _dropped.append(True)
        # Later each time, so as not to fall in with what is dropping them.
        signal.setitimer(signal.ITIMER_REAL, min(1, 0.05 * 1.2 ** len(_dropped)))
    else:
        sys.__unraisablehook__(unraisable)


def _end(error: BaseException) -> NoReturn:
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in _WORDS:
        signal.signal(number, signal.SIG_IGN)
    status = 1
    if isinstance(error, SystemExit) and isinstance(error.code, str):
        _print_last(error.code)
    elif isinstance(error, SystemExit):
        status = int(error.code or 0)
    elif _received:
        status = 128 + _received[0]
        _print_last(
            f"{_WORDS[signal.Signals(_received[0])]}; the same command goes on from "
            "what is saved, or begins again"
        )
    elif isinstance(error, BrokenPipeError):
        status = _PIPE_CLOSED
    elif _is_of_devices(error):
        platforms = os.environ.get("JAX_PLATFORMS", "")
        _print_last(
            f"error: JAX cannot use the devices of JAX_PLATFORMS={platforms} "
            f"({str(error) or 'there are none'}); leave it out, or give cpu."
        )
    elif isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        _print_last(f"error: {error.strerror}: {error.filename}; give a shorter one.")
    else:
        traceback.print_exception(error)
    try:
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        status = _PIPE_CLOSED
    except OSError as lost:
        status = 1
        _print_last(f"error: standard output cannot be written ({lost.strerror})")
    # A last line that has no end yet, such as that of a progress bar.
    with contextlib.suppress(OSError):
        if sys.stderr:
            sys.stderr.flush()
    # Not sys.exit: threads and event loops of libraries that find their modules gone
    # would say so, each of them, after all is done.
    os._exit(status)


def _is_of_devices(error: BaseException) -> bool:
    """Whether JAX raised it while it looked for devices: of which type is not fixed."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename.endswith("xla_bridge.py")


def _print_last(text: str) -> None:
    # Where standard error is closed or full, the status alone says how it ended.
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
