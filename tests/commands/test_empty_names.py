"""A name that is empty is not the current directory, for any command."""

import cv2
import numpy as np
import pytest

import mbn_jax
from mbn_jax.analysis.compare import write_comparison
from mbn_jax.deploy.embed import find_images
from mbn_jax.errors import InputError
from mbn_jax.files import check_writable
from mbn_jax.training.config import read_config

from .in_process import run

EMPTY = "The name of a folder is empty"
PICTURES = ("--images=pictures", "--modality=visible")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "--workdir="], EMPTY),
        (["ablate", "--workdir="], EMPTY),
        (["controls", "--workdir="], EMPTY),
        (["gap", ""], EMPTY),
        (["gap", "--output=", "run"], EMPTY),
        (["compare", "", "run"], EMPTY),
        (["compare", "run", "--output="], "is a folder"),
        (["evaluate", "--workdir="], EMPTY),
        (["evaluate", "--features=", "--protocol=regdb"], "not a regular file"),
        (["export", "--workdir=", "--modality=visible"], EMPTY),
        (["export", "--workdir=run", "--format=weights", "--output="], EMPTY),
        (["embed", "--model=", *PICTURES], EMPTY),
        (["embed", "--model=run", "--images=", "--modality=visible"], EMPTY),
        (["embed", "--model=run", *PICTURES, "--gallery="], EMPTY),
        (["embed", "--model=run", *PICTURES, "--gallery_model="], "needs --gallery"),
        (["embed", "--model=run", *PICTURES, "--output="], "does not name a file"),
        (["adapt", "--workdir=", "--visible=pictures", "--output=new"], EMPTY),
        (
            ["adapt", "--workdir=run", "--visible=", "--output=new"],
            "no folder; expected",
        ),
        (["adapt", "--workdir=run", "--visible=pictures", "--output="], EMPTY),
        (["prepare", "--dataset=regdb", "--manual_dir="], EMPTY),
        (["prepare", "--dataset=mine", "--manifest="], "cannot be read"),
        (["prepare", "--dataset=mine", "--manifest=x.csv", "--images="], EMPTY),
        (["prepare", "--dataset=regdb", "--data_dir="], "empty text"),
        (["manifest", "--folder=visible=", "--folder=nir=x"], "names no modality"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_refuses_an_empty_name(command, message, tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    image = np.zeros((4, 4, 3), np.uint8)
    assert cv2.imwrite(str(tmp_path / "pictures" / "1.png"), image)
    monkeypatch.chdir(tmp_path)
    done = run(*command)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.parametrize(
    "use",
    [
        mbn_jax.load,
        mbn_jax.load_pretrained,
        read_config,
        find_images,
        check_writable,
        lambda name: write_comparison([name, "run"], "page.html"),
    ],
)
def test_a_program_gets_nothing_from_an_empty_name(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=EMPTY):
        use("")
    assert not any(tmp_path.iterdir())
