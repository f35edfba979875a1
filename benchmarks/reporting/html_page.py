"""The report as one HTML file: styles and plots inside, nothing fetched, light or dark as the reader's system is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.reporting.report_tables import Section, Table

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --faint: #8c959f; --line: #d8dee4; --band: #f6f8fa;
  --link: #0969da; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e1e4e8; --faint: #767f89; --line: #30363d; --band: #1d2127;
  --link: #6cb6ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(0.8rem, 3vw, 2.5rem) 4rem; max-width: 84rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 0.4rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 0.3rem; padding-top: 1rem; border-top: 2px solid var(--line); }
h3 { font-size: 1.1rem; margin: 2.2rem 0 0.5rem; }
h4 { font-size: 0.95rem; margin: 1.4rem 0 0.4rem; }
p { margin: 0.3rem 0; max-width: 60rem; }
p.where, p.note, figcaption { font-size: 0.87rem; opacity: 0.8; }
a { color: var(--link); }
nav ul { list-style: none; margin: 0.3rem 0; padding: 0; display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; font-size: 0.92rem; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: separate; border-spacing: 0; font-size: 0.87rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.28rem 0.75rem 0.28rem 0; text-align: right; white-space: nowrap; vertical-align: top; }
th + th, td + td { padding-left: 0.75rem; }
th { font-weight: 600; border-bottom: 2px solid var(--line); vertical-align: bottom; }
tbody tr:nth-child(even) { background: var(--band); }
.word { text-align: left; }
td.long { white-space: normal; min-width: 18rem; max-width: 44rem; overflow-wrap: anywhere; }
th:first-child, td:first-child { padding-left: 0.5rem; position: sticky; left: 0; background: var(--paper); }
th:first-child { z-index: 1; }
tbody tr:nth-child(even) td:first-child { background: var(--band); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); gap: 1.2rem; margin-top: 0.6rem; }
.keys { list-style: none; padding: 0; margin: 0.6rem 0 0; display: flex; flex-wrap: wrap; gap: 0.15rem 1.3rem; font-size: 0.87rem; }
.keys li { white-space: nowrap; }
.keys svg { width: 2.9rem; height: 1.1rem; vertical-align: -0.2rem; margin-right: 0.45rem; }
.plots svg { display: block; width: 100%; height: auto; max-width: 34rem; }
svg text { font-family: "DejaVu Sans", Verdana, Geneva, sans-serif !important; }
@media print { body { max-width: none; } .scroll { overflow: visible; } }
"""


@dataclass(frozen=True)
class Pictures:
    """Plots of one kind: ``(title, <svg> element)`` of each panel, and ``(text, <svg> element)`` of each entry of their legend."""

    name: str
    title: str
    caption: str
    elements: Sequence[tuple[str, str]]
    keys: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Part:
    """One machine's part of the page."""

    slug: str
    machine: str
    measured_on: str
    pictures: Sequence[Pictures]
    sections: Sequence[Section]


def page(title: str, intro: Sequence[str], parts: Sequence[Part]) -> str:
    """The whole document.

    Args:
        title: the page's title.
        intro: sentences under the title.
        parts: one part for each machine.
    """
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(sentence)}</p>" for sentence in intro),
        "<nav>",
        *(_contents(part, named=len(parts) > 1) for part in parts),
        "</nav>",
    ]
    for part in parts:
        lines += [
            f'<h2 id="{part.slug}">{escape(part.machine)}</h2>',
            f'<p class="where">Measured on {escape(part.measured_on)}.</p>',
            *(_pictures(part.slug, pictures) for pictures in part.pictures),
            *(_section(part.slug, section) for section in part.sections),
        ]
    return "\n".join([*lines, "</body>", "</html>", ""])


def _contents(part: Part, named: bool) -> str:
    links = [(f"plot-{pictures.name}", pictures.title) for pictures in part.pictures]
    links += [(section.name, section.title) for section in part.sections]
    items = [f'<li><a href="#{part.slug}-{name}">{escape(title)}</a></li>' for name, title in links]
    if named:
        items.insert(0, f'<li><a href="#{part.slug}"><strong>{escape(part.machine)}</strong></a></li>')
    return f"<ul>{''.join(items)}</ul>"


def _pictures(slug: str, pictures: Pictures) -> str:
    figures = [
        f'<figure style="margin: 0" aria-label="{escape(f"{pictures.title}: {title}")}">{element}</figure>'
        for title, element in pictures.elements
    ]
    keys = [f"<li>{element}{escape(text)}</li>" for text, element in pictures.keys]
    return "\n".join(
        [
            f'<h3 id="{slug}-plot-{pictures.name}">{escape(pictures.title)}</h3>',
            f'<p class="note">{escape(pictures.caption)}</p>',
            f'<ul class="keys">{"".join(keys)}</ul>',
            f'<div class="plots">{"".join(figures)}</div>',
        ]
    )


def _section(slug: str, section: Section) -> str:
    heading = f'<h3 id="{slug}-{section.name}">{escape(section.title)}</h3>'
    return "\n".join([heading, *(_table(table, section.title) for table in section.tables)])


def _table(table: Table, title: str) -> str:
    def kind(column: int, text: str) -> str:
        if column >= table.texts:
            return ""
        return ' class="word long"' if len(text) > 60 else ' class="word"'

    head = "".join(f'<th scope="col"{kind(i, "")}>{escape(name)}</th>' for i, name in enumerate(table.header))
    body = []
    for number, line in enumerate(table.lines):
        cells = []
        for i, text in enumerate(line):
            shown = f"<strong>{escape(text)}</strong>" if (number, i) in table.best else escape(text)
            cells.append(f"<td{kind(i, text)}>{shown}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    label = escape(table.title or title)
    return "\n".join(
        [
            *([f"<h4>{escape(table.title)}</h4>"] if table.title else []),
            f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">',
            f"<table><thead><tr>{head}</tr></thead><tbody>",
            *body,
            "</tbody></table></div>",
            *(f'<p class="note">{escape(note)}</p>' for note in table.notes),
        ]
    )
