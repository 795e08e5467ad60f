"""The report of a run, `report/index.html`: one file that needs no other."""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from flax.traverse_util import flatten_dict

from mbn_jax.analysis.charts import BLUE, GRAY, ORANGE, Section
from mbn_jax.analysis.curves import (
    cmc_chart,
    read_metrics,
    training_curves,
    validation_curve,
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
_OF_CMC: dict[str, dict[str, Any]] = {
    "last": {"color": BLUE, "label": "last step", "lw": 2},
    "best": {"color": ORANGE, "label": "best on validation", "ls": "-."},
    "untrained": {"color": GRAY, "label": "untrained"},
    "chance": {"color": GRAY, "label": "chance", "ls": "--"},
}


def page(title: str, intro: Iterable[str], body: Iterable[str]) -> bytes:
    """Returns an HTML document: plain-text title, intro, links to headings, body."""
    body = list(body)
    headings = re.findall(r'<h2 id="(.*?)">(.*?)</h2>', "".join(body))
    links = "".join(f'<a href="#{anchor}">{text}</a> ' for anchor, text in headings)
    style = resources.files("mbn_jax.analysis").joinpath("report.css").read_text()
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{style}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *intro,
        f"<nav>{links}</nav>",
        *body,
        "</body></html>\n",
    ]
    # A path that is not UTF-8 is text with surrogates, which UTF-8 does not have.
    return "\n".join(lines).encode(errors="replace")


def heading(title: str) -> str:
    """Returns a heading to which `page` links; `title` is plain text."""
    anchor = re.sub(r"\W+", "-", title.lower()).strip("-")
    return f'<h2 id="{anchor}">{escape(title)}</h2>'


def section_html(section: Section) -> Iterator[str]:
    """Yields a section as HTML; nothing if it has no charts."""
    if section.charts:
        yield heading(section.title)
        yield f'<p class="dim">{escape(section.words)}</p><div class="charts">'
        yield from (f"<div>{svg}</div>" for svg in section.charts)
        yield "</div>"


def table(
    header: Sequence[str],
    rows: Iterable[tuple[str, Sequence[str]]],
    main: str = "",
    *,
    text: bool = False,
) -> str:
    """Returns a table of plain-text cells.

    Args:
        header: The first line.
        rows: The first cell of each row, and the others.
        main: First cell of a row that is emphasized.
        text: Whether the cells are words, which may be broken, and not numbers.
    """
    kind = ' class="text"' if text else ""
    # On a telephone "rank-20" is wider than its numbers, unless it may be broken.
    titles = (escape(cell).replace("-", "-<wbr>") for cell in header)
    lines = []
    for name, values in rows:
        emphasis = ' class="main"' if name == main else ""
        of_row = "".join(f"<td>{escape(value)}</td>" for value in values)
        lines.append(f"<tr{emphasis}><th>{escape(name)}</th>{of_row}</tr>")
    return (
        f'<div class="scroll"><table{kind}><thead><tr>'
        f"{''.join(f'<th>{title}</th>' for title in titles)}</tr></thead><tbody>"
        f"{''.join(lines)}</tbody></table></div>"
    )


