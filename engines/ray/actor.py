"""The worker's side of a job on Ray: an actor that has the bundle open and makes the shards that it is given."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.bulk.description import JobDescription
from engines.bulk.maker import MakeOptions, Outcome, ShardMaker
from engines.embedder import Embedder
from engines.errors import EngineError
from engines.files.checksums import file_sha256
from engines.files.leases import Leases
from engines.files.output_folder import output_folder
from engines.files.storage import reading
from engines.manifest import MANIFEST_NAME
from engines.process.cores import usable_cores
from engines.process.identity import process_name
from engines.shards.input_shards import InputShard

_STOP_SECONDS = 2.0


@dataclass(frozen=True)
class ActorSettings:
    """All that an actor needs to know about its job.

    Attributes:
        working_folder: the driver's working folder, from which relative paths are meant.
        bundle: path of the bundle, the same on all machines.
        engine, device: see `engines.load`.
        load_options: further arguments of `engines.load`.
        out: the output folder.
        description: the job's description, as it is in the output folder.
        make_options: options of making shards.
    """

    working_folder: str
    bundle: str
    engine: str
    device: str
    load_options: Mapping[str, Any]
    out: str
    description: JobDescription
    make_options: MakeOptions = field(default_factory=MakeOptions)


@dataclass(frozen=True)
class Opened:
    """An actor's process and machine; `problem` says why the bundle or the output folder cannot be opened there, if so."""

    process: str
    host: str
    problem: str | None = None


class _Stopped(Exception):
    """The driver has stopped the actor."""


class ShardActor:
    """Makes shards. Ray calls the methods in several threads; one thread has the engine.

    The driver gives an actor the next shard before the one in work is done, so that their batches of images join.

    Args:
        settings: the job.
        cpus: number of CPUs of this actor; None where the engine has a GPU.
    """

    def __init__(self, settings: ActorSettings, cpus: int | None) -> None:
        self._settings, self._cpus = settings, cpus
        self._queue: queue.SimpleQueue[InputShard | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._opened: Future[Opened] = Future()
        self._outcomes: dict[str, Future[Outcome | str]] = {}
        self._failure: str | BaseException | None = None
        self._rows, self._stopped = 0, False
        self._thread = threading.Thread(target=self._run, name="shards", daemon=True)
        self._thread.start()

    def open(self) -> Opened:
        """Wait until the bundle is open."""
        return self._opened.result()

    def make(self, shard: InputShard) -> Outcome | str:
        """Make a shard.

        Returns:
            The outcome; or, where the engine has failed or the output cannot be written, the reason: the actor is of no use then.
        """
        outcome: Future[Outcome | str] = Future()
        with self._lock:
            self._outcomes[shard.name] = outcome
            if self._failure is not None:
                self._settle()
            else:
                self._queue.put(shard)
        return outcome.result()

    def rows(self) -> int:
        """The number of rows that were written since the last call."""
        with self._lock:
            rows, self._rows = self._rows, 0
        return rows

    def stop(self) -> None:
        """Give leases back, and remove unfinished files, as far as that is possible within two seconds."""
        self._stopped = True
        self._queue.put(None)
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        try:
            self._work()
        except EngineError as error:
            self._fail(str(error))
        except BaseException as error:  # noqa: BLE001 - raised in the driver
            self._fail(error)

    def _work(self) -> None:
        settings = self._settings
        # A folder that only the driver's machine has matters only where a path is relative; then the path's own error says so.
        with contextlib.suppress(OSError):
            os.chdir(settings.working_folder)
        manifest = Path(settings.bundle) / MANIFEST_NAME
        with reading(str(manifest)):
            digest = file_sha256(manifest)
        if digest != settings.description.manifest_sha256:
            raise EngineError(
                f"{settings.bundle} is another export here: copy the bundle to all machines of the cluster"
            )
        folder = output_folder(settings.out)
        try:
            with self._load() as clip:
                leases = Leases(folder)
                try:
                    maker = ShardMaker(clip, folder, settings.description, settings.make_options, leases)
                    self._opened.set_result(Opened(process_name(), socket.gethostname()))
                    while (shard := self._queue.get()) is not None:
                        maker.make(self._shards(shard), self._report, self._count, checked=True)
                finally:
                    leases.close()
        finally:
            folder.tidy()

    def _load(self) -> Embedder:
        settings, cpus = self._settings, self._cpus
        options = dict(settings.load_options)
        if cpus is not None and cpus < usable_cores():  # several actors share this machine
            options = {"workers": cpus, "threads": cpus, **options}
        device = settings.device if cpus is None else "cpu"
        return Embedder(settings.bundle, settings.engine, device, towers=settings.description.towers, **options)

    def _shards(self, first: InputShard) -> Iterator[InputShard]:
        """The shards that are there now. Where no other follows, the last rows are embedded at once."""
        shard: InputShard | None = first
        while shard is not None and not self._stopped:
            yield shard
            try:
                shard = self._queue.get_nowait()
            except queue.Empty:
                return
        self._queue.put(None)

    def _report(self, outcome: Outcome) -> None:
        with self._lock:
            self._outcomes.pop(outcome.shard.name).set_result(outcome)

    def _count(self, rows: int) -> None:
        with self._lock:
            self._rows += rows
        if self._stopped:
            raise _Stopped

    def _fail(self, failure: str | BaseException) -> None:
        with self._lock:
            self._failure = failure
            self._settle()

    def _settle(self) -> None:
        """Pass the failure to all calls that wait."""
        failure = self._failure
        assert failure is not None
        if not self._opened.done():
            if isinstance(failure, str):
                self._opened.set_result(Opened(process_name(), socket.gethostname(), failure))
            else:
                self._opened.set_exception(failure)
        outcomes, self._outcomes = self._outcomes, {}
        for outcome in outcomes.values():
            if isinstance(failure, str):
                outcome.set_result(failure)
            else:
                outcome.set_exception(failure)
