"""A network in a folder of two files is the same to the bit."""

import errno
import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

import mbn_jax
from mbn_jax.errors import InputError
from mbn_jax.models.pretrained import load_backbone
from mbn_jax.models.reid import ReID
from mbn_jax.models.weights import NETWORK, WEIGHTS, fingerprint

from .test_reid import EVERYTHING, filled, small


@pytest.fixture
def network():
    model = small(**EVERYTHING)
    return model, filled(model)


@pytest.fixture
def folder(network, tmp_path):
    mbn_jax.save_pretrained(tmp_path / "shared", *network)
    return tmp_path / "shared"


def test_a_network_comes_back_to_the_bit(network, folder):
    model, variables = network
    for load in (mbn_jax.load_pretrained, mbn_jax.load):
        again, its_variables = load(folder)
        assert again == model
        assert flatten_dict(its_variables).keys() == flatten_dict(variables).keys()
        jax.tree.map(np.testing.assert_array_equal, its_variables, variables)
        jax.tree.map(lambda a, b: a.dtype == b.dtype or 1 / 0, its_variables, variables)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_type_of_the_computation_is_kept(network, tmp_path, dtype):
    model, variables = network
    mbn_jax.save_pretrained(tmp_path, model.copy(dtype=np.dtype(dtype)), variables)
    assert mbn_jax.load_pretrained(tmp_path)[0].dtype == np.dtype(dtype)


def test_other_frameworks_find_the_arrays_by_their_paths(network, folder):
    arrays = safetensors.numpy.load_file(folder / WEIGHTS)
    kernel = network[1]["params"]["backbone"]["conv1_visible"]["kernel"]
    np.testing.assert_array_equal(
        arrays["params/backbone/conv1_visible/kernel"], kernel
    )


def test_the_modalities_are_kept_by_name(tmp_path):
    model = small(stem="separate", modalities=("visible", "nir", "cam/1"))
    variables = filled(model)
    mbn_jax.save_pretrained(tmp_path, model, variables)
    again, its_variables = mbn_jax.load_pretrained(tmp_path)
    assert again == model
    assert again.modalities == ("visible", "nir", "cam/1")
    jax.tree.map(np.testing.assert_array_equal, its_variables, variables)


def test_a_folder_from_before_modalities_had_names_has_the_default_ones(
    network, folder
):
    written = json.loads((folder / NETWORK).read_text())
    assert written["network"].pop("modalities") == ["visible", "infrared"]
    del written["fingerprint"]
    (folder / NETWORK).write_text(json.dumps(written))
    model, variables = mbn_jax.load_pretrained(folder)
    assert model == network[0]
    jax.tree.map(np.testing.assert_array_equal, variables, network[1])


def change(folder, **changes):
    written = json.loads((folder / NETWORK).read_text())
    written["network"] |= changes.pop("network", {})
    (folder / NETWORK).write_text(json.dumps(written | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(format="mbn_jax.ReID/2"), "not describe a network of this version"),
        (dict(network={"novel": 1}), "not describe a network of this version"),
        (dict(network={"depth": 19}), "cannot be built .*19"),
        (dict(network={"width": "wide"}), "width is 'wide', expected float"),
        (dict(network={"width": float("inf")}), "cannot be built"),
        (dict(network={"last_stride": 0}), "cannot be built"),
        (dict(network={"momentum": "x"}), "momentum is 'x', expected float"),
        (dict(network={"remat": 1}), "remat is 1, expected bool"),
        (
            dict(network={"image_size": [0, 0]}),
            r"image_size is \(0, 0\), expected a he",
        ),
        (dict(network={"image_size": [9**9, 9]}), "up to 4096 pixels"),
        (dict(network={"momentum": 0.5}), "network in .* to the fingerprint"),
        (dict(network={"last_stride": 3}), "network in .* to the fingerprint"),
        (dict(fingerprint=None), "network and batch_stats and params in"),
        (dict(novel=1), "not describe a network of this version"),
        (dict(network={"dtype": "float33"}), "is damaged"),
        (dict(network={"modalities": ["nir", "nir"]}), "cannot be built .*each once"),
        (dict(network={"modalities": ["a\n", "b"]}), r"a modality is named 'a\\n'"),
        (dict(network={"modalities": "nir"}), "modalities is 'nir', expected list"),
        (
            dict(network={"modalities": ["visible", "nir", "thermal"]}),
            r"conv1_infrared/kernel is \[7, 7, 3, 4\] and not absent",
        ),
        (
            dict(network={"num_identities": 7}),
            r"params/classifier/kernel is \[32, 5\] and not \[32, 7\]",
        ),
        (
            dict(network={"pooling": "average"}),
            r"params/pooling/power is \[\] and not absent",
        ),
    ],
)
def test_a_description_that_does_not_fit_is_refused(folder, changes, message):
    change(folder, **changes)
    with pytest.raises(InputError, match=message):
        mbn_jax.load_pretrained(folder)


