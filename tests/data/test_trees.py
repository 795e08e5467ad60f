"""The miniature trees are what the tests take them for."""

import collections

import cv2
import scipy.io

from . import trees


def images_below(root):
    return [p for p in root.rglob("*") if p.suffix in (".jpg", ".bmp")]


def test_sysu_mm01_has_the_sizes_asked_for(tmp_path):
    root = trees.write_sysu_mm01(tmp_path / "s", train=2, val=1, test=2, images=3)
    assert root == tmp_path / "s"
    assert len(images_below(root)) == (2 + 2) * 6 * 3 + 1 * 3 * 3
    channels = {
        cv2.imread(str(p), cv2.IMREAD_UNCHANGED).ndim for p in root.glob("cam3/*/*")
    }
    assert channels == {2, 3}
    assert (root / "exp/test_id.txt").read_text() == "6,10\n"


def test_galleries_are_those_of_the_images_that_are_there(tmp_path):
    root = trees.write_sysu_mm01(tmp_path / "s", train=1, val=1, test=1, images=4)
    galleries = scipy.io.loadmat(trees.write_rand_perm_cam(root))["rand_perm_cam"]
    assert galleries.shape == (6, 1)
    assert galleries[0, 0][5, 0].shape == (10, 4)  # identity 6
    assert sorted(galleries[0, 0][5, 0][0]) == [1, 2, 3, 4]
    assert galleries[0, 0][6, 0].shape == (10, 0)


def test_regdb_has_ten_different_halves(tmp_path):
    root = trees.write_regdb(tmp_path / "r", identities=4, images=2)
    assert len(images_below(root)) == 4 * 2 * 2
    halves = collections.defaultdict(set)
    for index in root.glob("idx/train_visible_*.txt"):
        halves[
            frozenset(line.split("/")[1] for line in index.read_text().splitlines())
        ].add(index)
    assert len(halves) == 6  # as many as there are


def test_llcm_has_both_modalities_in_nine_cameras(tmp_path):
    root = trees.write_llcm(tmp_path / "l", train=2, test=1, images=1)
    assert len(images_below(root)) == 2 * 9 * 2 + 9 + 8
    assert not list((root / "test_nir/cam3").iterdir())
