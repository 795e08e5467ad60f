"""The data of a run: what is taken out for validation, and what is kept about it."""

import dataclasses
import json

import numpy as np
import pytest

from mbn_jax.data.catalog import Info
from mbn_jax.data.dataset import Split
from mbn_jax.errors import InputError
from mbn_jax.evaluation.records import GALLERY_ONLY, QUERY_ONLY
from mbn_jax.training.run_data import (
    carve_validation,
    check_data,
    describe,
    scored_protocols,
    sixteen_bits_of,
)


@pytest.fixture
def split():
    """Identities 10 to 19 in cameras 1 and 2; those from 16 on in camera 1 only."""
    views = [(i, c) for i in range(10, 20) for c in (1, 2) if c == 1 or i < 16]
    identity, camera = np.repeat(views, 3, axis=0).astype(np.int32).T
    names = [
        f"{i}/{c}/{k}" for k, (i, c) in enumerate(zip(identity, camera, strict=True))
    ]
    return Split(
        dataset="some",
        split="train",
        source=[{"image": name.encode()} for name in names],
        identity=identity,
        camera=camera,
        modality=camera - 1,
        name=np.array(names),
    )


def test_no_identity_and_no_record_is_in_both_or_in_neither(split):
    train, validation = carve_validation(split, 3, seed=0)
    assert np.unique(validation.identity).size == 3
    assert not np.intersect1d(train.identity, validation.identity).size
    names = np.concatenate([train.name, validation.name])
    assert sorted(names) == sorted(split.name)
    assert (train.split, validation.split) == ("train", "val")


def test_all_of_validation_was_seen_by_all_cameras(split):
    for seed in range(20):
        _, validation = carve_validation(split, 4, seed)
        assert validation.identity.max() < 16


def test_images_stay_with_their_labels(split):
    for part in carve_validation(split, 3, seed=0):
        for index, name in enumerate(part.name):
            assert part.encoded_image(index).decode() == name
            assert name.startswith(f"{part.identity[index]}/{part.camera[index]}/")


def test_the_draw_is_a_function_of_the_seed(split):
    def drawn(seed):
        return np.unique(carve_validation(split, 3, seed)[1].identity).tolist()

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(10)}) > 1


def test_more_than_there_are_is_refused(split):
    with pytest.raises(InputError, match=r"is 7, .* 6 of the 10 .* by all .* 6 or"):
        carve_validation(split, 7, seed=0)


def test_protocols_without_a_match_are_left_out(split):
    """Queries are infrared only, and galleries visible only."""
    role = np.where(split.modality == 1, QUERY_ONLY, GALLERY_ONLY)
    scored, left_out = scored_protocols(dataclasses.replace(split, role=role))
    assert [protocol.name for protocol in scored] == ["infrared_to_visible"]
    assert left_out == ["visible → infrared"]


def test_split_in_which_nothing_can_be_found_is_refused(split):
    seen_once = split.select(np.flatnonzero(split.identity >= 16))
    with pytest.raises(InputError, match="No image of some/train has a match: no iden"):
        scored_protocols(seen_once)
    one_camera = dataclasses.replace(split, camera=np.zeros_like(split.camera))
    with pytest.raises(InputError, match="has a match"):
        scored_protocols(one_camera)


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
