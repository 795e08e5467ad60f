"""Networks to start from: ImageNet weights, or weights that this package wrote.

Nothing is unpickled, and nothing is downloaded without a message.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from mbn_jax.errors import InputError
from mbn_jax.models.keras import find_in_keras, read_keras
from mbn_jax.models.reid import ReID
from mbn_jax.models.resnet import ResNet
from mbn_jax.models.weights import (
    NETWORK,
    WEIGHTS,
    Arrays,
    check_numbers,
    load_pretrained,
    read_safetensors,
)
from mbn_jax.text import one_line

HUB = "hf:"
_CLASSIFIER = "params/classifier/"


class ImageNetClassifier(nn.Module):
    """A backbone, the mean over positions, and a linear classifier, as torchvision's.

    Attributes:
      backbone: with `last_stride` 2.
      num_classes: 1000 of ImageNet.
    """

    backbone: ResNet
    num_classes: int = 1000

    @nn.compact
    def __call__(self, images: jax.Array, modality: jax.Array) -> jax.Array:
        """Maps normalized images (B, H, W, 3) to logits (B, num_classes), float32."""
        feature_map = self.backbone(images, modality, train=False)
        pooled = feature_map.astype(jnp.float32).mean((1, 2))
        return nn.Dense(self.num_classes, name="fc")(pooled)


def load_backbone(
    source: str, model: ReID | ImageNetClassifier, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Fills the backbone of a network with weights.

    All modalities get the same statistics and the same first convolution. Every array
    of the source must be used, and every parameter of the backbone be found. What
    ImageNet does not know (non-local blocks, pooling, neck, the classifier of
    identities) stays as it was, and ImageNet's classifier is left out if the network
    has none.

    Args:
      source: one of

        * the path of a `.safetensors` file with torchvision's names, to which timm and
          IBN-Net add those of their blocks,
        * `hf:owner/name` or `hf:owner/name@revision`, for such a `model.safetensors` on
          the Hugging Face hub, e.g. `hf:timm/resnet50.tv_in1k`,
        * a folder with Keras Applications' ResNet-50 as TensorFlow.js stores it, which
          needs `model.stride_in_1x1`,
        * a folder that `mbn_jax.save_pretrained` wrote, from which everything except
          the classifier is loaded.
      model: the network.
      variables: of the network; arrays, or shapes of them.

    Returns:
      The variables, NumPy arrays where they are loaded, and a sentence on what was
      loaded and what was not.

    Raises:
      InputError: the source cannot be read; it does not fit, where every array that is
        missing, left over or of another shape is named; or `check_numbers` refuses an
        array.
    """
    # Not pathlib, which raises for a name that is too long.
    if not (source.startswith(HUB) or os.path.exists(source)):
        raise InputError(
            f"There are no weights at {source}, expected a .safetensors file, a folder "
            "with a model.json, or hf:owner/name."
        )
    if os.path.exists(Path(source) / WEIGHTS):
        return _load_shared(Path(source), model, variables)
    is_keras = os.path.exists(Path(source) / NETWORK)
    backbone: Any = getattr(model, "backbone", model)
    if backbone.stride_in_1x1 != is_keras:
        raise InputError(
            f"The weights of {source} are for a network whose stride is in the "
            f"{'1×1' if is_keras else '3×3'} convolutions: set model.stride_in_1x1 to "
            f"{is_keras}."
        )
    arrays = read_keras(source) if is_keras else _read_torch(source)
    find = find_in_keras if is_keras else _find_in_torch
    flat = flatten_dict(variables)
    missing, misfits, used, new = [], [], set(), set()
    for path, leaf in flat.items():
        _, part, module, *_ = path
        if part == "backbone" and "_non_local" in module:
            part = f"backbone/{module}"
        if part not in ("backbone", "fc"):
            new.add(part)
            continue
        names, make = find(arrays, path[2 if part == "backbone" else 1 :])
        used.update(names)
        absent = [name for name in names if name not in arrays]
        if absent:
            missing += [f"{name} (for {'/'.join(path)})" for name in absent]
            continue
        made_of = " + ".join(names)
        try:
            array = make()
        except ValueError as error:  # the arrays do not fit each other
            misfits.append(f"{made_of} ({error})")
            continue
        # The source has one row for the modalities of a normalization.
        expected = leaf.shape if path[-1] == "kernel" else leaf.shape[-1:]
        if array.shape != expected:
            misfits.append(
                f"{made_of} gives {'/'.join(path)} the shape {list(array.shape)} and "
                f"not {list(expected)}"
            )
            continue
        check_numbers(array, made_of, source, variance=path[-1] == "var")
        flat[path] = np.broadcast_to(array, leaf.shape).astype(leaf.dtype)
    left_over = {
        name
        for name in arrays.keys() - used
        if not name.endswith("num_batches_tracked")
    }
    classifier = {name for name in left_over if re.match(r"fc(1000)?[./]", name)}
    errors = [
        f"{what} {', '.join(names)}"
        for what, names in (
            ("it lacks", missing),
            ("of another shape,", misfits),
            ("the network has no place for", sorted(left_over - classifier)),
        )
        if names
    ]
    if errors:
        raise InputError(
            f"{source} does not fit the network: {one_line('; '.join(errors))}."
        )
    note = f"{len(used)} arrays of {source}"
    if classifier:
        note += f"; left out: {one_line(', '.join(sorted(classifier)))}"
    if new:
        note += f"; not pretrained: {', '.join(sorted(new))}"
    return unflatten_dict(flat), note


