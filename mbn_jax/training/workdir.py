"""A work directory: used by one run at a time, and left as it was if a run fails."""

import contextlib
import fcntl
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import jax
from ml_collections import ConfigDict

from mbn_jax.data.catalog import Info
from mbn_jax.errors import InputError
from mbn_jax.files import make_folder, read_json, remove_unfinished, write_json
from mbn_jax.training.checkpoint import CHECKPOINTS, DAMAGED, finished_steps
from mbn_jax.training.checkpoint_damage import check_path
from mbn_jax.training.config import MACHINE_KEYS, as_json, differences
from mbn_jax.training.processes import is_main, on_main
from mbn_jax.training.run_data import DATASET, describe, differing_data

PACKAGES = ("mbn-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_LOCK = "lock"
# What a run that was killed at its very start may leave, finished or unfinished.
_OURS = (_LOCK, "config.json", DATASET)


@contextlib.contextmanager
def locked(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """Keeps other runs out of a work directory, and runs of other configurations.

    The lock ends with the process, however that ends. Process 0 holds it for all.

    Raises:
        InputError: another run is in it, another configuration made it, it is not a
            work directory, or it cannot be written to.
    """
    check_path(workdir, to_write=True)
    with contextlib.ExitStack() as held:

        def hold() -> None:
            held.enter_context(_lock(workdir))
            check_same(config, workdir)
            remove_unfinished(workdir)

        on_main(hold)
        yield


@contextlib.contextmanager
def _lock(workdir: Path) -> Iterator[None]:
    existed = workdir.exists()
    path = workdir / _LOCK
    try:
        make_folder(workdir)
        while True:
            file = path.open("a+")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A run that ended just now has removed the file that this one had opened.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
            file.close()
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise InputError(
            f"{workdir} is in use by {holder}; wait until that run has ended, or "
            "choose another --workdir."
        ) from error
    except OSError as error:
        raise _not_writable(workdir, error) from error
    with file:
        try:
            _sign(file, workdir)
            yield
        finally:
            # On a disk that can no longer be written to, the file stays. The lock still
            # ends with the process, and another error is the one to report.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                if not existed and not any(workdir.iterdir()):
                    workdir.rmdir()


def _sign(file: TextIO, workdir: Path) -> None:
    """Writes into the lock who holds it."""
    holder = f"process {os.getpid()} on {socket.gethostname()}\n"
    try:
        file.truncate(0)
        # Unbuffered: nothing is left that closing the file would write once more.
        os.write(file.fileno(), holder.encode())
    except OSError as error:
        raise _not_writable(workdir, error) from error


def _not_writable(workdir: Path, error: OSError) -> InputError:
    return InputError(
        f"The work directory {workdir} cannot be written to ({error.strerror}); "
        "give a --workdir that can be written to."
    )


def check_same(config: ConfigDict, workdir: Path) -> None:
    """Refuses a directory that is not a run's, or that another configuration made.

    Raises:
        InputError: names every key that differs, with both values.
    """
    path = workdir / "config.json"
    if not path.exists():
        if any(not entry.name.startswith(_OURS) for entry in workdir.iterdir()):
            raise InputError(
                f"{workdir} holds files and no config.json, so it is not a work "
                "directory; choose a --workdir that is empty or does not exist yet."
            )
        return
    differing = [
        f"{key} was {_shown(before)} and is now {_shown(now)}"
        for key, (before, now) in differences(
            [read_json(path), as_json(config)], MACHINE_KEYS
        ).items()
    ]
    if differing:
        raise InputError(
            f"{workdir} was made with another configuration ({'; '.join(differing)});"
            " resume with the same one or choose another --workdir."
        )


def _shown(value: object) -> str:
    return "absent" if value is None else repr(value)


@contextlib.contextmanager
def claimed(
    workdir: Path, config: ConfigDict, data: Info | None = None
) -> Iterator[None]:
    """Writes whose directory it is; removes that again if the run comes to nothing.

    A run that fails before its first checkpoint leaves nothing behind, so that the same
    directory can be used once the mistake is fixed.

    Raises:
        InputError: the run that is to be resumed was trained on other data.
    """
    if differing := differing_data(workdir, data):
        raise InputError(
            f"{differing}; resume with the same data (--config.data.data_dir), or "
            "choose another --workdir."
        )
    files = {
        "config.json": as_json(config),
        DATASET: {} if data is None else describe(data),
        "environment.json": {
            "versions": {name: version(name) for name in PACKAGES},
            "devices": [str(device) for device in jax.devices()],
            "device_kind": jax.devices()[0].device_kind,
            "process_count": jax.process_count(),
        },
    }
    try:
        for name, content in files.items():
            if is_main() and content:
                write_json(workdir / name, content)
        yield
    except OSError as error:
        # Data that cannot be read are another matter, and checkpoints have an error of
        # their own. What else is written is small, and of no use to those who resume.
        if error.filename:
            path = Path(os.fsdecode(error.filename)).absolute()
            if not path.is_relative_to(workdir.absolute()):
                raise
        raise InputError(
            f"The work directory {workdir} cannot be written to ("
            f"{error.strerror or error}); {_kept(workdir)}: make room, or give a "
            "--workdir that can be written to, and start again."
        ) from error
    except (InputError, FloatingPointError) as error:
        kept = _kept(workdir)
        set_aside = (workdir / DAMAGED).exists()
        if is_main() and not finished_steps(workdir) and not set_aside:
            _withdraw(workdir, files)
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{error}; {kept}: start again with --config.max_skipped_in_a_row to skip "
            "such steps, or in another --workdir with a smaller "
            "config.optimizer.learning_rate or a longer warm-up."
        ) from error


def _withdraw(workdir: Path, files: Iterable[str]) -> None:
    # Where nothing can be written, nothing can be removed, and that was reported.
    with contextlib.suppress(OSError):
        for name in (*files, "metrics.jsonl"):
            (workdir / name).unlink(missing_ok=True)
    for name in (CHECKPOINTS, "tensorboard", "profile"):
        shutil.rmtree(workdir / name, ignore_errors=True)


def _kept(workdir: Path) -> str:
    steps = finished_steps(workdir)
    if not steps:
        return "there was no checkpoint yet"
    return f"the checkpoint of step {steps[-1]} stays in {workdir / CHECKPOINTS}"
