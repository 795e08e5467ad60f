"""ImageNet weights: the function of their first network, or errors that name."""

import json
import os
import struct
import threading
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from mbn_jax import InputError
from mbn_jax.models.pretrained import ImageNetClassifier, load_backbone
from mbn_jax.models.reid import ReID
from mbn_jax.models.resnet import ResNet
from mbn_jax.models.weights import read_safetensors

from .make_torch_reference import CLASSES, PATH, images, numbers
from .test_resnet import quick_jit

MODALITY = np.array([0, 1])


@cache
def shapes_of(model):
    train = {"train": False} if isinstance(model, ReID) else {}
    init = partial(model.init, **train)
    return jax.eval_shape(init, jax.random.key(0), images(), MODALITY)


def reference(depth):
    stored = json.loads(PATH.read_text())[str(depth)]
    arrays = {
        name: numbers(name, shape)
        if shape
        else np.zeros((), np.int64)  # num_batches_tracked
        for name, shape in stored["shapes"].items()
    }
    return arrays, np.array(stored["logits"], np.float32)


@pytest.fixture
def weights(tmp_path):
    """Writes a safetensors file, changed as a test likes."""

    def write(depth=18, **changes):
        arrays = reference(depth)[0]
        for name, array in changes.items():
            arrays[name.replace("__", ".")] = array
        path = tmp_path / "weights.safetensors"
        kept = {name: array for name, array in arrays.items() if array is not None}
        safetensors.numpy.save_file(kept, path)
        return str(path)

    return write


@pytest.mark.parametrize("norm", ["bn", "mbn"])
@pytest.mark.parametrize("depth", [18, 50])
def test_logits_are_those_of_pytorch(depth, norm, weights):
    model = ImageNetClassifier(ResNet(depth, last_stride=2, norm=norm), CLASSES)
    variables, note = load_backbone(weights(depth), model, shapes_of(model))
    logits = quick_jit(model.apply)(variables, images(), MODALITY)
    expected = reference(depth)[1]
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    assert "left out" not in note
    assert "not pretrained" not in note


def test_what_imagenet_does_not_know_stays_and_is_named(weights):
    model = ReID(
        7,
        image_size=(64, 48),
        depth=18,
        last_stride=2,
        stem="separate",
        non_local=(0, 1, 0, 0),
        pooling="learned_gem",
        share_affine=False,
        modalities=("visible", "nir", "cam/1"),
    )
    before = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 0.5, leaf.dtype), shapes_of(model)
    )
    after, note = load_backbone(weights(), model, before)
    assert "left out: fc.bias, fc.weight" in note
    new = "backbone/stage2_non_local2, classifier, neck, pooling"
    assert note.endswith(f"not pretrained: {new}")
    arrays = reference(18)[0]
    before, after = flatten_dict(before, sep="/"), flatten_dict(after, sep="/")
    assert before.keys() == after.keys()
    parts = new.replace("backbone/", "").split(", ")
    for path, leaf in after.items():
        assert leaf.shape == before[path].shape
        is_new = any(f"/{part}" in path for part in parts)
        assert np.all(leaf == before[path]) == is_new, path
    for stem in ("conv1_visible", "conv1_nir", "conv1_cam%2F1"):
        np.testing.assert_array_equal(
            after[f"params/backbone/{stem}/kernel"],
            arrays["conv1.weight"].transpose(2, 3, 1, 0),
        )
    for m in (0, 1, 2):
        np.testing.assert_array_equal(
            after["batch_stats/backbone/stage1_block1/norm1/mean"][m],
            arrays["layer1.0.bn1.running_mean"],
        )


def test_blocks_of_timm_and_ibn_net_are_found_by_their_names(tmp_path):
    for variant, named in (
        ("se_resnet", {"layer1.0.se.fc1.weight": (16, 256, 1, 1)}),
        ("resnet_ibn_a", {"layer1.0.bn1.IN.weight": (32,)}),
    ):
        model = ReID(7, depth=50, variant=variant, norm="bn")
        arrays = names_of(model)
        for name, shape in named.items():
            assert arrays[name].shape == shape
        path = str(tmp_path / f"{variant}.safetensors")
        safetensors.numpy.save_file(arrays, path)
        load_backbone(path, model, shapes_of(model))


def names_of(model):
    """Arrays that fill a network, by the names that the loader asks for."""
    from mbn_jax.models.pretrained import _find_in_torch

    arrays = {}
    for path, leaf in flatten_dict(shapes_of(model)).items():
        if path[1] == "backbone":
            (name,), _ = _find_in_torch({}, path[2:])
            shape = leaf.shape
            if path[-1] == "kernel":
                order = (3, 2, 0, 1) if len(shape) == 4 else (1, 0)
                shape = tuple(shape[i] for i in order)
                shape += (1, 1) * (len(shape) == 2)
            arrays[name] = numbers(name, shape)
    return arrays


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layer2__0__conv1__weight": None},
            r"it lacks layer2\.0\.conv1\.weight \(for para",
        ),
        ({"bn1__running_var": None}, r"it lacks bn1\.running_var \(for batch_stats"),
        ({"other__weight": np.ones(2, np.float32)}, "has no place for other.weight"),
        ({"a\n\x1b": np.ones(2, np.float32)}, r"has no place for a\\n\\x1b"),
        (
            {"bn1__bias": np.ones(3, np.float32)},
            r"bn1\.bias gives .*backbone/norm1/bias the shape \[3\] and not \[64\]",
        ),
        (
            {"bn1__running_mean": np.ones((2, 64), np.float32)},
            r"norm1/mean the shape \[2, 64\] and not \[64\]",
        ),
        (
            {"conv1__weight": np.ones((64, 3), np.float32)},
            r"conv1/kernel the shape \[3, 64\] and not \[7, 7, 3, 64\]",
        ),
        (
            {"bn1__weight": None, "bn1__gamma": np.ones(64, np.float32)},
            r"it lacks bn1\.weight .*; the network has no place for bn1\.gamma",
        ),
    ],
)
@pytest.mark.parametrize("norm", ["bn", "mbn"])
def test_every_misfit_is_named(changes, message, norm, weights):
    model = ReID(7, depth=18, norm=norm)
    with pytest.raises(InputError, match=message):
        load_backbone(weights(**changes), model, shapes_of(model))


