import gc
import threading
import time

import cv2
import numpy as np
import pytest

from mbn_jax.data.dataset import Split
from mbn_jax.data.images import decode, resize
from mbn_jax.data.pipeline import image_batches, load_images, train_batches
from mbn_jax.data.sampling import make_sampler
from mbn_jax.errors import InputError

SIZE = (16, 8)


class RecordingSource(list):
    """Remembers which records were read."""

    def __init__(self, items):
        super().__init__(items)
        self.read = set()

    def __getitem__(self, index):
        self.read.add(index)
        return super().__getitem__(index)


def png(image):
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


@pytest.fixture
def split():
    """Four identities with three images in each modality; image i has the color i."""
    n = 24
    images = [np.full((20, 10, 3), i, np.uint8) for i in range(n)]
    index = np.arange(n, dtype=np.int32)
    return Split(
        dataset="colors",
        split="train",
        source=RecordingSource({"image": png(image)} for image in images),
        identity=100 + index // 6,
        camera=1 + index % 3,
        modality=index // 3 % 2,
        name=np.array([f"{i:04d}.png" for i in range(n)]),
    )


@pytest.fixture
def sampler(split):
    return make_sampler(
        "balanced",
        split.identity,
        split.modality,
        num_identities=2,
        num_images=2,
        seed=0,
    )


def batches(split, sampler, start, stop, **kwargs):
    return list(train_batches(split, sampler, SIZE, start=start, stop=stop, **kwargs))


def assert_same(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def num_reading_threads():
    return sum(t.name.startswith("grain-prefetch") for t in threading.enumerate())


def assert_reading_threads_end():
    end = time.monotonic() + 5.0
    while num_reading_threads() and time.monotonic() < end:
        time.sleep(0.01)
    assert num_reading_threads() == 0


def test_batch_has_the_images_and_labels_of_its_records(split, sampler):
    for i, batch in enumerate(batches(split, sampler, 0, 5)):
        records = sampler.batch(i)
        assert batch["image"].shape == (8, *SIZE, 3)
        assert batch["image"].dtype == np.uint8
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], records)
        np.testing.assert_array_equal(batch["identity"], split.identity[records] - 100)
        np.testing.assert_array_equal(batch["modality"], split.modality[records])
        np.testing.assert_array_equal(batch["camera"], split.camera[records])
        for label in ("identity", "modality", "camera"):
            assert batch[label].dtype == np.int32


def test_starting_later_continues_exactly(split, sampler):
    assert_same(batches(split, sampler, 7, 12), batches(split, sampler, 0, 12)[7:])


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_number_of_threads_changes_nothing(split, sampler, num_threads):
    got = batches(split, sampler, 0, 9, num_threads=num_threads)
    assert_same(got, batches(split, sampler, 0, 9))


def test_nothing_is_left_to_read(split, sampler):
    assert batches(split, sampler, 5, 5) == []


def test_only_the_rows_of_this_process_are_read(split, sampler):
    whole = batches(split, sampler, 0, 1)[0]
    split.source.read.clear()
    part = batches(split, sampler, 0, 1, rows=slice(2, 4))[0]
    assert split.source.read == set(sampler.batch(0)[2:4].tolist())
    assert_same([part], [{name: value[2:4] for name, value in whole.items()}])


@pytest.mark.parametrize("num_threads", [0, 2])
def test_undecodable_image_is_named_by_the_batch_that_needs_it(
    split, sampler, num_threads
):
    damaged = sampler.batch(3)[0]
    split.source[damaged]["image"] = b"not an image"
    first = next(i for i in range(4) if damaged in sampler.batch(i))
    reader = train_batches(
        split, sampler, SIZE, start=0, stop=9, num_threads=num_threads
    )
    for _ in range(first):
        next(reader)
    with pytest.raises(InputError, match=rf"{damaged:04d}\.png of colors/train"):
        next(reader)
    assert_reading_threads_end()


def test_threads_end_with_the_last_batch(split, sampler):
    batches(split, sampler, 0, 3)
    assert_reading_threads_end()


def test_threads_end_with_an_abandoned_reader(split, sampler):
    reader = train_batches(split, sampler, SIZE, start=0, stop=1_000_000)
    next(reader)
    assert num_reading_threads() > 0
    del reader
    gc.collect()
    assert_reading_threads_end()


