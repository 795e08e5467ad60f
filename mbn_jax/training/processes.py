"""The processes of one run: they join, watch each other, agree, and end together."""

import concurrent.futures
import contextlib
import faulthandler
import hashlib
import itertools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from mbn_jax.errors import InputError
from mbn_jax.training.launch import distributed_arguments

# How long a process waits for the others at its start. After its own time-out JAX would
# abort it without a message of ours, so that one is longer.
_JOIN_S = 300
# After this time without a sign of life a process is given up, and the run with it: the
# others end instead of waiting.
_SILENCE_S = 25
# The same for JAX, which aborts the process with a message of its own: only if the
# threads that watch are silent themselves.
_HEARTBEAT_TIMEOUT_S = 100
# How long process 0, the coordinator, stays until the others have given up as well: JAX
# aborts them when it is gone.
_COORDINATOR_STAYS_S = 5
# How long a process that ends waits for the others to end.
_SHUTDOWN_TIMEOUT_S = 10
_TICK_S = 1.0
_FOLDER = "mbn_jax_alive"

# What the errors of JAX, Gloo and NCCL say when another process is gone.
_PEER_LOST = re.compile(
    "gloo|remote|peer|connection|socket|barrier|unavailable|deadline|coordination",
    re.IGNORECASE,
)

T = TypeVar("T")


