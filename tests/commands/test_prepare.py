"""Preparing by the command: its output, its exit status, and what a kill leaves."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mbn_jax.data.dataset import load_split
from mbn_jax.errors import InputError

from ..data import trees
from .in_process import run

ROOT = Path(__file__).parents[2]

# The script, ended by a signal when it converts the 40th image.
ENDED = """
import os, runpy, signal, sys
from mbn_jax.data import writer

# A program that a shell has started in the background would ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

unchanged, seen = writer.unchanged, []

def ending(path, digest):
    seen.append(path)
    if len(seen) == 40:
        os.kill(os.getpid(), signal.{signal})
    return unchanged(path, digest)

writer.unchanged = ending
sys.argv = ["prepare_data.py", *sys.argv[1:]]
runpy.run_path("experiments/prepare_data.py", run_name="__main__")
"""


def run_until(signal, *flags, **environment):
    """Runs the command until the signal ends it."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ENDED).format(signal=signal), *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trees.write_sysu_mm01(tmp_path_factory.mktemp("whole") / "SYSU-MM01")


def test_killed_and_started_again_it_prepares_the_data(whole, tmp_path):
    flags = [
        "--dataset=sysu_mm01",
        f"--manual_dir={whole}",
        f"--data_dir={tmp_path}",
    ]
    (temporary := tmp_path / "temporary").mkdir()
    killed = run_until("SIGKILL", *flags, TMPDIR=str(temporary))
    assert killed.returncode == -9
    assert not list(temporary.iterdir())
    assert list((tmp_path / "sysu_mm01").iterdir())  # the half
    with pytest.raises(InputError, match="is not prepared"):
        load_split("sysu_mm01", "train", tmp_path)

    interrupted = run_until("SIGINT", *flags)
    assert interrupted.returncode == 130
    last = interrupted.stderr.splitlines()[-1]
    assert last.startswith("interrupted; the same command goes on")
    assert "Traceback" not in interrupted.stderr
    assert not list((tmp_path / "sysu_mm01").iterdir())

    done = run("prepare", *flags)
    assert done.returncode == 0, done.stderr
    assert "train: 72 images of 4 identities, 48 visible and 24 infrared" in done.stderr
    assert done.stdout.splitlines() == [
        f"sysu_mm01 is prepared in {tmp_path}/sysu_mm01/2.0.0.",
        "Next: python -m mbn_jax train --workdir=runs/sysu_mm01"
        " --config=agw:sysu_mm01"
        f" --config.data.data_dir={tmp_path}",
    ]
    assert [path.name for path in (tmp_path / "sysu_mm01").iterdir()] == ["2.0.0"]
    assert len(load_split("sysu_mm01", "train+val", tmp_path)) == 72 + 18


@pytest.mark.parametrize(
    "flag", ["--images=x", "--sixteen_bits=minmax", "--max_megapixels=100"]
)
def test_flags_of_own_images_are_refused_without_a_manifest(tmp_path, flag):
    done = run("prepare", "--dataset=llcm", f"--manual_dir={tmp_path}", flag)
    assert done.returncode == 1
    name = flag.partition("=")[0]
    assert done.stderr == (
        f"error: {name} goes only with --manifest; give --manifest=FILE.csv.\n"
    )


def test_a_folder_without_a_name_is_not_the_current_one(tmp_path):
    done = run("prepare", "--dataset=llcm", "--manual_dir=", f"--data_dir={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: The name of a folder is empty; name a folder")


def test_problems_are_told_without_a_traceback(tmp_path):
    root = trees.write_llcm(tmp_path / "LLCM", images=1)
    (lost,) = trees.remove_matching(root, "vis/cam4/0009/*")
    done = run("prepare", "--dataset=llcm", f"--manual_dir={root}", "--check")
    assert done.returncode == 1
    assert f"there is no {root / lost}; copy it" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {root} is not a complete")
    assert "Traceback" not in done.stderr
    assert not done.stdout
