"""What a process sets before it uses JAX: devices, memory, cache, other processes."""

import ctypes
import importlib.util
import logging
import os
import platform
import re
import socket
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import absl.logging
import jax

from mbn_jax.errors import InputError

_HOST_DEVICES_FLAG = "--xla_force_host_platform_device_count"
_MOST_CPU_DEVICES = 1024
_LARGEST_PORT = 65535
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_SLURM = {
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
}


def silence_raised_errors() -> None:
    """Silences what Orbax and its libraries print about errors that they also raise.

    On a full disk they print a thousand lines around the one that helps. It holds for
    the whole process, so it is for programs whose only work is a run.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # After the first error Orbax no longer awaits what TensorStore answers.
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = hook


def request_cpu_devices(num_devices: int) -> None:
    """Makes `num_devices` devices of the CPU; call this before JAX is used.

    XLA's flag `--xla_force_host_platform_device_count` has precedence. Other platforms
    are not affected.

    Raises:
        InputError: more than 1024, each of which has its own threads.
    """
    if num_devices > _MOST_CPU_DEVICES:
        raise InputError(
            f"config.num_devices is {num_devices}, expected no more than "
            f"{_MOST_CPU_DEVICES}; 0 takes all that there are."
        )
    if num_devices > 1 and _HOST_DEVICES_FLAG not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", num_devices)


def use_compilation_cache(setting: str, workdir: Path) -> None:
    """Keeps compiled programs where `config.compilation_cache` says, for later runs."""
    if setting == "default":
        if jax.config.values["jax_compilation_cache_dir"]:
            return
        setting = str(workdir.absolute().parent / ".jax_cache")
    jax.config.update("jax_compilation_cache_dir", setting or None)


def keep_freed_memory() -> None:
    """Tells the C library to reuse freed memory instead of returning it to the system.

    XLA for CPU allocates new temporary memory in every step. Getting fresh pages
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


def distributed_arguments(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> dict[str, Any] | None:
    """Returns the arguments of `jax.distributed.initialize`; None for a process alone.

    Args:
        coordinator_address: host:port of process 0.
        num_processes: of the run; 1 means that this one is alone.
        process_id: of this process, from 0.

    Raises:
        InputError: one of several arguments is missing or out of range, the port is
            taken, or as `cluster_arguments` does, which is asked if all are None.
    """
    given: dict[str, Any] = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    if num_processes == 1:
        return None
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return cluster_arguments(os.environ)
    if missing:
        raise InputError(
            f"--{missing[0]} is missing: several processes find each other by "
            "--coordinator_address, --num_processes and --process_id together."
        )
    if process_id not in range(given["num_processes"]):
        raise InputError(
            f"--process_id is {process_id}, expected 0 to "
            f"{given['num_processes'] - 1} for --num_processes={num_processes}."
        )
    host, _, port = str(coordinator_address).rpartition(":")
    is_port = re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) <= _LARGEST_PORT
    if not host or not is_port:
        raise InputError(
            f"--coordinator_address is {coordinator_address!r}, expected host:port, "
            f"with a port from 1 to {_LARGEST_PORT}."
        )
    # Within a cluster JAX would take the devices of this process from there.
    given["cluster_detection_method"] = "deactivate"
    given |= _bind_address(given["coordinator_address"])
    if process_id == 0 and "JAX_COORDINATOR_BIND_ADDRESS" not in os.environ:
        _check_free(given.get("coordinator_bind_address", f":{port}"))
    return given


def _check_free(address: str) -> None:
    """Raises `InputError` for a port that is taken, where JAX may crash."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise InputError(
            f"Process 0 cannot listen at port {port} ({reason}); give all processes "
            "another port in --coordinator_address."
        ) from error


def _bind_address(coordinator: str) -> dict[str, str]:
    """Where process 0 listens: if all processes are on its host, on loopback alone.

    JAX would listen on every interface, and the connection asks for no password.
    """
    host = coordinator.rpartition(":")[0].strip("[]")
    if host not in _LOOPBACK or "JAX_COORDINATOR_BIND_ADDRESS" in os.environ:
        return {}
    return {"coordinator_bind_address": coordinator}


def cluster_arguments(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Returns the arguments of `jax.distributed.initialize`; None outside of a cluster.

    JAX detects clusters itself, but too many: it also takes a shell within a Slurm job
    for a task of it, any pod for a process, and gives every task of Slurm one GPU, even
    if the task has all of a node.

    Raises:
        InputError: Slurm's GPUs do not fit its tasks.
    """
    if environment.keys() >= _SLURM:
        tasks = environment.get("SLURM_STEP_NUM_TASKS", environment["SLURM_NTASKS"])
        if int(tasks) == 1:
            return None
        found: dict[str, Any] = {"local_device_ids": _slurm_devices(environment)}
        told = {"JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_PORT"} & environment.keys()
        if environment.get("SLURM_STEP_NUM_NODES") == "1" and not told:
            found |= _on_loopback(int(environment["SLURM_JOB_ID"]))
        return found
    num_processes = int(environment.get("OMPI_COMM_WORLD_SIZE", 1))
    if num_processes > 1:
        num_local = int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", 0))
        job = environment.get("PMIX_NAMESPACE")
        if num_local == num_processes and job:
            return _on_loopback(zlib.crc32(job.encode()))
        return {}
    in_job = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys()
    if (in_job and importlib.util.find_spec("kubernetes")) or _is_tpu_host(environment):
        return {}
    return None


def _on_loopback(job: int) -> dict[str, Any]:
    """Where the processes of a job of one host meet; JAX would use every interface."""
    address = f"127.0.0.1:{61440 + job % 4096}"  # the range from which JAX takes a port
    return {"coordinator_address": address, **_bind_address(address)}


def _slurm_devices(environment: Mapping[str, str]) -> list[int] | None:
    """The GPUs of a task among those that it sees; None leaves it to JAX."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    num_gpus = (
        len(visible.split(","))
        if visible
        else int(environment.get("SLURM_GPUS_ON_NODE", 0))
    )
    if not num_gpus or "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    num_tasks = _tasks_on_node(environment)
    if num_tasks == 1:
        return list(range(num_gpus))
    if num_gpus == 1:
        return [0]
    if num_gpus == num_tasks:
        return None
    raise InputError(
        f"A task of Slurm sees {num_gpus} GPUs, and its node has {num_tasks} tasks; "
        "give each node one task, or one for each GPU (docs/launching.md)."
    )


def _tasks_on_node(environment: Mapping[str, str]) -> int:
    """The tasks of this node by a list like "8(x2),4", which means 8, 8 and 4."""
    groups = re.findall(
        r"(\d+)(?:\(x(\d+)\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
    )
    nodes = [int(tasks) for tasks, times in groups for _ in range(int(times or 1))]
    return nodes[int(environment.get("SLURM_NODEID", 0))]


def _is_tpu_host(environment: Mapping[str, str]) -> bool:
    """Whether this is a TPU host whose slice JAX can look up; it may be of one host.

    Without these variables or Google's metadata server JAX would get no answer.
    """
    if not importlib.util.find_spec("libtpu"):
        return False
    in_gke = {"TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"} & environment.keys()
    vendor = Path("/sys/class/dmi/id/product_name")
    in_gce = vendor.exists() and "Google" in vendor.read_text()
    has_tpu = any(any(Path("/dev").glob(pattern)) for pattern in ("accel*", "vfio/*"))
    return has_tpu and bool(in_gke or in_gce)