def test_reading_ahead_is_bounded(split, sampler):
    reader = train_batches(split, sampler, SIZE, start=0, stop=1_000_000)
    asked = []
    batch = sampler.batch
    sampler.batch = lambda index: asked.append(index) or batch(index)
    for _ in range(3):
        next(reader)
    time.sleep(0.1)
    assert max(asked) < 3 + 4 + 1
    reader.close()


@pytest.mark.parametrize("num_threads", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 30])
def test_image_batches_are_those_asked_for(split, count, num_threads):
    indices = np.random.default_rng(0).integers(0, len(split), count)
    eights = [indices[i : i + 8] for i in range(0, count, 8)]
    got = list(image_batches(split, eights, SIZE, num_threads=num_threads))
    assert [len(batch) for batch in got] == [8] * (count // 8) + [count % 8] * (
        count % 8 > 0
    )
    assert all(batch.shape[1:] == (*SIZE, 3) for batch in got)
    assert all(batch.dtype == np.uint8 for batch in got)
    colors = [image[3, 3, 1] for batch in got for image in batch]
    np.testing.assert_array_equal(colors, indices)


def test_image_batches_read_ahead_is_bounded(split):
    reader = image_batches(split, np.arange(24)[:, None], SIZE, num_threads=2)
    for _ in range(3):
        next(reader)
    time.sleep(0.1)
    assert max(split.source.read) < 3 + 4 + 1
    reader.close()
    assert_reading_threads_end()


@pytest.mark.parametrize("num_threads", [0, 2])
def test_image_batches_name_the_undecodable_image_where_it_is(split, num_threads):
    split.source[13]["image"] = b"not an image"
    reader = image_batches(
        split, np.arange(24).reshape(6, 4), SIZE, num_threads=num_threads
    )
    for first in (0, 4, 8):
        assert next(reader)[0, 0, 0, 0] == first
    with pytest.raises(InputError, match=r"0013\.png of colors/train"):
        next(reader)
    assert_reading_threads_end()


def test_load_images_keeps_the_order_over_many_chunks(split):
    indices = np.random.default_rng(0).integers(0, len(split), 150)
    images = load_images(split, indices, SIZE)
    assert images.shape == (150, *SIZE, 3)
    np.testing.assert_array_equal(images[:, 3, 3, 1], indices)


def test_load_images_of_nothing(split):
    assert load_images(split, np.array([], np.int64), SIZE).shape == (0, *SIZE, 3)


def test_load_images_names_the_undecodable_image(split):
    split.source[5]["image"] = b""
    with pytest.raises(InputError, match=r"0005\.png"):
        load_images(split, np.arange(len(split)), SIZE)


def test_decode_gives_rgb():
    image = np.zeros((6, 4, 3), np.uint8)
    image[..., 0] = 200
    np.testing.assert_array_equal(decode(png(image), (6, 4), "red"), image)


@pytest.mark.parametrize("size", [(12, 8), (40, 30), (6, 4), (40, 4)])
def test_decode_fills_the_array_that_it_is_given(size):
    image = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)
    batch = np.zeros((3, *size, 3), np.uint8)
    assert np.shares_memory(decode(png(image), size, "x", out=batch[1]), batch)
    np.testing.assert_array_equal(batch[1], decode(png(image), size, "x"))
    assert not batch[[0, 2]].any()


@pytest.mark.parametrize("kept", [0, 10, 0.5])
def test_truncated_image_is_named(kept):
    noise = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    encoded = cv2.imencode(".jpg", noise)[1].tobytes()
    part = encoded[: int(kept * len(encoded)) if isinstance(kept, float) else kept]
    with pytest.raises(InputError, match=r"cam3/0001\.jpg"):
        decode(part, (64, 32), "cam3/0001.jpg")


@pytest.mark.parametrize("size", [(5, 3), (40, 30), (40, 3), (12, 8)])
def test_resize_gives_height_and_width(size):
    image = np.full((12, 8, 3), 77, np.uint8)
    np.testing.assert_array_equal(resize(image, size), np.full((*size, 3), 77))


def test_shrinking_averages_instead_of_aliasing():
    checks = np.indices((64, 64)).sum(0) % 2 * 254
    image = np.repeat(checks[..., None], 3, axis=2).astype(np.uint8)
    np.testing.assert_array_equal(resize(image, (16, 16)), np.full((16, 16, 3), 127))
