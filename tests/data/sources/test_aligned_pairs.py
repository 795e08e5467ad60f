"""Scene patches: cells of aligned photographs, cut twice or more in each modality."""

import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from mbn_jax.data import sources
from mbn_jax.data.sources import aligned_pairs
from mbn_jax.errors import InputError

HEIGHT, WIDTH = 120, 180  # cells of 60 × 60
NAME = "aligned_pairs/small-x2"


def photograph(seed):
    """Smooth blobs: every place looks different, and a shift of a pixel shows."""
    noise = np.random.default_rng(seed).uniform(0, 255, (30, 45, 3))
    return cv2.resize(noise.astype(np.uint8), (WIDTH, HEIGHT))


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def write_pairs(root, names, infrared_suffix=".png"):
    for name in names:
        image = photograph(sum(name.encode()))
        write(root / "visible" / f"{name}.png", image)
        write(root / "infrared" / f"{name}{infrared_suffix}", 255 - image[..., 1])
    return {"visible": [root / "visible"], "infrared": [root / "infrared"]}


@pytest.fixture
def folders(tmp_path):
    return write_pairs(tmp_path, [f"p{number}" for number in range(6)])


def manifest_of(folders, name=NAME):
    scan = aligned_pairs.scan(folders, [name])
    assert not scan.findings.problems
    return scan.manifests[name]


def made(manifest):
    return {row.path: manifest.make(row) for row in manifest.rows}


def decoded(encoded):
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)


def place_of(crop, image):
    """The (left, top) at which a crop fits best in a photograph."""
    error = cv2.matchTemplate(image, crop, cv2.TM_SQDIFF)
    return cv2.minMaxLoc(error)[2]


def sentences(findings):
    return "\n".join(finding.sentence for finding in findings)


def test_rows_are_the_cells_of_every_pair_by_modality_and_crop(folders):
    manifest = manifest_of(folders)
    assert len(manifest.rows) == 6 * 6 * 2 * 2
    of_cell = [row for row in manifest.rows if row.identity == "p3/2-1"]
    assert [(row.path, row.camera, row.modality) for row in of_cell] == [
        ("p3/2-1/visible_1.jpg", "visible", "visible"),
        ("p3/2-1/visible_2.jpg", "visible", "visible"),
        ("p3/2-1/infrared_1.jpg", "infrared", "infrared"),
        ("p3/2-1/infrared_2.jpg", "infrared", "infrared"),
    ]
    assert manifest.settings == {
        "grid": [2, 3],
        "crops": 2,
        "seed": 0,
        "scale": [0.75, 1.0],
        "shift": 0.12,
        "min_std": 6.0,
        "photographs": 6,
    }


def test_a_third_of_the_photographs_is_test_with_all_their_cells(folders):
    split_of = {}
    for row in manifest_of(folders).rows:
        split_of.setdefault(row.identity.split("/")[0], set()).add(row.split)
    assert sorted(map(list, split_of.values())) == 2 * [["test"]] + 4 * [["train"]]


def test_the_seed_chooses_the_test_photographs(folders):
    def test_photographs(seed):
        rows = manifest_of(folders, f"{NAME}-s{seed}").of("test")
        return frozenset(row.identity.split("/")[0] for row in rows)

    assert test_photographs(0) == test_photographs(0)
    assert len({test_photographs(seed) for seed in range(4)}) > 1


def test_photographs_of_the_test_folders_are_the_test(folders, tmp_path):
    # The same names as in train: they are other photographs.
    test = write_pairs(tmp_path / "more", ["p0", "p1"])
    folders |= {f"test_{modality}": paths for modality, paths in test.items()}
    manifest = manifest_of(folders)
    names = {s: {r.identity[:-4] for r in manifest.of(s)} for s in manifest.splits}
    assert names == {
        "train": {f"p{number}" for number in range(6)},
        "test": {"test/p0", "test/p1"},
    }


def test_several_pairs_of_folders_are_one_data_set(folders, tmp_path):
    more = write_pairs(tmp_path / "more", ["p0", "q"], infrared_suffix=".jpg")
    both = {modality: folders[modality] + more[modality] for modality in folders}
    found = {row.identity[:-4] for row in manifest_of(both).rows}
    assert found == {f"1/p{number}" for number in range(6)} | {"2/p0", "2/q"}


