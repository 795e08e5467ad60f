"""The gaps of ImageNet's own network on pictures of persons, before any training."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbn_jax import convert
from mbn_jax.analysis.gap import measure_gaps
from mbn_jax.analysis.gap_charts import Measured
from mbn_jax.data.augment import normalise
from mbn_jax.errors import InputError
from mbn_jax.evaluation.folder import find_images, read_images
from mbn_jax.models.pretrained import load_backbone
from mbn_jax.models.reid import ReID

Batch = tuple[jax.Array, np.ndarray]
_MODEL = ReID(num_identities=1, depth=50)


def measure_imagenet(
    source: str,
    visible: str | Path,
    infrared: str | Path,
    *,
    num_batches: int,
    num_pairs: int = 24,
    seed: int = 0,
    model: Any = _MODEL,
) -> list[Measured]:
    """Measures BN and MBN with the same weights.

    The crops of every second photograph are measured on; the others are what statistics
    are re-estimated from. In evaluation, "BN" has ImageNet's statistics, "MBN" those of
    each modality's crops, and "BN, re-estimated" those of both kinds together.

    Args:
      source: of the weights, see `mbn_jax.models.pretrained.load_backbone`.
      visible: folder of crops.
      infrared: folder of crops of the same persons, under the same names; what stands
        before the last underscore of a name is the photograph.
      num_batches: of each network and way, and as many to estimate from.
      num_pairs: of every batch, drawn anew for each; all, if there are fewer.
      seed: of the drawing.
      model: a `ReID` with norm "mbn", which the weights must fit.

    Returns:
      Two measurements as in training and three as in evaluation.

    Raises:
      InputError: a folder without its pictures, or weights that do not fit.
    """
    measured_on, estimated_from = _halves(visible, infrared, model.image_size)
    networks = _networks(
        model,
        _with_weights(source, model),
        lambda: _batches(estimated_from, num_batches, num_pairs, seed + 1),
    )
    return [
        Measured(
            name,
            source,
            way,
            measure_gaps(
                *network,
                _batches(measured_on, num_batches, num_pairs, seed),
                train=way == "training",
            ),
        )
        for (name, way), network in networks.items()
    ]


def _networks(
    model: Any, variables: Any, batches: Callable[[], Iterator[Batch]]
) -> dict[tuple[str, str], tuple[Any, Any]]:
    """Model and variables by name and way; `batches` are to estimate from."""
    train = functools.partial(model.apply, train=True)
    mixed = ((images, 0 * modality) for images, modality in batches())
    together = convert.estimate_statistics(train, variables, mixed)
    by_modality = convert.estimate_statistics(train, variables, batches())
    bn_model, bn = model.copy(norm="bn"), convert.to_batch_norm(variables, 0)
    return {
        ("BN", "training"): (bn_model, bn),
        ("MBN", "training"): (model, variables),
        ("BN", "evaluation"): (bn_model, bn),
        ("MBN", "evaluation"): (model, by_modality),
        ("BN, re-estimated", "evaluation"): (
            bn_model,
            convert.to_batch_norm(together, 0),
        ),
    }


def _with_weights(source: str, model: Any) -> Any:
    """The network's variables; what ImageNet does not know, its neck, is ones."""
    shapes = jax.eval_shape(
        functools.partial(model.init, train=False),
        jax.random.key(0),
        jax.ShapeDtypeStruct((2, *model.image_size, 3), jnp.float32),
        jax.ShapeDtypeStruct((2,), jnp.int32),
    )
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    return load_backbone(source, model, ones)[0]


def _batches(
    pairs: np.ndarray, num_batches: int, num_pairs: int, seed: int
) -> Iterator[Batch]:
    """Images and modality of pairs (2, pairs, H, W, 3) that are drawn at random."""
    rng = np.random.default_rng(seed)
    size = min(num_pairs, pairs.shape[1])
    modality = np.repeat(np.arange(2), size)
    for _ in range(num_batches):
        drawn = pairs[:, rng.choice(pairs.shape[1], size, replace=False)]
        yield normalise(jnp.asarray(drawn.reshape(-1, *drawn.shape[2:]))), modality


def _halves(
    visible: str | Path, infrared: str | Path, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Crops of every second photograph and of the others, (2, pairs, H, W, 3) uint8."""
    names = sorted({*find_images(visible)} & {*find_images(infrared)})
    photographs = [name.rpartition("_")[0] or name for name in names]
    if len(set(photographs)) < 2:
        raise InputError(
            f"{visible} and {infrared} share the crops of {len(set(photographs))} "
            "photographs, expected at least 2: the two crops of a person must be "
            "called alike, as experiments/crop_pairs.py calls them."
        )
    pictures = [
        read_images(folder, names, image_size) for folder in (visible, infrared)
    ]
    _, number = np.unique(photographs, return_inverse=True)
    pairs, is_odd = np.stack(pictures), number % 2 == 1
    return pairs[:, ~is_odd], pairs[:, is_odd]