def _load_shared(
    folder: Path, model: Any, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Loads a network of this package that was trained on other identities.

    If the source has one row for all modalities, every modality gets that row.
    Statistics of other modalities are refused, because their indices would not show it.
    """
    shared, nested = load_pretrained(folder)
    ours = tuple(getattr(model, "modalities", shared.modalities))
    if shared.norm == "mbn" and shared.modalities != ours:
        raise InputError(
            f"The shared network of {folder} has statistics of the modalities "
            f"{', '.join(shared.modalities)}, but the data have {', '.join(ours)}; "
            "give the modalities of the data the same names, or start from other "
            "weights."
        )
    arrays, flat = (flatten_dict(tree, sep="/") for tree in (nested, variables))
    wanted, given = (
        {name for name in names if not name.startswith(_CLASSIFIER)}
        for names in (flat, arrays)
    )
    misfits = [
        f"{name} has the shape {list(arrays[name].shape)} and not "
        f"{list(flat[name].shape)}"
        for name in sorted(wanted & given)
        if arrays[name].shape not in (flat[name].shape, flat[name].shape[1:])
    ]
    if wanted != given or misfits:
        differing = sorted(wanted ^ given)
        raise InputError(
            f"{folder / WEIGHTS} does not fit the network ("
            + one_line("; ".join([*differing[:3], *misfits[:3]]))
            + "); set config.model as for the network of that file, and use data with "
            "as many modalities."
        )
    for name in wanted:
        leaf = flat[name]
        flat[name] = np.broadcast_to(arrays[name], leaf.shape).astype(leaf.dtype)
    note = f"{len(wanted)} arrays of {folder / WEIGHTS}; not pretrained: classifier"
    return unflatten_dict(flat, sep="/"), note


def _read_torch(source: str) -> Arrays:
    path = _from_hub(source) if source.startswith(HUB) else Path(source)
    if path.is_dir():
        raise InputError(
            f"{source} is a folder without a {NETWORK} of Keras's weights."
        )
    return read_safetensors(path)


def _from_hub(source: str) -> Path:
    """Returns the path of the file in the hub's cache, downloading it if necessary."""
    import huggingface_hub
    from huggingface_hub.utils import logging as hub_logging

    repository, _, revision = source.removeprefix(HUB).partition("@")
    # Its warnings about every attempt would hide our error.
    hub_logging.set_verbosity_error()
    wanted: Any = dict(filename=WEIGHTS, revision=revision or None)
    try:
        cached: Any = huggingface_hub.try_to_load_from_cache(repository, **wanted)
        if not isinstance(cached, str):
            print(
                f"downloading {WEIGHTS} of {repository} from "
                f"{huggingface_hub.constants.ENDPOINT} into "
                f"{huggingface_hub.constants.HF_HUB_CACHE}",
                file=sys.stderr,
            )
            cached = huggingface_hub.hf_hub_download(repository, **wanted)
    # Errors of the hub, requests, httpx and the file system, and for invalid names.
    except Exception as error:
        raise InputError(
            f"{source} cannot be downloaded ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); expected hf:owner/name or "
            "hf:owner/name@revision."
        ) from error
    with open(cached, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    print(f"{cached}: SHA-256 {digest}", file=sys.stderr)
    return Path(cached)


_TORCH_LEAVES = {
    "mean": "running_mean",
    "var": "running_var",
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
}
_TORCH_MODULES = {
    "shortcut_conv": "downsample.0",
    "shortcut_norm": "downsample.1",
    "squeeze_excitation": "se",
    "squeeze": "fc1",
    "excite": "fc2",
    "instance": "IN",
    "batch": "BN",
}


def _find_in_torch(
    arrays: Arrays, path: Sequence[str]
) -> tuple[list[str], Callable[[], np.ndarray]]:
    """As `find_in_keras`, by the names of torchvision, timm and IBN-Net."""

    def module(name: str) -> str:
        if block := re.fullmatch(r"stage(\d)_block(\d+)", name):
            return f"layer{block[1]}.{int(block[2]) - 1}"
        if name.startswith("conv1_"):  # of a modality
            return "conv1"
        return _TORCH_MODULES.get(name, name.replace("norm", "bn"))

    *modules, leaf = path
    name = ".".join([*map(module, modules), _TORCH_LEAVES[leaf]])

    def make() -> np.ndarray:
        array = arrays[name]
        if leaf != "kernel" or array.ndim < 2:
            return array
        if ".se." in name and array.shape[2:] == (1, 1):  # timm's, for our dense layers
            array = array[:, :, 0, 0]
        return array.transpose(*range(2, array.ndim), 1, 0)  # OIHW to HWIO

    return [name], make
