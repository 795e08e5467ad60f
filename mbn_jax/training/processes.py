"""The processes of one run: what they agree on, whether they answer, and SIGTERM."""

import contextlib
import hashlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from mbn_jax.errors import InputError

T = TypeVar("T")

_MESSAGE_BYTES = 4096


def is_main() -> bool:
    """Whether this is process 0, the one that writes logs and reports."""
    return jax.process_index() == 0


def together(function: Callable[[], T]) -> T:
    """Calls a function in every process; an error in one of them is an error in all.

    Without it the others would wait for a process that has ended. It is a barrier:
    nobody returns before all have called it.

    Raises:
      InputError: if the function did, in this process or in another one.
    """
    if jax.process_count() == 1:
        return function()
    error = None
    try:
        result = function()
    except InputError as raised:
        error = raised
    message = str(error or "").encode()[:_MESSAGE_BYTES]
    padded = np.zeros(_MESSAGE_BYTES, np.uint8)
    padded[: len(message)] = np.frombuffer(message, np.uint8)
    for process, row in enumerate(multihost_utils.process_allgather(padded)):
        text = row.tobytes().rstrip(b"\0").decode(errors="ignore")
        if text and error is None:
            raise InputError(f"Process {process}: {text}")
    if error is not None:
        raise error
    return result


def on_main(function: Callable[[], None]) -> None:
    """Calls a function in process 0, and raises its `InputError` in every process."""
    together(function if is_main() else lambda: None)


def check_same_everywhere(text: str, what: str) -> None:
    """Refuses processes that were started with different things.

    Raises:
      InputError: in every process, if the text is not the same in all.
    """
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    digests = gather(digest).reshape(-1, len(digest))
    different = np.flatnonzero((digests != digests[0]).any(1))
    if different.size:
        raise InputError(
            f"Process {different[0]} was started with another {what} than process 0; "
            "give all processes of a run the same command, but for --process_id, and "
            "the same data."
        )


def gather(values: np.ndarray) -> np.ndarray:
    """The vectors of all processes, one after the other; they may differ in length."""
    if jax.process_count() == 1:
        return values
    lengths = multihost_utils.process_allgather(np.array([len(values)])).ravel()
    padded = np.zeros(max(1, lengths.max()), values.dtype)
    padded[: len(values)] = values
    rows = multihost_utils.process_allgather(padded)
    return np.concatenate(
        [row[:length] for row, length in zip(rows, lengths, strict=True)]
    )


# No public function of JAX has the store of keys and values that its processes share.

_TICK_S = 1.0
_FOLDER = "mbn_jax_alive"


@contextlib.contextmanager
def heartbeats(lost: Callable[[str], None], *, silence_s: float) -> Iterator[None]:
    """Watches the other processes in threads; after `jax.distributed.initialize`.

    JAX watches them as well, but where one is silent it aborts the process from C++,
    before Python can say a word. So this has to be quicker.

    Args:
      lost: called in a thread, once, with what is wrong; ends the process.
      silence_s: after so many seconds without a sign a process is lost. Seconds in
        which this process was itself stopped do not count.
    """
    client: Any = distributed.global_state.client
    me = jax.process_index()
    others = [str(i) for i in range(jax.process_count()) if i != me]
    latest: dict[str, str] = {}
    ended = threading.Event()

    def beat() -> None:
        # Where process 0 is silent, which keeps the store, these calls do not return;
        # where it is gone, they raise. Either way there is no more news of anybody.
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


EXIT_STATUS = 128 + signal.SIGTERM


class Terminated(SystemExit):
    """A run was asked to end by SIGTERM, and its state is saved.

    Attributes:
      step: after which it ended.
    """

    def __init__(self, step: int) -> None:
        """Has the exit status that shells give a process which SIGTERM has ended."""
        super().__init__(EXIT_STATUS)
        self.step = step


class Termination:
    """Whether the run was asked to end, asked for at the end of every step."""

    def __init__(self) -> None:
        """Not yet."""
        self._requested = False

    def requested(self, step: int) -> bool:
        """Whether to end after a step: the same step in every process.

        Of several processes each asks at each step. One of them gets the signal, or all
        do; JAX finds a step that none has passed.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._requested

    @contextlib.contextmanager
    def awaited(self) -> Iterator[None]:
        """Notes SIGTERM instead of ending at once. Of several processes JAX does."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        if jax.process_count() > 1 or not in_main_thread:  # where signals may be set
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            self._requested = True

        before: Any = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
