"""The frame of a self-contained HTML page: style, sections, pictures, tables."""

import base64
import html
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --soft: #f3f4f6;
  --line: #d5d8dd; --dim: #5c626b; --right: #1a9850; --wrong: #d73027;
  --link: #1d5fb4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e7e9; --paper: #17191c;
  --soft: #22252a; --line: #3b4048; --dim: #a3a9b2; --right: #3fb970;
  --wrong: #f0625a; --link: #8ab8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 1.2rem 1rem 4rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .3rem 0; }
h2 { font-size: 1.3rem; margin: 2.4rem 0 .6rem; border-top: 1px solid var(--line);
  padding-top: 1.2rem; }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .3rem; }
p, dd { max-width: 72ch; }
dt { font-weight: 600; margin-top: .6rem; }
dd { margin: 0; }
nav { margin: 1rem 0; } nav a { margin-right: 1.1rem; display: inline-block; }
a { color: var(--link); }
.dim, figcaption { color: var(--dim); font-size: .9rem; }
.tiles, .charts, .terms { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 350px), 1fr)); }
.terms { gap: .2rem 1.6rem; margin: 0; }
.tile { background: var(--soft); border-radius: .6rem; padding: .8rem 1.1rem; }
.tile b { font-size: 2rem; line-height: 1.2; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child { text-align: left; white-space: normal; }
td.text, .text th, .text td { text-align: left; white-space: normal;
  overflow-wrap: anywhere; vertical-align: top; }
.text th { overflow-wrap: normal; }
tr.main { background: var(--soft); font-weight: 600; }
svg { width: 100%; height: auto; display: block; }
.list { display: grid; gap: .4rem; margin: 0 0 1.1rem;
  grid-template-columns: 1.15fr .02fr repeat(10, 1fr); align-items: start; }
.list figure { margin: 0; min-width: 0; }
.list figure.query { grid-column: 1 / span 2; padding-right: .5rem; }
.list img { width: 100%; display: block; border: 4px solid var(--line);
  border-radius: 3px; }
.list figcaption { font-size: .68rem; line-height: 1.25; }
.right img { border-color: var(--right); } .right b { color: var(--right); }
.wrong img { border-color: var(--wrong); } .wrong b { color: var(--wrong); }
details summary { cursor: pointer; font-weight: 600; padding: .4rem 0; }
@media (max-width: 700px) {
  body { font-size: 15px; } h1 { font-size: 1.4rem; }
  th, td { padding: .3rem .2rem; font-size: .78rem; }
  th, td { white-space: normal; }
  .list { grid-template-columns: repeat(5, 1fr); padding-bottom: .8rem;
    border-bottom: 1px solid var(--line); }
  .list figure.query { grid-column: 1 / -1; display: flex; gap: .6rem;
    align-items: end; }
  .query img { width: 25%; } .query figcaption { font-size: .85rem; }
}
"""


class Section(NamedTuple):
    """Charts of a page under one heading.

    Attributes:
        title: the heading.
        words: what the charts show and how to read them, plain text.
        charts: ``<svg>`` elements.
    """

    title: str
    words: str
    charts: Sequence[str]


def page(title: str, body: Iterable[str]) -> str:
    """A whole HTML document; `title` is plain text, `body` is HTML."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>",
            f"<style>{STYLE}</style></head><body>",
            *body,
            "</body></html>\n",
        ]
    )


def heading(title: str) -> str:
    """A heading that `contents` finds; `title` is plain text."""
    anchor = re.sub(r"\W+", "-", title.lower()).strip("-")
    return f'<h2 id="{anchor}">{html.escape(title)}</h2>'


def contents(body: Iterable[str]) -> str:
    """Links to the headings of a page."""
    found = re.findall(r'<h2 id="(.*?)">(.*?)</h2>', "".join(body))
    links = (f'<a href="#{anchor}">{title}</a> ' for anchor, title in found)
    return f"<nav>{''.join(links)}</nav>"


def charts_of(section: Section) -> Iterator[str]:
    """A section as HTML; nothing without charts."""
    if section.charts:
        yield heading(section.title)
        yield f'<p class="dim">{html.escape(section.words)}</p><div class="charts">'
        yield from (f"<div>{svg}</div>" for svg in section.charts)
        yield "</div>"


def image_tag(image: np.ndarray, alternative: str) -> str:
    """An (H, W, 3) uint8 RGB image as an ``<img>`` that holds its own data."""
    _, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88]
    )
    data = base64.b64encode(encoded.tobytes()).decode("ascii")
    height, width = image.shape[:2]
    return (
        f'<img src="data:image/jpeg;base64,{data}" alt="{html.escape(alternative)}" '
        f'width="{width}" height="{height}" style="height:auto">'
    )


def table(
    header: Sequence[str],
    rows: Iterable[tuple[str, Sequence[str]]],
    main: str = "",
    *,
    text: bool = False,
) -> str:
    """A table of plain-text cells.

    Args:
        header: the first line.
        rows: the first cell of each, and the others.
        main: first cell of a row that is emphasized.
        text: whether the cells are words, which may be broken, and not figures.
    """
    kind = ' class="text"' if text else ""
    lines = [f'<div class="scroll"><table{kind}><thead><tr>']
    # On a telephone "rank-20" is wider than its figures, unless it may be broken.
    titles = (html.escape(cell).replace("-", "-<wbr>") for cell in header)
    lines += [f"<th>{title}</th>" for title in titles]
    lines.append("</tr></thead><tbody>")
    for name, cells in rows:
        emphasis = ' class="main"' if name == main else ""
        values = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        lines.append(f"<tr{emphasis}><th>{html.escape(name)}</th>{values}</tr>")
    lines.append("</tbody></table></div>")
    return "".join(lines)
