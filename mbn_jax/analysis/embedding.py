"""Charts of the embeddings of a test set: how similar images are, and a map of them."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from mbn_jax.analysis import charts
from mbn_jax.analysis.charts import Section
from mbn_jax.evaluation.distances import l2_normalize, unit_rows
from mbn_jax.evaluation.records import Records

# All pairs of more images would fill the memory: SYSU-MM01 has fifty million.
MOST_IMAGES = 2_000
_BINS = 50
_SIMILARITY = (
    "How similar two test images are to the network: the cosine of their embeddings, "
    "1 for the same direction, 0 for directions at a right angle. The farther the two "
    "hills lie apart, the easier it is to tell identities apart, and the task asks for "
    "that across the modalities. AUC is the probability that two images of one "
    "identity are more similar than two images of two identities: 1 is perfect, 0.5 "
    "is guessing. Two images by one camera can be nearly the same, which would flatter "
    "the last chart."
)

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
_MAP = (
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


class Pairs(NamedTuple):
    """Cosines of all pairs of images of one kind.

    Attributes:
        kind: What the two images have in common, as a title.
        same: `(P,)` float32, of two images of one identity.
        different: `(Q,)` float32, of images of two identities.
    """

    kind: str
    same: np.ndarray
    different: np.ndarray


def similarity_section(features: np.ndarray, records: Records) -> Section:
    """Draws `similarities`, a chart for each kind, over one range of cosines."""
    found = similarities(features, records)
    words = _SIMILARITY
    if len(features) > MOST_IMAGES:
        words += (
            f" The pairs are those of {MOST_IMAGES:,} images, drawn by a fixed seed "
            f"from all {len(features):,}."
        )
    edges = bin_edges(found)
    return Section("Similarity", words, [_hills(pairs, edges) for pairs in found])


def similarities(features: np.ndarray, records: Records) -> list[Pairs]:
    """Computes the cosines of all pairs of images, by what their cameras share.

    Of more than `MOST_IMAGES` images, that many are drawn by a fixed seed.

    Args:
        features: `(N, D)` floating, of any length.
        records: N of them.

    Returns:
        The kinds that have pairs: across the modalities, for each pair of these where
        there are more than two; one modality and two cameras; one modality and one
        camera.
    """
    rows = np.arange(len(features))
    if len(rows) > MOST_IMAGES:
        rng = np.random.default_rng(0)
        rows = np.sort(rng.choice(rows, MOST_IMAGES, replace=False))
    directions = l2_normalize(features[rows])
    cosines = np.clip(directions @ directions.T, -1, 1)
    each_once = np.triu(np.ones(cosines.shape, bool), 1)
    identity, camera, modality = (
        labels[rows, None] == labels[rows]
        for labels in (records.identity, records.camera, records.modality)
    )
    index, names = records.modality[rows], records.modalities
    low, high = (f.outer(index, index) for f in (np.minimum, np.maximum))
    kinds = {
        "Across the modalities"
        if len(names) == 2
        else f"Across {names[a]} and {names[b]}": (low == a) & (high == b)
        for a, b in itertools.combinations(range(len(names)), 2)
    }
    kinds["One modality, two cameras"] = modality & ~camera
    kinds["One modality, one camera"] = modality & camera
    return [
        Pairs(kind, cosines[of_kind & identity], cosines[of_kind & ~identity])
        for kind, pairs in kinds.items()
        if (of_kind := each_once & pairs).any()
    ]


def auc(same: np.ndarray, different: np.ndarray) -> float:
    """Returns the probability that a value of `same` is above one of `different`.

    Equal values count by half. Both are `(n,)` arrays that are not empty.
    """
    different = np.sort(different)
    below = np.searchsorted(different, same, "left").mean()
    not_above = np.searchsorted(different, same, "right").mean()
    return float((below + not_above) / 2 / len(different))


def bin_edges(found: Sequence[Pairs]) -> np.ndarray:
    """Returns edges of 50 bins over all cosines, whose ends are rounded to tenths."""
    values = [v for pairs in found for v in (pairs.same, pairs.different) if len(v)]
    low = np.floor(10 * min((v.min() for v in values), default=0.0)) / 10
    high = np.ceil(10 * max((v.max() for v in values), default=1.0)) / 10
    return np.linspace(min(low, high - 0.1), high, _BINS + 1)


def shares(cosines: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Returns the share of the pairs in each bin, in percent; zeros for no pairs."""
    counts, _ = np.histogram(cosines, edges)
    return 100 * counts / max(1, len(cosines))


