"""Candidates in processes of their own that take turns, for rounds on a noisy machine.

Not threads of one process: PyTorch's and XLA's pools would fight for the cores, memory
could not be told apart, and what one library keeps would be lost to the other. Between
its turns a process sleeps in a read, and its freed memory is back with the system.
"""

import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

# Tells glibc to reuse freed memory instead of returning it to the system, as training
# on a CPU does (mbn_jax.training.launch): getting fresh pages for hundreds of MB
# in every step costs time, not the same in every round. By environment variables,
# so that the workers of other libraries need not import ours.
KEEP_FREED_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "2147483647", "MALLOC_MMAP_MAX_": "0"}


class Turn(NamedTuple):
    """What a candidate hands back for a turn.

    Attributes:
      seconds: of a step, the mean over the counted steps of the turn.
      peak_memory: bytes, the largest until now.
    """

    seconds: float
    peak_memory: float


class Worker:
    """A candidate in another process, a context manager."""

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
    """The other side: says what there is to know, then steps as it is told.

    Args:
      prepare: returns the step, which waits for its end, and the facts about it.
    """
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(values: Mapping[str, Any]) -> None:
        print(json.dumps(dict(values)), file=answers, flush=True)

    step, facts = prepare()
    give_back_memory()  # that compiling took
    forget_peak_memory()
    step()
    answer(facts)
    for line in sys.stdin:
        step()
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        seconds = (time.perf_counter() - start) / int(line)
        answer(Turn(seconds, peak_memory())._asdict())
        give_back_memory()


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Median and range of the ratios round by round, which drift does not touch."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def spread(values: list[float], digits: int = 2) -> str:
    """Median and range."""
    low, high = min(values), max(values)
    return (
        f"{statistics.median(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"
    )


def peak_memory() -> float:
    """Bytes: of the GPU, by the library that computes there; else resident ones."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if "jax" in sys.modules:
        import jax

        statistics_of_device = jax.devices()[0].memory_stats()
        if statistics_of_device and jax.default_backend() != "cpu":
            return statistics_of_device["peak_bytes_in_use"]
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return 1024 * peaks[0] if peaks else float("nan")


def forget_peak_memory() -> None:
    """Lets the largest resident memory start anew, where Linux allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("the peak of the memory includes compilation", file=sys.stderr)


def give_back_memory() -> None:
    """Returns freed memory to the system, where the C library can."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)
