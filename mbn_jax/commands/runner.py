"""How every command begins and ends.

It begins before the packages that it needs are imported: from then on, Ctrl-C and
SIGTERM end the program with one line and the exit status 130 or 143. However a command
ends, the program ends with at most one line and an exit status.
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
_started: list[bool] = []  # when imports are done and an exception does no harm


def run(name: str, load: Callable[[], Any]) -> NoReturn:
    """Loads a command, parses its flags, calls its `main`, and ends the program.

    Args:
      name: of the command, for messages.
      load: imports and returns its module, see `mbn_jax.commands`.
    """
    try:
        _take_signals()
        execute(name, load)
    except BaseException as error:
        _end(error)
    _end(SystemExit(0))


def execute(name: str, load: Callable[[], Any]) -> None:
    """Does what `run` does, up to the end of the program.

    Raises:
      SystemExit: with the line that says what is wrong, or with 0 after `--help`.
    """
    if not __debug__:
        sys.exit(
            "error: Python was started with -O or PYTHONOPTIMIZE, which removes the "
            "assertions of Flax and JAX, some of which do work; start it without."
        )
    try:
        require_system(f"The command {name}")
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}")
    # Imported after the signals are handled, because this takes seconds.
    from absl import logging

    from mbn_jax.commands.shared_flags import parse_flags, spell_out
    from mbn_jax.errors import InputError
    from mbn_jax.text import PrintableOutput, one_line

    sys.argv = spell_out(sys.argv)
    command = load()
    _started.append(True)
    # A stream is None where it is closed.
    sys.stdout = sys.stdout and PrintableOutput(sys.stdout)
    sys.stderr = sys.stderr and PrintableOutput(sys.stderr)
    logging.use_absl_handler()
    arguments = parse_flags(sys.argv, name, command)
    try:
        command.main(*([arguments] if hasattr(command, "ARGUMENTS") else []))
    except InputError as error:
        # A name with a line feed in it could pass for a line of the program.
        sys.exit(f"error: {one_line(str(error))}")


def _take_signals() -> None:
    for number in _WORDS:
        # A signal that is ignored, as by nohup or in the background, stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    signal.signal(signal.SIGALRM, _stop_again)
    sys.unraisablehook = _unraisable


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    _received.append(number)
    if not _started:
        # Nothing has to be undone, and an exception can crash an extension module while
        # it is imported.
        _end(KeyboardInterrupt())
    raise KeyboardInterrupt


def _stop_again(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _unraisable(unraisable: Any) -> None:
    """Raises KeyboardInterrupt again where Python dropped it.

    JAX has a callback in Python's garbage collection, which runs at any time.
    """
    if _received and issubclass(unraisable.exc_type, KeyboardInterrupt):
        _dropped.append(True)
        # The delay grows, so that it does not keep meeting the code that drops it.
        signal.setitimer(signal.ITIMER_REAL, min(1, 0.05 * 1.2 ** len(_dropped)))
    else:
        sys.__unraisablehook__(unraisable)


def _end(error: BaseException) -> NoReturn:
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in _WORDS:
        signal.signal(number, signal.SIG_IGN)
    status, line = outcome(error)
    try:
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        status = _PIPE_CLOSED
    except OSError as lost:
        lost_too = f"error: standard output cannot be written ({lost.strerror})"
        status, line = 1, f"{line}\n{lost_too}".lstrip()
    # Where standard error is closed or full, the status alone says how it ended. The
    # flush also writes a line without an end, such as that of a progress bar.
    with contextlib.suppress(OSError):
        print(line, end="\n" if line else "", file=sys.stderr, flush=True)
    # sys.exit would let threads and event loops of libraries complain that their
    # modules are gone.
    os._exit(status)


def outcome(error: BaseException) -> tuple[int, str]:
    """Returns the exit status, and the last line for standard error if there is one."""
    if isinstance(error, SystemExit):
        is_line = isinstance(error.code, str)
        return (1, str(error.code)) if is_line else (int(error.code or 0), "")
    if _received:
        return 128 + _received[0], (
            f"{_WORDS[signal.Signals(_received[0])]}; the same command goes on from "
            "what is saved, or begins again"
        )
    if isinstance(error, BrokenPipeError):
        return _PIPE_CLOSED, ""
    if _is_of_devices(error):
        platforms = os.environ.get("JAX_PLATFORMS", "")
        return 1, (
            f"error: JAX cannot use the devices of JAX_PLATFORMS={platforms} "
            f"({str(error) or 'there are none'}); leave it out, or give cpu."
        )
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return 1, f"error: {error.strerror}: {error.filename}; give a shorter one."
    return 1, "".join(traceback.format_exception(error)).rstrip()


def _is_of_devices(error: BaseException) -> bool:
    """Whether JAX raised an error, of whatever type, while it looked for devices."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename.endswith("xla_bridge.py")
