"""Jobs of five small shards, their files, and signals to the processes that make them."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from made_pictures import encoded

SHARDS, ROWS = 5, 70
NAMES = [f"{shard:05d}" for shard in range(SHARDS)]
PATTERN = f"{{00000..{SHARDS - 1:05d}}}.tar"


def write_tars(folder: Path) -> None:
    """Five tars of 70 pictures; one picture of the first is damaged."""
    for shard, name in enumerate(NAMES):
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for row in range(ROWS):
                data = b"no picture" if (shard, row) == (0, 3) else encoded((shard + row) % 9, "JPEG")
                info = tarfile.TarInfo(f"{shard:03d}{row:06d}.jpg")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.parquet")}


def left(out: Path) -> list[Path]:
    return [path for folder in ("locks", "tmp") for path in (out / ".job" / folder).glob("*")]


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


class WhereverItIsMade:
    """Sends a signal to the processes that hold the lease of a shard, each once and `times` processes at most."""

    def __init__(self, out: Path, shard: str, number: int, times: int) -> None:
        self._lease, self._number, self._times = out / ".job" / "locks" / f"{shard}.json", number, times
        self._stop = threading.Event()
        self.met: set[int] = set()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> WhereverItIsMade:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.002) and len(self.met) < self._times:
            try:
                process = int(json.loads(self._lease.read_text())["holder"].split(" ")[0].split(".")[-2])
            except (OSError, ValueError):
                continue
            if process not in self.met and process != os.getpid():
                self.met.add(process)
                os.kill(process, self._number)


def marked(mark: str) -> list[str]:
    """Command lines of the processes with an entry in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(true: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
