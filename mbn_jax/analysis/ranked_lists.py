"""Ranked lists as images: a query, then the first images of its ranked gallery."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbn_jax.analysis.charts import drawable, verbatim
from mbn_jax.evaluation.ranking import Ranking

# Frame color and mark; the mark is for those who cannot tell the colors apart.
RIGHT, WRONG, UNKNOWN = ("#1a9850", "✓"), ("#d73027", "✗"), ("#8a8a8a", "")


@dataclasses.dataclass(frozen=True)
class RankedList:
    """A query and the head of its ranked gallery, ready to be drawn.

    Attributes:
        query: `(H, W, 3)` uint8 RGB.
        query_caption: A line under the query.
        gallery: Images like the query, best first; their sizes may differ.
        captions: A line under each gallery image.
        correct: Whether each shows the query's identity; None if that is not known.
    """

    query: np.ndarray
    query_caption: str
    gallery: Sequence[np.ndarray]
    captions: Sequence[str]
    correct: Sequence[bool | None]


def verdict(correct: bool | None) -> tuple[str, str]:
    """Returns the frame color and the mark of a gallery image."""
    if correct is None:
        return UNKNOWN
    return RIGHT if correct else WRONG


def illustrate(
    rankings: Sequence[Ranking],
    load: Callable[[np.ndarray], np.ndarray],
    identity: np.ndarray,
    camera: np.ndarray,
) -> list[RankedList]:
    """Turns the indices of rankings into images and captions.

    Args:
        rankings: From `mbn_jax.evaluation.ranked_list`.
        load: `load(indices)` -> `(n, H, W, 3)` uint8 images of the split, for example
            `functools.partial(load_images, split, image_size=(256, 128))`.
        identity: `(N,)` identities of the split, as they are to be shown.
        camera: `(N,)` cameras of the split, likewise.
    """
    lists = []
    for ranking in rankings:
        rows = np.concatenate([[ranking.query], ranking.gallery])
        query, *gallery = load(rows)
        caption, *captions = (f"id {identity[i]} · cam {camera[i]}" for i in rows)
        correct = [bool(right) for right in ranking.correct]
        lists.append(RankedList(query, caption, gallery, captions, correct))
    return lists


def draw_ranked_lists(lists: Sequence[RankedList], title: str) -> Figure:
    """Draws a row for each query: the query, a space, then its gallery, best first.

    Right images are framed green and marked ✓, wrong ones red and marked ✗; with
    identities unknown the frame is gray. The figure, of at least one list, is not one
    of pyplot; save it with `figure.savefig(path)`.
    """
    columns = 1 + max(len(ranked.gallery) for ranked in lists)
    height, width = lists[0].query.shape[:2]
    cell, caption, header = 1.1, 0.42, 0.6  # inches
    row_height = cell * height / width + caption
    total = header + len(lists) * row_height
    figure = Figure(figsize=(cell * (columns + 0.4), total), dpi=120)
    grid = figure.add_gridspec(
        len(lists),
        columns + 1,
        width_ratios=[1, 0.25] + [1] * (columns - 1),
        left=0.01,
        right=0.99,
        top=1 - header / total,
        bottom=0.25 / total,
        wspace=0.1,
        hspace=caption / (row_height - caption),
    )
    top = 1 - 0.12 / total
    figure.text(0.01, top, verbatim(title), va="top", fontsize=12, weight="bold")
    for row, ranked in enumerate(lists):
        axes = figure.add_subplot(grid[row, 0])
        _draw(axes, ranked.query, ranked.query_caption, "#333333", "query")
        shown = zip(ranked.gallery, ranked.captions, ranked.correct, strict=True)
        for rank, (image, words, correct) in enumerate(shown, start=1):
            color, mark = verdict(correct)
            axes = figure.add_subplot(grid[row, rank + 1])
            _draw(axes, image, words, color, f"{rank} {mark}".strip())
    return figure


def _draw(
    axes: Axes, image: np.ndarray, caption: str, color: str, heading: str
) -> None:
    axes.imshow(image, aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.set_title(heading, fontsize=8, color=color, pad=2, weight="bold")
    # A file name keeps its end, which tells more than its beginning.
    short = caption if len(caption) <= 18 else "…" + caption[-17:]
    # Two dollar signs in a file name are not mathematics.
    axes.set_xlabel(drawable(short), fontsize=6, labelpad=2, parse_math=False)
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=3)
