"""Keras Applications' ResNet-50 as TensorFlow.js keeps it, and our leaves of it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mbn_jax.data.augment import IMAGENET_MEAN, IMAGENET_STD
from mbn_jax.errors import InputError

Path_ = tuple[str, ...]
Arrays = dict[str, np.ndarray]

# What Keras's "caffe" mode subtracts from pixels in 0..255, RGB, and its epsilon.
_MEAN = np.array([123.68, 116.779, 103.939])
_KERAS_EPSILON, _EPSILON = 1e-3, 1e-5


def read_keras(folder: str | Path) -> Arrays:
    """The arrays of a TensorFlow.js layers model by their names.

    Raises:
      InputError: if a file is missing, cut off, or holds what is not float32.
    """
    folder = Path(folder)
    arrays: Arrays = {}
    try:
        manifest = json.loads((folder / "model.json").read_text())["weightsManifest"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / 'model.json'} is not the description of a TensorFlow.js layers "
            f"model ({type(error).__name__}: {error})."
        ) from error
    for group in manifest:
        try:
            data = b"".join((folder / name).read_bytes() for name in group["paths"])
        except OSError as error:
            raise InputError(
                f"The weights of {folder} are not complete: {error}."
            ) from error
        position = 0
        for entry in group["weights"]:
            if entry["dtype"] != "float32" or "quantization" in entry:
                raise InputError(
                    f"{entry['name']} in {folder} is {entry['dtype']}, expected "
                    "float32 that is not quantized."
                )
            size = int(np.prod(entry["shape"]))
            if len(data) < position + 4 * size:
                raise InputError(
                    f"The weights of {folder} end before {entry['name']}: "
                    f"{len(data):,} bytes, expected {position + 4 * size:,} or more."
                )
            values = np.frombuffer(data, "<f4", size, position)
            arrays[entry["name"]] = values.reshape(entry["shape"])
            position += 4 * size
        if position != len(data):
            raise InputError(
                f"The weights of {folder} have {len(data):,} bytes, expected "
                f"{position:,}."
            )
    return arrays


def find_in_keras(
    arrays: Arrays, path: Path_
) -> tuple[list[str], Callable[[], np.ndarray]]:
    """Names of the arrays that a leaf is made of by Keras's rules, and how.

    Keras's convolutions have biases, which the means of the normalisations take up
    here; its epsilon is larger, which the variances take up; its images are BGR in
    0..255 minus a mean, which the first kernel takes up. (A difference of half a pixel
    value between the means at the border of the image remains.)
    """
    if path[1] == "fc":
        name = f"fc1000/{path[-1]}"
        return [name], lambda: arrays[name]
    layer, leaf = _layer(path[1:-1]), path[-1]
    convolution = f"res{layer}" if layer[0].isdigit() else layer
    norm = f"bn{layer}" if layer[0].isdigit() else f"bn_{layer}"
    pixel_std = 255 * np.array(IMAGENET_STD, np.float64)
    if leaf == "kernel":
        name = f"{convolution}/kernel"
        if path[1].startswith("conv1"):
            return [name], lambda: arrays[name][:, :, ::-1] * pixel_std[:, None]
        return [name], lambda: arrays[name]
    if leaf == "mean":
        names = [f"{norm}/moving_mean", f"{convolution}/bias"]

        def mean() -> np.ndarray:
            mean, bias = (arrays[name].astype(np.float64) for name in names)
            if convolution == "conv1":
                offset = 255 * np.array(IMAGENET_MEAN) - _MEAN
                kernel = arrays["conv1/kernel"][:, :, ::-1]
                bias = bias + np.einsum("hwio,i->o", kernel, offset)
            return mean - bias

        return names, mean
    if leaf == "var":
        name = f"{norm}/moving_variance"
        return [name], lambda: arrays[name] + (_KERAS_EPSILON - _EPSILON)
    name = f"{norm}/{ {'scale': 'gamma', 'bias': 'beta'}[leaf] }"
    return [name], lambda: arrays[name]


def _layer(modules: Path_) -> str:
    """`2a_branch2b` for conv2 and norm2 of the first block of stage 1; `conv1`."""
    block = re.fullmatch(r"stage(\d)_block(\d+)", modules[0])
    if not block:
        return "conv1"
    stage, number = int(block[1]) + 1, int(block[2])
    branch = re.fullmatch(r"(?:conv|norm)(\d)", modules[1])
    suffix = "2" + "abc"[int(branch[1]) - 1] if branch else "1"
    return f"{stage}{chr(ord('a') + number - 1)}_branch{suffix}"
