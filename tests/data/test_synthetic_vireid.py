"""The renderer of the synthetic data: what it promises of each image and size."""

import dataclasses
import subprocess
import sys

import cv2
import numpy as np
import pytest

from mbn_jax.data.synthetic_vireid import render as render_module
from mbn_jax.data.synthetic_vireid.config import (
    DEFAULT,
    DEFAULT_CONFIGS,
    NIR_CAMERAS,
    THERMAL_CAMERAS,
    THREE_CAMERAS,
    config_from_name,
)
from mbn_jax.data.synthetic_vireid.parts import Label, View
from mbn_jax.data.synthetic_vireid.person import draw_pose
from mbn_jax.data.synthetic_vireid.render import (
    CANVAS,
    contact_sheet,
    draw_moment,
    image_rng,
    paint,
    person,
    render,
)
from mbn_jax.data.synthetic_vireid.scene import appearance
from mbn_jax.errors import InputError
from mbn_jax.modalities import ordered

THERMAL = THERMAL_CAMERAS[1]


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


@pytest.mark.parametrize("camera", [*NIR_CAMERAS, *THERMAL_CAMERAS, *THREE_CAMERAS])
def test_images_are_rgb_and_infrared_ones_are_gray(camera):
    image = render(0, 1, camera, 1)
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert 0.6 < image.shape[0] / camera.height < 1.4
    gray = (image[..., :1] == image).all()
    assert gray == (camera.sensor != "visible")
    assert image.std() > 10


# Height, width, and the mean level of the upper, middle and lower third of image 2 of
# identity 40 in each camera. Means, because a release of OpenCV or NumPy may round a
# pixel differently; another order of the random draws moves them by many levels.
LEVELS = {
    "nir": [
        (128, 65, 124.6, 133.1, 110.7),
        (132, 68, 94.8, 114.7, 107.2),
        (135, 64, 112.3, 131.4, 88.4),
        (104, 55, 124.0, 156.8, 161.4),
        (97, 49, 100.0, 106.2, 140.5),
        (101, 53, 100.3, 137.7, 70.9),
    ],
    "thermal": [
        (114, 58, 142.1, 153.1, 131.7),
        (132, 68, 74.9, 105.2, 78.9),
    ],
    "three": [
        (114, 58, 104.0, 121.5, 124.2),
        (141, 73, 103.1, 104.3, 83.0),
        (135, 64, 105.5, 121.2, 70.3),
        (111, 58, 84.5, 112.3, 96.9),
    ],
}


@pytest.mark.parametrize("kind", LEVELS)
def test_the_images_of_a_data_version_never_change(kind):
    cameras = config_from_name(kind).cameras
    for camera, expected in zip(cameras, LEVELS[kind], strict=True):
        image = render(0, 40, camera, 2)
        thirds = [third.mean() for third in np.array_split(image, 3)]
        np.testing.assert_allclose([*image.shape[:2], *thirds], expected, atol=0.15)


def test_near_infrared_and_insulation_do_not_follow_from_the_color():
    seen = []
    for identity in range(1, 601):
        who = person(0, identity)
        ground = (who.upper.fabric.ground, who.lower.fabric.ground)
        for material in (*ground, who.shoes.material):
            luminance = float(np.mean(np.sqrt(material.color)))
            seen.append([luminance, material.near_infrared, material.insulation])
    correlation = np.corrcoef(np.array(seen).T)
    assert np.abs(correlation - np.eye(3)).max() < 0.1


def test_a_print_shows_in_the_infrared_by_its_own_reflectance_only():
    fabrics = [person(0, i).upper.fabric for i in range(1, 601)]
    contrast = np.array(
        [
            [
                abs(np.mean(f.ground.color) - np.mean(f.print.color)),
                abs(f.ground.near_infrared - f.print.near_infrared),
            ]
            for f in fabrics
        ]
    )
    assert abs(np.corrcoef(contrast.T)[0, 1]) < 0.1
    assert all(f.ground.insulation == f.print.insulation for f in fabrics)