def test_cells_without_contrast_in_either_modality_are_dropped(folders, tmp_path):
    for modality, columns in (("visible", slice(0, 60)), ("infrared", slice(120, 180))):
        path = tmp_path / modality / "p2.png"
        image = cv2.imread(str(path))
        image[:60, columns] = 90
        write(path, image)
    scan = aligned_pairs.scan(folders, [NAME])
    identities = {row.identity for row in scan.manifests[NAME].rows}
    assert len(identities) == 36 - 2
    assert not identities & {"p2/1-1", "p2/1-3"}
    assert "2 of 36 cells are left out" in sentences(scan.findings.warnings)


def test_contrast_is_compared_with_six_of_255(folders, tmp_path):
    for name, amplitude in (("p0", 5.9), ("p1", 6.1)):
        # Half of the pixels above and half below: the amplitude is the deviation.
        board = 100 + amplitude * (1 - 2 * (np.indices((HEIGHT, WIDTH)).sum(0) % 2))
        rounding = np.random.default_rng(0).uniform(0, 1, board.shape)
        write(tmp_path / "infrared" / f"{name}.png", np.floor(board + rounding))
    kept = {row.identity[:2] for row in manifest_of(folders).rows}
    assert "p1" in kept
    assert "p0" not in kept


def test_crops_are_of_their_cell_and_no_two_are_aligned(folders, tmp_path):
    manifest = manifest_of(folders, "aligned_pairs/small")
    places = {}
    for row in manifest.rows:
        photo, cell, _ = row.path.split("/")
        if photo not in ("p0", "p4"):
            continue
        # Gray values, since JPEG keeps colors at half of the resolution.
        crop = decoded(manifest.make(row))
        height, width = crop.shape
        assert 45 <= height <= 60
        assert height == width  # the cells are square, and one scale is for both sides
        image = cv2.imread(str(tmp_path / row.modality / f"{photo}.png"), 0)
        left, top = place_of(crop, image)
        found = image[top : top + height, left : left + width]
        assert np.abs(found.astype(int) - crop).mean() < 3  # it is a part, as it was
        across = left + width / 2 - (60 * int(cell[2]) - 30)
        down = top + height / 2 - (60 * int(cell[0]) - 30)
        assert max(abs(across), abs(down)) <= 0.12 * 60 + 1
        places.setdefault(row.identity, []).append((left, top, height))
    for found in places.values():
        assert len(found) == 8
        assert len(set(found)) >= 7
    centers = np.array(list(places.values()), float)[..., :2].std(1)
    assert (centers > 1).all()


def test_images_depend_on_the_seed_alone(folders):
    manifest = manifest_of(folders)
    first = made(manifest)
    again = made(manifest_of(folders))
    assert first == again
    shuffled = random.Random(0).sample(list(manifest.rows), len(manifest.rows))
    with ThreadPoolExecutor(2) as pool:
        other = dict(
            zip(
                [r.path for r in shuffled],
                pool.map(manifest.make, shuffled),
                strict=True,
            )
        )
    assert first == other
    seeded = made(manifest_of(folders, f"{NAME}-s1"))
    assert first.keys() == seeded.keys()
    assert not any(first[path] == seeded[path] for path in first)


def test_photographs_are_decoded_about_once(folders, monkeypatch):
    manifest = manifest_of(folders)
    read = []
    decode = aligned_pairs.decode
    monkeypatch.setattr(
        aligned_pairs, "decode", lambda *a: read.append(a[2]) or decode(*a)
    )
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(manifest.make, manifest.rows))
    assert len(set(read)) == 12
    assert len(read) <= 2 * 12


def test_photographs_that_change_are_noticed(folders, tmp_path):
    manifest = manifest_of(folders)
    write(tmp_path / "visible" / "p0.png", photograph(99))
    row = next(row for row in manifest.rows if row.path == "p0/1-1/visible_1.jpg")
    with pytest.raises(InputError, match=r"p0\.png has changed since it was checked"):
        manifest.make(row)


def test_photographs_without_a_partner_are_counted(folders, tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "visible" / f"{name}.png", photograph(1))
    # What Windows and macOS leave in folders.
    (tmp_path / "visible" / "Thumbs.db").write_bytes(b"no image")
    for modality in folders:
        (tmp_path / modality / "._p0.png").write_bytes(b"no image")
    scan = aligned_pairs.scan(folders, [NAME])
    assert not scan.findings.problems
    assert "2 of 8 photographs" in sentences(scan.findings.warnings)
    assert len(scan.manifests[NAME].rows) == 6 * 6 * 2 * 2


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda path: write(path, photograph(1)[:-2]),
            "180 × 118 pixels, but .* 180 × 120",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "ends too early"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (
            lambda path: write(path.with_suffix(".bmp"), photograph(1)),
            "has two photographs p1: p1.bmp and p1.png",
        ),
    ],
    ids=["size", "cut", "empty", "twice"],
)
def test_photographs_that_cannot_be_used_are_named(folders, tmp_path, damage, sentence):
    damage(tmp_path / "visible" / "p1.png")
    problems = aligned_pairs.scan(folders, [NAME]).findings.problems
    assert len(problems) == 1
    assert "p1" in problems[0].sentence
    assert re.search(sentence, problems[0].sentence)


