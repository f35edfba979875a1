"""The driver of a bulk job on Ray: it hands shards out to actors and counts the outcomes.

Which shards are whole is found out here, from the output folder, before anything is sent; Ray keeps no state of the job. A shard
whose worker died is made again by a worker that has no other shard, so that a shard on which workers die is told from its
neighbours.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from engines.bulk.description import agree
from engines.bulk.job import Reporter, Summary, Tally, remove_outlived
from engines.bulk.maker import Checker, Outcome
from engines.errors import EngineError
from engines.files.leases import Leases
from engines.files.output_folder import Folder
from engines.process.optional import error_line
from engines.process.terminal import say
from engines.ray.actor import ActorSettings
from engines.ray.cluster import Layout, RayOptions, actor_layout, check_running, cluster, import_ray
from engines.ray.workers import Fault, Job, Worker
from engines.shards.input_shards import InputShard, Sources

_ATTEMPTS = 3  # times that a shard is made at most, if workers die on it
_FAILED_STARTS = 3  # times in a row that an actor may fail to start before its place is given up
_TICK_SECONDS = 0.5
_DRAW_SECONDS = 0.2
_BUSY_SECONDS = 5.0
_WAIT_SECONDS = 30.0  # after so long without any actor a line says why nothing happens
_STOP_SECONDS = 4.0
_CHECK_SECONDS = 5.0


def run_on_ray(
    options: RayOptions,
    settings: ActorSettings,
    sources: Sources,
    part: tuple[int, int],
    folder: Folder,
    reporter: Reporter,
    busy_seconds: float = _BUSY_SECONDS,
) -> Summary:
    """Make all shards of a part of the sources in actors of a Ray cluster; see `engines.bulk.job.run_job`.

    Ray is started, or joined, when the first shard that needs work was found.

    Args:
        options: the cluster, and the actors in it.
        settings: the job.
        sources: the inputs.
        part: (i, n): which of n jobs this one is, from 0.
        folder: the output folder, the one that `settings` names.
        reporter: shows the course of the job.
        busy_seconds: time between two looks at shards of other jobs.

    Raises:
        InputError: Ray is missing, cannot be reached, or has no room for an actor.
        EngineError: no actor can open the bundle, an engine failed repeatedly, or the output cannot be written.
    """
    ray = import_ray()
    tally = Tally(sources, part, settings.description.towers, reporter)
    leases = Leases(folder)
    with ExitStack() as stack:
        stack.callback(leases.close)
        driver = _Driver(ray, options, settings, folder, leases, tally, reporter, stack)
        driver.make(driver.needed(sources.shards(part)))
        while tally.busy:
            reporter.wait(len(tally.busy))
            time.sleep(busy_seconds)
            driver.make(driver.free(tally.take_busy()))
        if part[0] == 0:
            remove_outlived(sources, folder, settings.description, settings.make_options, tally.add)
    return tally.done()


class _Driver:
    def __init__(
        self,
        ray: Any,
        options: RayOptions,
        settings: ActorSettings,
        folder: Folder,
        leases: Leases,
        tally: Tally,
        reporter: Reporter,
        stack: ExitStack,
    ) -> None:
        self._ray, self._options, self._settings = ray, options, settings
        self._folder, self._leases, self._tally, self._reporter, self._stack = folder, leases, tally, reporter, stack
        self._checker = Checker(folder, settings.description, settings.make_options)
        self._workers: list[Worker] = []
        self._fresh: deque[Job] = deque()
        self._again: deque[Job] = deque()
        self._layout = Layout(0, 0, 0)
        self._opened, self._told, self._began, self._checked = False, False, 0.0, 0.0

    def needed(self, shards: Iterator[InputShard]) -> Iterator[InputShard | None]:
        """The shards that need work; None for each other one, whose outcome is counted here."""
        for check in self._checker.check_all(shards):
            if check.outcome is None:
                yield check.shard
            else:
                self._tally.add(check.outcome)
                yield None

    def free(self, shards: Iterator[InputShard]) -> Iterator[InputShard | None]:
        """Those shards of other jobs that need work and on which no job works now; None for each other one."""
        for shard in shards:
            check = self._checker.check(shard, fresh=True)
            holder = None if check.outcome is not None else self._leases.take(shard.name)
            if check.outcome is not None:
                self._tally.add(check.outcome)
                yield None
            elif holder is not None:
                self._tally.add(Outcome(shard, "busy", reason=holder.process))
                yield None
            else:
                self._leases.release(shard.name)
                yield shard

    def make(self, shards: Iterator[InputShard | None]) -> None:
        """Make shards until all outcomes are known."""
        drawn = False
        while True:
            drawn = drawn or self._draw(shards)
            if drawn and not (self._fresh or self._again or any(worker.jobs for worker in self._workers)):
                return
            if not self._workers and (self._fresh or self._again):
                self._start()
            now = time.monotonic()
            for worker in self._workers:
                if worker.actor is None and now >= worker.start_at:
                    worker.start()
            self._send(now)
            # While workers have no next shard, the search for one goes on.
            self._receive(_TICK_SECONDS if drawn or self._fresh else 0.0)
            self._look_at_clocks()

    def _draw(self, shards: Iterator[InputShard | None]) -> bool:
        """Draw shards until each worker has its next one, for a moment at most; True where no other follows."""
        end = time.monotonic() + _DRAW_SECONDS
        while len(self._fresh) < max(1, len(self._workers)) and time.monotonic() < end:
            try:
                shard = next(shards)
            except StopIteration:
                return True
            if shard is not None:
                self._fresh.append(Job(shard))
        return False

    def _start(self) -> None:
        """Connect with Ray, and start actors."""
        self._stack.enter_context(cluster(self._ray, self._options.address))
        self._layout = actor_layout(self._ray, self._options, self._settings.device)
        agree(
            self._folder, self._settings.description
        )  # not before Ray runs, so that a mistake leaves no folder behind
        self._began = time.monotonic()
        left = self._tally.summary.shards - self._tally.summary.finished
        count = max(1, min(self._layout.actors, left))
        self._workers = [Worker(self._ray, self._settings, self._layout) for _ in range(count)]
        self._stack.callback(self._stop)

    def _send(self, now: float) -> None:
        """Give shards to workers. A shard that is made again gets a worker that is idle, and stays alone there."""
        places = sorted(
            (worker for worker in self._workers if worker.open_to_more), key=lambda worker: len(worker.jobs)
        )
        due = [job for job in self._again if now >= job.not_before]
        for job in due[: len(places)]:
            worker = places.pop(0)  # where it is not idle yet, it gets nothing until it is
            if not worker.jobs:
                self._again.remove(job)
                worker.send(job)
        while self._fresh and places:
            worker = min(places, key=lambda worker: len(worker.jobs))
            if not worker.has_room:
                return
            worker.send(self._fresh.popleft())

    def _receive(self, seconds: float) -> None:
        """Wait for an answer of a worker, for so long at most, and count all that are there."""
        owners = {call: worker for worker in self._workers for call in worker.calls()}
        if not owners:
            time.sleep(seconds)
            return
        calls = list(owners)
        ready, _ = self._ray.wait(calls, num_returns=1, timeout=seconds)
        if ready:
            ready, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
        for call in ready:
            worker = owners[call]
            if call not in worker.calls():  # it was lost a moment ago
                continue
            try:
                answer = self._ray.get(call)
            except self._ray.exceptions.RayTaskError:  # an error in this project's code
                raise
            except self._ray.exceptions.RayError as error:
                self._lost(worker, Fault(f"its worker died: {_words(error)}"))
                continue
            self._take(worker, call, answer)

    def _take(self, worker: Worker, call: Any, answer: Any) -> None:
        if call == worker.rows_call:
            worker.rows_call = None
            if answer:
                self._reporter.rows(answer)
        elif call == worker.opening:
            if answer.problem is not None and not self._opened:
                raise EngineError(self._placed(answer.problem, answer.host))
            if answer.problem is not None:
                self._lost(worker, Fault(self._placed(answer.problem, answer.host), of_engine=True))
                return
            self._opened = True
            worker.opened(answer)
        elif isinstance(answer, str):
            self._lost(worker, Fault(self._placed(answer, worker.host), of_engine=True))
        else:
            job = worker.done(call)
            outcome = replace(answer, shard=job.shard)
            if job.fault is not None and outcome.status in ("made", "was there"):
                # Where it was there, the worker that was lost had finished it.
                outcome = replace(outcome, status="made", reason=outcome.reason or job.fault.text)
            self._tally.add(outcome)

    def _lost(self, worker: Worker, fault: Fault) -> None:
        """A worker died, hangs, or has a broken engine: another one takes its place, and its shards are made again."""
        process, jobs = worker.process, list(worker.jobs.values())
        opening = worker.opening is not None
        worker.kill()
        for job in jobs:
            self._give_back(job, process)
            job.failed(fault)
            if job.attempts < _ATTEMPTS:
                self._again.append(job)
            elif fault.of_engine:
                raise EngineError(fault.text)
            else:
                reason = f"{fault.text} ({job.attempts} attempts); the same command tries it again"
                self._tally.add(Outcome(job.shard, "failed", reason=reason))
        if opening and worker.failed_starts >= _FAILED_STARTS:
            self._workers.remove(worker)
            if not self._workers:
                raise EngineError(f"no actor of Ray can be started: {fault.text}")

    def _look_at_clocks(self) -> None:
        now, limit = time.monotonic(), self._options.shard_timeout
        for worker in list(self._workers):
            if limit is not None and worker.jobs and now - worker.since > limit:
                self._lost(worker, Fault(f"it took longer than --shard-timeout {limit:g}"))
            else:
                worker.count_rows(now)
        if (
            now - self._checked > _CHECK_SECONDS
            and self._workers
            and not any(worker.is_open for worker in self._workers)
        ):
            self._checked = now
            check_running(self._ray)
        if self._workers and not self._opened and not self._told and now - self._began > _WAIT_SECONDS:
            self._told = True
            say(f"Ray has not started an actor yet ({self._layout} are wanted): `ray status` says why", sys.stderr)

    def _give_back(self, job: Job, process: str) -> None:
        if process:
            self._leases.end(job.shard.name, process)

    def _placed(self, text: str, host: str) -> str:
        return text if self._options.address == "local" else f"{text} (on {host})"

    def _stop(self) -> None:
        """End all actors; those in the middle of a shard give its lease back if they can, and otherwise it is done here."""
        calls = [call for worker in self._workers if (call := worker.stop()) is not None]
        if calls:
            self._ray.wait(calls, num_returns=len(calls), timeout=_STOP_SECONDS)
        for worker in self._workers:
            process, jobs = worker.process, list(worker.jobs.values())
            worker.kill()
            for job in jobs:
                self._give_back(job, process)


def _words(error: Exception) -> str:
    """Ray's own reason, which is in the last line of a long message."""
    line = error_line(error, -1).partition("Some common causes")[0].rpartition("Worker exit detail: ")[2]
    return line.strip().rstrip(".")
