"""New cameras change the running statistics, and nothing else."""

import cv2
import jax
import numpy as np
import pytest

from mbn_jax import convert
from mbn_jax.data.sixteen_bits import Scale
from mbn_jax.deploy.adapt import _check_numbers, adapt
from mbn_jax.deploy.embed import Reading
from mbn_jax.errors import InputError
from mbn_jax.pixels import normalize

from ..models.test_reid import filled, small


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Four visible and six infrared images of the network's size."""
    root = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    for name, count in (("visible", 4), ("infrared", 6)):
        (root / name).mkdir()
        for index in range(count):
            image = rng.integers(0, 256, (32, 16, 3), np.uint8)
            cv2.imwrite(str(root / name / f"{index}.png"), image)
    return {"visible": root / "visible", "infrared": root / "infrared"}


def read(folder):
    paths = sorted(folder.iterdir())
    return np.stack([cv2.imread(str(path))[..., ::-1] for path in paths])


def estimated(network, batches):
    model, variables = network

    def apply(variables, images, modality, mutable):
        return model.apply(
            variables, normalize(images), modality, train=True, mutable=mutable
        )

    return convert.estimate_statistics(apply, variables, batches)


def assert_close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4),
        found,
        expected,
    )


def test_it_is_the_estimate_of_all_images(network, folders):
    batch = read(folders["infrared"]), np.ones(6, np.int32)
    adapted = adapt(*network, {"infrared": folders["infrared"]})
    assert_close(adapted, estimated(network, [batch]))


def test_parameters_stay_and_so_does_a_modality_without_a_folder(network, folders):
    model, variables = network
    adapted = adapt(model, variables, {"infrared": folders["infrared"]})
    jax.tree.map(np.testing.assert_array_equal, adapted["params"], variables["params"])
    before, after = variables["batch_stats"], adapted["batch_stats"]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), before, after)
    assert np.all(before["neck"]["mean"][1] != after["neck"]["mean"][1])


@pytest.fixture
def drawn(network, folders, monkeypatch):
    """Gives the batches that the statistics would be estimated from."""
    kept = record_batches(monkeypatch)

    def batches(**options):
        adapt(*network, folders, **options)
        return kept.pop()

    return batches


def record_batches(monkeypatch):
    """Receives the batches of every estimate, which gives the variables back."""
    kept = []

    def estimate(apply, variables, batches):
        kept.append(list(batches))
        return variables

    monkeypatch.setattr(convert, "estimate_statistics", estimate)
    return kept


def test_batches_hold_as_many_of_either_modality_and_every_image(drawn, folders):
    batches = drawn(batch_size=4)
    assert len(batches) == 3
    assert all(modality.tolist() == [0, 0, 1, 1] for _, modality in batches)
    images = np.concatenate([images for images, _ in batches])
    modality = np.concatenate([modality for _, modality in batches])
    for which, times in enumerate(([1, 1, 2, 2], [1] * 6)):
        seen = [image.tobytes() for image in images[modality == which]]
        folder = [*folders.values()][which]
        counts = [seen.count(image.tobytes()) for image in read(folder)]
        assert sorted(counts) == times


def test_the_seed_alone_decides_which_images_are_drawn(drawn, capsys):
    first, again, other = (
        drawn(num_images=2, batch_size=4, seed=seed)[0][0] for seed in (0, 0, 1)
    )
    assert len(first) == 4
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert "Adapted to 4 images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "which", "message"),
    [
        (
            dict(norm="bn"),
            ["visible", "infrared"],
            "adapt a run with model.norm=mbn, or convert",
        ),
        (
            dict(mbn_at=("stem", "neck")),
            ["infrared"],
            "at stem, neck only, .* all its modalities, here also of visible",
        ),
        (dict(), [], "There is no folder"),
        (
            dict(modalities=("visible", "thermal")),
            ["infrared"],
            "no modality 'infrared'; expected one of visible, thermal",
        ),
    ],
)
def test_what_cannot_be_adapted_is_refused(network, folders, fields, which, message):
    model, variables = network
    given = {modality: folders[modality] for modality in which}
    with pytest.raises(InputError, match=message):
        adapt(model.copy(**fields), variables, given)


def test_a_broken_image_is_named(network, tmp_path):
    for number in (1, 2):
        (tmp_path / f"broken{number}.png").write_bytes(b"no image at all")
    with pytest.raises(InputError, match=r"broken\d\.png"):
        adapt(*network, {"visible": tmp_path})


def test_what_gives_no_statistics_is_refused_and_few_images_are_said(
    network, folders, capsys
):
    few = {"infrared": folders["infrared"]}
    _check_numbers(few, {"infrared": [f"{i}.png" for i in range(6)]})
    assert "holds only 6 images" in capsys.readouterr().err
    with pytest.raises(InputError, match="holds one image"):
        _check_numbers(few, {"infrared": ["0.png"]})
    with pytest.raises(InputError, match="given for visible and for infrared"):
        adapt(*network, dict.fromkeys(["visible", "infrared"], folders["visible"]))


def test_one_image_is_refused_whether_it_is_drawn_or_there(network, folders):
    for number in (1, 0):
        with pytest.raises(
            InputError, match=f"images is {number}, and the statistics o"
        ):
            adapt(*network, folders, num_images=number)


@pytest.mark.parametrize("level", [0, 90, 255])
def test_copies_of_one_image_are_refused(network, folders, tmp_path, level):
    image = np.full((32, 16, 3), level, np.uint8)
    image[::2, 1::3] //= 2
    for number in range(3):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    with pytest.raises(InputError, match="infrared images are all alike, and the"):
        adapt(*network, {"visible": folders["visible"], "infrared": tmp_path})


def test_images_of_sixteen_bits_have_the_scale_of_their_modality(
    network, tmp_path, monkeypatch, capsys
):
    for name, shift in (("a", 0), ("b", 400)):
        counts = np.linspace(7000 + shift, 7400 + shift, 32 * 16).reshape(32, 16)
        cv2.imwrite(str(tmp_path / f"{name}.png"), counts.astype(np.uint16))
    kept = record_batches(monkeypatch)

    def spans(scale):
        readings = {"infrared": Reading(scale)}
        adapt(*network, {"infrared": tmp_path}, readings=readings)
        ((images, _),) = kept.pop()
        return sorted((int(image.min()), int(image.max())) for image in images)

    assert spans(Scale("fixed", 7000, 7800)) == [(0, 128), (128, 255)]
    assert "nearly uniform" not in capsys.readouterr().err
    assert spans(Scale("fixed", 0, 65535)) == [(27, 29), (29, 30)]
    assert "2 of 2 images are nearly uniform. The image" in capsys.readouterr().err


def test_of_three_modalities_those_with_a_folder_change(folders):
    model = small(modalities=("visible", "nir", "thermal"))
    variables = filled(model)
    given = {"thermal": folders["infrared"], "visible": folders["visible"]}
    adapted = adapt(model, variables, given, batch_size=4)
    before, after = (v["batch_stats"]["neck"]["mean"] for v in (variables, adapted))
    changed = [bool(np.any(b != a)) for b, a in zip(before, after, strict=True)]
    assert changed == [True, False, True]