def flatten(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the settings in nested mappings as text: `{"model.norm": "mbn"}`."""
    # An empty mapping is a value, unless it is the whole configuration.
    flat = flatten_dict(config, is_leaf=lambda path, value: path and not value, sep=".")
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in flat.items()
    }


def write_report(
    workdir: str | Path,
    rankings: Mapping[str, Sequence[RankedList]],
    sections: Sequence[Section] = (),
    modalities: Sequence[str] = DEFAULT,
) -> Path:
    """Writes the report of a finished run.

    Reads `config.json`, `metrics.jsonl` and `results.json` of the work directory.

    Args:
        workdir: The work directory.
        rankings: For each protocol name, the ranked lists to show.
        sections: Further charts, which stand after the ranked lists.
        modalities: The names of those of the data set.

    Returns:
        The path of `report/index.html`, which appears whole or not at all.

    Raises:
        InputError: A file is missing or is not what training writes.
    """
    workdir = Path(workdir)
    config = read_json(workdir / "config.json")
    results = read_results(workdir / "results.json")
    lines = read_metrics(workdir / "metrics.jsonl")
    task = results.get("task", "person re-identification")
    body = [
        *_metrics(results),
        *_curves(results, lines),
        *_ranked_lists(results, rankings),
        *(line for section in sections for line in section_html(section)),
        *_configuration(config),
    ]
    path = workdir / "report" / "index.html"
    intro = _introduction(results, modalities)
    write_atomically(path, page(f"{results['dataset']}: {task}", intro, body))
    return path


def _introduction(
    results: Mapping[str, Any], modalities: Sequence[str]
) -> Iterator[str]:
    figures = results["figures"]
    listed = f"{', '.join(modalities[:-1])} or {modalities[-1]}"
    other = "the other" if len(modalities) == 2 else "another"
    yield (
        f"<p>For an image of one modality, {escape(listed)}, the network ranks "
        f"the images of {other} by how similar they are; the images of the same "
        "identity should come first.</p>"
    )
    yield (
        f'<p class="dim">{escape(results["split"].capitalize())} split, identities '
        f"that the network never saw; step {int(figures['last']['step'])}, the last "
        "one.</p>"
    )
    yield '<div class="tiles">'
    for name, protocol in results["protocols"].items():
        mean_ap = {
            row: f"{100 * figures[row][name]['mAP']:.1f}&thinsp;%"
            for row in ("last", "untrained", "chance")
        }
        yield (
            f'<div class="tile">{escape(protocol["title"])}<b>mAP {mean_ap["last"]}</b>'
            f"rank-1 {100 * figures['last'][name]['rank1']:.1f}&thinsp;%"
            f'<div class="dim">mAP untrained {mean_ap["untrained"]}, '
            f"chance {mean_ap['chance']}</div></div>"
        )
    yield "</div>"


def _metrics(results: Mapping[str, Any]) -> Iterator[str]:
    figures = results["figures"]
    names = {row: row_title(row, figures) for row in figures}
    yield heading("Metrics")
    yield f"<p>{escape(_which_step(results))}</p>"
    for protocol, words in results["protocols"].items():
        yield f"<h3>{escape(words['title'])}, in percent</h3>"
        rows = ((name, cells(figures[row][protocol])) for row, name in names.items())
        yield table(["", *COLUMNS.values()], rows, main=names["last"])
        yield (
            f'<p class="dim">{escape(words["description"])} Here: '
            f"{counts(figures['last'][protocol])}.</p>"
        )
        if words["note"]:
            yield f"<p><b>Beware:</b> {escape(words['note'])}</p>"
    yield '<h3>What the metrics mean</h3><dl class="terms">'
    for term, meaning in _EXPLANATIONS.items():
        yield f"<div><dt>{term}</dt><dd>{escape(meaning)}</dd></div>"
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
    best_step = figures.get("best", {}).get("step")
    words = (
        "Faint: as measured; clear: moving average. The accuracy is on the training "
        "identities, in the batches as they were trained on."
    )
    charts = training_curves(lines) + validation_curve(lines, titles, best_step)
    yield from section_html(Section("Training", words, charts))
    words = (
        "For each k, the share of queries whose identity is among the first k images, "
        "or identities where the protocol counts these. Dashed: chance."
    )
    charts = []
    for name, title in titles.items():
        rows = [row for row in _OF_CMC if name in figures.get(row, {})]
        charts += cmc_chart(
            title, ((figures[row][name]["cmc"], _OF_CMC[row]) for row in rows)
        )
    yield from section_html(Section("Cumulative matching (CMC)", words, charts))


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
        f"{escape(SELECTION)}</p>"
    )
    for name, lists in rankings.items():
        yield f"<h3>{escape(results['protocols'][name]['title'])}</h3>"
        for ranked in lists:
            yield f'<div class="list">{"".join(_shown(ranked))}</div>'


def _shown(ranked: RankedList) -> Iterator[str]:
    caption = ranked.query_caption
    yield _image("query", ranked.query, caption, "query", caption)
    shown = zip(ranked.gallery, ranked.captions, ranked.correct, strict=True)
    for rank, (image, caption, correct) in enumerate(shown, start=1):
        kind = "" if correct is None else "right" if correct else "wrong"
        above = f"{rank} {verdict(correct)[1]}"
        yield _image(kind, image, f"rank {rank}: {caption}", above, caption)


def _image(
    kind: str, image: np.ndarray, alternative: str, above: str, caption: str
) -> str:
    """Returns a `<figure>` that holds the data of its image, (H, W, 3) uint8 RGB."""
    _, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88]
    )
    data = base64.b64encode(encoded.tobytes()).decode("ascii")
    height, width = image.shape[:2]
    return (
        f'<figure class="{kind}"><img src="data:image/jpeg;base64,{data}" '
        f'alt="{escape(alternative)}" width="{width}" height="{height}" '
        f'style="height:auto"><figcaption><b>{above}</b><br>{escape(caption)}'
        "</figcaption></figure>"
    )


def _configuration(config: Mapping[str, Any]) -> Iterator[str]:
    yield heading("Configuration")
    yield "<details><summary>All settings of this run</summary>"
    yield '<div class="scroll"><table><tbody>'
    for key, value in flatten(config).items():
        yield (f'<tr><th>{escape(key)}</th><td class="text">{escape(value)}</td></tr>')
    yield "</tbody></table></div></details>"