@contextlib.contextmanager
def joined_processes(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Iterator[None]:
    """Joins the other processes of the run, if there are any; before JAX is used.

    If one of them is lost, this one ends as well, at once or after 25 seconds.

    The arguments are those of `mbn_jax.training.launch.distributed_arguments`.

    Raises:
        InputError: an argument is wrong, or the processes do not find each other.
    """
    arguments = distributed_arguments(coordinator_address, num_processes, process_id)
    if arguments is None:
        yield
        return
    _join(arguments)
    print(
        f"process {jax.process_index()} of {jax.process_count()}, with "
        f"{jax.local_device_count()} of {jax.device_count()} devices; if one process "
        "is lost, all end within a minute; start all again, and the run goes on",
        file=sys.stderr,
    )
    # If JAX aborts this process nevertheless, it says that another one "died". The
    # stacks of all threads below would hide that message.
    faulthandler.disable()
    try:
        with heartbeats(_give_up, silence_s=_SILENCE_S):
            yield
    except jax.errors.JaxRuntimeError as error:
        if not _PEER_LOST.search(str(error)):
            raise
        _give_up(str(error).splitlines()[0][:200])
    finally:
        # Waits for the others, which do not come if this one was interrupted.
        if not isinstance(sys.exception(), KeyboardInterrupt):
            jax.distributed.shutdown()


def _join(arguments: Mapping[str, Any]) -> None:
    # In a thread: until the others are there, no signal would reach this one.
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        pool.submit(
            jax.distributed.initialize,
            **arguments,
            initialization_timeout=2 * _JOIN_S,
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT_S,
            shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT_S,
        ).result(_JOIN_S)
    except (jax.errors.JaxRuntimeError, TimeoutError) as error:
        reason = str(error).partition("\n")[0][:200] or f"within {_JOIN_S} s"
        raise InputError(
            f"The processes of the run do not find each other ({reason}); check that "
            "all of them were started, with the address of process 0 and a port that "
            "is free there."
        ) from error
    finally:
        pool.shutdown(wait=False)


@contextlib.contextmanager
def heartbeats(lost: Callable[[str], None], *, silence_s: float) -> Iterator[None]:
    """Watches the other processes in threads; after `jax.distributed.initialize`.

    JAX watches them as well, but where one is silent it aborts the process from C++,
    before Python can print a message. So this has to be quicker.

    Args:
        lost: called in a thread, once, with what is wrong; ends the process.
        silence_s: seconds without a sign after which a process is lost. Seconds in
            which this process was itself stopped do not count.
    """
    # No public function of JAX has the key-value store that its processes share.
    client: Any = distributed.global_state.client
    me = jax.process_index()
    others = [str(i) for i in range(jax.process_count()) if i != me]
    latest: dict[str, str] = {}
    ended = threading.Event()

    def beat() -> None:
        # Process 0 keeps the store: if it is silent, these calls do not return; if it
        # is gone, they raise. Either way there is no more news of anybody.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            for count in itertools.count():
                key = f"{_FOLDER}/{me}"
                client.key_value_set(key, str(count), allow_overwrite=True)
                for name, value in client.key_value_dir_get(_FOLDER):
                    latest[name.rpartition("/")[2]] = value
                if ended.wait(_TICK_S):
                    return

    def watch() -> None:
        known: dict[str, str] = {}
        silent = dict.fromkeys(others, 0)
        while not ended.wait(_TICK_S):
            for process in others:
                news = latest.get(process) != known.get(process)
                silent[process] = 0 if news else silent[process] + 1
            known |= latest
            mute = [p for p in others if silent[p] * _TICK_S >= silence_s]
            if mute:
                lost(f"no sign of process {', '.join(mute)} for {silence_s:.0f} s")
                return

    for target in (beat, watch):
        threading.Thread(target=target, name=target.__name__, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _give_up(reason: str) -> None:
    """Ends this process, because another one is lost."""
    print(
        f"error: process {jax.process_index()} cannot go on, because another process "
        f"of the run has ended or does not answer ({reason}); start all processes "
        "again, and the run goes on from its newest checkpoint",
        file=sys.stderr,
        flush=True,
    )
    if jax.process_index() == 0:
        time.sleep(_COORDINATOR_STAYS_S)
    # Not sys.exit: on the way out JAX would wait for the one that is gone.
    os._exit(1)


def is_main() -> bool:
    """Whether this is process 0, the one that writes logs and reports."""
    return jax.process_index() == 0


def together(function: Callable[[], T]) -> T:
    """Calls a function in every process; an error in one of them is an error in all.

    Without it the others would wait for a process that has ended. It is a barrier: no
    process returns before all have called it.

    Raises:
        InputError: the function did, in this process or in another one.
    """
    if jax.process_count() == 1:
        return function()
    error = None
    try:
        result = function()
    except InputError as raised:
        error = raised
    messages = gather(np.frombuffer(str(error or "").encode(), np.uint8))
    if error is not None:
        raise error
    for process, message in enumerate(messages):
        if message.size:
            raise InputError(f"Process {process}: {message.tobytes().decode()}")
    return result


def on_main(function: Callable[[], None]) -> None:
    """Calls a function in process 0, and raises its `InputError` in every process."""
    together(function if is_main() else lambda: None)


def check_same_everywhere(text: str, what: str) -> None:
    """Raises `InputError` in every process if a text is not the same in all of them.

    Args:
        text: of this process.
        what: a name for it.
    """
    first, *others = gather(
        np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    )
    for process, digest in enumerate(others, start=1):
        if (digest != first).any():
            raise InputError(
                f"Process {process} was started with another {what} than process 0; "
                "give all processes of a run the same command, except for "
                "--process_id, and the same data."
            )


def gather(values: np.ndarray) -> list[np.ndarray]:
    """Returns the vector of every process; they may differ in length."""
    if jax.process_count() == 1:
        return [values]
    lengths = multihost_utils.process_allgather(np.array([len(values)])).ravel()
    padded = np.zeros(max(1, lengths.max()), values.dtype)
    padded[: len(values)] = values
    rows = multihost_utils.process_allgather(padded)
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


class Terminated(SystemExit):
    """SIGTERM asked the run to end, and its state is saved.

    Attributes:
        step: the last step.
    """

    def __init__(self, step: int) -> None:
        """Has the exit status that shells give a process which SIGTERM has ended."""
        super().__init__(128 + signal.SIGTERM)
        self.step = step


@contextlib.contextmanager
def awaited_termination() -> Iterator[Callable[[int], bool]]:
    """Notes SIGTERM instead of ending at once.

    Yields:
        A function to call after every step with its number: whether the run is to end
        here. The answer is the same in every process.
    """
    if jax.process_count() > 1:
        # Some or all of them get the signal; JAX finds a step that none has passed.
        yield multihost_utils.reached_preemption_sync_point
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False  # Python receives signals in the main thread only
        return
    received: list[int] = []
    before: Any = signal.signal(signal.SIGTERM, lambda number, _: received.append(1))
    try:
        yield lambda step: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)
