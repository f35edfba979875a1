"""Handles of actors, and the shards that they have."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

from engines.ray.actor import ActorSettings, Opened, ShardActor
from engines.ray.cluster import Layout
from engines.shards.input_shards import InputShard

_AHEAD = 2  # shards that a worker has at a time: while one is embedded, the next is read
_BACKOFF_SECONDS = 1.0
_ROWS_SECONDS = 2.0


@dataclass(frozen=True)
class Fault:
    """Why a worker was lost; `of_engine`: its engine failed, or the output cannot be written, which ends the job if it repeats."""

    text: str
    of_engine: bool = False


@dataclass
class Job:
    """A shard to be made.

    Attributes:
        shard: the shard.
        attempts: number of workers that were lost while they had it.
        not_before: time on the monotonic clock at which it is made again.
        fault: why the last worker was lost.
    """

    shard: InputShard
    attempts: int = 0
    not_before: float = 0.0
    fault: Fault | None = None

    def failed(self, fault: Fault) -> None:
        """Note that a worker was lost."""
        self.attempts += 1
        self.fault = fault
        self.not_before = time.monotonic() + _BACKOFF_SECONDS * 2 ** (self.attempts - 1)


class Worker:
    """The place of one actor, which is filled again when the actor is lost.

    Attributes:
        actor: the actor's handle; None where none was started.
        opening: the call that returns when its bundle is open; None after that.
        rows_call: the call that returns a number of rows; None where there is none under way.
        jobs: calls to the shards that they make, in the order in which they were sent.
        process, host: names of its process and machine; empty before the bundle is open.
        since: when the first of its shards began, on the monotonic clock.
        failed_starts: number of actors in a row that ended before their bundle was open.
        start_at: when the next actor is started.
    """

    def __init__(self, ray: Any, settings: ActorSettings, layout: Layout) -> None:
        self._ray = ray
        remote: Any = ray.remote(ShardActor)
        options = {"num_cpus": layout.cpus, "num_gpus": layout.gpus, "max_concurrency": _AHEAD + 3}
        self._actor_class = remote.options(**options, max_restarts=0, max_task_retries=0)
        self._arguments = (settings, None if layout.gpus else layout.cpus)
        self.actor: Any = None
        self.opening: Any = None
        self.rows_call: Any = None
        self.jobs: dict[Any, Job] = {}
        self.process = self.host = ""
        self.since = self.start_at = self._counted = 0.0
        self.failed_starts = 0

    def start(self) -> None:
        """Start an actor."""
        self.actor = self._actor_class.remote(*self._arguments)
        self.opening = self.actor.open.remote()

    def opened(self, answer: Opened) -> None:
        """The actor's bundle is open."""
        self.opening, self.failed_starts = None, 0
        self.process, self.host = answer.process, answer.host

    @property
    def is_open(self) -> bool:
        """Whether there is an actor whose bundle is open."""
        return self.actor is not None and self.opening is None

    @property
    def open_to_more(self) -> bool:
        """Whether its bundle is open and it has no shard that is made again."""
        return self.is_open and not any(job.attempts for job in self.jobs.values())

    @property
    def has_room(self) -> bool:
        """Whether it takes another shard."""
        return len(self.jobs) < _AHEAD

    def send(self, job: Job) -> None:
        """Let the actor make a shard."""
        if not self.jobs:
            self.since = time.monotonic()
        self.jobs[self.actor.make.remote(job.shard)] = job

    def done(self, call: Any) -> Job:
        """The shard of a call that has returned."""
        self.since = time.monotonic()
        return self.jobs.pop(call)

    def calls(self) -> list[Any]:
        """All calls under way."""
        return [call for call in (self.opening, self.rows_call, *self.jobs) if call is not None]

    def count_rows(self, now: float) -> None:
        """Ask for the number of rows, every few seconds."""
        if self.jobs and self.rows_call is None and now - self._counted > _ROWS_SECONDS:
            self._counted = now
            self.rows_call = self.actor.rows.remote()

    def stop(self) -> Any:
        """The call that stops the actor; None where there is no actor."""
        return None if self.actor is None else self.actor.stop.remote()

    def kill(self) -> None:
        """End the actor's process; the next one may be started after a pause, which doubles with each failed start."""
        if self.actor is not None:
            with contextlib.suppress(Exception):  # Ray, or the actor, may have ended
                self._ray.kill(self.actor)
        if self.opening is not None:
            self.failed_starts += 1
        self.start_at = time.monotonic() + _BACKOFF_SECONDS * 2**self.failed_starts
        self.actor = self.opening = self.rows_call = None
        self.jobs = {}
        self.process = self.host = ""
