"""The gaps of weights that nobody trained on persons, on made-up pairs."""

import cv2
import jax
import numpy as np
import pytest

from mbn_jax import InputError
from mbn_jax.analysis import imagenet_gap
from mbn_jax.models.reid import ReID

MODEL = ReID(1, image_size=(32, 16), depth=18, width=1 / 16)


def given_weights(source, model, variables):
    """As the loader: the same for both modalities."""
    keys = iter(jax.random.split(jax.random.key(0), 200))

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return np.ones(leaf.shape, leaf.dtype)
        return np.asarray(jax.random.normal(next(keys), leaf.shape, leaf.dtype)) / 10

    variables = jax.tree_util.tree_map_with_path(draw, variables)
    first = jax.tree.map(lambda leaf: leaf[:1].repeat(2, 0), variables["batch_stats"])
    return {**variables, "batch_stats": first}, "given"


@pytest.fixture
def folders(tmp_path):
    """Infrared pictures are brighter, and grey."""
    rng = np.random.default_rng(0)
    for name in ("visible", "infrared"):
        (tmp_path / name).mkdir()
        for i in range(8):
            image = rng.integers(0, 128, (40, 20, 3), np.uint8)
            if name == "infrared":
                image = np.repeat(image[..., :1] + 100, 3, -1)
            cv2.imwrite(str(tmp_path / name / f"{i}.png"), image)
    return tmp_path / "visible", tmp_path / "infrared"


def test_statistics_of_each_modality_close_the_lasting_gap(folders, monkeypatch):
    monkeypatch.setattr(imagenet_gap, "load_pretrained", given_weights)
    measured = imagenet_gap.measure_imagenet(
        "source", *folders, num_batches=2, num_pairs=4, model=MODEL
    )
    found = {
        (m.network, m.way): next(
            g for g in m.gaps if g.side == "after" and g.layer == "backbone/norm1"
        )
        for m in measured
    }
    assert list(found) == [
        ("BN", "training"),
        ("MBN", "training"),
        ("BN", "evaluation"),
        ("MBN", "evaluation"),
        ("BN, re-estimated", "evaluation"),
    ]
    assert found["MBN", "training"].intra < 0.01
    for name in ("BN", "BN, re-estimated"):
        assert found[name, "evaluation"].lasting > 0.5
    assert found["MBN", "evaluation"].lasting < 0.2


def test_pairs_are_found_by_their_names(folders):
    for path in folders[1].iterdir():
        path.rename(path.with_stem(f"other{path.stem}"))
    with pytest.raises(InputError, match="share 0 names"):
        imagenet_gap.measure_imagenet("source", *folders, num_batches=2, model=MODEL)
