"""Whether a data set can be used: rows that do not fit, and images that do not open."""

import os

import numpy as np
import pytest

from mbn_jax.data.checks import check_images, check_rows, unchanged
from mbn_jax.data.findings import Findings
from mbn_jax.data.manifest import Manifest, Row
from mbn_jax.deploy.embed import read_images
from mbn_jax.errors import InputError

from .image_files import COLOR, GRAY, NO_IMAGES, file_of


def sentences(findings):
    return [finding.sentence for finding in findings]


def rows_of(text):
    """Rows from words "identity camera modality split", with paths of their own."""
    return [
        Row(f"{i}.png", *line.split()) for i, line in enumerate(text.strip().split("/"))
    ]


SOUND = (
    "1 a visible train/1 b infrared train/2 a visible test/2 b infrared test"
    "/3 a visible val/3 b infrared val"
)


def found_in(text):
    findings = Findings()
    check_rows(Manifest(rows=rows_of(text)), findings)
    return findings


def test_sound_labels_have_nothing_wrong():
    assert not found_in(SOUND).problems
    assert not found_in(SOUND).warnings


WRONG_LABELS = {
    "identity in train and test": ("/1 a visible test", "identity 1 is in train and"),
    "identity in val and test": ("/3 a visible test", "identity 3 is in val and in te"),
    "modality without test": ("/1 c thermal train", "thermal has images in train and"),
    "modality without train": ("/2 c thermal test", "thermal has images in test and"),
    "test and query": ("/4 a visible query", "rows of test and rows of query or galle"),
}


@pytest.mark.parametrize("case", WRONG_LABELS)
def test_wrong_labels_are_a_problem(case):
    more, words = WRONG_LABELS[case]
    (sentence,) = sentences(found_in(SOUND + more).problems)
    assert words in sentence


def test_one_modality_is_too_few():
    found = found_in("1 a visible train/2 a visible test")
    assert "All images are of the modality visible" in sentences(found.problems)[0]


def test_missing_splits_are_problems():
    assert (
        "no row of the split train"
        in sentences(found_in("2 a visible test/2 b infrared test").problems)[0]
    )
    for test, words in (
        ("", "no row of the split test"),
        ("/2 a visible query/2 b infrared query", "rows of query and none of gallery"),
    ):
        found = found_in("1 a visible train/1 b infrared train" + test)
        assert any(words in sentence for sentence in sentences(found.problems))


def test_searches_without_a_match_are_named():
    """Cameras c and d see thermal and nir, of different test identities."""
    train = "/".join(f"1 {m} {m} train" for m in ("visible", "nir", "thermal"))
    test = "/2 a visible test/2 c nir test/3 a visible test/3 d thermal test"
    found = found_in(train + test)
    assert not found.problems
    (sentence,) = [s for s in sentences(found.warnings) if "no query" in s]
    assert "in the searches nir → thermal, thermal → nir; they are left" in sentence
    found = found_in(SOUND.replace("2 b infrared test", "4 b infrared test"))
    assert "No query of test has a match" in sentences(found.problems)[0]
    # Images of one camera are not searched for among each other.
    found = found_in(SOUND.replace("2 b infrared test", "2 a infrared test"))
    assert "No query of test has a match" in sentences(found.problems)[0]


def test_search_of_one_direction_is_enough():
    found = found_in(
        "1 a visible train/1 b infrared train/2 b infrared query/2 a visible gallery"
    )
    assert not found.problems
    assert "visible → infrared; they are left out" in sentences(found.warnings)[0]


def test_names_of_modalities_that_give_one_protocol_name_are_a_problem():
    names = ("a", "a_to_b", "b", "b_to_b")
    text = "/".join(
        f"{i} {m} {m} {s}" for i, s in ((1, "train"), (2, "test")) for m in names
    )
    assert "give two protocols the same name" in sentences(found_in(text).problems)[0]


def test_identities_that_lack_one_of_three_modalities_are_counted():
    train = "/".join(f"1 {m} {m} train" for m in ("visible", "nir", "thermal"))
    test = "/".join(f"2 {m} {m} test" for m in ("visible", "nir", "thermal"))
    found = found_in(f"{train}/{test}/3 visible visible train/3 nir nir train")
    (sentence,) = sentences(found.warnings)
    assert "1 of 2 identities in train have images of several modalities" in sentence


