"""How a process sets JAX up before it is used: devices, other processes, cache."""

import concurrent.futures
import contextlib
import faulthandler
import importlib.util
import itertools
import os
import re
import socket
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from mbn_jax.errors import InputError
from mbn_jax.training.processes import heartbeats

_HOST_DEVICES_FLAG = "--xla_force_host_platform_device_count"

# How long a process waits for the others at its start. JAX would abort it then, without
# a sentence, so it is told to wait for longer.
_JOIN_S = 300
# A process that does not answer for so long is given up, and the run with it: the
# others end instead of waiting.
_SILENCE_S = 25
# The same of JAX, which then aborts the process without a sentence: only where the
# threads that watch are silent themselves.
_HEARTBEAT_TIMEOUT_S = 100
# How long process 0 waits with its end until the others have come to the same: without
# it, which coordinates, JAX aborts them.
_COORDINATOR_STAYS_S = 5
# How long a process that ends waits for the others to end, too.
_SHUTDOWN_TIMEOUT_S = 10

# What the errors of JAX, Gloo and NCCL say when another process is gone.
_PEER_LOST = re.compile(
    "gloo|remote|peer|connection|socket|barrier|unavailable|deadline|coordination",
    re.IGNORECASE,
)

_MOST_CPU_DEVICES = 1024
_LARGEST_PORT = 65535
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_SLURM = (
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)


@contextlib.contextmanager
def joined_processes(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Iterator[None]:
    """Joins the other processes of the run, if there are any; before JAX is used.

    They are those of the arguments or, without these, of the cluster that JAX finds. If
    one of them is lost, this one ends, too, at once or after a silence of 25 seconds.

    Args:
      coordinator_address: host:port of process 0.
      num_processes: of the run; 1 means that this one is alone.
      process_id: of this process, from 0.

    Raises:
      InputError: one of several arguments is missing, Slurm's GPUs do not fit its
        tasks, the port is taken, or the processes do not find each other.
    """
    arguments = _arguments(coordinator_address, num_processes, process_id)
    if arguments is None:
        yield
        return
    _join(arguments)
    print(
        f"process {jax.process_index()} of {jax.process_count()}, with "
        f"{jax.local_device_count()} of {jax.device_count()} devices; if one process "
        "is lost, all end within a minute; start all again, and the run goes on",
        file=sys.stderr,
    )
    # Where JAX aborts this process all the same, it says that another one "died". Every
    # thread's stack below that would hide it.
    faulthandler.disable()
    try:
        with heartbeats(_give_up, silence_s=_SILENCE_S):
            yield
    except jax.errors.JaxRuntimeError as error:
        if not _PEER_LOST.search(str(error)):
            raise
        _give_up(str(error).splitlines()[0][:200])
    finally:
        # Waits for the others, which do not come where this one was interrupted.
        if not isinstance(sys.exception(), KeyboardInterrupt):
            jax.distributed.shutdown()


def _join(arguments: Mapping[str, Any]) -> None:
    # In a thread: until the others are there, no signal would reach this one.
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        pool.submit(
            jax.distributed.initialize,
            **arguments,
            initialization_timeout=2 * _JOIN_S,
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT_S,
            shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT_S,
        ).result(_JOIN_S)
    except (jax.errors.JaxRuntimeError, TimeoutError) as error:
        reason = str(error).partition("\n")[0][:200] or f"within {_JOIN_S} s"
        raise InputError(
            f"The processes of the run do not find each other ({reason}); look whether "
            "all of them were started, with the address of process 0 and a port that "
            "is free there."
        ) from error
    finally:
        pool.shutdown(wait=False)


def _give_up(reason: str) -> None:
    """Ends this process, because another one is lost."""
    print(
        f"error: process {jax.process_index()} cannot go on, because another process "
        f"of the run has ended or does not answer ({reason}); start all processes "
        "again, and the run goes on from its newest checkpoint",
        file=sys.stderr,
        flush=True,
    )
    if jax.process_index() == 0:
        time.sleep(_COORDINATOR_STAYS_S)
    # Not sys.exit: on the way out JAX would wait for the one that is gone.
    os._exit(1)


def _arguments(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` is to be told; None for a process alone."""
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
    """Where process 0 listens: where all are on its host, there alone.

    JAX would listen on every interface, and the connection asks for no password.
    """
    host = coordinator.rpartition(":")[0].strip("[]")
    if host not in _LOOPBACK or "JAX_COORDINATOR_BIND_ADDRESS" in os.environ:
        return {}
    return {"coordinator_bind_address": coordinator}


def cluster_arguments(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` is to be told; None outside of a cluster.

    It has a detection of its own, which this one narrows down: JAX also takes a shell
    within a Slurm job for a task of it, any pod for a process, and gives every task of
    Slurm one GPU, even if the task has all of a node.

    Args:
      environment: variables of the process.

    Raises:
      InputError: Slurm's GPUs do not fit its tasks.
    """
    if all(name in environment for name in _SLURM):
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
    """Of "8(x2),4", which is short for 8, 8 and 4, the number at this node."""
    groups = re.findall(
        r"(\d+)(?:\(x(\d+)\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
    )
    nodes = itertools.chain.from_iterable(
        [int(tasks)] * int(repeats or 1) for tasks, repeats in groups
    )
    return list(nodes)[int(environment.get("SLURM_NODEID", 0))]


def _is_tpu_host(environment: Mapping[str, str]) -> bool:
    """Whether this is a TPU host whose slice JAX can look up; one host is a slice, too.

    Without these variables or Google's metadata server JAX would ask in vain.
    """
    if not importlib.util.find_spec("libtpu"):
        return False
    in_gke = {"TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"} & environment.keys()
    vendor = Path("/sys/class/dmi/id/product_name")
    in_gce = vendor.exists() and "Google" in vendor.read_text()
    has_tpu = any(any(Path("/dev").glob(pattern)) for pattern in ("accel*", "vfio/*"))
    return has_tpu and bool(in_gke or in_gce)


def request_cpu_devices(num_devices: int) -> None:
    """Makes `num_devices` devices of the CPU; to be called before JAX is used.

    XLA's flag `--xla_force_host_platform_device_count`, where it is given, has already
    said how many. Other platforms are not affected.

    Raises:
      InputError: more than 1024, each of which has threads of its own.
    """
    if num_devices > _MOST_CPU_DEVICES:
        raise InputError(
            f"config.num_devices is {num_devices}, expected no more than "
            f"{_MOST_CPU_DEVICES}; 0 takes all that there are."
        )
    if num_devices > 1 and _HOST_DEVICES_FLAG not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", num_devices)


def use_compilation_cache(setting: str, workdir: Path) -> None:
    """Keeps compiled programs on disk, so that a run started again need not compile.

    Args:
      setting: `config.compilation_cache`.
      workdir: of the run.
    """
    if setting == "default":
        if jax.config.values["jax_compilation_cache_dir"]:
            return
        setting = str(workdir.absolute().parent / ".jax_cache")
    jax.config.update("jax_compilation_cache_dir", setting or None)
