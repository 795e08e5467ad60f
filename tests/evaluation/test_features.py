from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from mbn_jax.deploy.embed import embed
from mbn_jax.errors import InputError
from mbn_jax.evaluation import batch_rows, extract


class Output(NamedTuple):
    embedding: jax.Array


class Model:
    """Mean colors plus the modality; counts how often it is traced."""

    image_size = (8, 4)
    modalities = ("visible", "infrared")

    def __init__(self):
        self.traced_shapes = []

    def apply(self, variables, images, modality, train):
        assert not train
        self.traced_shapes.append(images.shape)
        means = images.mean(axis=(1, 2)).astype(jnp.bfloat16)
        label = modality[:, None].astype(jnp.bfloat16)
        return Output(jnp.concatenate([means * variables["scale"], label], axis=1))


VARIABLES = {"scale": jnp.asarray(2.0, jnp.bfloat16)}


def random_images(count, height=8, width=4):
    rng = np.random.default_rng(count)
    return rng.integers(256, size=(count, height, width, 3), dtype=np.uint8)


@jax.jit
def mean_color_and_modality(images, modality):
    means = images.astype(jnp.float32).mean(axis=(1, 2))
    return jnp.concatenate([means, modality[:, None].astype(jnp.float32)], axis=1)


def batches(images, size, mesh=None):
    return (images[rows] for rows in batch_rows(len(images), size, mesh))


@pytest.mark.parametrize("count", [1, 5, 6, 7])
def test_batches_and_padding_leave_no_trace(count):
    images, modality = random_images(count), np.arange(count) % 2
    features = extract(
        mean_color_and_modality, batches(images, 3), modality, batch_size=3
    )
    expected = np.column_stack([images.mean(axis=(1, 2)), modality])
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=1e-5)


def test_a_mesh_gives_the_same_features():
    images, modality = random_images(21), np.arange(21) % 2
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    alone = extract(mean_color_and_modality, batches(images, 8), modality, batch_size=8)
    for batch_size in (8, 5):
        sharded = extract(
            mean_color_and_modality,
            batches(images, batch_size, mesh),
            modality,
            batch_size=batch_size,
            mesh=mesh,
        )
        np.testing.assert_allclose(sharded, alone, rtol=1e-6)


def test_features_come_as_the_network_gives_them():
    features = extract(
        lambda images, modality: jnp.full((2, 3), 5.0, jnp.bfloat16),
        batches(random_images(3), 2),
        np.zeros(3, int),
        batch_size=2,
    )
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, np.full((3, 3), 5.0))


def test_images_are_asked_for_batch_by_batch():
    asked, computed = [], []

    def images():
        for number in range(4):
            asked.append(number)
            yield random_images(2)

    def network(images, modality):
        computed.append(len(asked))
        return jnp.zeros((2, 3))

    extract(network, images(), np.zeros(8, int), batch_size=2)
    assert computed == [1, 2, 3, 4]


def test_no_image_is_refused():
    with pytest.raises(InputError, match="no image to embed"):
        extract(mean_color_and_modality, iter(()), np.zeros(0, int), batch_size=2)


@pytest.mark.parametrize("modality", [[0.5, 1.0], ["a", "b"], [[0], [1]], None, 1])
def test_extract_takes_one_integer_for_each_image(modality):
    images = batches(random_images(2), 2)
    with pytest.raises(InputError, match="one integer for each image"):
        extract(mean_color_and_modality, images, modality, batch_size=2)


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.uint64, jnp.int4, list])
def test_modalities_may_be_of_any_integer_type(kind):
    modality = [0, 1] if kind is list else np.array([0, 1]).astype(kind)
    images = batches(random_images(2), 2)
    features = extract(mean_color_and_modality, images, modality, batch_size=2)
    assert features[:, 3].tolist() == [0, 1]


def test_an_index_beyond_32_bits_is_none_of_the_modalities():
    images = batches(random_images(2), 2)
    features = extract(
        mean_color_and_modality, images, np.array([2**32, 1]), batch_size=2
    )
    assert features[:, 3].tolist() == [-1, 1]


def test_embed_is_float32_of_length_one_and_knows_the_modality():
    images = random_images(3)
    visible = embed(Model(), VARIABLES, images, 0)
    mixed = embed(Model(), VARIABLES, images, np.array([0, 1, 0]))
    assert visible.shape == (3, 4)
    assert visible.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(visible, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(visible[:, 3], 0)
    assert mixed[1, 3] > 0


def test_embed_compiles_once_for_calls_of_the_same_size():
    model = Model()
    for _ in range(3):
        embed(model, VARIABLES, random_images(70), 1)
    assert model.traced_shapes == [(64, 8, 4, 3)]
    embed(model, VARIABLES, random_images(3), 1)
    embed(model, VARIABLES, random_images(4), 1)
    assert model.traced_shapes == [(64, 8, 4, 3), (4, 8, 4, 3)]


def test_embed_resizes_to_the_size_of_the_model():
    image = np.full((1, 40, 20, 3), (10, 100, 200), np.uint8)
    same = np.full((1, 8, 4, 3), (10, 100, 200), np.uint8)
    model = Model()
    np.testing.assert_array_equal(
        embed(model, VARIABLES, image, 0), embed(model, VARIABLES, same, 0)
    )


@pytest.mark.parametrize(
    ("images", "modality", "message"),
    [
        (random_images(2).astype(np.float32), 0, "float32, but uint8"),
        (random_images(2)[0], 0, r"\(8, 4, 3\), but \(N, height, width, 3\)"),
        (random_images(2)[..., :1], 0, "repeat a gray channel"),
        (random_images(2)[:0], 0, "nothing to embed"),
        (
            [random_images(1)[0], random_images(1)[0][:5]],
            0,
            r"different shapes \(\(8, 4, 3\), \(5, 4, 3\)\), but one array",
        ),
        ([random_images(1)[0], [[1], [2, 3]]], 0, r"\(\(8, 4, 3\), a list\)"),
        (random_images(2), 2, "modality is 2"),
        (random_images(2), "thermal", "'thermal'; expected one of visible, infrared"),
        (random_images(2), ["infrared"] * 2, r"modality is \['infrared' 'infrared'\]"),
        (random_images(2), 1.0, "name or the integer 0 .visible. or 1 .infrared. is"),
        (random_images(2), np.full((40, 40), 2), r"modality is \[\[2 2 2 .*\], but a"),
        (random_images(2), [0, 1, 0], r"shape \(3,\) for 2 images"),
    ],
)
def test_embed_says_what_is_wrong_with_its_input(images, modality, message):
    with pytest.raises(InputError, match=message):
        embed(Model(), VARIABLES, images, modality)


def test_the_modality_is_a_name_an_index_or_an_index_of_each_image():
    model, images = Model(), random_images(3)
    model.modalities = ("visible", "nir", "thermal")
    by_name = embed(model, VARIABLES, images, "thermal")
    np.testing.assert_array_equal(embed(model, VARIABLES, images, 2), by_name)
    mixed = embed(model, VARIABLES, images, [0, 2, 1])
    for row, modality in enumerate(("visible", "thermal", "nir")):
        alone = embed(model, VARIABLES, images, modality)
        np.testing.assert_array_equal(mixed[row], alone[row])
    assert len({tuple(embed(model, VARIABLES, images, m)[0]) for m in range(3)}) == 3
