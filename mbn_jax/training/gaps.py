"""The distribution gaps of a trained network, on batches drawn as in training."""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mbn_jax.analysis.gap import Gap, measure_gaps
from mbn_jax.analysis.gap_charts import COLORS, WAYS
from mbn_jax.data.augment import Augmentation, augment
from mbn_jax.data.catalog import check_prepared
from mbn_jax.data.dataset import Split, load_split, training_split
from mbn_jax.data.pipeline import train_batches
from mbn_jax.data.sampling import make_sampler
from mbn_jax.errors import InputError
from mbn_jax.modalities import has_color
from mbn_jax.models.reid import ReID
from mbn_jax.pixels import normalize
from mbn_jax.text import progress
from mbn_jax.training.config import MACHINE_KEYS, as_json, flatten, read_config
from mbn_jax.training.trained_data import check_data
from mbn_jax.training.trained_network import load_with_step


def measure(
    config: ConfigDict,
    model: ReID,
    variables: Mapping[str, Any],
    splits: Mapping[str, Split],
    num_batches: int,
) -> dict[str, list[Gap]]:
    """The gaps of a network as it is trained, and as it is used.

    Args:
      config: that it was trained with: its sampler, augmentation and seed are taken.
      model: the network.
      variables: of it.
      splits: to draw from, by the way of `mbn_jax.analysis.gap_charts.WAYS`. Where a
        split has fewer identities than a batch, all of them are in each.
      num_batches: of each.

    Returns:
      For each of the ways what `measure_gaps` gives; nothing of no batches.
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
        batches = draw_batches(
            config, model, split, num_batches, augmented=way == "training"
        )
        title = f"{split.dataset}, {WAYS[way]}"
        total = num_batches * _num_parts(config, way == "training")
        with progress(
            "Measuring gaps in", "Measured gaps in", title, total, "batches"
        ) as advance:
            found[way] = measure_gaps(
                model,
                variables,
                _followed(batches, advance),
                train=way == "training",
                modalities=model.modalities,
            )
    return found


def measure_workdir(
    workdir: str | Path, num_batches: int, data_dir: str | None = None
) -> dict[str, list[Gap]]:
    """`measure` for the last step of a work directory, on its training and test split.

    Args:
      workdir: of a run.
      num_batches: of each way.
      data_dir: of the prepared data; None for that of the run.

    Raises:
      InputError: not a work directory, no checkpoint, or the data are not there.
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
    return measure(config, model, variables, splits, num_batches)


def name_networks(workdirs: Sequence[str | Path]) -> list[str]:
    """What tells runs apart by more than their seed, a name for each.

    Args:
      workdirs: of the runs.

    Returns:
      The keys in which their configurations differ, such as "norm=bn"; runs that differ
      in the seed alone, or in nothing, share a name: that of the first one's folder if
      there is only one network.

    Raises:
      InputError: not a work directory, one that is given twice, or more networks than
        can be told apart.
    """
    if len({Path(workdir).resolve() for workdir in workdirs}) < len(workdirs):
        raise InputError(
            f"A work directory is given twice ({', '.join(map(str, workdirs))}), which "
            "would pass for two seeds: leave one of the two out."
        )
    not_named = {*MACHINE_KEYS, "seed"}
    configs = [
        {
            key: value
            for key, value in flatten(as_json(read_config(w))).items()
            if key not in not_named
        }
        for w in workdirs
    ]
    differing = [key for key in configs[0] if len({str(c[key]) for c in configs}) > 1]
    if not differing:
        return [Path(workdirs[0]).name] * len(workdirs)
    names = [
        ", ".join(f"{key.rpartition('.')[2]}={config[key]}" for key in differing)
        for config in configs
    ]
    if len(set(names)) > len(COLORS):
        raise InputError(
            f"The runs are of {len(set(names))} networks, but one figure shows up to "
            f"{len(COLORS)}: give fewer at a time."
        )
    return names


def draw_batches(
    config: ConfigDict, model: ReID, split: Split, number: int, *, augmented: bool
) -> Iterator[tuple[jax.Array, np.ndarray]]:
    """Draws batches by the run's sampler, as `measure_gaps` takes them.

    A modality of which the split has no image is in no batch.

    Args:
      config: of the run: its sampler, augmentation and seed are taken.
      model: whose image size the images get.
      split: to draw from.
      number: of batches.
      augmented: as in training, or the images as they are. As in training, each part of
        `batch.accumulation_steps` is a batch, since it has statistics of its own.
    """
    # From 0 on without gaps, as the sampler expects them.
    present, index = np.unique(split.modality, return_inverse=True)
    eligible = _num_complete(split)
    sampler = make_sampler(
        config.batch.sampler,
        split.identity,
        index,
        num_identities=min(config.batch.num_identities, max(eligible, 1)),
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


def _num_complete(split: Split) -> int:
    """The number of identities that have images in every modality of the split."""
    present = np.unique(split.modality)
    seen = [split.identity[split.modality == m] for m in present]
    return functools.reduce(np.intersect1d, seen).size


def _num_parts(config: ConfigDict, augmented: bool) -> int:
    return config.batch.accumulation_steps if augmented else 1


def _followed(batches: Iterable[Any], advance: Callable[[], None]) -> Iterator[Any]:
    for batch in batches:
        yield batch
        advance()
