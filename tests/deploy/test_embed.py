"""Folders of images: what is found, read and embedded. Arrays: evaluation tests."""

import cv2
import numpy as np
import pytest

import mbn_jax
from mbn_jax.data.sixteen_bits import Scale
from mbn_jax.deploy.embed import Reading, embed_folder, find_images, read_images
from mbn_jax.errors import InputError

from ..models.test_reid import filled, small
from .folders import MeanColor, exported_model, folder_of_three, paint


@pytest.fixture
def folder(tmp_path):
    return folder_of_three(tmp_path)


def test_images_are_found_below_the_folder_in_the_order_of_their_names(folder):
    assert find_images(folder) == ["a.BMP", "b.png", "more/c.jpg"]


def test_every_format_is_found_in_small_and_capital_letters(tmp_path):
    names = [
        *("a.bmp", "b.jpeg", "c.jpg", "d.png", "e.tif", "f.tiff", "g.webp"),
        *("h.TIFF", "i.WebP"),
    ]
    for name in names:
        paint(tmp_path / name, (0, 0, 255))
    assert find_images(tmp_path) == names
    assert read_images(tmp_path, names, (24, 12)).shape == (9, 24, 12, 3)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no image"):
        find_images(tmp_path)
    for name in ("missing", "x" * 300):
        with pytest.raises(InputError, match="is not a folder"):
            find_images(tmp_path / name)


def test_links_are_followed_and_what_cannot_be_read_is_named(folder):
    paint(folder.parent / "elsewhere/d.png", (0, 0, 255))
    (folder / "linked").symlink_to(folder.parent / "elsewhere")
    (folder / "._b.png").write_bytes(b"of macOS")
    names = find_images(folder)
    assert names == ["a.BMP", "b.png", "linked/d.png", "more/c.jpg"]
    assert read_images(folder, names, (24, 12)).shape == (4, 24, 12, 3)
    (folder / "gone.png").symlink_to("/absent")
    with pytest.raises(InputError, match=r"gone\.png leads nowhere"):
        find_images(folder)


def test_an_image_that_is_lost_or_a_folder_meanwhile_is_named(folder):
    names = find_images(folder)
    (folder / "b.png").unlink()
    with pytest.raises(InputError, match=r"b\.png cannot be read \(No such file"):
        read_images(folder, names, (24, 12))
    (folder / "b.png").mkdir()
    with pytest.raises(InputError, match=r"b\.png cannot be read \(Is a directory"):
        read_images(folder, names, (24, 12))


def test_images_of_sixteen_bits_are_read_by_the_scale_that_is_given(folder, capsys):
    counts = np.full((24, 12), 7000, np.uint16)
    counts[:12] = 7400
    for name in ("0.png", "1.png"):
        cv2.imwrite(str(folder / name), counts)
    wide, fixed = Reading(Scale("fixed", 0, 65535)), Reading(Scale("fixed", 6900, 7500))
    narrow: list[str] = []
    names = find_images(folder)
    images = read_images(folder, names, (24, 12), wide, narrow=narrow)
    assert [images[0].min(), images[0].max()] == [27, 29]
    assert [phrase.split()[2] for phrase in narrow] == [
        str(folder / "0.png"),
        str(folder / "1.png"),
    ]
    images = read_images(folder, names, (24, 12), fixed)
    assert [images[0].min(), images[0].max()] == [42, 212]
    model = exported_model(0, program=MeanColor())
    for reading, expected in ((wide, 1), (fixed, 0)):
        embed_folder(model, {}, folder, "visible", reading)
        told = capsys.readouterr().err
        assert (
            told.count("warning: 2 of 5 images are nearly uniform. The im") == expected
        )
    with pytest.raises(InputError, match=r"0\.png declares 12 × 24 pixels, more than"):
        read_images(folder, names, (24, 12), Reading(max_megapixels=1e-4))


def test_a_folder_is_embedded_by_the_name_of_its_modality(folder):
    model = small(modalities=("visible", "nir", "thermal"))
    variables = filled(model)
    found = embed_folder(model, variables, folder, "thermal")
    images = read_images(folder, found.names, model.image_size)
    expected = mbn_jax.embed(model, variables, images, 2)
    np.testing.assert_array_equal(found.features, expected)