def test_query_and_gallery_stand_in_place_of_test():
    found = found_in(
        "1 a visible train/1 b infrared train/2 a visible query/2 b infrared gallery"
    )
    assert not found.problems


def test_identities_of_one_modality_are_counted_in_a_warning():
    found = found_in(SOUND + "/4 a visible train/5 b infrared train/6 a visible test")
    train, test = sentences(found.warnings)
    assert "2 of 3 identities in train have images of one modality only (4, 5)" in train
    assert "balanced batches leave them out" in train
    assert "1 of 2 identities in test" in test
    assert not found.problems


def test_camera_of_two_modalities_is_a_warning():
    (sentence,) = sentences(found_in(SOUND + "/1 a infrared train").warnings)
    assert "The camera a has images of infrared and visible" in sentence


def test_names_without_color_are_a_warning():
    text = SOUND.replace("visible", "day")
    (sentence,) = sentences(found_in(text).warnings)
    assert "None of the modalities day, infrared is called" in sentence


def check(root, names, **options):
    findings = Findings()
    checked = check_images(root, names, findings, title="mine", **options)
    return checked, findings


def test_every_bad_image_is_named_with_its_place_and_what_to_do(tmp_path):
    (tmp_path / "good.png").write_bytes(file_of(COLOR))
    for i, content in enumerate(NO_IMAGES.values()):
        (tmp_path / f"{i}.png").write_bytes(content)
    names = ["good.png", *(f"{i}.png" for i in range(len(NO_IMAGES))), "absent.png"]
    checked, findings = check(
        tmp_path, names, place=lambda name: f"line {name[0]}: ", remedy="replace it"
    )
    sentences = [finding.sentence for finding in findings.problems]
    assert sentences[0] == f"line 0: The image {tmp_path}/0.png is empty; replace it."
    assert "line 1: The image" in sentences[1]
    assert "(14 bytes) cannot be decoded; replace it." in sentences[1]
    assert "absent.png cannot be read (No such file" in sentences[-1]
    assert len(sentences) == len(NO_IMAGES) + 1
    assert list(checked.digests) == ["good.png"]


def test_a_file_of_more_bytes_than_an_image_can_have_is_not_read(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(file_of(COLOR))
    os.truncate(path, 2**36)  # sparse: there are no such bytes to be read
    _, findings = check(tmp_path, ["a.png"])
    (problem,) = findings.problems
    assert "bytes, too many for 64 million pixels" in problem.sentence
    with pytest.raises(InputError, match=r"a\.png cannot be read \(68,719,476,736"):
        read_images(tmp_path, ["a.png"], (24, 12))


def test_truncated_jpeg_is_found_though_opencv_would_fill_it(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    encoded = file_of(noise, ".jpg")
    (tmp_path / "a.jpg").write_bytes(encoded[: len(encoded) // 2])
    _, findings = check(tmp_path, ["a.jpg"])
    assert "ends too early, after" in findings.problems[0].sentence


def test_images_of_sixteen_bits_are_counted(tmp_path):
    for name, pixels in (("a", GRAY), ("b", GRAY.astype(np.uint16))):
        (tmp_path / f"{name}.png").write_bytes(file_of(pixels))
    checked, _ = check(tmp_path, ["a.png", "b.png"])
    assert checked.num_sixteen_bits == 1
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert checked.num_bytes == sum(sizes)


def test_file_that_changes_after_the_check_is_noticed(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(file_of(COLOR))
    checked, _ = check(tmp_path, ["a.png"])
    assert unchanged(path, checked.digests["a.png"]) == path
    path.write_bytes(file_of(GRAY))
    with pytest.raises(InputError, match=f"^The image {path} has changed since"):
        unchanged(path, checked.digests["a.png"])
    path.unlink()
    with pytest.raises(InputError, match=f"^The image {path} was checked, but now"):
        unchanged(path, checked.digests["a.png"])
