"""What a run uses: memory, and time for compiling."""

import ctypes
import platform
import resource
import sys

import jax

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_seconds = 0.0


def _count(event: str, duration_secs: float, **_: object) -> None:
    global _seconds
    if event == _COMPILE_EVENT:
        _seconds += duration_secs


# JAX keeps listeners for the life of the process: one for all runs in it.
jax.monitoring.register_event_duration_secs_listener(_count)


class CompileTime:
    """Seconds that JAX has spent compiling, or fetching from its cache.

    Once training is under way it should be none: a step that is compiled again shows.
    """

    def __init__(self) -> None:
        """Starts to count."""
        self._before = _seconds

    def since_last(self) -> float:
        """Seconds since the last call, or since the start."""
        seconds, self._before = _seconds - self._before, _seconds
        return seconds


def peak_memory() -> dict[str, float]:
    """The most memory held so far, in GiB (2^30 bytes), by the names of the log.

    Of the process and, where it has memory of its own, of the fullest of its devices.
    """
    # Linux counts in KiB.
    peak = {
        "host_memory_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    }
    statistics = [device.memory_stats() for device in jax.local_devices()]
    bytes_in_use = [of_one["peak_bytes_in_use"] for of_one in statistics if of_one]
    if bytes_in_use:
        peak["device_memory_peak"] = max(bytes_in_use) / 2**30
    return peak


def keep_freed_memory() -> None:
    """Tells the C library to reuse freed memory instead of returning it to the system.

    XLA for CPU allocates the temporary memory of every step anew. Getting fresh pages
    from the system took a fifth of the time of the quick run's step, and half of the
    CPU time of a ResNet-50's on a virtual machine. Without glibc nothing changes.
    """
    if has_glibc():
        libc = ctypes.CDLL(None)
        no_trim, no_mmap = (-1, 2**31 - 1), (-4, 0)  # M_TRIM_THRESHOLD, M_MMAP_MAX
        libc.mallopt(*no_trim)
        libc.mallopt(*no_mmap)


def has_glibc() -> bool:
    """Returns whether the C library is glibc."""
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
