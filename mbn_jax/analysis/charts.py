"""Charts as inline SVG that takes the text color of the page around it."""

import io
import itertools
import textwrap
from collections.abc import Iterable

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mbn_jax.text import printable

# Told apart in light and in dark pages, and by those who see no red or no green.
BLUE, ORANGE, PURPLE, GRAY = "#3b82d6", "#e08214", "#a63f84", "#8c8c8c"
GREEN, RED = "#2a9d6f", "#c84a5b"
# For any number of series; with the line styles, thirty can be told apart.
SERIES = (
    *(BLUE, ORANGE, GREEN, RED, PURPLE),
    *("#5a35f0", "#62b81e", "#f05cf0", "#7a5a2e", "#2fbcd6"),
)
LINES = ("-", "--", ":")
# Drawn in a color that nothing else has, and then replaced by CSS's currentColor.
INK = "#010203"
_TITLE_WIDTH = 36  # letters that fit above a chart
_LABEL_WIDTH = 40  # letters that fit into a legend


def chart(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """An empty chart with its title and the names of its axes."""
    figure = Figure(figsize=(4.4, 3.1), layout="constrained")
    FigureCanvasSVG(figure)
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


def drawable(text: str) -> str:
    """The text without what no font has: control characters, bytes of other names."""
    return printable(text).encode(errors="replace").decode()


def verbatim(text: str) -> str:
    """What Matplotlib shows as the text: it takes what is between $ for mathematics."""
    return drawable(text).replace("$", r"\$")


def legend_label(name: str) -> str:
    """A name for a legend, as it is, in lines that fit."""
    # Matplotlib leaves out of a legend what begins with an underscore.
    hidden = " " if name.startswith("_") else ""
    return hidden + verbatim(textwrap.fill(name, _LABEL_WIDTH))


def styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Returns a color and a line style for each of any number of series."""
    cycle = itertools.cycle(itertools.product(LINES, SERIES))
    return {
        name: (color, line) for name, (line, color) in zip(names, cycle, strict=False)
    }


def png(figure: Figure, dpi: int) -> bytes:
    """The figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element: text as text, the same bytes every time."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mbn_jax"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
