"""Trained networks: loads them from work directories, and evaluates them."""

import dataclasses
import functools
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from mbn_jax.data.catalog import check_prepared
from mbn_jax.data.dataset import Split, load_split
from mbn_jax.data.pipeline import image_batches
from mbn_jax.data.sources import SplitRuns, all_sources, protocol_of, source_of
from mbn_jax.errors import InputError
from mbn_jax.evaluation import batch_rows, extract, mean_over_trials
from mbn_jax.evaluation.distances import Distance
from mbn_jax.evaluation.features import write_features
from mbn_jax.evaluation.results import evaluate_protocol
from mbn_jax.files import check_file, read_json
from mbn_jax.mesh import make_mesh, replicated
from mbn_jax.models.reid import ReID
from mbn_jax.text import progress
from mbn_jax.training.checkpoint import Checkpoints, finished_steps
from mbn_jax.training.config import MACHINE_KEYS, differences, read_config
from mbn_jax.training.run_data import (
    DATASET,
    check_data,
    modalities_of,
    sixteen_bits_of,
)
from mbn_jax.training.state import make_model
from mbn_jax.training.step import make_feature_fn

_PLACE = "{split}"
_BATCH = 64


def load_with_step(
    workdir: str | Path, checkpoint: str | int = "last"
) -> tuple[ReID, dict[str, Any], int]:
    """Loads a trained network from a work directory.

    Args:
        workdir: the work directory of a run.
        checkpoint: "last", "best" (on validation), or the step of a kept checkpoint, as
            a number or in digits.

    Returns:
        The model, its variables, and the step after which they were saved.

    Raises:
        InputError: it is not a work directory, holds no such checkpoint, or names other
            modalities than the network has.
    """
    config = read_config(workdir)
    steps = finished_steps(workdir)
    if not steps:
        raise InputError(
            f"{workdir} holds no checkpoint yet; train it first with "
            f"`python -m mbn_jax train --workdir {shlex.quote(str(workdir))}`."
        )
    with Checkpoints(workdir, to_write=False) as checkpoints:
        step = int(checkpoint) if str(checkpoint).isdecimal() else checkpoint
        if checkpoint == "last":
            step = steps[-1]
        elif checkpoint == "best":
            best = checkpoints.best_step()
            if best is None:
                raise InputError(
                    f"{workdir} was trained without validation, so that no step is the "
                    "best; take 'last', or train with config.data.num_val_identities."
                )
            step = best
        if step not in steps:
            raise InputError(
                f"{workdir} holds no checkpoint {checkpoint!r}; it holds 'last', "
                f"'best' and the steps {', '.join(map(str, steps))}."
            )
        variables = checkpoints.restore_variables(int(step))
    num_identities = variables["params"]["classifier"]["kernel"].shape[1]
    modalities = modalities_of(workdir)
    _check_statistics(workdir, modalities, variables)
    model = make_model(config, num_identities, modalities)
    return model.copy(sixteen_bits=sixteen_bits_of(workdir)), variables, int(step)


def _check_statistics(
    workdir: str | Path, modalities: tuple[str, ...], variables: dict[str, Any]
) -> None:
    """Compares the modalities with the statistics, which have a row for each."""
    for path, leaf in flatten_dict(variables["batch_stats"], sep="/").items():
        if leaf.ndim == 2 and len(leaf) != len(modalities):
            is_there = (Path(workdir) / DATASET).exists()
            raise InputError(
                f"The network of {workdir} has statistics of {len(leaf)} modalities "
                f"({path}), but {'according to its' if is_there else 'without a'} "
                f"{DATASET} the modalities are {', '.join(modalities)}; restore that "
                "file from a copy of the run."
            )


@dataclasses.dataclass(frozen=True)
class Network:
    """Which features of a trained network to use.

    Attributes:
        checkpoint: as for `load_with_step`.
        flip_average: see `mbn_jax.training.step.make_feature_fn`.
        data_dir: the directory of the prepared data; None for that of the run.
    """

    checkpoint: str = "last"
    flip_average: bool = False
    data_dir: str | None = None


