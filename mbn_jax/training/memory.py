"""The memory of the process, without JAX: benchmarks of other libraries use it, too."""

import ctypes
import platform
import sys


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


def give_back_memory() -> None:
    """Returns freed memory to the system, where the C library is glibc."""
    if has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def has_glibc() -> bool:
    """Returns whether the C library is glibc."""
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
