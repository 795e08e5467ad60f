"""A trained network for new cameras, by their unlabelled pictures."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mbn_jax import convert
from mbn_jax.data.augment import normalise
from mbn_jax.data.progress import progress
from mbn_jax.errors import InputError
from mbn_jax.evaluation.folder import find_images, read_images
from mbn_jax.models.norms import PLACES
from mbn_jax.models.reid import ReID

Batch = tuple[np.ndarray, np.ndarray]
_FEW = 64


def adapt(
    model: ReID,
    variables: Any,
    folders: Mapping[int, str | Path],
    *,
    num_images: int = 1024,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Re-estimates the running statistics from folders of pictures, without labels.

    Every batch holds as many pictures of one modality as of the other, and every
    picture is drawn once before any is drawn again.

    Args:
      model: as `mbn_jax.load` returns it, with norm "mbn".
      variables: of it.
      folders: of pictures, by modality, 0 visible and 1 infrared; a modality without a
        folder keeps its statistics.
      num_images: of each modality at most; of a larger folder, that many by chance.
      batch_size: of both modalities together.
      seed: of the order in which pictures are drawn.

    Returns:
      The variables with new statistics; all else is as it was
      (`mbn_jax.convert.estimate_statistics`).

    Raises:
      InputError: no folder, the same one twice, less than two pictures, one that cannot
        be decoded, or a network whose normalisations do not know the modality.
    """
    _check_network(model, folders)
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

    def apply(variables: Any, images: jax.Array, *rest: Any, **options: Any) -> Any:
        return model.apply(variables, normalise(images), *rest, train=True, **options)

    title = " and ".join(map(str, folders.values()))
    total = len(names) * num_batches * share
    with progress("Adapting to", "Adapted to", title, total) as advance:
        batches = _batches(folders, drawn, share, model.image_size, advance)
        return convert.estimate_statistics(apply, variables, batches)


def _check_network(model: Any, folders: Mapping[int, str | Path]) -> None:
    if not folders:
        raise InputError(
            "There is no folder of pictures: give a visible one, an infrared one "
            "(--visible=, --infrared=), or both."
        )
    if len({Path(folder).resolve() for folder in folders.values()}) < len(folders):
        raise InputError(
            f"{folders[0]} is given for visible and for infrared pictures: give two "
            "folders, or one of the two only."
        )
    if getattr(model, "norm", None) != "mbn":
        raise InputError(
            "The network does not normalise by modality, so that it has no statistics "
            "of one to estimate; adapt a run with model.norm=mbn, or make a network of "
            "it by mbn_jax.convert.from_batch_norm first."
        )
    if len(folders) == 1 and not set(PLACES) <= set(model.mbn_at):
        raise InputError(
            f"The network normalises by modality at {', '.join(model.mbn_at)} only, "
            "and elsewhere over the mixed batch: give pictures of both modalities."
        )


def _check_numbers(
    folders: Mapping[int, str | Path], names: Mapping[int, list[str]]
) -> None:
    """Refuses what has no variance, and says where there are few pictures."""
    for modality, found in names.items():
        if len(found) < 2:
            raise InputError(
                f"{folders[modality]} holds one picture, of which statistics have no "
                f"variance: give {_FEW} or more."
            )
        if len(found) < _FEW:
            print(
                f"{folders[modality]} holds {len(found)} pictures only; with fewer "
                f"than {_FEW} adapting made results worse (docs/own-pictures.md).",
                file=sys.stderr,
            )


def _draw(rng: np.random.Generator, names: Sequence[str], count: int) -> list[str]:
    """Names in random order, each once before one comes again."""
    rounds = -(-count // len(names))
    order = np.concatenate([rng.permutation(len(names)) for _ in range(rounds)])
    return [names[index] for index in order[:count]]


def _batches(
    folders: Mapping[int, str | Path],
    drawn: Mapping[int, list[str]],
    share: int,
    image_size: tuple[int, int],
    advance: Callable[[], None],
) -> Iterator[Batch]:
    """Images and modalities, `share` of each modality at a time."""
    modality = np.repeat(np.array(list(drawn), np.int32), share)
    for start in range(0, len(next(iter(drawn.values()))), share):
        parts = [
            read_images(folders[which], names[start : start + share], image_size)
            for which, names in drawn.items()
        ]
        yield np.concatenate(parts), modality
        for _ in modality:
            advance()