def test_pairs_that_are_too_small_are_named(tmp_path):
    folders = write_pairs(tmp_path, ["a", "b", "c", "d"])
    for modality in folders:
        write(tmp_path / modality / "b.png", photograph(1)[:20])
    problems = aligned_pairs.scan(folders, [NAME]).findings.problems
    assert "b.png has 180 × 20 pixels, fewer than 48 × 32" in sentences(problems)


def test_a_split_without_any_contrast_is_a_problem(folders, tmp_path):
    for path in (tmp_path / "visible").iterdir():
        write(path, np.full((HEIGHT, WIDTH, 3), 90))
    problems = aligned_pairs.scan(folders, [NAME]).findings.problems
    assert "No cell of the photographs of train" in sentences(problems)
    assert "No cell of the photographs of test" in sentences(problems)


def without(folders, *flags):
    return {flag: paths for flag, paths in folders.items() if flag not in flags}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda f: f | {"infrared": [f["infrared"][0].parent / "no"]},
            r"--infrared=.*no is not a folder; .* infrared photographs",
        ),
        (
            lambda f: f | {"visible": 2 * f["visible"]},
            "--visible is given 2 times and --infrared is given 1 times",
        ),
        (
            lambda f: f | {"test_visible": f["visible"]},
            "--test_visible is given 1 times and --test_infrared is given 0 times",
        ),
        (
            lambda f: f | {"infrared": [f["infrared"][0] / "../visible"]},
            "given twice, as --visible and as --infrared",
        ),
    ],
    ids=["missing", "numbers", "test", "same"],
)
def test_folders_that_cannot_be_used_are_refused(folders, change, sentence):
    with pytest.raises(InputError, match=sentence):
        aligned_pairs.scan(change(folders), [NAME])


def test_folders_without_a_common_name_are_refused(folders, tmp_path):
    other = write_pairs(tmp_path / "other", ["x"])
    with pytest.raises(InputError, match=r"visible \(6\) and .*infrared \(1\)"):
        aligned_pairs.scan(folders | {"infrared": other["infrared"]}, [NAME])


def test_two_photographs_are_too_few_without_test_folders(tmp_path):
    folders = write_pairs(tmp_path / "two", ["a", "b"])
    with pytest.raises(
        InputError, match="There are 2 pairs of photographs, but train and test"
    ):
        aligned_pairs.scan(folders, [NAME])
    test = write_pairs(tmp_path / "test", ["a"])
    folders |= {f"test_{modality}": paths for modality, paths in test.items()}
    assert manifest_of(folders).splits == ("train", "test")


@pytest.mark.parametrize(
    ("name", "crops", "known"),
    [
        ("aligned_pairs/msrs", 4, True),
        ("aligned_pairs/my_own2-x3", 3, True),
        ("aligned_pairs/msrs-s7", 4, True),
        ("aligned_pairs/msrs-x2-s3", 2, True),
        ("aligned_pairs/msrs-s3-x2", None, False),
        ("aligned_pairs/msrs-x0", None, False),
        ("aligned_pairs/msrs-s03", None, False),
        ("aligned_pairs/", None, False),
    ],
)
def test_names_say_crops_and_seed(tmp_path, name, crops, known):
    assert sources.source_of(name).knows(name) is known
    if known:
        folders = write_pairs(Path(tmp_path), ["a", "b", "c"])
        assert manifest_of(folders, name).settings["crops"] == crops


def test_two_names_cannot_be_made_of_the_same_folders(folders):
    with pytest.raises(InputError, match="give one name, for example"):
        aligned_pairs.scan(folders, list(aligned_pairs.SOURCE.datasets))


def test_photographs_of_sixteen_bits_are_scaled(folders, tmp_path):
    """Thermal counts, which are a small part of all 16 bits."""
    for number in range(6):
        path = tmp_path / "infrared" / f"p{number}.png"
        counts = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.uint16) + 7000
        write(path, counts)
    manifest = manifest_of(folders)
    rows = [row for row in manifest.rows if row.modality == "infrared"]
    assert rows
    for row in rows:
        crop = cv2.imdecode(np.frombuffer(manifest.make(row), np.uint8), -1)
        assert crop.dtype == np.uint8
        assert crop.std() > aligned_pairs.MIN_STD
