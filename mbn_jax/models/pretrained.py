"""ImageNet weights for the backbones, and networks to start from.

From a safetensors file with torchvision's names (timm's and IBN-Net's add the arrays of
their blocks), from such a file on the Hugging Face hub, from Keras Applications'
ResNet-50 as TensorFlow.js keeps it, or from a folder that `mbn_jax.save_pretrained`
wrote. Nothing is unpickled, and nothing is downloaded without saying so.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from mbn_jax import convert
from mbn_jax.errors import InputError
from mbn_jax.models.keras import Path_, find_in_keras, read_keras
from mbn_jax.models.reid import ReID
from mbn_jax.models.resnet import ResNet
from mbn_jax.models.shared import (
    NETWORK,
    WEIGHTS,
    Arrays,
    check_numbers,
    read_safetensors,
    read_shared,
)
from mbn_jax.text import one_line

HUB = "hf:"
_CLASSIFIER = "params/classifier/"
_STATISTICS = {"mean": "running_mean", "var": "running_var"}
_AFFINE = {"kernel": "weight", "scale": "weight", "bias": "bias"}


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
    """Fills the backbone of a network with ImageNet weights.

    Statistics enter normalizations by modality through `convert.from_batch_norm`, alike
    in all modalities, and the stem of every modality gets the same weights. Every array
    of the source must be used and every parameter of the backbone be found; what
    ImageNet does not know (non-local blocks, pooling, neck, the classifier of
    identities) stays as it was, and ImageNet's classifier is left out where the network
    has none.

    Args:
      source: path of a `.safetensors` file; `hf:owner/name`, optionally with
        `@revision`, for `model.safetensors` of a model on the Hugging Face hub, such as
        `hf:timm/resnet50.tv_in1k`; or a folder with the `model.json` of Keras
        Applications' ResNet-50, for which `model.stride_in_1x1` must be set; or a
        folder that `mbn_jax.save_pretrained` wrote, of which everything except the
        classifier is taken over.
      model: the network.
      variables: of the network; arrays, or shapes of them.

    Returns:
      The variables, NumPy arrays where they are loaded, and a sentence that says what
      was loaded, and what was left.

    Raises:
      InputError: the source cannot be read; it does not fit, where every array that is
        missing, left over or of another shape is named; or an array holds what no
        network has, see `check_numbers`.
    """
    # Of os.path, since pathlib raises for a name that is too long.
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
    for norm_or_leaf in _groups(flat):
        found: dict[Path_, Any] = {}
        fit = True
        for path in norm_or_leaf:
            inside = path[:1] + path[2:] if path[1] == "backbone" else path
            if (path[1] != "backbone" and path[1] != "fc") or _is_new(inside):
                new.add("/".join(path[1:3] if _is_new(inside) else path[1:2]))
                continue
            names, value = find(arrays, inside)
            absent = [name for name in names if name not in arrays]
            missing += [f"{name} (for {'/'.join(path)})" for name in absent]
            used.update(names)
            if absent:
                fit = False
                continue
            try:
                found[path] = value()
            except ValueError as error:  # of several arrays that do not fit each other
                fit = False
                misfits.append(f"{' + '.join(names)} ({error})")
                continue
            # Of a normalization by modality the source has one row.
            expected = flat[path].shape
            if path[-1] != "kernel":
                expected = expected[-1:]
            if found[path].shape != expected:
                fit = False
                misfits.append(
                    f"{' + '.join(names)} gives {'/'.join(path)} the shape "
                    f"{list(found[path].shape)} and not {list(expected)}"
                )
                continue
            what = " + ".join(names)
            check_numbers(found[path], what, source, variance=path[-1] == "var")
        if fit:
            for path, leaf in _by_modality(found, flat).items():
                flat[path] = np.asarray(leaf, flat[path].dtype)
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
    """Takes over a network of this project that was trained on other identities.

    Where the network has a row for each modality and the source has one for all, every
    modality gets that row. Statistics of other modalities are refused, since an index
    would not show it.
    """
    shared, arrays = read_shared(folder)
    ours = tuple(getattr(model, "modalities", shared.modalities))
    if shared.norm == "mbn" and shared.modalities != ours:
        raise InputError(
            f"The shared network of {folder} has statistics of the modalities "
            f"{', '.join(shared.modalities)}, but the data have {', '.join(ours)}; "
            "give the modalities of the data the same names, or start from other "
            "weights."
        )
    flat = flatten_dict(variables, sep="/")
    wanted = {name for name in flat if not name.startswith(_CLASSIFIER)}
    given = {name for name in arrays if not name.startswith(_CLASSIFIER)}
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


def _groups(flat: Mapping[Path_, Any]) -> list[list[Path_]]:
    """Paths of all leaves, those of a normalization or a layer side by side."""
    groups: dict[Path_, list[Path_]] = {}
    for path in flat:
        groups.setdefault(path[1:-1], []).append(path)
    return list(groups.values())


def _is_new(path: Path_) -> bool:
    return "_non_local" in path[1]


def _by_modality(
    found: dict[Path_, np.ndarray], flat: Mapping[Path_, Any]
) -> dict[Path_, Any]:
    """A batch normalization in the form that the network has it in; else as it is."""
    means = [path for path in found if path[-1] == "mean"]
    scales = [path for path in found if path[-1] == "scale"]
    if not (means and scales) or len(flat[means[0]].shape) == 1:
        return found
    converted = convert.from_batch_norm(
        unflatten_dict(found),
        flat[means[0]].shape[0],
        share_affine=len(flat[scales[0]].shape) == 1,
    )
    return flatten_dict(converted)


def _read_torch(source: str) -> Arrays:
    path = _from_hub(source) if source.startswith(HUB) else Path(source)
    if path.is_dir():
        raise InputError(
            f"{source} is a folder without a {NETWORK} of Keras's weights."
        )
    return read_safetensors(path)


def _from_hub(source: str) -> Path:
    """Path of the file in the hub's cache, downloaded if need be."""
    import huggingface_hub
    from huggingface_hub.utils import logging as hub_logging

    repository, _, revision = source.removeprefix(HUB).partition("@")
    # Its warnings on every try would surround the one sentence on what is wrong.
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
    # Of names, requests, httpx, the file system, the hub.
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


def _find_in_torch(
    arrays: Arrays, path: Path_
) -> tuple[list[str], Callable[[], np.ndarray]]:
    """Name of a leaf's array by torchvision's rules, and how to get the leaf of it."""
    leaf = path[-1]
    name = ".".join(map(_torch_name, path[1:-1]))
    name += "." + (_STATISTICS if path[0] == "batch_stats" else _AFFINE)[leaf]

    def value() -> np.ndarray:
        array = arrays[name]
        if leaf != "kernel" or array.ndim < 2:
            return array
        if ".se." in name and array.shape[2:] == (1, 1):  # timm's, for our dense layers
            array = array[:, :, 0, 0]
        return array.transpose(*range(2, array.ndim), 1, 0)  # OIHW to HWIO

    return [name], value


def _torch_name(part: str) -> str:
    """A module of ours by torchvision's name, timm's or IBN-Net's."""
    if block := re.fullmatch(r"stage(\d)_block(\d+)", part):
        return f"layer{block[1]}.{int(block[2]) - 1}"
    if part.startswith("conv1_"):  # of a modality
        return "conv1"
    names = {
        "shortcut_conv": "downsample.0",
        "shortcut_norm": "downsample.1",
        "squeeze_excitation": "se",
        "squeeze": "fc1",
        "excite": "fc2",
        "instance": "IN",
        "batch": "BN",
    }
    return names.get(part, part.replace("norm", "bn"))
