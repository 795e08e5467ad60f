"""The gaps of ImageNet's own network on pictures of persons, before any training."""

import functools
from collections.abc import Iterator, Sequence
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

    Every second pair of pictures is measured on; the others are what statistics are
    re-estimated from. In evaluation, "BN" has ImageNet's statistics, "MBN" those of
    each modality's pictures, and "BN, re-estimated" those of both kinds together.

    Args:
      source: of the weights, see `mbn_jax.models.pretrained.load_backbone`.
      visible: folder of crops.
      infrared: folder of crops of the same persons, under the same names.
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

    def batches(
        pairs: np.ndarray, seed: int, *, mixed: bool = False
    ) -> Iterator[tuple[jax.Array, np.ndarray]]:
        rng = np.random.default_rng(seed)
        for _ in range(num_batches):
            size = min(num_pairs, pairs.shape[1])
            drawn = pairs[:, rng.choice(pairs.shape[1], size, replace=False)]
            modality = np.repeat(np.arange(2), size) * (not mixed)
            yield normalise(jnp.asarray(drawn.reshape(-1, *drawn.shape[2:]))), modality

    def estimate(*, mixed: bool) -> Any:
        apply = functools.partial(model.apply, train=True)
        seen = batches(estimated_from, seed + 1, mixed=mixed)
        return convert.estimate_statistics(apply, weights, seen)

    shapes = jax.eval_shape(
        functools.partial(model.init, train=False),
        jax.random.key(0),
        jax.ShapeDtypeStruct((2, *model.image_size, 3), jnp.float32),
        jax.ShapeDtypeStruct((2,), jnp.int32),
    )
    weights, _ = load_backbone(source, model, _untrained(shapes))
    bn_model, bn = model.copy(norm="bn"), convert.to_batch_norm(weights, 0)
    networks: Sequence[tuple[str, str, Any, Any]] = (
        ("BN", "training", bn_model, bn),
        ("MBN", "training", model, weights),
        ("BN", "evaluation", bn_model, bn),
        ("MBN", "evaluation", model, estimate(mixed=False)),
        (
            "BN, re-estimated",
            "evaluation",
            bn_model,
            convert.to_batch_norm(estimate(mixed=True), 0),
        ),
    )
    return [
        Measured(
            name,
            source,
            way,
            measure_gaps(
                network, variables, batches(measured_on, seed), train=way == "training"
            ),
        )
        for name, way, network, variables in networks
    ]


def _halves(
    visible: str | Path, infrared: str | Path, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Every second pair and the others, each (2, pairs, H, W, 3) uint8."""
    names = sorted({*find_images(visible)} & {*find_images(infrared)})
    if len(names) < 4:
        raise InputError(
            f"{visible} and {infrared} share {len(names)} names of pictures, expected "
            "at least 4: the two pictures of a person must be called alike."
        )
    pictures = [
        read_images(folder, names, image_size) for folder in (visible, infrared)
    ]
    pairs = np.stack(pictures)
    return pairs[:, ::2], pairs[:, 1::2]


def _untrained(shapes: Any) -> Any:
    """Ones; what ImageNet's weights do not replace, neck and classifier, are these."""
    return jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
