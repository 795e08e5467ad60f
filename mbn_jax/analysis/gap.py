"""The two distribution gaps, measured before and after every normalisation.

The definitions, and what they show, are in docs/distribution-gaps.md.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mbn_jax.evaluation.records import MODALITIES
from mbn_jax.functional import modality_moments
from mbn_jax.norm import ModalityBatchNorm

SIDES = ("before", "after")


class BatchMoments(NamedTuple):
    """Of one side of one layer, in a sequence of batches.

    Attributes:
      mean: `(batches, 2, C)` float64, over the samples and positions of a modality; NaN
        where a batch has no sample of it.
      deviation: of the same shape, the standard deviations.
    """

    mean: np.ndarray
    deviation: np.ndarray


class Gap(NamedTuple):
    """Of one side of one layer, in units of the standard deviations of its channels.

    Attributes:
      layer: path of the normalisation, "backbone/stage1_block1/norm1".
      side: "before" or "after" the normalisation.
      intra: between the two modalities in a batch.
      lasting: the part of it that stays from batch to batch.
      inter_visible, inter_infrared: of one modality from batch to batch.
    """

    layer: str
    side: str
    intra: float
    lasting: float
    inter_visible: float
    inter_infrared: float


def measure_gaps(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[tuple[Any, Any]],
    *,
    train: bool,
) -> list[Gap]:
    """The gaps at every normalisation of a network, in the order of their depth.

    Args:
      model: a Linen network that is called as `model(images, modality, train=…)`,
        normalises by `ModalityBatchNorm` or `flax.linen.BatchNorm`, and draws no random
        numbers. What is inside `nn.remat`, `nn.scan` or `nn.vmap` cannot be measured;
        where the network has a field `remat`, it is turned off.
      variables: of the network.
      batches: images as the network takes them, (B, H, W, 3), and modality (B,).
      train: by the statistics of the batch, or by the running ones.

    Returns:
      Two of each normalisation: before and after it.

    Raises:
      ValueError: there is no batch with both modalities, or no normalisation.
    """
    names, moments = _batch_moments(model, variables, batches, train=train)
    return [
        gaps_of(of_layer, layer, side)
        for (layer, side), of_layer in zip(names, moments, strict=True)
    ]


def _batch_moments(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[tuple[Any, Any]],
    *,
    train: bool,
) -> tuple[list[tuple[str, str]], list[BatchMoments]]:
    """What `measure_gaps` computes them from: pairs of layer and side, and moments."""
    compute, names = _moments_fn(model, train)
    found = [compute(variables, *batch) for batch in batches]
    if not found or not names:
        raise ValueError("The gaps need a batch, and a network that normalises.")
    if not any((of_batch[0].counts > 0).all() for of_batch in found):
        raise ValueError("The gaps need a batch that holds both modalities.")
    moments = []
    for of_layer in zip(*jax.device_get(found), strict=True):
        mean, var, counts = (
            np.stack(a).astype(np.float64) for a in zip(*of_layer, strict=True)
        )
        absent = counts == 0
        moments.append(
            BatchMoments(
                np.where(absent, np.nan, mean), np.where(absent, np.nan, np.sqrt(var))
            )
        )
    return names, moments


def gaps_of(moments: BatchMoments, layer: str = "", side: str = "after") -> Gap:
    r"""The gaps of one side of one layer.

    Two distributions of a channel with means $\mu, \mu'$ and standard deviations
    $\sigma, \sigma'$ are $d = \sqrt{(\mu - \mu')^2 + (\sigma - \sigma')^2}$ apart,
    the 2-Wasserstein distance of normal distributions. In units of the channel's
    standard deviation $s$ over all batches, where both modalities weigh alike:

    $$ \mathrm{intra} = \mathrm{mean}_c \frac{1}{s}
       \sqrt{\mathrm{mean}_b\, d^2(\mathrm{visible}_b, \mathrm{infrared}_b)}, $$
    $$ \mathrm{lasting} = \mathrm{mean}_c \frac{1}{s}\,
       d(\overline{\mathrm{visible}}, \overline{\mathrm{infrared}}), \quad
       \mathrm{inter}_m = \mathrm{mean}_c \frac{1}{s}
       \sqrt{\mathrm{mean}_b\, d^2(m_b, \overline{m})}, $$

    where $b$ are the batches, $c$ the channels, and a bar is the average over the
    batches, of means and of standard deviations. A channel that never varies has no
    say; a batch without a modality has none in what is asked of that modality.

    Reference for the distance: Dowson, Landau, "The Frechet distance between
    multivariate normal distributions", Journal of Multivariate Analysis 12, 1982.

    Args:
      moments: of the side.
      layer: its name in the result.
      side: likewise.
    """
    mean, deviation = moments
    # First over the batches: a modality that is absent from some weighs no less.
    grand = np.nanmean(mean, axis=0).mean(0)
    spread = deviation**2 + (mean - grand) ** 2
    unit = np.sqrt(np.nanmean(spread, axis=0).mean(0))
    varies = unit > 1e-6 * np.max(unit)

    def root_mean_square(a: np.ndarray, b: np.ndarray) -> float:
        """Of the distances (batches, C) between points (2, batches, C)."""
        squared = np.nanmean(((a - b) ** 2).sum(0), axis=0)[varies]
        return float(np.mean(np.sqrt(squared) / unit[varies])) if varies.any() else 0.0

    visible, infrared = np.moveaxis(np.stack([mean, deviation]), 2, 0)
    averages = [np.nanmean(m, axis=1, keepdims=True) for m in (visible, infrared)]
    return Gap(
        layer,
        side,
        intra=root_mean_square(visible, infrared),
        lasting=root_mean_square(*averages),
        inter_visible=root_mean_square(visible, averages[0]),
        inter_infrared=root_mean_square(infrared, averages[1]),
    )


def _moments_fn(
    model: nn.Module, train: bool
) -> tuple[Callable[..., Any], list[tuple[str, str]]]:
    """A jitted function to the moments of both sides of every normalisation.

    And a list that has their layers and sides once it was called.
    """
    names: list[tuple[str, str]] = []
    # Rematerialisation traces a block by itself, and nothing can be taken out of it.
    if getattr(model, "remat", False):
        model = model.copy(remat=False)

    @jax.jit
    def compute(variables: Any, images: jax.Array, modality: jax.Array) -> Any:
        names.clear()
        found = []
        active = set()

        def intercept(
            function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
        ) -> Any:
            layer = context.module
            is_norm = isinstance(layer, ModalityBatchNorm | nn.BatchNorm)
            # A subclass calls what it overrides, and that passes here again.
            if not is_norm or context.method_name != "__call__" or layer.path in active:
                return function(*args, **kwargs)
            active.add(layer.path)
            result = function(*args, **kwargs)
            active.remove(layer.path)
            x = args[0] if args else kwargs["x"]
            for side, values in zip(SIDES, (x, result), strict=True):
                names.append(("/".join(layer.path), side))
                found.append(
                    modality_moments(
                        values.astype(jnp.float32),
                        modality,
                        len(MODALITIES),
                        axis=layer.axis,
                    )
                )
            return result

        with nn.intercept_methods(intercept):
            model.apply(
                variables, images, modality, train=train, mutable=["batch_stats"]
            )
        return found

    return compute, names
