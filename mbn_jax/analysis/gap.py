"""The two distribution gaps, measured before and after every normalisation.

The definitions, and what they show, are in docs/distribution-gaps.md.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mbn_jax.analysis.charts import BLUE, GREEN, INK, ORANGE, PURPLE, chart, svg
from mbn_jax.analysis.report import Section
from mbn_jax.functional import modality_moments
from mbn_jax.norm import ModalityBatchNorm

SIDES = ("before", "after")
MODALITIES = ("visible", "infrared")
# By name, as in gaps.csv; and what each is, for the charts.
GAPS = {
    "intra": "between the modalities of a batch",
    "inter_visible": "visible, from batch to batch",
    "inter_infrared": "infrared, from batch to batch",
}
# How a network normalises, and what it is shown.
WAYS = {
    "training": "statistics of the batch, training images as they are augmented",
    "evaluation": "running statistics, test images as they are",
}
_AXES = "normalisation, from the image to the neck", "gap, standard deviations"
_COLOURS = (BLUE, ORANGE, PURPLE, GREEN)


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
      intra: of the two modalities in a batch.
      inter_visible, inter_infrared: of one modality in the batches.
    """

    layer: str
    side: str
    intra: float
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
      model: a Linen network that is called as `model(images, modality, train=…)` and
        normalises by `ModalityBatchNorm` or `flax.linen.BatchNorm`.
      variables: of the network.
      batches: images as the network takes them, (B, H, W, 3), and modality (B,).
      train: by the statistics of the batch, or by the running ones.

    Returns:
      Two of each normalisation: before and after it.

    Raises:
      ValueError: there is no batch, or no normalisation.
    """
    names, moments = batch_moments(model, variables, batches, train=train)
    return [
        Gap(layer, side, *gaps_of(of_layer).values())
        for (layer, side), of_layer in zip(names, moments, strict=True)
    ]


def batch_moments(
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


def gaps_of(moments: BatchMoments) -> dict[str, float]:
    r"""The three gaps of one side of one layer.

    Two distributions of a channel with means :math:`\mu, \mu'` and standard deviations
    :math:`\sigma, \sigma'` are :math:`d = \sqrt{(\mu-\mu')^2 + (\sigma-\sigma')^2}`
    apart: the 2-Wasserstein distance of normal distributions. In units of the channel's
    standard deviation s over all batches, both modalities weighing alike,

    * the intra-mini-batch gap is the mean over the channels of
      :math:`\sqrt{\mathrm{mean}_b\, d^2(\mathrm{visible}_b, \mathrm{infrared}_b)} / s`;
    * the inter-mini-batch gap of a modality is that of
      :math:`\sqrt{\mathrm{mean}_b\, d^2(\mathrm{modality}_b, \mathrm{its\ mean})} / s`,
      where the mean has the average of its means and of its standard deviations.

    A channel that never varies has no say.
    """
    mean, deviation = moments
    grand = np.nanmean(mean, axis=(0, 1))
    unit = np.sqrt(np.nanmean(deviation**2 + (mean - grand) ** 2, axis=(0, 1)))
    alive = unit > 1e-6 * max(1.0, np.max(unit))

    def gap(mean_difference: np.ndarray, deviation_difference: np.ndarray) -> float:
        squared = mean_difference**2 + deviation_difference**2
        if not alive.any() or np.all(np.isnan(squared)):
            return 0.0
        distance = np.sqrt(np.nanmean(squared, axis=0)[alive])
        return float(np.mean(distance / unit[alive]))

    of_modality = [
        gap(
            mean[:, m] - np.nanmean(mean[:, m], axis=0),
            deviation[:, m] - np.nanmean(deviation[:, m], axis=0),
        )
        for m in range(len(MODALITIES))
    ]
    intra = gap(mean[:, 0] - mean[:, 1], deviation[:, 0] - deviation[:, 1])
    return dict(zip(GAPS, [intra, *of_modality], strict=True))


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
        inside: set[Any] = set()  # a subclass calls what it overrides

        def intercept(
            function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
        ) -> Any:
            module = context.module
            is_norm = isinstance(module, ModalityBatchNorm | nn.BatchNorm)
            is_outermost = module.path not in inside
            inside.add(module.path)
            result = function(*args, **kwargs)
            if is_norm and is_outermost and context.method_name == "__call__":
                for side, values in zip(SIDES, (args[0], result), strict=True):
                    names.append(("/".join(module.path), side))
                    values = values.astype(jnp.float32)
                    found.append(modality_moments(values, modality, len(MODALITIES)))
            return result

        with nn.intercept_methods(intercept):
            model.apply(
                variables, images, modality, train=train, mutable=["batch_stats"]
            )
        return found

    return compute, names


def as_csv(gaps: Mapping[str, Sequence[Gap]]) -> str:
    """One line for each layer and side of each network.

    Args:
      gaps: by the name of the network and how it normalised.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network", *Gap._fields])
    for network, of_network in gaps.items():
        for gap in of_network:
            figures = [f"{getattr(gap, name):.6f}" for name in GAPS]
            writer.writerow([network, gap.layer, gap.side, *figures])
    return text.getvalue()


