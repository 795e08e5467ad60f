"""The report of a run: ``report/index.html``, one file that needs no other."""

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mbn_jax.analysis.curves import (
    cmc_curves,
    read_metrics,
    training_curves,
    validation_curve,
)
from mbn_jax.analysis.page import (
    Section,
    charts_of,
    contents,
    heading,
    image_tag,
    page,
    table,
)
from mbn_jax.analysis.ranked_lists import RankedList, verdict
from mbn_jax.evaluation.ranking import SELECTION
from mbn_jax.evaluation.results import read_results
from mbn_jax.evaluation.table import COLUMNS, cells, counts, row_title
from mbn_jax.files import read_json, write_atomically
from mbn_jax.modalities import DEFAULT

_EXPLANATIONS = {
    "rank-k": "the share of queries whose identity is among the first k images of the "
    "ranked gallery. Rank-1 asks whether the very first image is right.",
    "mAP": "mean average precision. It asks for all images of the identity, not only "
    "the first: at each right image, the share of right images down to there, averaged "
    "over the right images and then over the queries. 100 % means that no image of "
    "another identity is ranked before the last of them.",
    "mINP": "mean inverse negative penalty. It asks for the hardest image: the number "
    "of right images divided by the rank at which the last of them is found.",
    "untrained network": "the same network before its first step. Colors and shapes "
    "alone find some images; only what is above this row was learned.",
    "chance": "the exact expectation for a gallery in random order, from the number "
    "of images and of right ones. It is the floor, not a measurement.",
}


def write_report(
    workdir: str | Path,
    rankings: Mapping[str, Sequence[RankedList]],
    sections: Sequence[Section] = (),
    modalities: Sequence[str] = DEFAULT,
) -> Path:
    """Writes the report of a finished run.

    Reads ``config.json``, ``metrics.jsonl`` and ``results.json`` of the work directory.

    Args:
        workdir: the work directory.
        rankings: for each protocol name, the ranked lists to show.
        sections: further charts, which stand after the ranked lists.
        modalities: the names of those of the data set.

    Returns:
        The path of ``report/index.html``, which appears whole or not at all.

    Raises:
        InputError: a file is missing or is not what training writes.
    """
    workdir = Path(workdir)
    config = read_json(workdir / "config.json")
    results = read_results(workdir / "results.json")
    lines = read_metrics(workdir / "metrics.jsonl")
    task = results.get("task", "person re-identification")
    title = f"{results['dataset']}: {task}"
    body = [
        *_figures(results),
        *_curves(results, lines),
        *_ranked_lists(results, rankings),
        *(line for section in sections for line in charts_of(section)),
        *_configuration(config),
    ]
    body = [*_headline(title, results, modalities), contents(body), *body]
    path = workdir / "report" / "index.html"
    # A path that is not UTF-8 is text with surrogates, which UTF-8 does not have.
    write_atomically(path, page(title, body).encode(errors="replace"))
    return path


def _headline(
    title: str, results: Mapping[str, Any], modalities: Sequence[str]
) -> Iterator[str]:
    figures = results["figures"]
    yield f"<h1>{html.escape(title)}</h1>"
    listed = f"{', '.join(modalities[:-1])} or {modalities[-1]}"
    other = "the other" if len(modalities) == 2 else "another"
    yield (
        f"<p>For an image of one modality, {html.escape(listed)}, the network ranks "
        f"the images of {other} by how similar they are; the images of the same "
        "identity should come first.</p>"
    )
    split = html.escape(results["split"].capitalize())
    yield (
        f'<p class="dim">{split} split, identities that the network never saw; step '
        f"{int(figures['last']['step'])}, the last one.</p>"
    )
    yield '<div class="tiles">'
    for name, protocol in results["protocols"].items():
        last, untrained, chance = (
            figures[row][name] for row in ("last", "untrained", "chance")
        )
        yield (
            f'<div class="tile">{html.escape(protocol["title"])}'
            f"<b>mAP {_percent(last['mAP'])}&thinsp;%</b>"
            f"rank-1 {_percent(last['rank1'])}&thinsp;%"
            f'<div class="dim">mAP untrained {_percent(untrained["mAP"])}&thinsp;%, '
            f"chance {_percent(chance['mAP'])}&thinsp;%</div></div>"
        )
    yield "</div>"


