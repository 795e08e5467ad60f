"""The two distribution gaps, measured before and after every normalization.

The definitions, and what they show, are in docs/distribution-gaps.md.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mbn_jax import modalities as names
from mbn_jax.context import intercepted
from mbn_jax.errors import InputError
from mbn_jax.files import read_json
from mbn_jax.functional import modality_moments
from mbn_jax.norm import ModalityBatchNorm

SIDES = ("before", "after")
# The fields of `Gap` that hold numbers.
GAPS = ("intra", "lasting", "inter")
# How a network normalizes, and on which images.
WAYS = {
    "training": "as in training: statistics of the batch",
    "evaluation": "as in evaluation: running statistics",
}


class Gap(NamedTuple):
    """The gaps of one side of one layer, in standard deviations of its channels.

    Attributes:
        layer: Path of the normalization, "backbone/stage1_block1/norm1".
        side: "before" or "after" the normalization.
        intra: Between two modalities in a batch, by their `pair`.
        lasting: The part of it that stays from batch to batch, by the same pairs.
        inter: Of one modality from batch to batch, by its name.
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
        model: A Linen network that is called as `model(images, modality, train=…)`,
            normalizes by `ModalityBatchNorm` or `flax.linen.BatchNorm`, and draws no
            random numbers. What is inside `nn.remat`, `nn.scan` or `nn.vmap` cannot be
            measured; if the network has a field `remat`, it is turned off.
        variables: The variables of the network.
        batches: Images as the network takes them, `(B, H, W, 3)`, and modality `(B,)`.
        train: Whether to normalize by the statistics of the batch, or by the running
            ones.
        modalities: Their names, by index; `model.modalities` of a network of this
            library.

    Returns:
        Two gaps for each normalization: before and after it. A modality that no batch
        has is left out, and so is a pair of modalities that no batch has together.

    Raises:
        ValueError: No batch has two modalities, a batch has a modality without a name,
            or there is no normalization.
    """
    num_modalities = len(modalities)
    compute, sides = _moments_fn(model, train, num_modalities)
    found, most = [], 0
    for images, modality in batches:
        found.append(compute(variables, images, modality))
        occurring = np.unique(modality)
        most = max(most, len(occurring))
        if occurring.min() < 0 or occurring.max() >= num_modalities:
            raise ValueError(
                f"A batch has the modalities {occurring.tolist()}, but only "
                f"{num_modalities} have names: name all of them in `modalities`."
            )
    if not found or not sides:
        raise ValueError("The gaps need a batch, and a network that normalizes.")
    if most < 2:
        raise ValueError("The gaps need a batch that holds two modalities.")
    gaps = []
    for (layer, side), of_side in zip(
        sides, zip(*jax.device_get(found), strict=True), strict=True
    ):
        mean, var, counts = (
            np.stack(of_batches).astype(np.float64)
            for of_batches in zip(*of_side, strict=True)
        )
        absent = counts == 0
        mean = np.where(absent, np.nan, mean)
        deviation = np.where(absent, np.nan, np.sqrt(var))
        gaps.append(gaps_of(mean, deviation, layer, side, modalities))
    return gaps


def gaps_of(
    mean: np.ndarray,
    deviation: np.ndarray,
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
        mean: `(batches, M, C)` float64, over the samples and positions of a modality;
            NaN where a batch has no sample of it.
        deviation: `(batches, M, C)` float64, the standard deviations.
        layer: Its name in the result.
        side: Its name in the result.
        modalities: The names of the M modalities, by index.
    """
    points = np.stack([mean, deviation])  # (2, batches, M, C)
    is_there = ~np.isnan(points).all((0, 3))  # (batches, M)
    present = np.flatnonzero(is_there.any(0)).tolist()
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
    pairs = {
        pair(modalities[m], modalities[n]): (m, n)
        for m, n in itertools.combinations(present, 2)
        if (is_there[:, m] & is_there[:, n]).any()
    }
    return Gap(
        layer,
        side,
        {name: root_mean_square(of[m], of[n]) for name, (m, n) in pairs.items()},
        {
            name: root_mean_square(average[m], average[n])
            for name, (m, n) in pairs.items()
        },
        {modalities[m]: root_mean_square(of[m], average[m]) for m in present},
    )


def _moments_fn(
    model: nn.Module, train: bool, num_modalities: int
) -> tuple[Callable[..., Any], list[tuple[str, str]]]:
    """Returns a jitted function that gives the moments of every side of every layer.

    And a list, which holds these layers and sides once the function was called.
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
                values = values.astype(jnp.float32)
                found.append(
                    modality_moments(values, modality, num_modalities, axis=layer.axis)
                )
            return result

        with intercepted(intercept):
            model.apply(variables, images, modality, train=train, mutable="batch_stats")
        return found

    return compute, sides


def as_json(by_way: Mapping[str, Sequence[Gap]]) -> dict[str, list[dict[str, Any]]]:
    """Returns the gaps of one run as the content of gaps.json."""
    return {way: [gap._asdict() for gap in gaps] for way, gaps in by_way.items()}


def read_gaps(path: Path) -> dict[str, list[Gap]]:
    """Reads gaps.json; there are no gaps if it does not exist.

    Raises:
        InputError: The file holds something else.
    """
    if not path.exists():
        return {}
    by_way = read_json(path)
    try:
        return {way: [_as_gap(gap) for gap in gaps] for way, gaps in by_way.items()}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not hold the gaps as this version of mbn_jax writes them: "
            "delete it, or give the run's training command again."
        ) from error


def _as_gap(fields: Mapping[str, Any]) -> Gap:
    gap = Gap(**fields)
    numbers = [number for name in GAPS for number in getattr(gap, name).values()]
    if not isinstance(gap.layer, str) or gap.side not in SIDES:
        raise TypeError("not a side of a layer")
    if not all(isinstance(number, int | float) for number in numbers):
        raise TypeError("not a number")
    return gap
