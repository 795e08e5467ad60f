"""What a run keeps of its data: compared with those that are there, and read again."""

import json

import pytest

from mbn_jax.data.catalog import Info
from mbn_jax.errors import InputError
from mbn_jax.training.trained_data import check_data, describe, sixteen_bits_of


@pytest.fixture
def workdir(tmp_path):
    content = {"dataset": "mine", "modalities": ["visible", "nir"], "fingerprint": "a"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path


def data(fingerprint, *modalities, scales=()):
    return Info(
        dataset="mine",
        modalities=modalities,
        counts={},
        fingerprint=fingerprint,
        task="",
        identities={},
        cameras={},
        settings={},
        sixteen_bits={"images": 3, "scales": dict(scales)} if scales else {},
    )


def test_data_that_a_run_was_not_trained_on_are_told(workdir, capsys):
    check_data(workdir, data("a", "visible", "nir"))
    assert not capsys.readouterr().err
    check_data(workdir, data("b", "visible", "nir"))
    assert "was trained on other data of the name mine" in capsys.readouterr().err


def test_data_of_other_modalities_are_refused(workdir):
    for modalities in (("nir", "thermal"), ("visible", "nir", "thermal")):
        with pytest.raises(InputError, match="the modalities visible, nir and not"):
            check_data(workdir, data("b", *modalities))


@pytest.mark.parametrize("modalities", [None, 3, [], ["nir", "nir"], ["nir", None]])
def test_damaged_modalities_are_named(modalities, workdir):
    content = {"modalities": modalities, "fingerprint": "a"}
    (workdir / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"dataset\.json is damaged: its modalities"):
        check_data(workdir, data("b", "visible", "nir"))


def test_the_scales_of_images_of_sixteen_bits_are_kept(workdir):
    assert sixteen_bits_of(workdir) == ()  # of an earlier version
    scales = {"nir": "7000,9000"}
    kept = describe(data("a", "visible", "nir", scales=scales))
    (workdir / "dataset.json").write_text(json.dumps(kept))
    assert sixteen_bits_of(workdir) == ("auto", "7000,9000")
    kept = describe(data("a", "visible", "nir"))
    (workdir / "dataset.json").write_text(json.dumps(kept))
    assert sixteen_bits_of(workdir) == ()
    assert sixteen_bits_of(workdir / "nowhere") == ()


@pytest.mark.parametrize(
    "scales", [None, [], {"thermal": "minmax"}, {"nir": 3}, {"nir": "9,1"}, {"nir": []}]
)
def test_damaged_scales_are_named(scales, workdir):
    content = {"modalities": ["visible", "nir"], "sixteen_bits": scales}
    (workdir / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"dataset\.json is damaged: the scales of"):
        sixteen_bits_of(workdir)
