"""Every image below a folder is listed, or what keeps it from being is named."""

import os

import pytest

from mbn_jax.data import images
from mbn_jax.data.images import images_below
from mbn_jax.errors import InputError


def listed(folder, deepest=None):
    return sorted(
        p.relative_to(folder).as_posix() for p in images_below(folder, deepest)
    )


@pytest.fixture
def folder(tmp_path):
    """Two images, one of them in a folder, and what is not an image."""
    for name in ("images/b.PNG", "images/more/c.jpg", "elsewhere/d.bmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"an image")
    (tmp_path / "images/notes.txt").write_text("not an image")
    return tmp_path / "images"


def test_hidden_files_and_folders_are_left_out(folder):
    (folder / "._b.PNG").write_bytes(b"of macOS")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails/b.png").write_bytes(b"small")
    assert listed(folder) == ["b.PNG", "more/c.jpg"]


def test_links_to_files_and_folders_are_followed(folder):
    (folder / "linked").symlink_to(folder.parent / "elsewhere")
    (folder / "a.tif").symlink_to(folder.parent / "elsewhere/d.bmp")
    assert listed(folder) == ["a.tif", "b.PNG", "linked/d.bmp", "more/c.jpg"]


def test_links_upward_add_nothing(folder):
    (folder / "more/up").symlink_to(folder)
    (folder / "more/itself").symlink_to(folder / "more")
    assert listed(folder) == ["b.PNG", "more/c.jpg"]


@pytest.mark.parametrize("name", ["gone.jpg", "gone"])
def test_link_that_leads_nowhere_is_named(folder, name):
    (folder / "more" / name).symlink_to("/absent")
    with pytest.raises(
        InputError, match=rf"^The link .*/more/{name} leads nowhere \(/ab"
    ):
        images_below(folder)


def test_folder_that_cannot_be_read_is_named(folder, monkeypatch):
    scandir = os.scandir

    def refusing(place):
        # Not by chmod: the tests may run as a user who may read anything.
        if str(place).endswith("more"):
            raise PermissionError(13, "Permission denied")
        return scandir(place)

    monkeypatch.setattr(images.os, "scandir", refusing)
    with pytest.raises(
        InputError, match=r"^The folder .*more cannot be read \(Permissio"
    ):
        images_below(folder)


def test_pipe_that_is_named_like_an_image_is_not_read(folder):
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png is not a regular file"):
        images_below(folder)
    (folder / "pipe.png").unlink()
    os.mkfifo(folder / "pipe")
    assert listed(folder) == ["b.PNG", "more/c.jpg"]


@pytest.mark.parametrize("name", [b"\xff.png", b"\xff/a.png"])
def test_name_that_is_not_utf8_is_refused(folder, name):
    path = folder / os.fsdecode(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"an image")
    with pytest.raises(InputError, match="is not UTF-8, in which names are written"):
        images_below(folder)


def test_depth_is_limited_where_asked_for(folder):
    assert listed(folder, 0) == ["b.PNG"]
    assert listed(folder, 1) == ["b.PNG", "more/c.jpg"]


@pytest.mark.parametrize("name", ["", "x" * 300, "absent", "images/b.PNG"])
def test_what_is_no_folder_is_refused(folder, name):
    with pytest.raises(InputError, match=r"is not a folder: give|of a folder is empty"):
        images_below(folder.parent / name if name else name)
