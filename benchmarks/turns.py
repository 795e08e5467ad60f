"""Runs candidates in processes of their own that take turns on a noisy machine.

In threads of one process, PyTorch and XLA would compete for the cores, memory could not
be told apart, and what one library keeps would be lost to the other. Between its turns
a process sleeps in a read and has returned its freed memory to the system.
"""

import ctypes
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

# Tells glibc to reuse freed memory, as training on a CPU does
# (`mbn_jax.training.launch`): getting fresh pages for hundreds of MB in every step
# takes time, and not the same in every round. Environment variables do so for the
# processes of other libraries, too.
KEEP_FREED_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "2147483647", "MALLOC_MMAP_MAX_": "0"}


class Turn(NamedTuple):
    """What a candidate returns for a turn.

    Attributes:
      seconds: of a step, the mean over the counted steps of the turn.
      peak_memory: bytes, the largest so far.
    """

    seconds: float
    peak_memory: float


class Worker:
    """A candidate in another process, as a context manager."""

    def __init__(
        self, module: str, spec: Mapping[str, Any], environment: Mapping[str, str]
    ) -> None:
        """Starts `python -m module spec` and waits until it has warmed up."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(dict(spec))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **KEEP_FREED_MEMORY, **environment},
        )
        self.facts: dict[str, Any] = self._read()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Lets the process end."""
        self._process.communicate()

    def turn(self, steps: int) -> Turn:
        """Takes a step that does not count, and `steps` that do."""
        assert self._process.stdin
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return Turn(**self._read())

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(
                f"a candidate ended with {self._process.wait()}, see above"
            )
        return json.loads(line)


def serve(prepare: Callable[[], tuple[Callable[[], object], dict[str, Any]]]) -> None:
    """Runs in the other process: prints the facts, then steps when it is told to.

    Args:
      prepare: returns the step, which waits for its end, and the facts about it.
    """
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(values: Mapping[str, Any]) -> None:
        print(json.dumps(dict(values)), file=answers, flush=True)

    step, facts = prepare()
    _give_back_memory()  # that compiling took
    _forget_peak_memory()
    step()
    answer(facts)
    for line in sys.stdin:
        step()
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        seconds = (time.perf_counter() - start) / int(line)
        answer(Turn(seconds, _peak_memory())._asdict())
        _give_back_memory()


def _peak_memory() -> float:
    """Bytes of the GPU, from the library that computes there; else resident ones."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if jax := sys.modules.get("jax"):
        device = jax.devices()[0]
        if device.platform != "cpu" and device.memory_stats():
            return device.memory_stats()["peak_bytes_in_use"]
    return resident("VmHWM")


def resident(field: str) -> float:
    """Bytes of memory of this process: now, "VmRSS", or at the peak, "VmHWM".

    `getrusage` would include the peak of the process that started this one.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    return math.nan


def _forget_peak_memory() -> None:
    """Lets the largest resident memory start anew, where Linux allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("the peak of the memory includes compilation", file=sys.stderr)


def _give_back_memory() -> None:
    """Returns freed memory to the system, where the C library can."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)
