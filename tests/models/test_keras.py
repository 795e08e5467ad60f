"""Keras's ResNet-50 is the same function, and its files are read with care."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbn_jax import InputError
from mbn_jax.models.keras import read_keras
from mbn_jax.models.pretrained import ImageNetClassifier, load_backbone
from mbn_jax.models.reid import ReID
from mbn_jax.models.resnet import ResNet

from .make_torch_reference import images
from .test_pretrained import MODALITY, shapes_of
from .test_resnet import quick_jit


def keras_folder(folder, changes=()):
    """Random weights of Keras's ResNet-50 by its names, in two pieces."""
    rng = np.random.default_rng(0)
    entries, data = [], b""
    layers = {"conv1": (7, 7, 3, 64)}
    inputs = 64
    for stage, repeat in zip("2345", (3, 4, 6, 3), strict=True):
        features = 64 * 2 ** (int(stage) - 2)
        for letter in "abcdef"[:repeat]:
            block = f"{stage}{letter}_branch"
            layers[f"{block}2a"] = (1, 1, inputs, features)
            layers[f"{block}2b"] = (3, 3, features, features)
            layers[f"{block}2c"] = (1, 1, features, 4 * features)
            if letter == "a":
                layers[f"{block}1"] = (1, 1, inputs, 4 * features)
            inputs = 4 * features
    arrays = {}
    for name, shape in layers.items():
        convolution = name if name == "conv1" else f"res{name}"
        norm = f"bn_{name}" if name == "conv1" else f"bn{name}"
        fan_in = np.prod(shape[:-1])
        arrays[f"{convolution}/kernel"] = rng.normal(size=shape) * (2 / fan_in) ** 0.5
        arrays[f"{convolution}/bias"] = rng.normal(size=shape[-1])
        for leaf in ("gamma", "moving_variance"):
            arrays[f"{norm}/{leaf}"] = rng.uniform(0.5, 1.5, shape[-1])
        for leaf in ("beta", "moving_mean"):
            arrays[f"{norm}/{leaf}"] = 0.1 * rng.normal(size=shape[-1])
    arrays["conv1/kernel"] /= 60
    arrays["fc1000/kernel"] = rng.normal(size=(2048, 1000)) / 45
    arrays["fc1000/bias"] = rng.normal(size=1000)
    for name, array in arrays.items():
        entries.append({"name": name, "shape": list(array.shape), "dtype": "float32"})
        data += array.astype("<f4").tobytes()
    half = len(data) // 2
    (folder / "a.bin").write_bytes(data[:half])
    (folder / "b.bin").write_bytes(data[half:])
    group = {"paths": ["a.bin", "b.bin"], "weights": entries}
    (folder / "model.json").write_text(json.dumps({"weightsManifest": [group]}))
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def keras_logits(arrays, pixels):
    """Keras's ResNet-50 step by step, of padded BGR pixels minus the mean."""

    def convolve(x, name, stride=1):
        kernel = arrays[f"{name}/kernel"]
        pad = 0 if name == "conv1" else kernel.shape[0] // 2
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(pad, pad)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + arrays[f"{name}/bias"]

    def normalize(x, name):
        mean, var = arrays[f"{name}/moving_mean"], arrays[f"{name}/moving_variance"]
        y = (x - mean) / jnp.sqrt(var + 1e-3)
        return y * arrays[f"{name}/gamma"] + arrays[f"{name}/beta"]

    x = jax.nn.relu(normalize(convolve(pixels, "conv1", 2), "bn_conv1"))
    x = jax.lax.reduce_window(
        jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))),
        -jnp.inf,
        jax.lax.max,
        (1, 3, 3, 1),
        (1, 2, 2, 1),
        "VALID",
    )
    for stage, repeat in zip("2345", (3, 4, 6, 3), strict=True):
        for letter in "abcdef"[:repeat]:
            stride = 2 if letter == "a" and stage != "2" else 1
            y = x
            for part, step in (("2a", stride), ("2b", 1), ("2c", 1)):
                name = f"{stage}{letter}_branch{part}"
                y = normalize(convolve(y, f"res{name}", step), f"bn{name}")
                y = y if part == "2c" else jax.nn.relu(y)
            if letter == "a":
                name = f"{stage}{letter}_branch1"
                x = normalize(convolve(x, f"res{name}", stride), f"bn{name}")
            x = jax.nn.relu(x + y)
    return x.mean((1, 2)) @ arrays["fc1000/kernel"] + arrays["fc1000/bias"]


