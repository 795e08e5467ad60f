"""What the embedding looks like: similarities, and a map in two dimensions."""

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
from mbn_jax.data.records import Records
from mbn_jax.evaluation.distances import unit_rows

_MOST_PAIRS = 200_000
_MAP_IDENTITIES = 10
_MARKERS = ("o", "^")  # visible, infrared
_MODALITIES = ("visible", "infrared")
_COLOURS = (
    *(BLUE, ORANGE, GREEN, RED, PURPLE),
    *("#8a6d3b", "#d45fa8", "#5f7f9f", "#a0a020", "#20a0a0"),
)


def similarity_charts(features: np.ndarray, records: Records) -> list[str]:
    """How alike pictures of one person and of two are, within and across modalities.

    Densities of the cosines of pairs of images; of more than 200,000 pairs, so many are
    drawn evenly.

    Args:
        features: (N, D) floating, of any length.
        records: N of them.

    Returns:
        Two SVG charts.
    """
    directions = np.asarray(unit_rows(features))
    first, second = np.triu_indices(len(directions), 1)
    across = records.modality[first] != records.modality[second]
    charts = []
    for title, of_kind in (("Across the modalities", across), ("Within one", ~across)):
        figure, axes = chart(title, "cosine of two images", "density")
        for same, colour in ((True, BLUE), (False, ORANGE)):
            alike = records.identity[first] == records.identity[second]
            pairs = np.flatnonzero(of_kind & (alike == same))
            pairs = pairs[:: 1 + len(pairs) // _MOST_PAIRS]
            if not len(pairs):
                continue
            cosines = np.sum(directions[first[pairs]] * directions[second[pairs]], 1)
            label = "the same person" if same else "two persons"
            axes.hist(
                cosines,
                bins=60,
                range=(-1, 1),
                density=True,
                color=colour,
                alpha=0.55,
                label=label,
            )
        axes.set_xlim(-1, 1)
        axes.legend(frameon=False, labelcolor=INK)
        charts.append(svg(figure))
    return charts


def embedding_maps(features: np.ndarray, records: Records) -> list[str]:
    """Ten people in two dimensions: principal components, and t-SNE if it is there.

    The people are spread evenly over the identities. t-SNE (van der Maaten and Hinton,
    JMLR 2008) needs scikit-learn, an extra of this package; without it there is one
    map.

    Args:
        features: (N, D) floating, of any length.
        records: N of them.

    Returns:
        SVG charts, one or two.
    """
    identities = np.unique(records.identity)
    chosen = identities[
        np.unique(
            np.linspace(0, len(identities) - 1, _MAP_IDENTITIES).round().astype(int)
        )
    ]
    rows = np.flatnonzero(np.isin(records.identity, chosen))
    directions = np.asarray(unit_rows(features[rows]), np.float64)
    maps = {"Principal components": principal_components(directions)}
    points = t_sne(directions)
    if points is not None:
        maps["t-SNE"] = points
    return [
        _map(title, points, records.identity[rows], records.modality[rows])
        for title, points in maps.items()
    ]


def principal_components(features: np.ndarray) -> np.ndarray:
    """The two of largest variance, (N, 2), each with its largest weight positive."""
    centred = features - features.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    return centred @ axes.T


def t_sne(features: np.ndarray) -> np.ndarray | None:
    """(N, 2), the same every time; None without scikit-learn, or of too few points."""
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return None
    if len(features) < 10:
        return None
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(
        features
    )


def _map(
    title: str, points: np.ndarray, identity: np.ndarray, modality: np.ndarray
) -> str:
    figure, axes = chart(title, "", "")
    axes.set_xticks([])
    axes.set_yticks([])
    for person, colour in zip(np.unique(identity), _COLOURS, strict=False):
        for m, marker in enumerate(_MARKERS):
            of = points[(identity == person) & (modality == m)]
            axes.scatter(
                of[:, 0], of[:, 1], s=14, marker=marker, color=colour, alpha=0.8, lw=0
            )
    for name, marker in zip(_MODALITIES, _MARKERS, strict=True):
        axes.scatter([], [], marker=marker, color=GREY, label=name)
    axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    return svg(figure)
