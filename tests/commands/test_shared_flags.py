"""Flags of the configuration, and folders by name."""

import json
import sys

import pytest
from flax.traverse_util import flatten_dict

from mbn_jax.commands import shared_flags
from mbn_jax.commands.shared_flags import folders_by_name
from mbn_jax.errors import InputError
from mbn_jax.training.config import as_json, default_config

from .in_process import program


def parse(*arguments):
    with program("train", *arguments):
        sys.argv = shared_flags.spell_out(sys.argv)
        config = shared_flags.define_config()
        shared_flags.parse_flags(sys.argv, "train", None)
        return flatten_dict(as_json(config.value), sep=".")


def test_the_last_of_several_flags_holds_for_every_tuple():
    values = flatten_dict(default_config().to_dict(), sep=".")
    last = {
        "data.image_size": (32, 16),
        "model.non_local": (0, 1, 0, 0),
        "model.mbn_at": ("neck",),
        "optimizer.decay_steps": (5,),
    }
    assert last.keys() == {k for k, v in values.items() if isinstance(v, tuple)}
    parsed = parse(
        *(f"--config.{key}={values[key]}" for key in last),
        *(f"--config.{key}={value}" for key, value in last.items()),
        "--config.num_steps=3",
        "--config.num_steps=4",
    )
    assert {key: tuple(parsed[key]) for key in last} == last
    assert parsed["num_steps"] == 4


def test_a_recipe_is_named_and_changed_in_a_file_of_flags(tmp_path):
    (tmp_path / "flags").write_text("--config=agw:llcm\n--config.model.norm=bn\n")
    parsed = parse(f"--flagfile={tmp_path / 'flags'}")
    assert parsed["data.dataset"] == "llcm"
    assert parsed["model.norm"] == "bn"


def test_the_configuration_of_a_run_is_a_recipe(tmp_path):
    config = default_config()
    config.num_steps = 7
    (tmp_path / "config.json").write_text(json.dumps(as_json(config)))
    parsed = parse(f"--config={tmp_path / 'config.json'}")
    assert parsed["num_steps"] == 7


@pytest.mark.parametrize(
    "config", ["agx", "agx:llcm", "missing.json", "missing.py", "x" * 300]
)
def test_another_recipe_is_one_sentence(config):
    with pytest.raises(
        SystemExit, match=r"^error: there is no recipe and no file"
    ) as e:
        parse(f"--config={config}")
    assert "\n" not in e.value.code


def test_the_folders_of_flags_are_named_and_mistakes_are_said():
    given = ["nir=a/b", "thermal=c=d"]
    assert folders_by_name(given) == {"nir": "a/b", "thermal": "c=d"}
    assert folders_by_name([]) == {}
    for value in ("thermal", "=c", "thermal="):
        with pytest.raises(InputError, match=f"--folder={value} names no modality or"):
            folders_by_name([value])
    with pytest.raises(InputError, match="of nir is given twice, a and b: put all nir"):
        folders_by_name(["nir=a", "nir=b"])
