"""The embedded data set: what it promises, on sizes that render in seconds."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from mbn_jax.data.synthetic_vireid import (
    synthetic_vireid_dataset_builder as builder_module,
)
from mbn_jax.data.synthetic_vireid.camera import NIR_CAMERAS, THERMAL_CAMERAS
from mbn_jax.data.synthetic_vireid.config import DEFAULT_CONFIGS, config_from_name
from mbn_jax.data.synthetic_vireid.contact_sheet import contact_sheet
from mbn_jax.data.synthetic_vireid.difficulty import DEFAULT
from mbn_jax.data.synthetic_vireid.geometry import View
from mbn_jax.data.synthetic_vireid.parts import Label
from mbn_jax.data.synthetic_vireid.pose import draw_pose
from mbn_jax.data.synthetic_vireid.render import (
    CANVAS,
    draw_moment,
    image_rng,
    paint,
    person,
    render,
)
from mbn_jax.data.synthetic_vireid.sensor import appearance
from mbn_jax.errors import InputError

Builder = builder_module.Builder
THERMAL = THERMAL_CAMERAS[1]


def prepared(name: str, data_dir: Path) -> dict:
    builder = Builder(config=config_from_name(name), data_dir=data_dir)
    builder.download_and_prepare(file_format="array_record")
    source = builder.as_data_source(decoders={"image": tfds.decode.SkipDecoding()})
    return {split: list(records) for split, records in source.items()}


@pytest.fixture(scope="module")
def nir(tmp_path_factory) -> dict:
    return prepared("nir-3-1-2-x2", tmp_path_factory.mktemp("data"))


def test_an_image_is_a_function_of_seed_identity_camera_and_number():
    arguments = [
        (seed, identity, camera, image)
        for seed in (0, 1)
        for identity in (1, 2)
        for camera in (NIR_CAMERAS[0], NIR_CAMERAS[2], THERMAL)
        for image in (1, 2)
    ]
    first = [render(*a) for a in arguments]
    again = [render(*a) for a in reversed(arguments)][::-1]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({image.tobytes() for image in first}) == len(arguments)


@pytest.mark.parametrize("camera", [*NIR_CAMERAS, *THERMAL_CAMERAS])
def test_images_are_rgb_and_infrared_ones_are_grey(camera):
    image = render(0, 1, camera, 1)
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert 0.6 < image.shape[0] / camera.height < 1.4
    grey = (image[..., :1] == image).all()
    assert grey == (camera.modality == 1)
    assert image.std() > 10


def test_the_same_command_twice_writes_the_same_bytes(tmp_path):
    name = "thermal-2-1-1-x2"
    files = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        prepared(name, folder)
        found = sorted(folder.rglob("*.array_record*"))
        files.append([(path.relative_to(folder), path.read_bytes()) for path in found])
    assert len(files[0]) == 3
    assert files[0] == files[1]


def test_splits_share_no_identity(nir):
    identities = {s: {int(r["identity"]) for r in rs} for s, rs in nir.items()}
    assert identities == {"train": {1, 2, 3}, "val": {4}, "test": {5, 6}}


def test_every_identity_is_seen_equally_often_by_every_camera(nir):
    for records in nir.values():
        seen = [(int(r["identity"]), int(r["camera"])) for r in records]
        assert {c for _, c in seen} == {1, 2, 3, 4, 5, 6}
        assert {seen.count(pair) for pair in seen} == {2}
        infrared = {int(r["camera"]) for r in records if r["modality"] == 1}
        assert infrared == {3, 6}


def test_records_come_back_as_they_were_rendered(nir):
    for record in nir["test"][:4]:
        name = record["name"].decode()
        camera, identity, image = name.removesuffix(".jpg").split("/")
        assert camera == f"cam{record['camera']}"
        assert int(identity) == record["identity"]
        assert isinstance(record["image"], bytes)
        encoded = np.frombuffer(record["image"], np.uint8)
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]
        number = int(camera[3:])
        original = render(0, int(identity), NIR_CAMERAS[number - 1], int(image))
        assert decoded.shape == original.shape
        difference = decoded.astype(float) - original
        assert np.sqrt(np.mean(difference**2)) < 12  # what JPEG takes of the noise


def test_near_infrared_and_insulation_do_not_follow_from_the_colour():
    seen = []
    for identity in range(1, 601):
        who = person(0, identity)
        ground = (who.upper.fabric.ground, who.lower.fabric.ground)
        for material in (*ground, who.shoes.material):
            luminance = float(np.mean(np.sqrt(material.colour)))
            seen.append([luminance, material.near_infrared, material.insulation])
    correlation = np.corrcoef(np.array(seen).T)
    assert np.abs(correlation - np.eye(3)).max() < 0.1


def test_a_print_shows_in_the_infrared_by_its_own_reflectance_only():
    fabrics = [person(0, i).upper.fabric for i in range(1, 601)]
    contrast = np.array(
        [
            [
                abs(np.mean(f.ground.colour) - np.mean(f.print.colour)),
                abs(f.ground.near_infrared - f.print.near_infrared),
            ]
            for f in fabrics
        ]
    )
    assert abs(np.corrcoef(contrast.T)[0, 1]) < 0.1
    assert all(f.ground.insulation == f.print.insulation for f in fabrics)


def test_skin_is_hotter_than_clothes_in_thermal_images():
    calm = dataclasses.replace(DEFAULT, occlusion=0.0, noise=0.0, blur=0.0)
    warmer = []
    for identity in range(1, 13):
        pixels = render(0, identity, THERMAL, 1, calm)[..., 0].astype(float)
        who, rng = person(0, identity), image_rng(0, identity, THERMAL, 1)
        labels, _ = paint(who, *draw_moment(rng, who, THERMAL, calm))
        labels = cv2.resize(labels, pixels.shape[::-1], interpolation=cv2.INTER_NEAREST)
        skin = np.median(pixels[labels == Label.SKIN])
        clothes = np.median(pixels[(labels == Label.UPPER) | (labels == Label.LOWER)])
        warmer.append(skin > clothes + 10)
    assert all(warmer)


def test_the_figure_fills_the_box_and_stands_in_it():
    rng = np.random.default_rng(0)
    for identity in range(1, 31):
        who = person(0, identity)
        pose = draw_pose(rng, DEFAULT)
        scale = CANVAS[0] / (1.13 * who.body.height)
        view = View(pose.yaw, 0.1, scale, (64.0, 0.95 * CANVAS[0]))
        labels, relief = paint(who, pose, view)
        rows = np.flatnonzero((labels > 0).any(axis=1))
        assert 0.8 < (rows[-1] - rows[0]) / CANVAS[0] < 1.0
        assert ((relief > 0) == (labels > 0)).all()
        assert 0.1 < (labels > 0).mean() < 0.75


def test_a_print_that_shares_its_grounds_reflectance_vanishes_in_the_infrared():
    who = person(0, 1)
    ground = who.upper.fabric.ground
    same = dataclasses.replace(
        who.upper.fabric.print, near_infrared=ground.near_infrared
    )
    materials = {Label.UPPER: ground, Label.UPPER_PRINT: same}
    infrared = appearance(materials, NIR_CAMERAS[2])
    visible = appearance(materials, NIR_CAMERAS[0])
    assert infrared[Label.UPPER] == infrared[Label.UPPER_PRINT]
    assert (visible[Label.UPPER] != visible[Label.UPPER_PRINT]).any()


def test_an_interrupted_preparation_leaves_nothing_to_load(tmp_path, monkeypatch):
    calls = []

    def fails_late(*arguments):
        calls.append(arguments)
        if len(calls) > 6:
            raise KeyboardInterrupt
        return render(*arguments)

    config = config_from_name("thermal-2-1-1-x2")
    with monkeypatch.context() as patch:
        patch.setattr(builder_module, "render", fails_late)
        with pytest.raises(KeyboardInterrupt):
            Builder(config=config, data_dir=tmp_path).download_and_prepare(
                file_format="array_record"
            )
    builder = Builder(config=config, data_dir=tmp_path)
    assert not builder.is_prepared()
    assert not list(tmp_path.rglob("*.array_record*"))
    builder.download_and_prepare(file_format="array_record")
    assert builder.info.splits.total_num_examples == 16


def test_a_sized_name_says_what_it_holds():
    config = config_from_name("nir-395-99-96-x13-s3")
    assert (config.kind, config.images, config.seed) == ("nir", 13, 3)
    assert config.identities("train") == range(1, 396)
    assert config.identities("val") == range(396, 495)
    assert config.identities("test") == range(495, 591)
    assert config.num_images == 590 * 6 * 13
    assert config_from_name("thermal") is DEFAULT_CONFIGS[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sysu", "use nir, thermal, or a size"),
        ("nir-3-1", "use nir, thermal, or a size"),
        ("nir-03-1-1-x2", "write 'nir-3-1-1-x2'"),
        ("nir-3-1-1-x2-s0", "write 'nir-3-1-1-x2'"),
        ("nir-3-0-1-x2", "at least 1"),
        ("nir-9999-1-1-x2", "at most 9999"),
    ],
)
def test_a_wrong_name_is_explained(name, message):
    with pytest.raises(InputError, match=message):
        config_from_name(name)


def test_a_contact_sheet_has_a_row_per_identity():
    sheet = contact_sheet(THERMAL_CAMERAS, [1, 2], images=1)
    assert sheet.dtype == np.uint8
    assert sheet.shape[0] > 2 * 144


def test_preparing_and_reading_do_not_import_tensorflow(tmp_path):
    code = f"""
import sys
import tensorflow_datasets as tfds
from mbn_jax.data.synthetic_vireid.config import config_from_name
from mbn_jax.data.synthetic_vireid.synthetic_vireid_dataset_builder import Builder
config = config_from_name("thermal-1-1-1-x1")
builder = Builder(config=config, data_dir={str(tmp_path)!r})
builder.download_and_prepare(file_format="array_record")
source = builder.as_data_source(decoders={{"image": tfds.decode.SkipDecoding()}})
assert source["train"][0]["image"][:2] == b"\\xff\\xd8"
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    progress = [line for line in done.stderr.splitlines() if line.startswith("Render")]
    assert progress == [
        "Rendering 6 images of synthetic_vireid/thermal-1-1-1-x1",
        "Rendered 6 images of synthetic_vireid/thermal-1-1-1-x1",
    ]
