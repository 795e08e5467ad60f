"""Memory that a step has freed serves the next one."""

import subprocess
import sys

import pytest

from mbn_jax.training.resources import has_glibc

PROGRAM = """
import ctypes, sys
from mbn_jax.training.resources import keep_freed_memory

def resident():
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024

if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
block = libc.malloc(200 * 2**20)
ctypes.memset(block, 1, 200 * 2**20)
before = resident()
libc.free(block)
print(before - resident())
"""


@pytest.mark.skipif(not has_glibc(), reason="only glibc has these settings")
@pytest.mark.parametrize(("setting", "returned"), [("keep", 0), ("return", 200)])
def test_freed_memory_is_kept(setting, returned):
    command = [sys.executable, "-c", PROGRAM, setting]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(returned, abs=20)
