"""Flags of the configuration, in a process of their own: flags are global."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mbn_jax.training.config import default_config, flatten

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
QUICK = EXPERIMENTS / "configs" / "quick.py"
PARSE = f"""
import json, sys
from absl import flags
from mbn_jax.training import config_flags
from mbn_jax.training.config import as_json, flatten
config = config_flags.define_flag({str(QUICK)!r})
config_flags.parse_flags(sys.argv)
print(json.dumps(flatten(as_json(config.value))))
"""


def parse(*arguments):
    return subprocess.run(
        [sys.executable, "-c", PARSE, *arguments], capture_output=True, text=True
    )


def test_the_last_of_several_flags_holds_for_every_tuple():
    values = flatten(default_config().to_dict())
    last = {
        "data.image_size": (32, 16),
        "model.non_local": (0, 1, 0, 0),
        "model.mbn_at": ("neck",),
        "optimizer.decay_steps": (5,),
    }
    assert last.keys() == {k for k, v in values.items() if isinstance(v, tuple)}
    done = parse(
        *(f"--config.{key}={values[key]}" for key in last),
        *(f"--config.{key}={value}" for key, value in last.items()),
        "--config.num_steps=3",
        "--config.num_steps=4",
    )
    parsed = json.loads(done.stdout)
    assert {key: tuple(parsed[key]) for key in last} == last
    assert parsed["num_steps"] == 4


@pytest.mark.parametrize(("flag", "status"), [("--help", 0), ("--hlep", 1)])
def test_help_is_no_failure(flag, status):
    done = subprocess.run(
        [sys.executable, EXPERIMENTS / "train.py", flag], capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    assert ("config.model.width" in done.stdout) == (status == 0)


@pytest.mark.parametrize("name", ["absent.py", "x" * 300, "absent.py:part"])
def test_a_configuration_that_is_not_there_is_one_sentence(name):
    done = parse(f"--config={name}")
    assert done.returncode == 1
    assert done.stderr == f"error: there is no configuration file {name}\n"
