"""A map of the embedding: a few people in two dimensions."""

import numpy as np

from mbn_jax.analysis.charts import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    chart,
    svg,
)
from mbn_jax.analysis.page import Section
from mbn_jax.evaluation.distances import unit_rows
from mbn_jax.evaluation.records import INFRARED, MODALITIES, VISIBLE, Records

_PEOPLE = 10
_PERPLEXITY = 30
_IMAGES = 15  # of a person in a modality: more make a chart of dots on dots
_FEWEST = 10  # images, below which a map shows nothing
_MARKERS = {VISIBLE: "o", INFRARED: "^"}
_COLOURS = (
    *(BLUE, ORANGE, GREEN, RED, PURPLE),
    *("#5a35f0", "#62b81e", "#f05cf0", "#7a5a2e", "#2fbcd6"),
)
_WORDS = (
    "Test images of {} people, spread evenly over all who were seen in both "
    "modalities, at most {} of each in a modality: a colour and the identity for each "
    "person, circles visible, triangles infrared. A line joins the centres of a "
    "person's visible and infrared images: where it is short, and the colours lie "
    "apart, people are found across the modalities. Two dimensions show only a part "
    "of the embedding."
)
_T_SNE = (
    " t-SNE keeps neighbours together; the distances between its groups mean little."
)
_TOO_FEW = " A second map, by t-SNE, needs ninety images."
_NO_T_SNE = (
    " A second map, by t-SNE, needs scikit-learn: pip install scikit-learn, and give "
    "the training command again, which writes this report anew."
)


def map_section(features: np.ndarray, records: Records) -> Section:
    """Ten people in two dimensions: principal components, and t-SNE if it is there.

    t-SNE needs scikit-learn, an extra of this package; without it there is one map, and
    the words say so.

    Args:
        features: (N, D) floating, of any length, 2 ≤ D.
        records: N of them.

    Returns:
        Charts and words; no chart of fewer than ten images.
    """
    rows = mapped_rows(records)
    if len(rows) < _FEWEST:
        return Section("Map of the embedding", "", [])
    directions = unit_rows(features[rows].astype(np.float64), np)
    components = principal_components(directions)
    maps = {"Principal components": components}
    words = _TOO_FEW
    # Fewer, and every image would be a neighbour of every other.
    if len(rows) >= 3 * _PERPLEXITY:
        neighbours = t_sne(directions, components)
        words = _NO_T_SNE if neighbours is None else _T_SNE
        if neighbours is not None:
            maps["t-SNE"] = neighbours
    identity, modality = records.identity[rows], records.modality[rows]
    return Section(
        "Map of the embedding",
        _WORDS.format(len(np.unique(identity)), _IMAGES) + words,
        [_map(title, points, identity, modality) for title, points in maps.items()],
    )


def mapped_rows(records: Records) -> np.ndarray:
    """The images on the map, as sorted indices.

    Ten identities, spread evenly over those with images of both modalities, and of each
    and modality fifteen images, spread evenly over all in their order.
    """
    seen = [records.identity[records.modality == m] for m in _MARKERS]
    rows = [
        _spread(
            np.flatnonzero((records.identity == person) & (records.modality == m)),
            _IMAGES,
        )
        for person in _spread(np.intersect1d(*seen), _PEOPLE)
        for m in _MARKERS
    ]
    return np.sort(np.concatenate(rows)) if rows else np.zeros(0, int)


def principal_components(features: np.ndarray) -> np.ndarray:
    """The two of largest variance, (N, 2), each with its largest weight positive.

    Args:
        features: (N, D) floating, 2 ≤ N and 2 ≤ D.
    """
    centred = features - features.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    axes *= np.sign(axes[np.arange(2), np.abs(axes).argmax(1)])[:, None]
    return centred @ axes.T


def t_sne(features: np.ndarray, start: np.ndarray) -> np.ndarray | None:
    """Neighbours as neighbours (van der Maaten and Hinton, JMLR 2008).

    By the exact gradient, so that nothing is drawn by chance.

    Args:
        features: (N, D) floating, some hundred; 90 at least.
        start: (N, 2), their principal components, from which it starts.

    Returns:
        (N, 2) points, the same every time; None without scikit-learn.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return None
    # As scikit-learn scales its own: small, or the first steps throw points far out.
    start = start * (1e-4 / max(start[:, 0].std(), 1e-12))
    fitted = TSNE(perplexity=_PERPLEXITY, init=start, method="exact", random_state=0)
    return fitted.fit_transform(features)


def _spread(values: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the values, evenly over their order."""
    chosen = np.linspace(0, len(values) - 1, min(most, len(values)))
    return values[chosen.round().astype(int)]


def _map(
    title: str, points: np.ndarray, identity: np.ndarray, modality: np.ndarray
) -> str:
    figure, axes = chart(title, "", "")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.08)
    for person, colour in zip(np.unique(identity), _COLOURS, strict=False):
        centres = []
        for m, marker in _MARKERS.items():
            x, y = points[(identity == person) & (modality == m)].T
            axes.scatter(x, y, s=16, marker=marker, color=colour, alpha=0.7, lw=0)
            centres.append((x.mean(), y.mean()))
        axes.plot(*np.transpose(centres), color=colour, lw=1.2)
        axes.annotate(str(person), centres[0], color=INK, fontsize=8, weight="bold")
    for m, marker in _MARKERS.items():
        axes.scatter([], [], marker=marker, color=GREY, label=MODALITIES[m])
    # Below, where it hides no image.
    axes.legend(
        frameon=False, labelcolor=INK, ncols=2, loc="upper left", bbox_to_anchor=(0, 0)
    )
    return svg(figure)