def as_markdown(gaps: Mapping[str, Sequence[Gap]]) -> str:
    """The mean over the layers, for each network and side."""
    lines = [
        "| network | | " + " | ".join(GAPS.values()) + " |",
        "|" + "---|" * (2 + len(GAPS)),
    ]
    for network, of_network in gaps.items():
        for side in SIDES:
            of_side = [gap for gap in of_network if gap.side == side]
            means = [np.mean([getattr(gap, name) for gap in of_side]) for name in GAPS]
            figures = " | ".join(f"{mean:.3f}" for mean in means)
            lines.append(f"| {network} | {side} | {figures} |")
    return "\n".join(lines) + "\n"


def gap_charts(gaps: Mapping[str, Sequence[Gap]]) -> list[str]:
    """The gaps over the depth as SVG, a chart for each kind.

    Args:
      gaps: of up to four networks, by their names.
    """
    charts = []
    for name, words in GAPS.items():
        figure, axes = chart(words[0].upper() + words[1:], *_AXES)
        _plot(axes, gaps, name)
        axes.legend(frameon=False, labelcolor=INK, fontsize=8)
        charts.append(svg(figure))
    return charts


def gap_sections(
    by_way: Mapping[str, Mapping[str, Sequence[Gap]]],
) -> list[Section]:
    """The gaps for a report.

    Args:
      by_way: for the names of `WAYS` the gaps of networks by their names.
    """
    return [
        Section(
            f"The two distribution gaps, as in {way}",
            f"With {WAYS[way]}. For every normalisation: how far the distributions of "
            "the two modalities lie apart in a batch, and how far that of one modality "
            "moves from batch to batch, before (dashed) and after (solid) the layer, "
            "in standard deviations of its channels. Zero is no gap.",
            gap_charts(networks),
        )
        for way, networks in by_way.items()
    ]


def as_json(gaps: Mapping[str, Sequence[Gap]]) -> dict[str, list[dict[str, Any]]]:
    """The gaps by any names as what JSON can hold."""
    return {name: [gap._asdict() for gap in found] for name, found in gaps.items()}


def from_json(
    values: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, list[Gap]]:
    """What `as_json` was given."""
    return {name: [Gap(**gap) for gap in found] for name, found in values.items()}


def draw_gaps(gaps: Mapping[str, Sequence[Gap]], title: str) -> Figure:
    """The same charts side by side, with one scale, as a figure.

    Args:
      gaps: of up to four networks, by their names.
      title: of the whole.
    """
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    panels = figure.subplots(1, len(GAPS), sharey=True)
    for axes, (name, words) in zip(panels, GAPS.items(), strict=True):
        _plot(axes, gaps, name)
        axes.set_title(words, fontsize=11, loc="left")
        axes.set_xlabel(_AXES[0])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(_AXES[1])
    panels[0].legend(frameon=False, fontsize=9)
    return figure


def _plot(axes: Axes, gaps: Mapping[str, Sequence[Gap]], name: str) -> None:
    for (network, of_network), colour in zip(gaps.items(), _COLOURS, strict=False):
        for side, style in zip(SIDES, ("--", "-"), strict=True):
            values = [getattr(gap, name) for gap in of_network if gap.side == side]
            axes.plot(
                np.arange(1, len(values) + 1),
                values,
                style,
                color=colour,
                lw=2 if side == "after" else 1.2,
                label=f"{network}, {side}".removeprefix(", "),
            )
    axes.set_ylim(bottom=0)