@pytest.mark.parametrize("camera", THREE_CAMERAS)
def test_each_sensor_shows_its_own_property_of_the_same_garment(camera):
    calm = dataclasses.replace(
        DEFAULT, occlusion=0.0, exposure=0.0, color_cast=0.0, light=0.0
    )
    levels, properties = [], []
    for identity in range(1, 41):
        who, rng = person(0, identity), image_rng(0, identity, camera, 1)
        labels, _ = paint(who, *draw_moment(rng, who, camera, calm))
        pixels = render(0, identity, camera, 1, calm).mean(axis=2)
        labels = cv2.resize(labels, pixels.shape[::-1], interpolation=cv2.INTER_NEAREST)
        levels.append(np.median(pixels[labels == Label.UPPER]))
        cloth = who.upper.fabric.ground
        properties.append(
            {
                "visible": np.mean(np.sqrt(cloth.color)),
                "near_infrared": np.sqrt(cloth.near_infrared),
                "thermal": -cloth.insulation,
            }[camera.sensor]
        )
    assert np.corrcoef(levels, properties)[0, 1] > 0.9


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


def num_images(config):
    identities = config.train + config.val + config.test
    return identities * len(config.cameras) * config.images


def test_a_sized_name_says_what_it_holds():
    config = config_from_name("nir-395-99-96-x13-s3")
    assert (config.kind, config.images, config.seed) == ("nir", 13, 3)
    assert config.identities("train") == range(1, 396)
    assert config.identities("val") == range(396, 495)
    assert config.identities("test") == range(495, 591)
    assert num_images(config) == 590 * 6 * 13
    assert config_from_name("thermal") is DEFAULT_CONFIGS[1]
    assert num_images(config_from_name("three-30-4-8-x2")) == 42 * 4 * 2


@pytest.mark.parametrize(
    ("kind", "modalities", "of_cameras"),
    [
        ("nir", ("visible", "infrared"), (0, 0, 1, 0, 0, 1)),
        ("thermal", ("visible", "infrared"), (0, 1)),
        ("three", ("visible", "nir", "thermal"), (0, 0, 1, 2)),
    ],
)
def test_a_configuration_names_the_modality_of_each_camera(
    kind, modalities, of_cameras
):
    for config in (config_from_name(kind), config_from_name(f"{kind}-3-1-2-x2")):
        names = [config.modality_of(camera) for camera in config.cameras]
        assert ordered(names) == modalities
        assert names == [modalities[index] for index in of_cameras]
        numbers = [camera.number for camera in config.cameras]
        assert numbers == list(range(1, len(of_cameras) + 1))


def test_the_visible_cameras_of_three_stand_in_different_places():
    places = [camera.place for camera in THREE_CAMERAS if camera.sensor == "visible"]
    assert len(places) == len(set(places)) == 2


def test_rendering_does_not_need_tfds():
    code = """
import sys
from mbn_jax.data.synthetic_vireid.config import config_from_name
from mbn_jax.data.synthetic_vireid.render import render
render(0, 1, config_from_name("three").cameras[2], 1)
print("tensorflow_datasets" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sysu", "use nir, thermal, three, or a size"),
        ("nir-3-1", "use nir, thermal, three, or a size"),
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


@pytest.mark.parametrize("kind", ["nir", "thermal", "three"])
def test_a_contact_sheet_of_each_kind_shows_every_camera(kind, tmp_path, monkeypatch):
    file = tmp_path / "sheets" / "sheet.png"
    flags = ["--kind", kind, "--identities", "1", "--images", "1"]
    monkeypatch.setattr(sys, "argv", ["render", *flags, "--output", str(file)])
    render_module.main()
    written = cv2.imread(str(file))[..., ::-1]
    expected = contact_sheet(config_from_name(kind).cameras, [1], images=1)
    np.testing.assert_array_equal(written, expected)