@pytest.mark.parametrize("name", [NETWORK, WEIGHTS])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_folder_is_refused(folder, name, damage):
    if damage == "cut":
        (folder / name).write_bytes((folder / name).read_bytes()[:-10])
    else:
        (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name} cannot be read"):
        mbn_jax.load(folder)


@pytest.mark.parametrize("name", [NETWORK, WEIGHTS])
def test_a_pipe_or_a_device_is_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match=f"{name} is not a regular file"):
        mbn_jax.load(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(InputError, match=f"{name} is not a regular file"):
        mbn_jax.load(folder)


def test_a_description_that_is_nested_without_end_is_refused(folder):
    (folder / NETWORK).write_bytes(b"[" * 100_000)
    with pytest.raises(InputError, match=r"cannot be read .*recursion"):
        mbn_jax.load(folder)


@pytest.mark.parametrize(
    ("change_array", "message"),
    [
        (lambda array: array.astype(np.int32), "is int32, but weights are floating"),
        (lambda array: array.astype(np.complex64), "is complex64, but weights are"),
        (lambda array: array * np.float32(np.nan), "holds NaN"),
        (lambda array: array / np.float32(0), "holds NaN, infinity"),
        (lambda array: -array, "holds a variance below zero"),
        (lambda array: array.astype(jnp.bfloat16), "batch_stats in .* differ from"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_numbers_that_no_network_has_are_refused(folder, change_array, message):
    arrays = safetensors.numpy.load_file(folder / WEIGHTS)
    name = "batch_stats/neck/var"
    arrays[name] = change_array(arrays[name])
    safetensors.numpy.save_file(arrays, folder / WEIGHTS)
    for load in (mbn_jax.load_pretrained, lambda _: start(folder)):
        with pytest.raises(InputError, match=message):
            load(folder)


def start(folder):
    model = small(**EVERYTHING)
    return load_backbone(str(folder), model, filled(model))


def test_half_precision_without_a_fingerprint_is_read(network, folder):
    """As weights that somebody else has converted."""
    arrays = safetensors.numpy.load_file(folder / WEIGHTS)
    halves = {name: array.astype(jnp.bfloat16) for name, array in arrays.items()}
    safetensors.numpy.save_file(halves, folder / WEIGHTS)
    written = json.loads((folder / NETWORK).read_text())
    del written["fingerprint"]
    (folder / NETWORK).write_text(json.dumps(written))
    variables = flatten_dict(mbn_jax.load_pretrained(folder)[1], sep="/")
    for name, array in halves.items():
        np.testing.assert_array_equal(variables[name], array)


def test_the_fingerprint_of_the_parameters_is_that_of_exported_files(network, folder):
    written = json.loads((folder / NETWORK).read_text())
    assert written["fingerprint"].keys() == {"network", "params", "batch_stats"}
    assert written["fingerprint"]["params"] == fingerprint(network[1])


@pytest.mark.parametrize("flips", [4, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [NETWORK, WEIGHTS])
def test_no_flipped_bit_is_loaded(network, folder, name, flips):
    """Each is an error, or was between the values, where it changes nothing."""
    content = (folder / name).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for bit in rng.choice(8 * len(content), flips, replace=False):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(flipped)
        try:
            model, variables = mbn_jax.load(folder)
        except InputError:
            refused += 1
        else:
            assert model == network[0]
            jax.tree.map(np.testing.assert_array_equal, variables, network[1])
    assert refused > flips / 2
    print(f"{flips} flipped bits in {name}: {refused} refused, others change nothing")


@pytest.mark.parametrize("room_for", [0, 1])
def test_a_disk_that_fills_leaves_both_files(network, folder, monkeypatch, room_for):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model, variables = network
    other = jax.tree.map(lambda leaf: leaf + 1, variables)
    fsync, files = os.fsync, []

    def full_after(descriptor):
        files.append(descriptor)
        if len(files) > room_for:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_after)
        with pytest.raises(InputError, match="No space left on device"):
            mbn_jax.save_pretrained(folder, model, other)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    mbn_jax.save_pretrained(folder, model, other)
    jax.tree.map(np.testing.assert_array_equal, mbn_jax.load(folder)[1], other)


def test_a_work_directory_and_a_file_are_no_place_for_weights(network, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="is a work directory"):
        mbn_jax.save_pretrained(tmp_path, *network)
    with pytest.raises(InputError, match="cannot be written to"):
        mbn_jax.save_pretrained(tmp_path / "config.json" / "inside", *network)


def test_an_empty_name_is_not_the_current_directory(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="name of a folder is empty"):
        mbn_jax.save_pretrained("", *network)
    assert list(tmp_path.iterdir()) == []


def test_a_place_without_a_network_is_refused(tmp_path):
    with pytest.raises(InputError, match="There is no network at"):
        mbn_jax.load(tmp_path / "missing")
    with pytest.raises(InputError, match="There is no network at"):
        mbn_jax.load(tmp_path / ("n" * 300))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="There is no network at"):
        mbn_jax.load(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not a work directory"):
        mbn_jax.load(tmp_path)


def test_every_field_of_a_network_is_described(folder):
    described = json.loads((folder / NETWORK).read_text())["network"].keys()
    fields = ReID.__dataclass_fields__.keys()
    assert described == fields - {"parent", "name", "axis_name"}


@pytest.mark.parametrize("norm", ["mbn", "bn"])
def test_training_can_start_from_a_shared_network_of_other_identities(tmp_path, norm):
    """A shared network with common statistics gives them to every modality."""
    shared = small(norm=norm)
    theirs = filled(shared)
    mbn_jax.save_pretrained(tmp_path / "shared", shared, theirs)
    ours = small(norm="mbn").copy(num_identities=shared.num_identities + 2)
    before = jax.tree.map(np.zeros_like, filled(ours))
    loaded, note = load_backbone(str(tmp_path / "shared"), ours, before)
    assert note.endswith("not pretrained: classifier")
    jax.tree.map(
        lambda was, now: np.testing.assert_array_equal(was.shape, now.shape),
        before,
        loaded,
    )
    for name, leaf in flatten_dict(loaded, sep="/").items():
        source = before if "classifier" in name else theirs
        expected = flatten_dict(source, sep="/")[name]
        np.testing.assert_array_equal(*np.broadcast_arrays(leaf, expected))


def test_a_shared_network_of_another_width_is_no_start(network, folder):
    model, _ = network
    wider = model.copy(width=2 * model.width)
    shapes = jax.eval_shape(
        functools.partial(wider.init, train=False),
        jax.random.key(0),
        jnp.zeros((2, *model.image_size, 3)),
        jnp.arange(2),
    )
    with pytest.raises(InputError, match=r"does not fit the network .*has the shape"):
        load_backbone(str(folder), wider, shapes)


def test_shared_statistics_of_other_modalities_are_no_start(tmp_path):
    shared = small(modalities=("visible", "lwir", "nir"))
    variables = filled(shared)
    mbn_jax.save_pretrained(tmp_path, shared, variables)
    load_backbone(str(tmp_path), shared, variables)
    ours = small(modalities=("visible", "nir", "thermal"))
    with pytest.raises(InputError, match="visible, lwir, nir, but the data have visib"):
        load_backbone(str(tmp_path), ours, variables)
    (tmp_path / NETWORK).write_bytes(b"{}")
    with pytest.raises(InputError, match="does not describe a network"):
        load_backbone(str(tmp_path), ours, variables)


def test_statistics_for_all_start_a_network_of_other_modalities(tmp_path):
    shared = small(norm="bn")
    mbn_jax.save_pretrained(tmp_path, shared, filled(shared))
    ours = small(norm="bn", modalities=("visible", "thermal"))
    load_backbone(str(tmp_path), ours, filled(ours))


def test_the_order_of_modalities_matters_and_the_default_is_known_by_name(tmp_path):
    shared = small()
    variables = filled(shared)
    mbn_jax.save_pretrained(tmp_path, shared, variables)
    written = json.loads((tmp_path / NETWORK).read_text())
    del written["network"]["modalities"], written["fingerprint"]
    (tmp_path / NETWORK).write_text(json.dumps(written))
    load_backbone(str(tmp_path), shared, variables)
    turned = small(modalities=("infrared", "visible"))
    with pytest.raises(InputError, match="visible, infrared, but the data have infra"):
        load_backbone(str(tmp_path), turned, variables)
