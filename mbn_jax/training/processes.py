"""What the processes of one run have to agree on."""

import hashlib
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
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
