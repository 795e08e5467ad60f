"""What a benchmark ran on, for the line above its tables."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path


def machine_line(*packages: str, device: str = "") -> str:
    """The device, the date, the versions of Python and of packages, and the load.

    Args:
        packages: names of installed distributions.
        device: what computes, if it is not the processor.
    """
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    python = f"Python {platform.python_version()}"
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    return ", ".join(
        [device or processor(), str(datetime.date.today()), python, *versions, load]
    )


def processor() -> str:
    """The name of the processor, and how many cores of it this process may use."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    if not names:
        return platform.processor()
    return f"{len(os.sched_getaffinity(0))} cores of {names[0]}"
