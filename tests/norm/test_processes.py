"""Two processes of four devices each agree with one device."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from .layers import make, random_variables
from .reference import assert_close
from .spreads import batch
from .styles import one_device
from .worker import CASES

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 300
SETTINGS = {
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of the two processes computed, case by case."""
    folder, port = tmp_path_factory.mktemp("processes"), free_port()
    workers = []
    try:
        for i in range(2):
            command = [sys.executable, "-m", "tests.norm.worker"]
            with open(folder / f"{i}.log", "w") as log:
                worker = subprocess.Popen(
                    [*command, str(port), str(i), str(folder / f"{i}.npz")],
                    cwd=ROOT,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **SETTINGS},
                )
            workers.append(worker)
        try:
            codes = [worker.wait(TIMEOUT_S) for worker in workers]
        except subprocess.TimeoutExpired:
            codes = f"none within {TIMEOUT_S} s"
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    logs = "\n".join((folder / f"{i}.log").read_text() for i in range(2))
    assert codes == [0, 0], f"exit codes {codes}\n{logs}"
    return [dict(np.load(folder / f"{i}.npz")) for i in range(2)]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_two_processes_of_four_devices_agree_with_one_device(results, case):
    kind, _, spread = case
    layer = make(kind, features=4, share_affine=False)
    expected = one_device(layer)(random_variables(layer), batch(spread))
    expected = jax.tree.map(np.asarray, expected)
    leaves, tree = jax.tree.flatten(expected)
    for result in results:
        actual = [result["-".join((*case, str(i)))] for i in range(len(leaves))]
        assert_close(tree.unflatten(actual), expected, rtol=1e-5, atol=1e-5)
