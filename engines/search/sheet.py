"""A page of hits with their pictures: one HTML file that needs nothing beside it and fetches nothing."""

from __future__ import annotations

import html
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from engines.errors import InputError
from engines.process.terminal import visible
from engines.search.index import Hit
from engines.search.pictures import small_pictures
from engines.shards.samples import Columns

# The policy forbids scripts and every address, should a text ever get past the escaping.
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ --page: #f6f6f4; --tile: #ffffff; --line: #d9d9d4; --text: #1d1d1b; --faint: #66665f; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #161614; --tile: #22221f; --line: #3a3a35; --text: #ecece6; --faint: #a3a39a; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1500px; padding: 24px; background: var(--page); color: var(--text);
  font: 14px/1.4 system-ui, sans-serif; }}
h1, h2 {{ font-size: 20px; line-height: 1.3; margin: 28px 0 12px; overflow-wrap: anywhere; }}
h1 {{ margin-top: 0; font-size: 15px; font-weight: normal; color: var(--faint); }}
ol {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 14px;
  margin: 0; padding: 0; list-style: none; }}
li {{ background: var(--tile); border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }}
.picture {{ display: flex; align-items: center; justify-content: center; height: 200px; background: var(--page);
  border-bottom: 1px solid var(--line); }}
.picture img {{ max-width: 100%; max-height: 100%; }}
.none {{ padding: 12px; color: var(--faint); text-align: center; overflow-wrap: anywhere; max-height: 100%; overflow: auto; }}
.text {{ padding: 8px 10px 10px; overflow-wrap: anywhere; }}
.score {{ font-variant-numeric: tabular-nums; font-weight: 600; }}
.rank, .key {{ color: var(--faint); }}
.key, .url {{ font-size: 12px; }}
.text p {{ margin: 4px 0 0; }}
.caption {{ max-height: 12em; overflow: auto; }}
a {{ color: inherit; }}
</style>
</head>
<body>
"""


@dataclass(frozen=True)
class Query:
    """A query and its hits.

    Attributes:
        kind: ``text`` or ``image``.
        name: the text, or the image's file.
        hits: the best first.
    """

    kind: str
    name: str
    hits: list[Hit]


def write_sheet(path: Path, queries: Sequence[Query], about: str, columns: Columns | None = None) -> None:
    """Write the page.

    Args:
        path: the file; an older one is replaced.
        queries: queries with their hits.
        about: a line about the folder that was searched.
        columns: see `engines.search.pictures.small_pictures`.

    Raises:
        InputError: the file cannot be written.
    """
    pictures = small_pictures(dict.fromkeys(hit.row for query in queries for hit in query.hits), columns)
    title = ", ".join(query.name for query in queries)
    parts = [_HEAD.format(title=_text(title)), f"<h1>{_text(about)}</h1>\n"]
    for query in queries:
        heading = query.name if query.kind == "text" else f"like {query.name}"
        parts.append(f"<h2>{_text(heading)}</h2>\n<ol>\n")
        parts += [_tile(rank, hit, pictures[hit.row]) for rank, hit in enumerate(query.hits, 1)]
        parts.append("</ol>\n")
    parts.append("</body>\n</html>\n")
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text("".join(parts), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror or error}): pass another --html") from error
    finally:
        with suppress(OSError):  # in a folder that is only read nothing was written
            temporary.unlink(missing_ok=True)


def _tile(rank: int, hit: Hit, picture: str) -> str:
    row = hit.row
    shown = (
        f'<img src="{_text(picture)}" alt="">'
        if picture.startswith("data:")
        else f'<div class="none">{_text(picture)}</div>'
    )
    lines = [f'<span class="score">{hit.score:.4f}</span> <span class="rank">#{rank}</span>']
    if row.caption:
        lines.append(f'<p class="caption">{_text(row.caption)}</p>')
    lines.append(f'<p class="key">{_text(row.key)}</p>')
    if row.url and row.url != row.key:
        url = _text(row.url)
        link = f'<a href="{url}" rel="noopener noreferrer" target="_blank">{url}</a>' if _is_web(row.url) else url
        lines.append(f'<p class="url">{link}</p>')
    return f'<li><div class="picture">{shown}</div><div class="text">{"".join(lines)}</div></li>\n'


def _is_web(url: str) -> bool:
    """Whether a browser may open an address: http and https only, never ``javascript:``."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc) and visible(url) == url


def _text(text: str) -> str:
    """Text in HTML, also inside quotation marks; control characters and changes of direction become visible escapes."""
    return html.escape(visible(text), quote=True)
