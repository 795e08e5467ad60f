"""The gaps of weights that nobody trained on persons, on made-up pairs."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mbn_jax import InputError, ModalityBatchNorm
from mbn_jax.analysis import imagenet_gap


class Net(nn.Module):
    """One normalisation of either kind."""

    norm: str = "mbn"
    image_size: tuple[int, int] = (16, 8)

    @nn.compact
    def __call__(self, images, modality, *, train):
        x = nn.Conv(4, (3, 3), name="conv")(images)
        if self.norm == "bn":
            return nn.BatchNorm(not train, name="norm")(x)
        return ModalityBatchNorm(name="norm")(x, modality, not train)


def given_weights(source, model, shapes):
    """As the loader: the same statistics in both modalities."""
    images = jnp.zeros((2, *model.image_size, 3))
    return model.init(jax.random.key(0), images, jnp.arange(2), train=False), "given"


@pytest.fixture
def folders(tmp_path):
    """Infrared pictures are brighter, and grey."""
    rng = np.random.default_rng(0)
    for name in ("visible", "infrared"):
        (tmp_path / name).mkdir()
        for i in range(16):
            image = rng.integers(0, 128, (40, 20, 3), np.uint8)
            if name == "infrared":
                image = np.repeat(image[..., :1] + 100, 3, -1)
            cv2.imwrite(str(tmp_path / name / f"{i // 2}_{i % 2}.png"), image)
    return tmp_path / "visible", tmp_path / "infrared"


def test_only_statistics_of_each_modality_close_the_lasting_gap(folders, monkeypatch):
    monkeypatch.setattr(imagenet_gap, "load_backbone", given_weights)
    measured = imagenet_gap.measure_imagenet(
        "source", *folders, num_batches=4, num_pairs=4, model=Net()
    )
    after = {(m.network, m.way): m.gaps[1] for m in measured}
    assert list(after) == [
        ("BN", "training"),
        ("MBN", "training"),
        ("BN", "evaluation"),
        ("MBN", "evaluation"),
        ("BN, re-estimated", "evaluation"),
    ]
    assert after["MBN", "training"].intra < 0.01
    for name in ("BN", "BN, re-estimated"):
        assert after[name, "evaluation"].lasting > 1
    assert after["MBN", "evaluation"].lasting < 0.2


def test_pairs_are_found_by_their_names(folders):
    for path in folders[1].iterdir():
        path.rename(path.with_stem(f"other{path.stem}"))
    with pytest.raises(InputError, match="crops of 0 photographs"):
        imagenet_gap.measure_imagenet("source", *folders, num_batches=2, model=Net())
