"""Crops of pairs of pictures, by a stand-in for a detector that OpenCV 5 lacks."""

import types
from importlib import util
from pathlib import Path

import cv2
import numpy as np
import pytest
from absl import flags

SCRIPT = Path(__file__).parents[1] / "experiments" / "crop_pairs.py"
FLAGS = ("visible", "infrared", "output", "threshold")


@pytest.fixture(scope="module")
def script():
    spec = util.spec_from_file_location("crop_pairs", SCRIPT)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    # Required flags would be asked of whatever else parses flags in this process.
    for name in FLAGS:
        delattr(flags.FLAGS, name)


class Detector:
    """Finds the same three boxes in every picture: one is cut off, one is unsure."""

    boxes = ((-4, -8, 20, 40), (10, 10, 8, 16), (30, 30, 20, 40))
    scores = (1.5, 0.5, 1.0)

    def setSVMDetector(self, weights):
        assert weights == "weights"

    def detectMultiScale(self, picture, **settings):
        assert settings["winStride"] == (8, 8)
        return self.boxes, self.scores


@pytest.fixture
def crop(script, sources, tmp_path, monkeypatch):
    """Runs the script with the stand-in; gives its output folder."""
    monkeypatch.setattr(cv2, "HOGDescriptor", Detector, raising=False)
    monkeypatch.setattr(
        cv2, "HOGDescriptor_getDefaultPeopleDetector", lambda: "weights", raising=False
    )

    def run(output=tmp_path / "crops", threshold=1.0):
        values = (*map(str, sources), str(output), threshold)
        for name, value in zip(FLAGS, values, strict=True):
            holder = types.SimpleNamespace(value=value)
            monkeypatch.setattr(script, f"_{name.upper()}", holder)
        script.main([])
        return output

    return run


@pytest.fixture
def sources(tmp_path):
    """Two pairs of pictures, a picture without a partner, and a file that is none."""
    rng = np.random.default_rng(0)
    folders = [tmp_path / "scenes" / kind for kind in ("visible", "infrared")]
    for folder in folders:
        folder.mkdir(parents=True)
        for name in ("b.png", "a.PNG"):
            picture = rng.integers(256, size=(60, 50, 3), dtype=np.uint8)
            assert cv2.imwrite(str(folder / name), picture)
        (folder / "Thumbs.db").write_text("no picture")
    (folders[0] / "alone.png").write_bytes((folders[0] / "b.png").read_bytes())
    return folders


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_both_pictures_are_cut_by_the_boxes_of_the_infrared_one(crop, sources, capsys):
    output = crop()
    expected = f"{output}: 4 pairs of crops from 2 pairs of pictures\n"
    assert capsys.readouterr().out == expected
    for source in sources:
        target = output / source.name
        assert files(target) == ["a_0.png", "a_2.png", "b_0.png", "b_2.png"]
        picture = cv2.imread(str(source / "b.png"))
        for crop_name, expected in (
            ("b_0.png", picture[:32, :16]),
            ("b_2.png", picture[30:, 30:]),
        ):
            found = cv2.imread(str(target / crop_name))
            np.testing.assert_array_equal(found, expected)


def test_a_lower_threshold_gives_more_crops_and_the_same_names(crop):
    assert files(crop(threshold=0.5) / "visible")[:3] == [
        "a_0.png",
        "a_1.png",
        "a_2.png",
    ]


def test_a_crop_has_one_name_in_whatever_order_the_detector_finds(crop, monkeypatch):
    def contents():
        return {path: path.read_bytes() for path in crop().glob("*/*.png")}

    before = contents()
    monkeypatch.setattr(Detector, "boxes", Detector.boxes[::-1])
    monkeypatch.setattr(Detector, "scores", Detector.scores[::-1])
    assert contents() == before


def test_boxes_of_nothing_are_none(script, monkeypatch):
    monkeypatch.setattr(Detector, "boxes", ())
    monkeypatch.setattr(Detector, "scores", ())
    assert script.find_boxes(np.zeros((9, 9, 3), np.uint8), Detector(), 1.0) == {}


def test_crops_are_never_added_to_the_sources(crop, sources):
    before = [files(source) for source in sources]
    with pytest.raises(SystemExit, match=r"error: the crops would .* another --output"):
        crop(sources[0].parent / "visible" / "..")
    assert [files(source) for source in sources] == before


def test_folders_without_a_common_picture_are_refused(script, sources, tmp_path):
    for name in ("a.PNG", "b.png"):
        (sources[1] / name).unlink()
    with pytest.raises(SystemExit, match=r"error: no picture .*visible has the name"):
        script.find_pairs(sources, [tmp_path / "crops"])


@pytest.mark.parametrize("content", [b"no picture", None])
def test_two_that_are_no_pair_are_named(content, crop, sources):
    small = cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    (sources[1] / "b.png").write_bytes(content or small)
    with pytest.raises(SystemExit, match=r"error: b\.png is not a picture of one size"):
        crop()


def test_an_output_that_cannot_be_written_to_is_named(crop, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"error: .*file cannot be written to \(.*dir"):
        crop(tmp_path / "file")
    (tmp_path / "crops" / "infrared" / "a_2.png").mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"crops cannot be written to \(Is a direct"):
        crop()


def test_an_opencv_without_the_detector_is_named(script, monkeypatch):
    monkeypatch.delattr(cv2, "HOGDescriptor", raising=False)
    with pytest.raises(SystemExit, match=r"has no HOG detector.*opencv.*<5"):
        script.make_detector()