def test_what_cannot_be_read_is_an_error(tmp_path):
    model = ReID(7, depth=18)
    for nowhere in ("nowhere", "n" * 300):
        with pytest.raises(InputError, match="There are no weights at n"):
            load_backbone(nowhere, model, {})
    os.mkfifo(tmp_path / "model.json")
    for _ in range(2):  # as Keras's, and as a shared network
        with pytest.raises(InputError, match=r"model\.json is not a regular file"):
            load_backbone(str(tmp_path), model.copy(stride_in_1x1=True), {})
        (tmp_path / "model.safetensors").touch()
    path = tmp_path / "resnet.pth"
    path.write_bytes(b"\x80\x02 no safetensors")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        load_backbone(str(path), model, shapes_of(model))


def test_the_stride_must_be_where_the_weights_expect_it(weights):
    model = ReID(7, depth=50, stride_in_1x1=True)
    with pytest.raises(InputError, match=r"3×3 convolutions: set model\.stride_in_1x1"):
        load_backbone(weights(50), model, shapes_of(model))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"bn1__bias": np.ones(64, np.int32)},
            r"bn1\.bias in .* is int32, but weights",
        ),
        ({"bn1__bias": np.ones(64, bool)}, r"bn1\.bias in .* is bool"),
        ({"bn1__bias": np.ones(64, np.complex64)}, r"bn1\.bias in .* is complex64"),
        ({"bn1__bias": np.full(64, np.nan, np.float32)}, r"bn1\.bias in .* holds NaN"),
        ({"bn1__bias": np.full(64, 1e39)}, r"bn1\.bias in .* number beyond float32"),
        (
            {"bn1__running_var": -np.ones(64, np.float32)},
            r"bn1\.running_var in .* holds a variance below zero",
        ),
    ],
)
def test_numbers_that_no_network_has_are_refused(changes, message, weights):
    model = ReID(7, depth=18)
    with pytest.raises(InputError, match=message):
        load_backbone(weights(**changes), model, shapes_of(model))


def test_only_a_regular_file_of_a_reasonable_size_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe is not a regular file"):
        read_safetensors(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match=r"1,099,511,627,776 bytes, expected no more"):
        read_safetensors(tmp_path / "huge")
    header = b'{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'
    (tmp_path / "f8").write_bytes(struct.pack("<Q", len(header)) + header + b"1")
    with pytest.raises(InputError, match="f8 cannot be read as safetensors"):
        read_safetensors(tmp_path / "f8")


@pytest.mark.parametrize("name", ["", "a b", "../..", "a/b/c", "-", "a" * 200, "a/é"])
def test_a_mistyped_name_on_the_hub_is_one_sentence(name):
    """It is refused before anybody is asked."""
    model = ReID(7, depth=18)
    with pytest.raises(InputError, match=r"cannot be downloaded .* expected hf:own"):
        load_backbone(f"hf:{name}", model, {})


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for one file."""

    content = b""

    def do_HEAD(self):
        self.send_response(200 if self.path.endswith("model.safetensors") else 404)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"abc"')
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(weights, monkeypatch, tmp_path):
    """A hub on this machine, and an empty cache."""
    import huggingface_hub
    from huggingface_hub import constants

    with open(weights(), "rb") as file:
        Hub.content = file.read()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    cache = str(tmp_path / "cache")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    for name in ("hf_hub_download", "try_to_load_from_cache"):
        function = partial(getattr(huggingface_hub, name), cache_dir=cache)
        monkeypatch.setattr(huggingface_hub, name, function)
    yield endpoint
    server.shutdown()
    server.server_close()


def test_a_download_is_announced_and_cached_and_its_checksum_shown(hub, capfd):
    import hashlib

    model = ReID(7, depth=18, norm="bn")
    digest = hashlib.sha256(Hub.content).hexdigest()
    load_backbone("hf:someone/resnet18", model, shapes_of(model))
    told = capfd.readouterr().err
    assert f"downloading model.safetensors of someone/resnet18 from {hub}" in told
    assert f"SHA-256 {digest}" in told
    load_backbone("hf:someone/resnet18", model, shapes_of(model))
    told = capfd.readouterr().err
    assert "downloading" not in told
    assert f"SHA-256 {digest}" in told


def test_a_download_that_fails_is_one_sentence(hub, monkeypatch):
    Hub.do_HEAD, working = lambda self: self.send_error(404), Hub.do_HEAD
    model = ReID(7, depth=18, norm="bn")
    try:
        with pytest.raises(InputError, match="hf:someone/other cannot be downloaded"):
            load_backbone("hf:someone/other", model, shapes_of(model))
    finally:
        Hub.do_HEAD = working