def split_features(
    embedding: Callable[[jax.Array, jax.Array], jax.Array],
    split: Split,
    image_size: tuple[int, int],
    *,
    num_threads: int,
    mesh: Mesh,
    advance: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Extracts the features of all images of a split, `(N, D)` float32.

    Args:
        embedding: from uint8 images and their modality, see
            `mbn_jax.evaluation.extract`.
        split: N records.
        image_size: (height, width) in pixels.
        num_threads: the number of threads that decode.
        mesh: the batches are sharded over it.
        advance: called after each image.
    """
    rows = batch_rows(len(split), _BATCH, mesh)

    def batches() -> Iterator[np.ndarray]:
        for batch in image_batches(split, rows, image_size, num_threads=num_threads):
            yield batch
            for _ in batch:
                advance()

    return extract(embedding, batches(), split.modality, batch_size=_BATCH, mesh=mesh)


def test_split(workdir: str | Path, network: Network) -> Split:
    """Opens the test split of the run's data set.

    Prints a warning if the data are not those that the run was trained on.

    Raises:
        InputError: not a work directory, or the data are not there.
    """
    config = read_config(workdir)
    data_dir = config.data.data_dir if network.data_dir is None else network.data_dir
    # Where the name is wrong, or relative to another folder than that of the training,
    # data that can be made would be made there.
    check_prepared(config.data.dataset, data_dir)
    split = load_split(config.data.dataset, "test", data_dir)
    check_data(Path(workdir), split.info)
    return split


def test_features(
    workdir: str | Path, network: Network, split: Split
) -> tuple[np.ndarray, str]:
    """Extracts the features of a split with the network of a run.

    Returns:
        `(N, D)` float32 embeddings, and a label that says what they are of.

    Raises:
        InputError: not a work directory, or no such checkpoint.
    """
    config = read_config(workdir)
    model, variables, step = load_with_step(workdir, network.checkpoint)
    mesh = make_mesh()
    variables = jax.device_put(variables, replicated(mesh))
    embedding = make_feature_fn(model, flip_average=network.flip_average)
    with progress("Embedding", "Embedded", split.dataset, len(split)) as advance:
        features = split_features(
            functools.partial(embedding, variables),
            split,
            model.image_size,
            num_threads=config.data.num_threads,
            mesh=mesh,
            advance=advance,
        )
    label = f"{workdir}, step {step} of {config.num_steps}"
    label += ", best on validation" * (network.checkpoint == "best")
    return features, label + ", flip-averaged" * network.flip_average


def save_test_features(workdir: str, network: Network, path: str | Path) -> str:
    """Writes the result of `test_features` to a file that `evaluate_file` reads.

    Returns:
        A sentence on what was written.

    Raises:
        InputError: as `test_split` and `test_features` do, for the runs of several
            splits, or, before any work, if the file cannot be written.
    """
    if _PLACE in workdir:
        raise InputError(
            f"The features of {workdir} are those of several test sets; give one work "
            "directory at a time to save them."
        )
    check_file(path)
    split = test_split(workdir, network)
    features, label = test_features(workdir, network, split)
    write_features(path, features, split, label)
    return f"{path}: features {features.shape} of {split.dataset}, {label}"


def evaluate_workdir(
    workdir: str, network: Network, options: Mapping[str, Any], distance: Distance
) -> dict[str, Any]:
    """Evaluates the network of a work directory, or those of several splits.

    Args:
        workdir: the work directory of a run; with "{split}" in it, a run for each of
            the splits over which the published result is a mean.
        network: which of its features to use.
        options: the protocol's options, as for `mbn_jax.data.sources.protocol_of`.
        distance: "cosine", "euclidean" or "k_reciprocal".

    Returns:
        The dictionary of `mbn_jax.evaluation.results.evaluate_protocol`.

    Raises:
        InputError: as `test_split` and `test_features` do; no run of the splits is
            finished, or the runs are not of one recipe.
    """
    if _PLACE in workdir:
        return _evaluate_splits(workdir, network, options, distance)
    split = test_split(workdir, network)
    protocol = protocol_of(split.dataset, split.modalities, options)
    features, label = test_features(workdir, network, split)
    result = evaluate_protocol(
        features, split, protocol, distance=distance, source=label
    )
    if _split_runs(split.dataset):
        result["title"] += f", {split.dataset.partition('/')[2]} alone"
    return result


def _split_runs(dataset: str) -> SplitRuns | None:
    source = source_of(dataset)
    return source.split_runs if source else None


def _evaluate_splits(
    pattern: str, network: Network, options: Mapping[str, Any], distance: Distance
) -> dict[str, Any]:
    """The mean over the finished runs of the splits, and what it is the mean of."""
    known = [source.split_runs for source in all_sources() if source.split_runs]
    numbers = sorted({number for runs in known for number in runs.numbers})
    workdirs = {number: pattern.replace(_PLACE, str(number)) for number in numbers}
    finished = {split: path for split, path in workdirs.items() if _is_finished(path)}
    if not finished:
        raise InputError(
            f"None of {workdirs[numbers[0]]} … {workdirs[numbers[-1]]} holds a finished"
            " run; train each of them on its split of the data set first."
        )
    runs = _check_one_recipe(finished)
    results = [
        evaluate_workdir(path, network, options, distance) for path in finished.values()
    ]
    first = results[0]
    mean = mean_over_trials(
        [result["trials"][0] | {"cmc": result["cmc"]} for result in results]
    )
    for split, trial in zip(finished, mean["trials"], strict=True):
        trial["split"] = split
    if len(finished) == len(runs.numbers):
        name, title = f"{runs.word}_splits", f"mean of the {runs.word} splits"
    else:
        listed = [str(split) for split in finished]
        name = "_".join(["splits", *listed])
        title = (
            f"ONLY {len(finished)} of the {runs.word} splits ({', '.join(listed)}), "
            f"which is not the {runs.word}-split result"
        )
    label = f"{pattern}, checkpoint {network.checkpoint}"
    return {
        **first,
        **mean,
        "protocol": f"{first['protocol']}_{name}",
        "title": f"{first['title'].partition(',')[0]}, {title}",
        "source": label + ", flip-averaged" * network.flip_average,
        "splits": list(finished),
    }


def _is_finished(workdir: str) -> bool:
    """Whether a run has come to its last step and was evaluated."""
    path = Path(workdir) / "results.json"
    if not path.exists():
        return False
    results = read_json(path)
    try:
        last = results["figures"]["last"]["step"]
    except (LookupError, TypeError) as error:
        raise InputError(
            f"{path} has no metrics of a last step; give the run's training command "
            "again, which writes them."
        ) from error
    return last == read_config(workdir).num_steps


def _check_one_recipe(workdirs: Mapping[int, str]) -> SplitRuns:
    """Returns the splits that the runs are of.

    Raises:
        InputError: the runs differ in more than their split and seed.
    """
    configs = {split: read_config(path).to_dict() for split, path in workdirs.items()}
    first = next(iter(workdirs.values()))
    dataset = next(iter(configs.values()))["data"]["dataset"]
    runs = _split_runs(dataset)
    if runs is None:
        raise InputError(
            f"{first} was trained on {dataset}, which has no splits to take a mean"
            f" over; give one work directory, without {_PLACE}."
        )
    for split, config in configs.items():
        dataset = config["data"]["dataset"]
        expected = runs.pattern.replace(_PLACE, str(split))
        if dataset != expected:
            raise InputError(
                f"{workdirs[split]} was trained on {dataset}, but its place in the"
                f" pattern is that of {expected}; give each split its own run."
            )
    free = {*MACHINE_KEYS, "data.dataset", "seed"}
    for key, values in differences(list(configs.values()), free).items():
        for workdir, value in zip(workdirs.values(), values, strict=True):
            if value != values[0]:
                raise InputError(
                    f"{workdir} has {key} = {value!r}, but {first} has {values[0]!r}; "
                    "a mean over the splits needs runs with the same configuration."
                )
    return runs
