"""How every chart looks: as SVG in the text color of its page, or as PNG."""

import io
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mbn_jax.text import printable

# Told apart in light and in dark pages, and by those who see no red or no green.
BLUE, ORANGE, PURPLE, GRAY = "#3b82d6", "#e08214", "#a63f84", "#8c8c8c"
GREEN, RED = "#2a9d6f", "#c84a5b"
# Many series: with three line styles or markers, thirty can be told apart.
SERIES = (
    *(BLUE, ORANGE, GREEN, RED, PURPLE),
    *("#5a35f0", "#62b81e", "#f05cf0", "#7a5a2e", "#2fbcd6"),
)
# Drawn in a color that nothing else has, and then replaced by CSS's currentColor.
INK = "#010203"
_TITLE_WIDTH = 36  # letters that fit above a chart
_LABEL_WIDTH = 40  # letters that fit into a legend


class Section(NamedTuple):
    """Charts of a page under one heading.

    Attributes:
        title: The heading.
        words: What the charts show and how to read them, as plain text.
        charts: `<svg>` elements.
    """

    title: str
    words: str
    charts: Sequence[str]


def chart(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """Returns an empty chart with a title and the names of its axes."""
    figure = Figure(figsize=(4.4, 3.1), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    lines = textwrap.fill(title, _TITLE_WIDTH, break_on_hyphens=False)
    axes.set_title(verbatim(lines), color=INK, fontsize=12, loc="left", weight="bold")
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(colors=INK)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(color=GRAY, alpha=0.3, lw=0.6)
    for side, spine in axes.spines.items():
        spine.set(color=GRAY, visible=side in ("left", "bottom"))
    return figure, axes


def add_legend(chart: Axes | Figure, **placement: Any) -> None:
    """Adds a legend inside the axes, or beside them in the figure."""
    chart.legend(frameon=False, labelcolor=INK, fontsize=8, **placement)


def drawable(text: str) -> str:
    """Replaces what no font has: control characters, and bytes that are not UTF-8."""
    return printable(text).encode(errors="replace").decode()


def verbatim(text: str) -> str:
    """Escapes the dollar signs, between which Matplotlib expects mathematics."""
    return drawable(text).replace("$", r"\$")


def legend_label(name: str) -> str:
    """Returns the label that shows a name unchanged, in lines that fit a legend."""
    # Matplotlib leaves out of a legend what begins with an underscore.
    hidden = " " if name.startswith("_") else ""
    return hidden + verbatim(textwrap.fill(name, _LABEL_WIDTH))


def png(figure: Figure, dpi: int) -> bytes:
    """Returns the content of a PNG file with the figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """Returns an `<svg>` element: text as text, and the same bytes every time."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mbn_jax"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
