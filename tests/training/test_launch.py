"""How a process finds the others of its run, and what it sets before it uses JAX."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from mbn_jax.errors import InputError
from mbn_jax.training import launch, processes
from mbn_jax.training.launch import cluster_arguments, has_glibc

from ..norm.test_processes import free_port

TRAIN = Path(__file__).parents[2] / "experiments" / "train.py"


def slurm(tasks, **more):
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_NTASKS": str(tasks),
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        **more,
    }


@pytest.mark.parametrize(
    "environment",
    [
        {},
        slurm(1),
        slurm(16, SLURM_STEP_NUM_TASKS="1"),  # a shell that salloc has opened
        {key: value for key, value in slurm(16).items() if key != "SLURM_PROCID"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},  # a pod that is no part of a job
    ],
)
def test_a_process_alone_joins_nobody(environment):
    assert cluster_arguments(environment) is None


@pytest.mark.parametrize(
    ("environment", "devices"),
    [
        (slurm(16, SLURM_STEP_TASKS_PER_NODE="8(x2)", SLURM_GPUS_ON_NODE="8"), None),
        (
            slurm(2, SLURM_STEP_TASKS_PER_NODE="1(x2)", SLURM_GPUS_ON_NODE="8"),
            [0, 1, 2, 3, 4, 5, 6, 7],
        ),
        (slurm(16, SLURM_STEP_TASKS_PER_NODE="8(x2)", CUDA_VISIBLE_DEVICES="3"), [0]),
        (
            slurm(
                3,
                SLURM_STEP_TASKS_PER_NODE="2,1",
                SLURM_NODEID="1",
                CUDA_VISIBLE_DEVICES="0,1",
            ),
            [0, 1],
        ),
        (slurm(16, SLURM_STEP_TASKS_PER_NODE="8(x2)"), None),  # no GPUs
        (slurm(4, SLURM_GPUS_ON_NODE="8", JAX_LOCAL_DEVICE_IDS="0,1"), None),
    ],
)
def test_a_task_of_slurm_has_its_share_of_the_gpus(environment, devices):
    assert cluster_arguments(environment) == {"local_device_ids": devices}


def test_tasks_that_do_not_fit_the_gpus_are_refused():
    environment = slurm(4, SLURM_STEP_TASKS_PER_NODE="2(x2)", SLURM_GPUS_ON_NODE="8")
    with pytest.raises(InputError, match="sees 8 GPUs, and its node has 2 tasks"):
        cluster_arguments(environment)


def test_tasks_of_one_node_meet_on_its_loopback_interface():
    environment = slurm(2, SLURM_STEP_NUM_NODES="1")
    address = f"127.0.0.1:{61440 + 4711 % 4096}"
    assert cluster_arguments(environment) == {
        "local_device_ids": None,
        "coordinator_address": address,
        "coordinator_bind_address": address,
    }
    told = cluster_arguments({**environment, "JAX_COORDINATOR_PORT": "1234"})
    assert told == {"local_device_ids": None}
    two_nodes = cluster_arguments({**environment, "SLURM_STEP_NUM_NODES": "2"})
    assert two_nodes == {"local_device_ids": None}


@pytest.mark.parametrize(
    ("address", "bound"),
    [
        ("127.0.0.1:7777", True),
        ("localhost:7777", True),
        ("[::1]:7777", True),
        ("host0:7777", False),
        ("10.0.0.1:7777", False),
    ],
)
def test_processes_of_one_host_do_not_listen_to_others(address, bound, monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    expected = {"coordinator_bind_address": address} if bound else {}
    assert launch._bind_address(address) == expected
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "10.0.0.1:7777")
    assert launch._bind_address(address) == {}


def test_open_mpi_of_several_hosts_is_left_to_jax():
    environment = {"OMPI_COMM_WORLD_SIZE": "4", "PMIX_NAMESPACE": "job"}
    assert cluster_arguments({**environment, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}) == {}
    assert cluster_arguments({"OMPI_COMM_WORLD_SIZE": "2"}) == {}


def test_open_mpi_of_one_host_listens_to_no_other(monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    found = cluster_arguments(
        {
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            "PMIX_NAMESPACE": "2083520513",
        }
    )
    port = int(found["coordinator_address"].removeprefix("127.0.0.1:"))
    assert 61440 <= port < 65536
    assert found["coordinator_bind_address"] == found["coordinator_address"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 2, None), "--coordinator_address is missing"),
        (("localhost:1", None, None), "--num_processes is missing"),
        (("h:1", 2, 2), "--process_id is 2, expected 0 to 1"),
        (("host", 2, 0), "--coordinator_address is 'host', expected host:port"),
        (("h:99999", 2, 0), "--coordinator_address is 'h:99999', expected host:port"),
    ],
)
def test_flags_that_do_not_belong_together(arguments, message):
    with pytest.raises(InputError, match=message) as error:
        launch.distributed_arguments(*arguments)
    assert "\n" not in str(error.value)


@contextlib.contextmanager
def alone(port, workdir):
    """Starts the first of two processes, whose other one never comes."""
    flags = [f"--workdir={workdir}", f"--coordinator_address=127.0.0.1:{port}"]
    with subprocess.Popen(
        [sys.executable, TRAIN, *flags, "--num_processes=2", "--process_id=0"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_sigterm_ends_a_process_that_waits_for_the_others(tmp_path):
    port = free_port()
    with alone(port, tmp_path / "run") as process:
        while process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.1)
        time.sleep(1)  # until it waits for the other one
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 143, errors
    assert errors.splitlines()[-1].startswith("terminated; the same command goes on")


def test_a_process_does_not_wait_endlessly_for_the_others(monkeypatch):
    never = threading.Event()
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: never.wait(60))
    monkeypatch.setattr(processes, "_JOIN_S", 0.1)
    with (
        pytest.raises(InputError, match=r"do not find each other \(within 0\.1 s\)"),
        processes.joined_processes("127.0.0.1:7777", 2, 0),
    ):
        pass
    never.set()


def test_a_port_that_is_taken_is_one_sentence(tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        alone(port := taken.getsockname()[1], tmp_path / "run") as process,
    ):
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"listen at port {port} (Address already in use); give all" in errors
    assert errors.count("\n") == 1


@pytest.fixture
def no_cache():
    """Nothing is compiled before the setting of the other tests is back."""
    name = "jax_compilation_cache_dir"
    before = jax.config.values[name]
    jax.config.update(name, None)
    yield
    jax.config.update(name, before)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("default", "{here}/runs/.jax_cache"), ("elsewhere", "elsewhere"), ("", None)],
)
def test_compiled_programs_are_kept_beside_the_work_directory(
    setting, expected, no_cache, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    launch.use_compilation_cache(setting, Path("runs/one"))
    folder = jax.config.values["jax_compilation_cache_dir"]
    assert folder == (expected and expected.format(here=Path.cwd()))


PROGRAM = """
import ctypes, sys
from mbn_jax.training.launch import keep_freed_memory

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
