"""A finished network with other running statistics than its own.

A control changes no weight, and uses no identity of a test image. It only changes the
mean and variance that the layers normalize with, in some cases to those of the whole
test set: a control explains a network, and is not a method to compare with.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mbn_jax import convert
from mbn_jax.analysis.ablation import AS_TRAINED
from mbn_jax.data.dataset import Split
from mbn_jax.data.pipeline import load_images
from mbn_jax.evaluation import evaluate
from mbn_jax.files import write_json
from mbn_jax.functional import pooled_moments
from mbn_jax.mesh import make_mesh, replicated
from mbn_jax.models.layers import PLACES
from mbn_jax.models.reid import ReID
from mbn_jax.pixels import normalize
from mbn_jax.training.config import read_config
from mbn_jax.training.splits import scored_protocols
from mbn_jax.training.step import make_feature_fn
from mbn_jax.training.trained_network import (
    Network,
    load_with_step,
    split_features,
    test_split,
)

CONTROLS = "controls.json"
TOGETHER = "re-estimated together"
BY_MODALITY = "re-estimated by modality"
OTHER = "of the other modality"
POOLED = "pooled"

_NUM_BATCHES, _BATCH_SIZE = 40, 64


def measure_controls(
    workdir: str | Path, data_dir: str | None = None
) -> dict[str, dict[str, Any]]:
    """Evaluates the last step of a run with other running statistics.

    A network with BN is evaluated with statistics that are re-estimated from test
    images, of all modalities together and of each modality. A network with MBN is
    evaluated with statistics re-estimated for each modality, with those of the next
    modality, and with the pooled ones, which ignore the modality. All modalities have
    equal weight where statistics are taken together. The affine parameters stay those
    of the image's own modality.

    Re-estimation takes 40 batches of 64 images, which are drawn with replacement, in
    equal parts of each modality, and are the same for all networks.

    Args:
      workdir: work directory of a finished run, where controls.json is written.
      data_dir: directory of the prepared data; None for that of the run.

    Returns:
      The content of controls.json: for `AS_TRAINED` and each control, the metrics of
      every protocol, as `mbn_jax.evaluation.evaluate` gives them.

    Raises:
      InputError: the directory is not that of a run, it has no checkpoint, or the data
        are missing.
    """
    config = read_config(workdir)
    model, variables, _ = load_with_step(workdir, "last")
    split = test_split(workdir, Network(data_dir=data_dir))
    protocols, _ = scored_protocols(split)
    # One form of the network for all controls, so that it is compiled once.
    mbn = model
    if model.norm == "bn":
        mbn = model.copy(norm="mbn", mbn_at=PLACES, share_affine=True)
        variables = convert.from_batch_norm(variables, len(model.modalities))
    embedding = make_feature_fn(mbn)
    mesh = make_mesh()
    found = {}
    for name, changed in _networks(mbn, variables, split, was_bn=model.norm == "bn"):
        features = split_features(
            functools.partial(embedding, jax.device_put(changed, replicated(mesh))),
            split,
            model.image_size,
            num_threads=config.data.num_threads,
            mesh=mesh,
        )
        found[name] = evaluate(features, split, protocols)
    write_json(Path(workdir) / CONTROLS, found)
    return found


def _networks(
    model: ReID, variables: Mapping[str, Any], split: Split, *, was_bn: bool
) -> Iterator[tuple[str, Any]]:
    """The name and the variables of the network as trained and of every control."""
    yield AS_TRAINED, variables
    images = load_images(split, np.arange(len(split)), model.image_size)
    apply = functools.partial(model.apply, train=True)
    estimate = functools.partial(convert.estimate_statistics, apply, variables)
    if was_bn:
        # All images as the first modality, whose statistics then serve all of them.
        together = estimate(_batches(images, split.modality, by_modality=False))
        yield TOGETHER, _with_rows(together, lambda mean, var: (mean[:1], var[:1]))
    yield BY_MODALITY, estimate(_batches(images, split.modality, by_modality=True))
    if not was_bn:
        yield OTHER, _with_rows(variables, _rolled)
        yield POOLED, _with_rows(variables, _pooled)


def _batches(
    images: np.ndarray, modality: np.ndarray, *, by_modality: bool
) -> Iterator[tuple[jax.Array, np.ndarray]]:
    """Normalized images in batches of equal parts of each modality, and indices."""
    rng = np.random.default_rng(0)
    kinds = [np.flatnonzero(modality == m) for m in np.unique(modality)]
    for _ in range(_NUM_BATCHES):
        rows = np.concatenate(
            [rng.choice(kind, _BATCH_SIZE // len(kinds)) for kind in kinds]
        )
        yield normalize(jnp.asarray(images[rows])), modality[rows] * by_modality


def _with_rows(variables: Mapping[str, Any], change: Any) -> dict[str, Any]:
    """The variables with other `(M, C)` running statistics, layer by layer.

    Args:
      variables: of the network.
      change: from mean and variance, `(M, C)` each, to the same of shape `(M, C)` or
        `(1, C)`.
    """
    flat = flatten_dict(variables["batch_stats"])
    for path in [path for path in flat if path[-1] == "mean"]:
        names = path, (*path[:-1], "var")
        mean, var = (flat[name] for name in names)
        if mean.ndim == 2:  # layers outside model.mbn_at are plain, with (C,)
            for name, rows in zip(names, change(mean, var), strict=True):
                flat[name] = jnp.broadcast_to(rows, mean.shape)
    return {**variables, "batch_stats": unflatten_dict(flat)}


def _rolled(mean: jax.Array, var: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.roll(mean, -1, axis=0), jnp.roll(var, -1, axis=0)


def _pooled(mean: jax.Array, var: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean, var = pooled_moments(mean, var)
    return mean[None], var[None]
