"""Keras Applications' ResNet-50 as TensorFlow.js stores it, and where its arrays go."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbn_jax.errors import InputError
from mbn_jax.files import read_bytes, read_json
from mbn_jax.models.weights import Arrays
from mbn_jax.pixels import IMAGENET_MEAN, IMAGENET_STD

# What Keras's "caffe" mode subtracts from RGB in 0..255, and the two epsilons.
_MEAN = np.array([123.68, 116.779, 103.939])
_KERAS_EPSILON, _EPSILON = 1e-3, 1e-5


def read_keras(folder: str | Path) -> Arrays:
    """Reads the arrays of a TensorFlow.js layers model by their names.

    Raises:
      InputError: a file is missing, cut off, outside of the folder, or contains other
        types than float32; or its description is damaged.
    """
    folder = Path(folder)
    description = folder / "model.json"

    def items(content: Any, key: str) -> list[Any]:
        found = content.get(key) if isinstance(content, dict) else None
        if not isinstance(found, list):
            raise InputError(
                f"{description} is not the description of a TensorFlow.js layers "
                f"model, which has a list of {key}."
            )
        return found

    arrays: Arrays = {}
    for group in items(read_json(description), "weightsManifest"):
        data = b"".join(
            read_bytes(_inside(folder, name)) for name in items(group, "paths")
        )
        position = 0
        for entry in items(group, "weights"):
            name, shape = _described(entry, description)
            size = math.prod(shape)
            if len(data) < position + 4 * size:
                raise InputError(
                    f"The weights of {folder} end before {name}: {len(data):,} bytes, "
                    f"expected {position + 4 * size:,} or more."
                )
            arrays[name] = np.frombuffer(data, "<f4", size, position).reshape(shape)
            position += 4 * size
        if position != len(data):
            raise InputError(
                f"The weights of {folder} have {len(data):,} bytes, expected "
                f"{position:,}."
            )
    return arrays


def _inside(folder: Path, name: Any) -> Path:
    """A file of the folder itself: a path could lead to any other."""
    if not isinstance(name, str) or Path(name).name != name:
        raise InputError(
            f"{folder / 'model.json'} names {name!r} as a file of weights, expected "
            "the name of a file in the same folder."
        )
    return folder / name


def _described(entry: Any, description: Path) -> tuple[str, list[int]]:
    """Name and shape of an array of float32."""
    entry = entry if isinstance(entry, dict) else {}
    name, shape = entry.get("name"), entry.get("shape")
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or not isinstance(shape, list)
        or len(shape) > 4
        or not all(type(length) is int and length > 0 for length in shape)
    ):
        raise InputError(
            f"{description} describes an array by the name {name!r} and the shape "
            f"{shape!r}, expected text and a list of up to four lengths; copy it again."
        )
    if entry.get("dtype") != "float32" or "quantization" in entry:
        raise InputError(
            f"{name} in {description.parent} is {entry.get('dtype')}, expected float32 "
            "that is not quantized."
        )
    return name, shape


def find_in_keras(
    arrays: Arrays, path: Sequence[str]
) -> tuple[list[str], Callable[[], np.ndarray]]:
    """Finds the arrays that a leaf is made of by Keras's names.

    Keras's convolutions have biases, which are subtracted from the means of the
    normalizations; its larger epsilon is added to the variances; its images are BGR in
    0..255 minus a mean, which changes the first kernel and mean. (At the border of the
    image, a difference between the means of half a pixel value remains.)

    Args:
      arrays: as `read_keras` returns them.
      path: of the leaf in the parameters or statistics of the backbone or classifier.

    Returns:
      The names, and a function that makes the leaf.
    """
    *modules, leaf = path
    if modules == ["fc"]:
        name = f"fc1000/{leaf}"
        return [name], lambda: arrays[name]
    layer = _layer(modules)
    is_stem = layer == "conv1"
    convolution = layer if is_stem else f"res{layer}"
    norm = f"bn_{layer}" if is_stem else f"bn{layer}"
    names = {
        "kernel": [f"{convolution}/kernel"],
        "mean": [f"{norm}/moving_mean", f"{convolution}/bias"],
        "var": [f"{norm}/moving_variance"],
        "scale": [f"{norm}/gamma"],
        "bias": [f"{norm}/beta"],
    }[leaf]

    def make() -> np.ndarray:
        array = arrays[names[0]]
        if leaf == "kernel" and is_stem:
            pixel_std = 255 * np.array(IMAGENET_STD, np.float64)
            return array[:, :, ::-1] * pixel_std[:, None]
        if leaf == "var":
            return array + (_KERAS_EPSILON - _EPSILON)
        if leaf != "mean":
            return array
        mean, bias = (arrays[name].astype(np.float64) for name in names)
        if is_stem:
            offset = 255 * np.array(IMAGENET_MEAN) - _MEAN
            kernel = arrays["conv1/kernel"][:, :, ::-1]
            bias = bias + np.einsum("hwio,i->o", kernel, offset)
        return mean - bias

    return names, make


def _layer(modules: Sequence[str]) -> str:
    """`2a_branch2b` for conv2 and norm2 of the first block of stage 1; `conv1`."""
    block = re.fullmatch(r"stage(\d)_block(\d+)", modules[0])
    if not block:
        return "conv1"
    stage, number = int(block[1]) + 1, int(block[2])
    branch = re.fullmatch(r"(?:conv|norm)(\d)", modules[1])
    suffix = "2" + "abc"[int(branch[1]) - 1] if branch else "1"
    return f"{stage}{chr(ord('a') + number - 1)}_branch{suffix}"
