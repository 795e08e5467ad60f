"""File systems of their own: small ones, and ones that fail. They need root."""

import contextlib
import shutil
import subprocess
from pathlib import Path


class CannotMount(Exception):
    """This machine or this user cannot mount a file system."""


@contextlib.contextmanager
def small_disk(path, size):
    """A file system in memory, which is really full when it is full."""
    with _mounted(path, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        yield path


@contextlib.contextmanager
def image_disk(image, path, megabytes=64):
    """A file system in a file, which puts on it as late as it may what is not synced.

    By default it would wait for five seconds only, and hide what was not synced.
    """
    with image.open("wb") as file:
        file.truncate(megabytes * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    options = "loop,commit=900,errors=remount-ro"
    with _mounted(path, "-o", options, str(image)):
        yield path


@contextlib.contextmanager
def after_power_loss(image, copy, path):
    """What is left of an image disk if the power fails now, mounted at a path."""
    shutil.copyfile(image, copy)
    with _mounted(path, "-o", "loop", str(copy)):
        yield path


def turn_read_only(path):
    """Causes an error of a file system, after which nothing can be written to it."""
    found = subprocess.run(
        ["findmnt", "-n", "-o", "SOURCE", str(path)], capture_output=True, text=True
    )
    device = Path(found.stdout.strip()).name
    Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text(
        "a fault caused by a test"
    )


@contextlib.contextmanager
def _mounted(path, *options):
    path.mkdir(exist_ok=True)
    made = subprocess.run(
        ["mount", *options, str(path)], capture_output=True, text=True
    )
    if made.returncode:
        raise CannotMount(made.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
