"""The configuration: locked, checked, and in agreement with its work directory."""

import json

import pytest

from mbn_jax.errors import InputError
from mbn_jax.training import config as configuration
from mbn_jax.training.config import as_json, check, default_config
from mbn_jax.training.workdir import check_same


def test_defaults_pass_the_check():
    check(default_config())


def test_an_unknown_key_cannot_be_set():
    config = default_config()
    with pytest.raises(AttributeError, match="depth"):
        config.model.detph = 50


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("num_steps", 0, "1 or more"),
        ("gap_batches", 1, "0, or 2 or more"),
        ("seed", -1, "0 or more"),
        ("optimizer.learning_rate", float("nan"), "0 or more"),
        ("augmentation.flip", 1.5, "0 to 1"),
        ("model.width", 0.0, "more than 0"),
        ("model.depth", 20, "18 or 34 or 50 or 101 or 152"),
        ("model.norm", "gn", "mbn or bn"),
        ("data.image_size", (8, 8), "16 or more pixels"),
        ("optimizer.decay_steps", (20, 10), "rising order"),
        ("model.mbn_at", ("neck", "head"), "some of stem, stage1"),
        ("model.non_local", (0, 1), "for the four stages"),
        ("model.non_local", (0, 3, 0, 0), "no more than the stages of depth 18 have"),
        ("batch.sampler", "best", "balanced or agnostic or natural"),
        ("augmentation.exchange", 1.5, "0 to 1"),
        ("loss.circle", -1.0, "0 or more"),
        ("optimizer.decay_factor", float("inf"), "0 or more"),
        ("num_steps", 10**20, "a whole number below 2147483648"),
        ("num_steps", None, "a whole number"),
        ("seed", 2**31, "a whole number below 2147483648"),
        ("data.dataset", None, "text"),
        ("model.width", None, "a number"),
        ("model.width", float("inf"), r"more than 0 and up to 1e\+09"),
        ("model.remat", None, "True or False"),
        ("model.mbn_at", None, "a tuple"),
        ("model.mbn_at", ("neck", ["stem"]), "some of stem, stage1"),
        ("data.image_size", (32, 10**20), "16 or more pixels"),
        ("data.image_size", (32, True), "16 or more pixels"),
        ("data.num_threads", 10**6, "1 to 1024"),
        ("profile_steps", "1:" + "9" * 5000, "first and the last"),
    ],
)
def test_a_useless_value_is_named_with_what_was_expected(key, value, expected):
    config = default_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError, match=rf"config\.{key} is .*{expected}"):
        check(config)


def test_a_configuration_without_a_loss_is_refused():
    config = default_config()
    config.loss.identity = config.loss.wrt = 0.0
    with pytest.raises(InputError, match="nothing to learn from"):
        check(config)


def test_a_configuration_of_ones_own_must_have_every_key_and_no_other():
    config = default_config().unlock()
    config.model.dropout = 0.5
    with pytest.raises(InputError, match=r"no configuration key 'model\.dropout'"):
        check(config)
    config = default_config().unlock()
    del config.model.norm
    with pytest.raises(InputError, match=r"lacks 'model\.norm'"):
        check(config)


def test_a_work_directory_of_another_configuration_is_refused(tmp_path):
    config = default_config()
    (tmp_path / "config.json").write_text(json.dumps(as_json(config)))
    check_same(config, tmp_path)
    config.num_devices, config.data.data_dir = 4, "elsewhere"  # not what is computed
    check_same(config, tmp_path)
    config.model.norm, config.seed = "bn", 3
    with pytest.raises(InputError) as error:
        check_same(config, tmp_path)
    assert "model.norm was 'mbn' and is now 'bn'" in str(error.value)
    assert "seed was 0 and is now 3" in str(error.value)


def test_the_configuration_of_a_work_directory_reads_back_the_same(tmp_path):
    config = default_config()
    config.data.image_size = (48, 24)
    (tmp_path / "config.json").write_text(json.dumps(as_json(config)))
    assert configuration.read_config(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_steps", "many", "is damaged .*num_steps"),
        ("num_steps", None, "config.num_steps is None"),
        ("seed", {}, "lacks the key 'seed'"),
        ("model", 3, "the key 'model"),
        ("model.width", [1], "is damaged .*width"),
        ("data.image_size", 5, "is damaged"),
        ("data.image_size", [[32], 16], "16 or more pixels"),
        ("loss.margin", float("nan"), "config.loss.margin is nan"),
    ],
)
def test_a_damaged_configuration_file_is_one_sentence(key, value, message, tmp_path):
    content = as_json(default_config())
    *groups, name = key.split(".")
    inner = content
    for group in groups:
        inner = inner[group]
    inner[name] = value
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as error:
        configuration.read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[]", "null", "3", '{"a":' * 10_000, "\x00"])
def test_a_configuration_file_without_an_object_is_one_sentence(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        configuration.read_config(tmp_path)


def test_no_name_is_not_the_current_directory(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(as_json(default_config())))
    monkeypatch.chdir(tmp_path)
    configuration.read_config(".")
    with pytest.raises(InputError, match="is empty"):
        configuration.read_config("")


def test_another_directory_is_not_taken_for_a_work_directory(tmp_path):
    with pytest.raises(InputError, match="not a work directory"):
        configuration.read_config(tmp_path)
