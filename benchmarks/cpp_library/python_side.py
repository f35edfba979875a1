"""The counterpart of ``oce-bench`` in Python: one line of input is one call, and one line of JSON answers it.

It is a program of its own, started anew for each pass and each start, and imports nothing but `engines`, as a service would.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str]) -> None:
    """Open the bundle, and answer until the input ends.

    Args:
        arguments: the bundle's folder and the kind of engine.
    """
    import engines

    start = time.perf_counter()
    with engines.load(arguments[0], arguments[1]) as clip:
        _print({"load": time.perf_counter() - start, **clip.engines})
        for line in sys.stdin:
            _print(_answer(clip, line.rstrip("\n")))


def _answer(clip: Any, line: str) -> dict[str, Any]:
    if line == "memory":
        return _memory()
    what, callers, file = line.split(" ", 2)
    items = Path(file).read_text(encoding="utf-8").rstrip("\n").split("\n")
    encode = {"images": clip.encode_image, "texts": clip.encode_text}[what]
    start = time.perf_counter()
    parts = _in_threads(encode, items, int(callers))
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "items": len(items),
        "sum": sum(float(abs(part).sum(dtype="float64")) for part in parts),
    }


def _in_threads(encode: Any, items: Sequence[str], callers: int) -> list[Any]:
    """Embeddings of equal parts of the items, each by a thread of its own, as ``embed_in_threads`` of oce-bench makes them."""
    parts: list[Any] = [None] * callers
    errors: list[BaseException] = []

    def embed(number: int) -> None:
        try:
            parts[number] = encode(items[number * len(items) // callers : (number + 1) * len(items) // callers])
        except BaseException as error:  # noqa: BLE001 - of a thread: it is raised below
            errors.append(error)

    threads = [threading.Thread(target=embed, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return parts


def _memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: 1024 * int(fields[field].split()[0]) for name, field in (("resident", "VmRSS"), ("peak", "VmHWM"))}


def _print(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)
