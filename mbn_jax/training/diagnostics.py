"""What explains a trained network: its distribution gaps, and its controls.

A control is the same network with other running statistics. It changes no weight, and
uses no identity of a test image. It only changes the mean and variance that the layers
normalize with, in some cases to those of the whole test set: a control explains a
network, and is not a method to compare with.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from mbn_jax import convert
from mbn_jax.analysis.ablation import AS_TRAINED
from mbn_jax.analysis.gap import WAYS, Gap, measure_gaps
from mbn_jax.analysis.gap_charts import COLORS
from mbn_jax.data.augment import Augmentation, augment
from mbn_jax.data.catalog import check_prepared
from mbn_jax.data.dataset import Split, load_split, training_split
from mbn_jax.data.pipeline import load_images, train_batches
from mbn_jax.data.sampling import make_sampler
from mbn_jax.errors import InputError
from mbn_jax.evaluation import evaluate
from mbn_jax.files import write_json
from mbn_jax.functional import pooled_moments
from mbn_jax.mesh import make_mesh, replicated
from mbn_jax.modalities import has_color
from mbn_jax.models.layers import PLACES
from mbn_jax.models.reid import ReID
from mbn_jax.pixels import normalize
from mbn_jax.text import progress
from mbn_jax.training.config import MACHINE_KEYS, as_json, differences, read_config
from mbn_jax.training.run_data import check_data, scored_protocols
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

_NUM_BATCHES, _BATCH_SIZE = 40, 64  # of re-estimation


def network_gaps(
    config: ConfigDict,
    model: ReID,
    variables: Mapping[str, Any],
    splits: Mapping[str, Split],
    num_batches: int,
) -> dict[str, list[Gap]]:
    """Measures the gaps of a network as it is trained, and as it is used.

    Args:
        config: The configuration of its training.
        model: The network.
        variables: Its variables.
        splits: The splits to draw from, by the way of `mbn_jax.analysis.gap.WAYS`. If a
            split has fewer identities than a batch, all of them are in each batch.
        num_batches: The number of batches for each way.

    Returns:
        For each of the ways what `measure_gaps` gives; nothing for no batches.
    """
    if not num_batches:
        return {}
    found = {}
    for way, split in splits.items():
        if not _num_complete(split) and config.batch.sampler == "balanced":
            print(
                f"No gaps are measured in {split.dataset}/{split.split}, since no "
                "identity in it has images in every modality",
                file=sys.stderr,
            )
            continue
        augmented = way == "training"
        title = f"{split.dataset}, {WAYS[way]}"
        total = num_batches * _num_parts(config, augmented)
        with progress(
            "Measuring gaps in", "Measured gaps in", title, total, "batches"
        ) as advance:
            batches = draw_batches(
                config, model, split, num_batches, augmented=augmented, advance=advance
            )
            found[way] = measure_gaps(
                model,
                variables,
                batches,
                train=augmented,
                modalities=model.modalities,
            )
    return found


def workdir_gaps(
    workdir: str | Path, num_batches: int, data_dir: str | None = None
) -> dict[str, list[Gap]]:
    """Measures the gaps of the last step of a run, on its training and test split.

    Args:
        workdir: The work directory of a run.
        num_batches: The number of batches for each way.
        data_dir: Directory of the prepared data; None for that of the run.

    Raises:
        InputError: It is not a work directory, has no checkpoint, or the data are
            missing.
    """
    config = read_config(workdir)
    dataset = config.data.dataset
    data_dir = config.data.data_dir if data_dir is None else data_dir
    check_prepared(dataset, data_dir)  # where the name is wrong, nothing is made
    model, variables, _ = load_with_step(workdir, "last")
    splits = {
        "training": load_split(dataset, training_split(dataset), data_dir),
        "evaluation": load_split(dataset, "test", data_dir),
    }
    check_data(Path(workdir), splits["evaluation"].info)
    return network_gaps(config, model, variables, splits, num_batches)


def name_networks(workdirs: Sequence[str | Path]) -> list[str]:
    """Names each run by the keys in which the configurations differ, like "norm=bn".

    Runs that differ in the seed alone, or in nothing, share a name. If all do, it is
    the name of the first one's folder.

    Raises:
        InputError: One is not a work directory or is given twice, or there are more
            networks than can be told apart in a figure.
    """
    if len({Path(workdir).resolve() for workdir in workdirs}) < len(workdirs):
        raise InputError(
            f"A work directory is given twice ({', '.join(map(str, workdirs))}), which "
            "would count as two seeds: leave one of the two out."
        )
    configs = [as_json(read_config(workdir)) for workdir in workdirs]
    differing = differences(configs, (*MACHINE_KEYS, "seed"))
    if not differing:
        return [Path(workdirs[0]).name] * len(workdirs)
    keys = [key.rpartition(".")[2] for key in differing]
    names = [
        ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
        for values in zip(*differing.values(), strict=True)
    ]
    if len(set(names)) > len(COLORS):
        raise InputError(
            f"The runs are of {len(set(names))} networks, but one figure shows up to "
            f"{len(COLORS)}: give fewer at a time."
        )
    return names


def draw_batches(
    config: ConfigDict,
    model: ReID,
    split: Split,
    number: int,
    *,
    augmented: bool,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[tuple[jax.Array, np.ndarray]]:
    """Draws batches as `measure_gaps` takes them, by the run's sampler and seed.

    A modality of which the split has no image is in no batch. Each part of
    `batch.accumulation_steps` is a batch in training, since it has its own statistics.

    Args:
        config: The run's configuration.
        model: The network, whose image size the images get.
        split: The split to draw from.
        number: The number of batches.
        augmented: Whether to draw as in training, or the images as they are.
        advance: Called after each batch.
    """
    # From 0 on without gaps, as the sampler expects them.
    present, index = np.unique(split.modality, return_inverse=True)
    sampler = make_sampler(
        config.batch.sampler,
        split.identity,
        index,
        num_identities=min(config.batch.num_identities, max(_num_complete(split), 1)),
        num_images=config.batch.num_images,
        seed=config.seed,
        num_modalities=len(present),
    )
    augmentation = Augmentation(**config.augmentation.to_dict())
    color = tuple(map(has_color, split.modalities))
    prepare = jax.jit(
        functools.partial(augment, augmentation=augmentation, color=color)
        if augmented
        else lambda key, images, modality: normalize(images)
    )
    key = jax.random.key(config.seed + 2)  # not the streams of weights and training
    batches = train_batches(
        split,
        sampler,
        model.image_size,
        start=0,
        stop=number,
        num_threads=config.data.num_threads,
    )
    for i, batch in enumerate(batches):
        modality = batch["modality"]
        images = prepare(jax.random.fold_in(key, i), batch["image"], modality)
        for rows in np.split(np.arange(len(modality)), _num_parts(config, augmented)):
            yield images[rows], modality[rows]
            advance()


def _num_complete(split: Split) -> int:
    """Returns how many identities have images in every modality of the split."""
    present = np.unique(split.modality)
    seen = [split.identity[split.modality == m] for m in present]
    return functools.reduce(np.intersect1d, seen).size


def _num_parts(config: ConfigDict, augmented: bool) -> int:
    return config.batch.accumulation_steps if augmented else 1


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
        workdir: Work directory of a finished run, where controls.json is written.
        data_dir: Directory of the prepared data; None for that of the run.

    Returns:
        The content of controls.json: for `AS_TRAINED` and each control, the metrics of
        every protocol, as `mbn_jax.evaluation.evaluate` gives them.

    Raises:
        InputError: The directory is not that of a run, it has no checkpoint, or the
            data are missing.
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
    for name, changed in _controls(mbn, variables, split, was_bn=model.norm == "bn"):
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


def _controls(
    model: ReID, variables: Mapping[str, Any], split: Split, *, was_bn: bool
) -> Iterator[tuple[str, Any]]:
    """Yields the name and the variables of the network as trained and of controls."""
    yield AS_TRAINED, variables
    images = load_images(split, np.arange(len(split)), model.image_size)
    apply = functools.partial(model.apply, train=True)
    estimate = functools.partial(convert.estimate_statistics, apply, variables)
    if was_bn:
        # All images as the first modality, whose statistics then serve all of them.
        together = estimate(_batches(images, split.modality, by_modality=False))
        yield TOGETHER, _with_rows(together, lambda *rows: [a[:1] for a in rows])
    yield BY_MODALITY, estimate(_batches(images, split.modality, by_modality=True))
    if not was_bn:
        yield (
            OTHER,
            _with_rows(variables, lambda *rows: [jnp.roll(a, -1, 0) for a in rows]),
        )
        yield POOLED, _with_rows(variables, pooled_moments)


def _batches(
    images: np.ndarray, modality: np.ndarray, *, by_modality: bool
) -> Iterator[tuple[jax.Array, np.ndarray]]:
    """Yields normalized images, in equal parts of each modality, and indices."""
    rng = np.random.default_rng(0)
    kinds = [np.flatnonzero(modality == m) for m in np.unique(modality)]
    for _ in range(_NUM_BATCHES):
        rows = np.concatenate(
            [rng.choice(kind, _BATCH_SIZE // len(kinds)) for kind in kinds]
        )
        yield normalize(jnp.asarray(images[rows])), modality[rows] * by_modality


def _with_rows(variables: Mapping[str, Any], change: Any) -> dict[str, Any]:
    """Replaces the mean and variance, `(M, C)`, of every layer by `change` of both."""
    flat = flatten_dict(variables["batch_stats"])
    for path in [path for path in flat if path[-1] == "mean"]:
        names = path, (*path[:-1], "var")
        mean, var = (flat[name] for name in names)
        if mean.ndim == 2:  # layers outside model.mbn_at are plain, with (C,)
            for name, rows in zip(names, change(mean, var), strict=True):
                flat[name] = jnp.broadcast_to(rows, mean.shape)
    return {**variables, "batch_stats": unflatten_dict(flat)}
