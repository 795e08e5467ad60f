"""What every command says about itself."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mbn_jax
from mbn_jax.commands import SUMMARIES

from .in_process import run

ROOT = Path(__file__).parents[2]
SCRIPTS = {"manifest": "make_manifest", "prepare": "prepare_data"}


@pytest.mark.parametrize("name", SUMMARIES)
def test_help_has_examples_and_the_flags_of_the_command_alone(name):
    done = run(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    usage, _, rest = done.stdout.partition("\n\n")
    assert usage.startswith(f"usage: python -m mbn_jax {name} --flag=value")
    text, _, listed = rest.partition("\nFlags:\n")
    assert text.count(f"python -m mbn_jax {name} ") >= 3
    assert listed.startswith("  --")
    for of_absl in ("absl", "repeat this option", str(ROOT)):
        assert of_absl not in done.stdout


@pytest.mark.parametrize("name", SUMMARIES)
def test_a_script_of_a_clone_is_the_command(name):
    script = ROOT / "experiments" / f"{SCRIPTS.get(name, name)}.py"
    _, *code = script.read_text().strip().splitlines()
    assert code == ["", "from mbn_jax.commands import run", "", f'run("{name}")']


def test_the_module_and_a_script_are_programs():
    programs = (["-m", "mbn_jax", "compare"], [ROOT / "experiments" / "compare.py"])
    for program in programs:
        done = subprocess.run(
            [sys.executable, *program, "--help"], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, run("compare", "--help").stdout)


def test_another_command_is_named_with_those_that_there_are():
    done = subprocess.run(
        [sys.executable, "-m", "mbn_jax", "trian"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no command 'trian'")
    for name, text in SUMMARIES.items():
        assert f"  {name:<8}  {text}\n" in done.stderr


def test_only_commands_define_flags():
    package = Path(mbn_jax.__file__).parent
    defining = {
        path.relative_to(package).parts[0]
        for path in package.rglob("*.py")
        if re.search(r"\bDEFINE_|\bapp\.run\b|absl import flags", path.read_text())
    }
    assert defining == {"commands"}
