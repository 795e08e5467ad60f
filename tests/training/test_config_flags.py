"""Flags of the configuration, in a process of their own: flags are global."""

import json
import subprocess
import sys

import pytest

from mbn_jax.training.config import as_json, default_config, flatten

PARSE = """
import json, sys
from mbn_jax.commands import config_flags
from mbn_jax.training.config import as_json, flatten
sys.argv = config_flags.spell_out(sys.argv)
config = config_flags.define_config()
config_flags.parse_flags(sys.argv, "train", None)
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


def test_a_recipe_is_named_and_changed_in_a_file_of_flags(tmp_path):
    (tmp_path / "flags").write_text("--config=agw:llcm\n--config.model.norm=bn\n")
    parsed = json.loads(parse(f"--flagfile={tmp_path / 'flags'}").stdout)
    assert parsed["data.dataset"] == "llcm"
    assert parsed["model.norm"] == "bn"


def test_the_configuration_of_a_run_is_a_recipe(tmp_path):
    config = default_config()
    config.num_steps = 7
    (tmp_path / "config.json").write_text(json.dumps(as_json(config)))
    parsed = json.loads(parse(f"--config={tmp_path / 'config.json'}").stdout)
    assert parsed["num_steps"] == 7


@pytest.mark.parametrize(
    "config", ["agx", "agx:llcm", "missing.json", "missing.py", "x" * 300]
)
def test_another_recipe_is_one_sentence(config):
    done = parse(f"--config={config}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no recipe and no file")
    assert done.stderr.count("\n") == 1