def test_keras_s_network_is_the_same_function(tmp_path):
    arrays = keras_folder(tmp_path)
    backbone = ResNet(50, last_stride=2, norm="bn", stride_in_1x1=True)
    model = ImageNetClassifier(backbone)
    variables, note = load_backbone(str(tmp_path), model, shapes_of(model))
    assert note == f"320 arrays of {tmp_path}"
    # Both pad with zeros, which are pixels half a value apart: here with the same.
    x = np.pad(images(), ((0, 0), (3, 3), (3, 3), (0, 0)))
    pixels = 255 * (x * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406])
    bgr = (pixels - [123.68, 116.779, 103.939])[..., ::-1].astype(np.float32)
    with jax.numpy_rank_promotion("allow"):
        expected = quick_jit(keras_logits)(arrays, bgr)
    logits = quick_jit(model.apply)(variables, images(), MODALITY)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_keras_s_weights_must_be_whole(tmp_path):
    keras_folder(tmp_path)
    model = ReID(7, depth=50, stride_in_1x1=True)
    piece = tmp_path / "b.bin"
    whole = piece.read_bytes()
    piece.write_bytes(whole[:-4])
    with pytest.raises(InputError, match="end before fc1000/bias"):
        load_backbone(str(tmp_path), model, shapes_of(model))
    piece.unlink()
    with pytest.raises(InputError, match=r"b\.bin cannot be read"):
        load_backbone(str(tmp_path), model, shapes_of(model))
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(InputError, match="not the description of a TensorFlow"):
        load_backbone(str(tmp_path), model, shapes_of(model))
    with pytest.raises(InputError, match=r"1×1 convolutions: set model\.stride_in_1x1"):
        load_backbone(str(tmp_path), ReID(7), shapes_of(ReID(7)))


ENTRY = {"name": "a", "shape": [1], "dtype": "float32"}


def manifest(**group):
    group = {"paths": ["a.bin"], "weights": [ENTRY]} | group
    return {"weightsManifest": [group]}


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ([], "it holds a list"),
        ({"weightsManifest": {}}, "has a list of weightsManifest"),
        ({"weightsManifest": [3]}, "has a list of paths"),
        (manifest(paths="a.bin"), "has a list of paths"),
        (manifest(weights=None), "has a list of weights"),
        (manifest(paths=[3]), "names 3 as a file of weights"),
        (manifest(paths=["../a.bin"]), r"names '\.\./a\.bin' as a file"),
        (manifest(paths=["/dev/zero"]), "names '/dev/zero' as a file"),
        (manifest(paths=[".."]), r"\.\. is not a regular file"),
        (manifest(paths=[""]), "is not a regular file"),
        (manifest(paths=["pipe"]), "pipe is not a regular file"),
        (manifest(weights=[3]), "the name None and the shape None"),
        (manifest(weights=[ENTRY | {"name": 3}]), "the name 3"),
        (manifest(weights=[ENTRY | {"name": "a\n"}]), r"the name 'a\\n'"),
        (manifest(weights=[ENTRY | {"shape": [-1]}]), r"the shape \[-1\]"),
        (manifest(weights=[ENTRY | {"shape": [0, 2**62]}]), r"the shape \[0, 4611"),
        (manifest(weights=[ENTRY | {"shape": [1] * 99}]), "expected text and a list"),
        (manifest(weights=[ENTRY | {"shape": 1}]), "the shape 1"),
        (manifest(weights=[ENTRY | {"shape": [1.0]}]), r"the shape \[1\.0\]"),
        (manifest(weights=[ENTRY | {"shape": [2**40, 2**40]}]), "end before a"),
        (manifest(weights=[ENTRY | {"dtype": "int32"}]), "a in .* is int32"),
        (manifest(weights=[{"name": "a", "shape": [1]}]), "a in .* is None"),
        (manifest(weights=[ENTRY | {"quantization": {}}]), "not quantized"),
        (manifest(weights=[]), "have 4 bytes, expected 0"),
    ],
)
def test_a_damaged_or_hostile_description_of_keras_is_refused(
    description, message, tmp_path
):
    (tmp_path / "a.bin").write_bytes(bytes(4))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "model.json").write_text(json.dumps(manifest()))
    assert read_keras(tmp_path)["a"].shape == (1,)
    (tmp_path / "model.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match=message):
        read_keras(tmp_path)
