"""The two distribution gaps, measured before and after every normalization.

The definitions, and what they show, are in docs/distribution-gaps.md.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mbn_jax import modalities as names
from mbn_jax.context import intercepted
from mbn_jax.functional import modality_moments
from mbn_jax.norm import ModalityBatchNorm

SIDES = ("before", "after")


class BatchMoments(NamedTuple):
    """The moments of one side of one layer, in a sequence of batches.

    Attributes:
      mean: `(batches, M, C)` float64, over the samples and positions of a modality; NaN
        where a batch has no sample of it.
      deviation: of the same shape, the standard deviations.
    """

    mean: np.ndarray
    deviation: np.ndarray


class Gap(NamedTuple):
    """The gaps of one side of one layer, in standard deviations of its channels.

    Attributes:
      layer: path of the normalization, "backbone/stage1_block1/norm1".
      side: "before" or "after" the normalization.
      intra: between two modalities in a batch, by their `pair`.
      lasting: the part of it that stays from batch to batch, by the same pairs.
      inter: of one modality from batch to batch, by its name.
    """

    layer: str
    side: str
    intra: Mapping[str, float]
    lasting: Mapping[str, float]
    inter: Mapping[str, float]


def pair(first: str, second: str) -> str:
    """Returns the name of two modalities together, "visible-infrared"."""
    return f"{first}-{second}"


def measure_gaps(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[tuple[Any, Any]],
    *,
    train: bool,
    modalities: Sequence[str] = names.DEFAULT,
) -> list[Gap]:
    """Measures the gaps at every normalization of a network, in order of their depth.

    Args:
      model: a Linen network that is called as `model(images, modality, train=…)`,
        normalizes by `ModalityBatchNorm` or `flax.linen.BatchNorm`, and draws no random
        numbers. What is inside `nn.remat`, `nn.scan` or `nn.vmap` cannot be measured;
        where the network has a field `remat`, it is turned off.
      variables: of the network.
      batches: images as the network takes them, (B, H, W, 3), and modality (B,).
      train: by the statistics of the batch, or by the running ones.
      modalities: their names, by index; `model.modalities` of a network of this
        library.

    Returns:
      Two gaps for each normalization: before and after it. A modality that no batch has
      is left out, and so is a pair of modalities that no batch has together.

    Raises:
      ValueError: no batch has two modalities, a batch has a modality without a name,
        or there is no normalization.
    """
    sides, moments = _batch_moments(
        model, variables, batches, train=train, num_modalities=len(modalities)
    )
    return [
        gaps_of(of_layer, layer, side, modalities)
        for (layer, side), of_layer in zip(sides, moments, strict=True)
    ]


def _batch_moments(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[tuple[Any, Any]],
    *,
    train: bool,
    num_modalities: int,
) -> tuple[list[tuple[str, str]], list[BatchMoments]]:
    """Returns what the gaps are computed from: pairs of layer and side, and moments."""
    compute, sides = _moments_fn(model, train, num_modalities)
    found, most = [], 0
    for images, modality in batches:
        found.append(compute(variables, images, modality))
        occurring = np.unique(modality)
        most = max(most, len(occurring))
        if occurring.min() < 0 or occurring.max() >= num_modalities:
            raise ValueError(
                f"A batch has the modalities {occurring.tolist()}, but there are names "
                f"of {num_modalities}: give the names of all in `modalities`."
            )
    if not found or not sides:
        raise ValueError("The gaps need a batch, and a network that normalizes.")
    if most < 2:
        raise ValueError("The gaps need a batch that holds two modalities.")
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
    return sides, moments


def gaps_of(
    moments: BatchMoments,
    layer: str = "",
    side: str = "after",
    modalities: Sequence[str] = names.DEFAULT,
) -> Gap:
    r"""Computes the gaps of one side of one layer.

    Two distributions of a channel with means $\mu, \mu'$ and standard deviations
    $\sigma, \sigma'$ are $d = \sqrt{(\mu - \mu')^2 + (\sigma - \sigma')^2}$ apart,
    the 2-Wasserstein distance of normal distributions. In units of the channel's
    standard deviation $s$ over all batches, where all modalities weigh alike:

    $$ \mathrm{intra}_{mn} = \mathrm{mean}_c \frac{1}{s}
       \sqrt{\mathrm{mean}_b\, d^2(m_b, n_b)}, \quad
       \mathrm{lasting}_{mn} = \mathrm{mean}_c \frac{1}{s}\,
       d(\overline{m}, \overline{n}), $$
    $$ \mathrm{inter}_m = \mathrm{mean}_c \frac{1}{s}
       \sqrt{\mathrm{mean}_b\, d^2(m_b, \overline{m})}, $$

    where $b$ are the batches, $c$ the channels, $m$ and $n$ two modalities, and a bar
    is the average over the batches, of means and of standard deviations. Constant
    channels are ignored; a batch without a modality is ignored in the gaps of that
    modality.

    Reference for the distance: Dowson, Landau, "The Frechet distance between
    multivariate normal distributions", Journal of Multivariate Analysis 12, 1982.

    Args:
      moments: of the side.
      layer: its name in the result.
      side: likewise.
      modalities: the names of the M modalities, by index.
    """
    points = np.stack(moments)  # mean and deviation, (2, batches, M, C)
    is_there = ~np.isnan(points).all((0, 3))  # (batches, M)
    of_modality = zip(modalities, is_there.T, strict=True)
    present = [m for m, (_, there) in enumerate(of_modality) if there.any()]
    # First over the batches: a modality that is absent from some weighs no less.
    mean, deviation = points[:, :, present]
    grand = np.nanmean(mean, axis=0).mean(0)
    spread = deviation**2 + (mean - grand) ** 2
    unit = np.sqrt(np.nanmean(spread, axis=0).mean(0))
    varies = unit > 1e-6 * np.max(unit)

    def root_mean_square(a: np.ndarray, b: np.ndarray) -> float:
        """Of the distances (batches, C) between points (2, batches, C)."""
        squared = np.nanmean(((a - b) ** 2).sum(0), axis=0)[varies]
        return float(np.mean(np.sqrt(squared) / unit[varies])) if varies.any() else 0.0

    of = {m: points[:, :, m] for m in present}
    average = {m: np.nanmean(of[m], axis=1, keepdims=True) for m in present}
    together = [
        (m, n)
        for m, n in itertools.combinations(present, 2)
        if (is_there[:, m] & is_there[:, n]).any()
    ]
    pairs = {(m, n): pair(modalities[m], modalities[n]) for m, n in together}
    return Gap(
        layer,
        side,
        intra={name: root_mean_square(of[m], of[n]) for (m, n), name in pairs.items()},
        lasting={
            name: root_mean_square(average[m], average[n])
            for (m, n), name in pairs.items()
        },
        inter={modalities[m]: root_mean_square(of[m], average[m]) for m in present},
    )


def _moments_fn(
    model: nn.Module, train: bool, num_modalities: int
) -> tuple[Callable[..., Any], list[tuple[str, str]]]:
    """Returns a jitted function to the moments of both sides of every normalization.

    And a list that has their layers and sides once it was called.
    """
    sides: list[tuple[str, str]] = []
    # Rematerialization traces a block by itself, and nothing can be taken out of it.
    if getattr(model, "remat", False):
        model = model.copy(remat=False)

    @jax.jit
    def compute(variables: Any, images: jax.Array, modality: jax.Array) -> Any:
        sides.clear()
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
                sides.append(("/".join(layer.path), side))
                found.append(
                    modality_moments(
                        values.astype(jnp.float32),
                        modality,
                        num_modalities,
                        axis=layer.axis,
                    )
                )
            return result

        with intercepted(intercept):
            model.apply(
                variables, images, modality, train=train, mutable=["batch_stats"]
            )
        return found

    return compute, sides
