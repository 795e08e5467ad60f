"""Adapts a trained network to new cameras by their unlabeled images."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from mbn_jax import convert
from mbn_jax.deploy.embed import (
    DEFAULT_READING,
    Reading,
    find_images,
    read_images,
    warn_of_narrow,
)
from mbn_jax.errors import InputError
from mbn_jax.modalities import index
from mbn_jax.models.layers import PLACES
from mbn_jax.models.reid import ReID
from mbn_jax.pixels import normalize
from mbn_jax.text import progress

_FEW = 64
_NO_VARIANCE = "and the statistics of one image have no variance"


def adapt(
    model: ReID,
    variables: Any,
    folders: Mapping[str, str | Path],
    *,
    num_images: int = 1024,
    batch_size: int = 64,
    seed: int = 0,
    readings: Mapping[str, Reading] | None = None,
) -> dict[str, Any]:
    """Re-estimates the running statistics from folders of images, without labels.

    Every batch holds the same number of images of each modality, and every image is
    drawn once before any is drawn again.

    Args:
      model: as `mbn_jax.load` returns it, with norm "mbn".
      variables: as `mbn_jax.load` returns them.
      folders: the folder of the images of each modality; a modality without a folder
        keeps its statistics.
      num_images: of each modality at most, two or more; of a larger folder, that many
        are drawn at random.
      batch_size: of all modalities together.
      seed: of the order in which images are drawn.
      readings: how images are read by their modality, if not as `Reading()`.

    Returns:
      The variables with new statistics; everything else is unchanged
      (`mbn_jax.convert.estimate_statistics`).

    Raises:
      InputError: there is no folder, or the same one twice; the network does not have a
        modality, or its normalizations do not depend on it; a folder has fewer than two
        images, only copies of one, or one that cannot be read; or fewer than two are to
        be drawn.
    """
    _check_network(model, folders)
    if num_images < 2:
        raise InputError(
            f"The number of images is {num_images}, {_NO_VARIANCE}: draw {_FEW} or more"
            " (--num_images)."
        )
    names = {modality: find_images(folder) for modality, folder in folders.items()}
    _check_numbers(folders, names)
    most = min(num_images, max(map(len, names.values())))
    share = max(1, min(batch_size // len(names), most))
    num_batches = -(-most // share)
    rng = np.random.default_rng(seed)
    drawn = {
        modality: _draw(rng, of_folder, num_batches * share)
        for modality, of_folder in names.items()
    }
    indices = [index(modality, model.modalities) for modality in drawn]
    modality = np.repeat(np.array(indices, np.int32), share)
    narrow: list[str] = []

    def batches(advance: Callable[[], None]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, num_batches * share, share):
            images = [
                read_images(
                    folders[name],
                    drawn[name][start : start + share],
                    model.image_size,
                    (readings or {}).get(name, DEFAULT_READING),
                    narrow=narrow,
                )
                for name in drawn
            ]
            yield np.concatenate(images), modality
            for _ in modality:
                advance()

    def apply(variables: Any, images: jax.Array, *rest: Any, **options: Any) -> Any:
        return model.apply(variables, normalize(images), *rest, train=True, **options)

    title = " and ".join(map(str, folders.values()))
    total = num_batches * len(modality)
    with progress("Adapting to", "Adapted to", title, total) as advance:
        adapted = convert.estimate_statistics(apply, variables, batches(advance))
    warn_of_narrow(set(narrow), sum(len(set(part)) for part in drawn.values()))
    _check_variances(adapted, dict(zip(indices, drawn, strict=True)))
    return adapted


def _check_network(model: Any, folders: Mapping[str, str | Path]) -> None:
    if not folders:
        raise InputError(
            "There is no folder of images: give one for each modality whose cameras "
            "are new (--folder=NAME=DIR)."
        )
    modality_of: dict[Path, str] = {}
    for modality, folder in folders.items():
        other = modality_of.setdefault(Path(folder).resolve(), modality)
        if other != modality:
            raise InputError(
                f"{folder} is given for {other} and for {modality} images: give a "
                "folder of its own for each, or leave one of the two out."
            )
    if getattr(model, "norm", None) != "mbn":
        raise InputError(
            "The network does not normalize by modality, so it has no statistics of "
            "one modality to estimate: adapt a run with model.norm=mbn, or convert the "
            "network by mbn_jax.convert.from_batch_norm first."
        )
    for modality in folders:
        index(modality, model.modalities)  # an error if the network does not have it
    missing = [name for name in model.modalities if name not in folders]
    if missing and not set(PLACES) <= set(model.mbn_at):
        raise InputError(
            f"The network normalizes by modality at {', '.join(model.mbn_at)} only, "
            "and elsewhere over the mixed batch: give images of all its modalities, "
            f"here also of {', '.join(missing)}."
        )


def _check_numbers(
    folders: Mapping[str, str | Path], names: Mapping[str, Sequence[str]]
) -> None:
    """Raises `InputError` for a folder with one image; prints which have few."""
    for modality, found in names.items():
        if len(found) < 2:
            raise InputError(
                f"{folders[modality]} holds one image, {_NO_VARIANCE}: give {_FEW} or "
                "more."
            )
        if len(found) < _FEW:
            print(
                f"{folders[modality]} holds only {len(found)} images; with fewer than "
                f"{_FEW}, adapting made results worse (docs/own-pictures.md).",
                file=sys.stderr,
            )


def _check_variances(variables: Mapping[str, Any], names: Mapping[int, str]) -> None:
    """Raises if all images of a modality are copies of one, under whatever names."""
    stats = flatten_dict(variables["batch_stats"])
    for path, var in stats.items():
        if path[-1] != "var" or np.ndim(var) != 2:
            continue
        squared_mean = np.square(stats[*path[:-1], "mean"])
        for i, name in names.items():
            # What rounding in float32 leaves of a variance of zero.
            if np.all(var[i] <= 1e-12 * squared_mean[i]):
                raise InputError(
                    f"The {name} images are all alike, {_NO_VARIANCE}: give {_FEW} or "
                    "more different ones."
                )


def _draw(rng: np.random.Generator, names: Sequence[str], count: int) -> list[str]:
    """Draws names in random order, each once before one is drawn again."""
    rounds = -(-count // len(names))
    order = np.concatenate([rng.permutation(len(names)) for _ in range(rounds)])
    return [names[i] for i in order[:count]]
