"""Leases of shards: a job that works on a shard says so in the output folder, so that another job takes another shard.

Correctness hardly depends on leases: two jobs that make the same shard write the same file, each under a name of its own that is
renamed at the end. Where a shard has several files, those of two jobs could mix, so a job whose lease was taken over while it
stood still does not publish.

A lease is a small file with the name of the process that holds it and a number that the holder raises every few seconds. Another
job takes it over where the holder has ended on the same machine, or where the number did not change for a minute by the other
job's own clock. Clocks of different machines are never compared.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from engines.errors import EngineError
from engines.files.output_folder import Folder
from engines.process.identity import has_ended, process_name

RENEW_SECONDS = 10.0
LEASE_SECONDS = 60.0
_FOLDER = ".job/locks"


@dataclass(frozen=True)
class Holder:
    """The holder of a lease that this job does not have: the name of its process."""

    process: str


class Leases:
    """The leases of one job.

    Args:
        folder: the job's output folder.
        clock: seconds; the monotonic clock.
        lease_seconds: time without a sign of life after which a lease is taken over.
        renew_seconds: time between two signs of life.
    """

    def __init__(
        self,
        folder: Folder,
        clock: Callable[[], float] = time.monotonic,
        lease_seconds: float = LEASE_SECONDS,
        renew_seconds: float = RENEW_SECONDS,
    ) -> None:
        self._folder, self._clock, self._lease_seconds = folder, clock, lease_seconds
        self._job = f"{process_name()} {uuid.uuid4().hex}"
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._beat = 0
        self._seen: dict[str, tuple[bytes, float]] = {}  # shard to another job's lease, and when this job saw it first
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, args=(renew_seconds,), name="leases", daemon=True)
        self._thread.start()

    def take(self, shard: str) -> Holder | None:
        """Take the lease of a shard; None where this job now has it, otherwise who has it."""
        name = _file_name(shard)
        with self._lock:
            for _ in range(3):
                if self._folder.create(name, self._content()):
                    self._held.add(shard)
                    self._seen.pop(shard, None)
                    return None
                content = self._folder.read(name)
                if content is None:  # released meanwhile
                    continue
                holder = _holder(content)
                if not self._is_over(shard, content, holder):
                    return Holder(holder.partition(" ")[0])
                self._folder.remove(name)
            return Holder("another job")

    def release(self, shard: str) -> None:
        """Give a lease back; nothing where this job does not have it."""
        with self._lock:
            if shard not in self._held:
                return
            self._held.discard(shard)
            # After a long pause another job may have taken it over.
            content = self._folder.read(_file_name(shard))
            if content is not None and _holder(content) == self._job:
                self._folder.remove(_file_name(shard))

    def holds(self, shard: str) -> bool:
        """Whether this job still has the lease of a shard that it took; True where the store does not answer."""
        try:
            content = self._folder.read(_file_name(shard))
        except EngineError:
            return True
        return content is not None and _holder(content) == self._job

    def end(self, shard: str, process: str) -> None:
        """Remove a shard's lease if it belongs to a process that is known to have ended."""
        content = self._folder.read(_file_name(shard))
        if content is not None and _holder(content).partition(" ")[0] == process:
            self._folder.remove(_file_name(shard))

    def close(self) -> None:
        """Give all leases back, stop the signs of life, and remove leases of processes of this machine that were killed."""
        self._stop.set()
        self._thread.join()
        for shard in list(self._held):
            self.release(shard)
        for name in self._folder.hidden(_FOLDER):
            content = self._folder.read(name)
            if content is not None and has_ended(_holder(content).partition(" ")[0]):
                self._folder.remove(name)

    def _is_over(self, shard: str, content: bytes, holder: str) -> bool:
        if has_ended(holder.partition(" ")[0]):
            return True
        seen = self._seen.get(shard)
        if seen is None or seen[0] != content:
            self._seen[shard] = (content, self._clock())
            return False
        return self._clock() - seen[1] >= self._lease_seconds

    def _content(self) -> bytes:
        return json.dumps({"holder": self._job, "beat": self._beat}).encode()

    def _renew(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            with self._lock:
                self._beat += 1
                for shard in self._held:
                    if not self.holds(shard):  # taken over while this process stood still
                        continue
                    try:
                        self._folder.write(_file_name(shard), self._content())
                    except EngineError:
                        # A full disk stops the job where it writes its rows; a lease that is lost until then costs only time.
                        continue


def _file_name(shard: str) -> str:
    return f"{_FOLDER}/{shard.replace('%', '%25').replace('/', '%2F')}.json"


def _holder(content: bytes) -> str:
    try:
        return str(json.loads(content)["holder"])
    except (ValueError, KeyError, TypeError):
        return "unknown"
