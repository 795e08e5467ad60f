"""How much memory there is."""

import os
from pathlib import Path

import jax

_CGROUP = Path("/sys/fs/cgroup/memory.max")  # of a container


def memory_of(device: jax.Device) -> int:
    """Bytes of memory that a device has, or that its host lets the process have."""
    statistics = device.memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return memory_of_host()


def memory_of_host() -> int:
    """Bytes of memory that the host has, or lets this process have in a container."""
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP.read_text().strip() if _CGROUP.exists() else ""
    return min(present, int(limit)) if limit.isdecimal() else present
