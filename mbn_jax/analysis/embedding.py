"""A map of the embedding: a few identities in two dimensions."""

import itertools
from collections.abc import Mapping

import numpy as np

from mbn_jax.analysis.charts import (
    GRAY,
    INK,
    SERIES,
    chart,
    legend_label,
    svg,
    verbatim,
)
from mbn_jax.analysis.page import Section
from mbn_jax.evaluation.distances import unit_rows
from mbn_jax.evaluation.records import Records

_IDENTITIES = 10
_PERPLEXITY = 30
_IMAGES = 15  # of an identity in a modality: more would hide one another
_FEWEST = 10  # images, below which a map shows nothing
_MARKERS = {
    "o": "circles",
    "^": "triangles",
    "s": "squares",
    "D": "diamonds",
    "v": "triangles that point down",
    "P": "plus signs",
    "*": "stars",
    "<": "triangles that point left",
    ">": "triangles that point right",
    "X": "crosses",
    "p": "pentagons",
    "h": "hexagons",
    "8": "octagons",
    "d": "thin diamonds",
    "H": "hexagons on a side",
}
_WORDS = (
    "The map shows test images of {} identities, spread evenly over all that have "
    "images of two or more modalities, and at most {} images of each in a modality. "
    "Every identity has a color and its name, and every modality a marker: {}. A line "
    "joins the centers of an identity's images of each modality: "
    "where it is short, and the colors lie apart, identities are found across the "
    "modalities. Two dimensions show only a part of the embedding."
)
_T_SNE = (
    " t-SNE keeps neighbors together; the distances between its groups mean little."
)
_TOO_FEW = " A second map, by t-SNE, needs ninety images."
_NO_T_SNE = (
    " A second map, by t-SNE, needs scikit-learn: pip install scikit-learn, and give "
    "the training command again, which writes this report anew."
)


def map_section(
    features: np.ndarray, records: Records, identity_names: np.ndarray | None = None
) -> Section:
    """Draws ten identities in two dimensions: principal components, and t-SNE.

    t-SNE needs scikit-learn, an extra of this package; without it there is one map, and
    the words say so.

    Args:
        features: (N, D) floating, of any length, 2 ≤ D.
        records: N of them.
        identity_names: (N,) str, what the data set calls the identities; None for their
            numbers.

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
    # With fewer images, every image would be a neighbor of every other.
    if len(rows) >= 3 * _PERPLEXITY:
        neighbors = t_sne(directions, components)
        words = _NO_T_SNE if neighbors is None else _T_SNE
        if neighbors is not None:
            maps["t-SNE"] = neighbors
    if identity_names is None:
        identity_names = records.identity.astype(str)
    identity, modality = identity_names[rows], records.modality[rows]
    markers = dict(zip(records.modalities, itertools.cycle(_MARKERS), strict=False))
    meanings = ", ".join(f"{_MARKERS[m]} {name}" for name, m in markers.items())
    return Section(
        "Map of the embedding",
        _WORDS.format(len(np.unique(identity)), _IMAGES, meanings) + words,
        [
            _map(title, points, identity, modality, markers)
            for title, points in maps.items()
        ],
    )


def mapped_rows(records: Records) -> np.ndarray:
    """Chooses the images on the map, as sorted indices.

    Ten identities, spread evenly over those with images of two or more modalities, and
    of each and modality fifteen images, spread evenly over all in their order.
    """
    modalities = range(len(records.modalities))
    seen = [np.unique(records.identity[records.modality == m]) for m in modalities]
    identities, times = np.unique(np.concatenate(seen), return_counts=True)
    rows = [
        _spread(
            np.flatnonzero((records.identity == identity) & (records.modality == m)),
            _IMAGES,
        )
        for identity in _spread(identities[times > 1], _IDENTITIES)
        for m in modalities
    ]
    return np.sort(np.concatenate(rows)) if rows else np.zeros(0, int)


def principal_components(features: np.ndarray) -> np.ndarray:
    """The two of largest variance, (N, 2), each with its largest weight positive.

    Args:
        features: (N, D) floating, 2 ≤ N and 2 ≤ D.
    """
    centered = features - features.mean(0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    axes = axes[:2]
    axes *= np.sign(axes[np.arange(2), np.abs(axes).argmax(1)])[:, None]
    return centered @ axes.T


def t_sne(features: np.ndarray, start: np.ndarray) -> np.ndarray | None:
    """Neighbors as neighbors (van der Maaten and Hinton, JMLR 2008).

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
    """Returns at most `most` of the values, spread evenly over their order."""
    chosen = np.linspace(0, len(values) - 1, min(most, len(values)))
    return values[chosen.round().astype(int)]


def _map(
    title: str,
    points: np.ndarray,
    identity: np.ndarray,
    modality: np.ndarray,
    markers: Mapping[str, str],
) -> str:
    """Draws (N, 2) points of identities (N,) and modalities (N,) with their markers."""
    figure, axes = chart(title, "", "")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.08)
    for name, color in zip(dict.fromkeys(identity), SERIES, strict=False):
        centers = []
        for m, marker in enumerate(markers.values()):
            of = points[(identity == name) & (modality == m)]
            if len(of):
                x, y = of.T
                axes.scatter(x, y, s=16, marker=marker, color=color, alpha=0.7, lw=0)
                centers.append(of.mean(0))
        # The line ends at the first center, so that all distances of three are shown.
        axes.plot(*np.transpose([*centers, centers[0]]), color=color, lw=1.2)
        axes.annotate(verbatim(name), centers[0], color=INK, fontsize=8, weight="bold")
    for name, marker in markers.items():
        axes.scatter([], [], marker=marker, color=GRAY, label=legend_label(name))
    # Below, where it hides no image.
    axes.legend(
        frameon=False, labelcolor=INK, ncols=3, loc="upper left", bbox_to_anchor=(0, 0)
    )
    return svg(figure)
