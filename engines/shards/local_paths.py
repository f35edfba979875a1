"""Places of pictures on this machine: paths and ``file:`` URLs. Pictures are not fetched from other URLs."""

from __future__ import annotations

import re
from urllib.parse import unquote

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://")


def local_path(place: str) -> tuple[str | None, str | None]:
    """The path of a picture, and the reason why there is none; one of the two is None.

    Args:
        place: a path, or a URL. ``file:///a%20b.jpg`` is the path ``/a b.jpg``; a picture at any other URL is not fetched, because
            a job of millions of them would depend on as many hosts, and ask them on its user's behalf.
    """
    match = _URL.match(place)
    if match is None:
        return place, None
    if match["scheme"].lower() != "file":
        return None, (
            f"{place} is a URL, and pictures are not fetched: download them first, for example with img2dataset, which writes tars"
        )
    host, _, path = place[match.end() :].partition("/")
    if host.lower() not in ("", "localhost"):
        return None, f"{place} is on another machine, {host}: write file:/// and the path here"
    return f"/{unquote(path, errors='surrogateescape')}", None
