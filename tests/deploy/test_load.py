"""A network knows the scales of its images of 16 bits, in every form of it."""

import json

import pytest

import mbn_jax
from mbn_jax.data.sixteen_bits import AUTO, Scale
from mbn_jax.deploy.export import export
from mbn_jax.deploy.exported import save_exported
from mbn_jax.deploy.load import choose_scales, trained_scales, with_scales
from mbn_jax.errors import InputError
from mbn_jax.models.weights import NETWORK

from ..models.test_reid import filled, small

FIXED = Scale("fixed", 7000, 9000)
BOTH = ["visible", "infrared"]


@pytest.fixture(scope="module")
def model():
    return small(sixteen_bits=("auto", "7000,9000"))


def test_every_form_of_a_network_has_them(model, tmp_path):
    variables = filled(model)
    mbn_jax.save_pretrained(tmp_path / "shared", model, variables)
    save_exported(tmp_path / "a.zip", export(model, variables, 1, platforms=("cpu",)))
    for path in ("shared", "a.zip"):
        again, _ = mbn_jax.load(tmp_path / path)
        assert trained_scales(again) == {"visible": AUTO, "infrared": FIXED}


def test_what_earlier_versions_wrote_has_none(model, tmp_path):
    mbn_jax.save_pretrained(tmp_path, small(), filled(small()))
    written = json.loads((tmp_path / NETWORK).read_text())
    assert written["network"].pop("sixteen_bits") == []
    del written["fingerprint"]
    (tmp_path / NETWORK).write_text(json.dumps(written))
    again, _ = mbn_jax.load(tmp_path)
    assert trained_scales(again) == {"visible": AUTO, "infrared": AUTO}


@pytest.mark.parametrize(
    ("flags", "infrared", "told"),
    [
        ([], FIXED, "as in training: infrared=7000,9000 ("),
        (["infrared=minmax"], Scale("minmax"), ""),
        (["minmax"], Scale("minmax"), ""),
        (["visible=minmax"], FIXED, "as in training: infrared=7000,9000 ("),
        (["infrared=auto"], AUTO, ""),
        (["auto"], AUTO, ""),
        (["infrared=7000,9000"], FIXED, ""),
    ],
)
def test_a_flag_wins_and_what_is_used_without_one_is_said(
    model, flags, infrared, told, capsys
):
    chosen = choose_scales(trained_scales(model), flags, BOTH)
    assert chosen["infrared"] == infrared
    said = capsys.readouterr().err
    assert (told in said) if told else not said
    assert said.count("\n") == bool(told)


def test_scales_of_other_modalities_are_not_said(model, capsys):
    assert choose_scales(trained_scales(model), [], ["visible"]) == {"visible": AUTO}
    assert not capsys.readouterr().err


def test_an_adapted_network_has_the_scales_of_its_new_statistics(model):
    assert with_scales(model, {"infrared": FIXED}) == model
    both = with_scales(model, {"visible": Scale("minmax")})
    assert both.sixteen_bits == ("minmax", "7000,9000")
    assert with_scales(model, {"infrared": AUTO}).sixteen_bits == ()


@pytest.mark.parametrize(
    "texts", [("auto",), ("auto", "x"), ("auto", 3), ("auto",) * 3]
)
def test_damaged_scales_are_named(texts):
    with pytest.raises(InputError, match="The network is damaged: its scales"):
        trained_scales(small(sixteen_bits=texts))