def _hills(pairs: Pairs, edges: np.ndarray) -> str:
    title = pairs.kind
    if len(pairs.same) and len(pairs.different):
        title += f", AUC {auc(pairs.same, pairs.different):.2f}"
    figure, axes = charts.chart(title, "cosine of two images", "pairs, %")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    for label, cosines, color in (
        ("two identities", pairs.different, charts.ORANGE),
        ("one identity", pairs.same, charts.BLUE),
    ):
        heights = shares(cosines, edges)
        label = f"{label}: {len(cosines):,} pairs"
        axes.stairs(heights, edges, fill=True, color=color, alpha=0.45, label=label)
        axes.stairs(heights, edges, color=color, lw=1.5)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])  # room for the legend
    charts.add_legend(axes, loc="upper left")
    return charts.svg(figure)


def map_section(
    features: np.ndarray, records: Records, identity_names: np.ndarray | None = None
) -> Section:
    """Draws ten identities in two dimensions: principal components, and t-SNE.

    t-SNE needs scikit-learn, an extra of this package; without it there is one map, and
    the words say so. Of fewer than ten images there is no map.

    Args:
        features: `(N, D)` floating, of any length, 2 ≤ D.
        records: N of them.
        identity_names: `(N,)` str, what the data set calls the identities; None for
            their numbers.
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
    words = _MAP.format(len(np.unique(identity)), _IMAGES, meanings) + words
    drawn = [_map(*one, identity, modality, markers) for one in maps.items()]
    return Section("Map of the embedding", words, drawn)


def mapped_rows(records: Records) -> np.ndarray:
    """Chooses the images on the map, as sorted indices.

    They show ten identities, spread evenly over those with images of two or more
    modalities; of each in each modality fifteen images, spread evenly over all.
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


def _spread(values: np.ndarray, most: int) -> np.ndarray:
    """Returns at most `most` of the values, spread evenly over their order."""
    chosen = np.linspace(0, len(values) - 1, min(most, len(values)))
    return values[chosen.round().astype(int)]


def principal_components(features: np.ndarray) -> np.ndarray:
    """Returns the two of largest variance, `(N, 2)`, of features `(N, D)`.

    The largest weight of each is positive.
    """
    centered = features - features.mean(0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    axes = axes[:2]
    axes *= np.sign(axes[np.arange(2), np.abs(axes).argmax(1)])[:, None]
    return centered @ axes.T


def t_sne(features: np.ndarray, start: np.ndarray) -> np.ndarray | None:
    """Computes t-SNE by the exact gradient, so that it is the same every time.

    Reference: van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 2008.

    Args:
        features: `(N, D)` floating, 90 ≤ N.
        start: `(N, 2)`, their principal components, from which it starts.

    Returns:
        `(N, 2)` points; None without scikit-learn.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return None
    # As scikit-learn scales its own: small, or the first steps throw points far out.
    start = start * (1e-4 / max(start[:, 0].std(), 1e-12))
    fitted = TSNE(perplexity=_PERPLEXITY, init=start, method="exact", random_state=0)
    return fitted.fit_transform(features)


def _map(
    title: str,
    points: np.ndarray,
    identity: np.ndarray,
    modality: np.ndarray,
    markers: Mapping[str, str],
) -> str:
    figure, axes = charts.chart(title, "", "")
    axes.set(xticks=[], yticks=[])
    axes.margins(0.08)
    for name, color in zip(dict.fromkeys(identity), charts.SERIES, strict=False):
        centers = []
        for m, marker in enumerate(markers.values()):
            of = points[(identity == name) & (modality == m)]
            if len(of):
                x, y = of.T
                axes.scatter(x, y, s=16, marker=marker, color=color, alpha=0.7, lw=0)
                centers.append(of.mean(0))
        # The line ends at the first center, so that all distances of three are shown.
        axes.plot(*np.transpose([*centers, centers[0]]), color=color, lw=1.2)
        axes.annotate(
            charts.verbatim(name),
            centers[0],
            color=charts.INK,
            fontsize=8,
            weight="bold",
        )
    for name, marker in markers.items():
        axes.scatter(
            [], [], marker=marker, color=charts.GRAY, label=charts.legend_label(name)
        )
    # Below, where it hides no image.
    charts.add_legend(axes, ncols=3, loc="upper left", bbox_to_anchor=(0, 0))
    return charts.svg(figure)