def _figures(results: Mapping[str, Any]) -> Iterator[str]:
    figures = results["figures"]
    names = {row: row_title(row, figures) for row in figures}
    yield heading("Figures")
    yield f"<p>{html.escape(_which_step(results))}</p>"
    for protocol, words in results["protocols"].items():
        yield f"<h3>{html.escape(words['title'])}, in percent</h3>"
        rows = ((name, cells(figures[row][protocol])) for row, name in names.items())
        yield table(["", *COLUMNS.values()], rows, main=names["last"])
        yield (
            f'<p class="dim">{html.escape(words["description"])} Here: '
            f"{counts(figures['last'][protocol])}.</p>"
        )
        if words["note"]:
            yield f"<p><b>Beware:</b> {html.escape(words['note'])}</p>"
    yield '<h3>What the figures mean</h3><dl class="terms">'
    for term, meaning in _EXPLANATIONS.items():
        yield f"<div><dt>{term}</dt><dd>{html.escape(meaning)}</dd></div>"
    yield "</dl>"


def _which_step(results: Mapping[str, Any]) -> str:
    """Says which step is the last, which the best, and how the best was chosen."""
    figures = results["figures"]
    steps = f"The last step is {figures['last']['step']}. "
    if "best" in figures:
        best = figures["best"]["step"]
        same = ", here the last one too" * (best == figures["last"]["step"])
        steps += f"Best on validation is step {best}{same}. "
    return steps + results["selection"]


def _curves(
    results: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    figures = results["figures"]
    titles = {name: words["title"] for name, words in results["protocols"].items()}
    yield from charts_of(
        Section(
            "Training",
            "Faint: as measured; clear: moving average. The accuracy is on the "
            "training identities, in the batches as they were trained on.",
            training_curves(lines)
            + validation_curve(lines, titles, figures.get("best", {}).get("step")),
        )
    )
    yield from charts_of(
        Section(
            "Cumulative matching (CMC)",
            "For each k, the share of queries whose identity is among the first k "
            "images, or identities where the protocol counts these. Dashed: chance.",
            cmc_curves(figures, titles),
        )
    )


def _ranked_lists(
    results: Mapping[str, Any], rankings: Mapping[str, Sequence[RankedList]]
) -> Iterator[str]:
    if not rankings:
        return
    step = int(results["figures"]["last"]["step"])
    yield heading("Ranked lists")
    yield (
        f"<p>The query, then the first images of its ranked gallery at step {step}: "
        "green and ✓ where the identity is right, red and ✗ where wrong. "
        f"{html.escape(SELECTION)}</p>"
    )
    for name, lists in rankings.items():
        yield f"<h3>{html.escape(results['protocols'][name]['title'])}</h3>"
        for ranked in lists:
            yield _ranked_list(ranked)


def _ranked_list(ranked: RankedList) -> str:
    caption = html.escape(ranked.query_caption)
    cells = [
        f'<figure class="query">{image_tag(ranked.query, ranked.query_caption)}'
        f"<figcaption><b>query</b><br>{caption}</figcaption></figure>"
    ]
    shown = zip(ranked.gallery, ranked.captions, ranked.correct, strict=True)
    for rank, (image, caption, correct) in enumerate(shown, start=1):
        _, mark = verdict(correct)
        kind = "" if correct is None else "right" if correct else "wrong"
        cells.append(
            f'<figure class="{kind}">{image_tag(image, f"rank {rank}: {caption}")}'
            f"<figcaption><b>{rank} {mark}</b><br>{html.escape(caption)}</figcaption>"
            "</figure>"
        )
    return f'<div class="list">{"".join(cells)}</div>'


def _configuration(config: Mapping[str, Any]) -> Iterator[str]:
    yield heading("Configuration")
    yield "<details><summary>All settings of this run</summary>"
    yield '<div class="scroll"><table><tbody>'
    for key, value in flatten(config):
        yield (
            f"<tr><th>{html.escape(key)}</th>"
            f'<td class="text">{html.escape(value)}</td></tr>'
        )
    yield "</tbody></table></div></details>"


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The settings in nested mappings: "model.norm", "mbn"."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            yield f"{prefix}{key}", text


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"
