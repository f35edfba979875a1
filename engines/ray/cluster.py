"""Ray, quiet: started on this machine or joined, and the actors that fit into it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from engines.errors import EngineError, InputError
from engines.process.cores import usable_cores
from engines.process.optional import error_line, import_or_reason

_OBJECT_STORE_BYTES = 100 << 20  # only lists of files and outcomes pass through it
# Nothing is sent to Ray's makers, and Ray's own lines about workers, which repeat what this program says, are left out. The second
# has an effect only if Ray was not imported before.
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}


class RayEndedError(EngineError):
    """Ray has ended on this machine, in the middle of a job."""


@dataclass(frozen=True)
class RayOptions:
    """The cluster of a job, and its actors in it.

    Attributes:
        address: ``local``: a Ray of its own on this machine, which ends with the job; ``auto``: the one that runs here already; or
            the address of a cluster.
        actors: number of actors; None: one for each GPU, and without GPUs one for each machine.
        cpus: number of CPUs of an actor; None: its share of its machine.
        shard_timeout: seconds after which a shard's worker is stopped; None is no limit.
    """

    address: str
    actors: int | None = None
    cpus: int | None = None
    shard_timeout: float | None = None

    def __post_init__(self) -> None:
        for flag, value in (("--ray-actors", self.actors), ("--ray-cpus", self.cpus)):
            if value is not None and value < 1:
                raise InputError(f"{flag} {value}: pass 1 or more")
        if self.shard_timeout is not None and not self.shard_timeout > 0:
            raise InputError(f"--shard-timeout {self.shard_timeout:g}: pass a number of seconds above 0")


def import_ray() -> Any:
    """Ray's module.

    Raises:
        InputError: it is missing or broken.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray = import_or_reason("ray", "Ray", "pip install 'openclip-engines[ray]'")
    if isinstance(ray, str):
        raise InputError(f"--ray needs Ray: {ray}")
    return ray


@contextmanager
def cluster(ray: Any, address: str) -> Iterator[None]:
    """A context in which this process is connected with Ray; a connection that was there before stays.

    A thread of Ray's prints lines about workers that died on standard output, whatever it is told about logs. Standard output is
    the program's, perhaps lines of JSON, so until the context ends `sys.stdout` is standard error: who writes results meanwhile
    needs the stream from before.

    Raises:
        InputError: there is no Ray at that address, it refuses, or it cannot be started.
    """
    with redirect_stdout(sys.stderr):
        if ray.is_initialized():
            yield
            return
        ended = False
        try:
            _connect(ray, address)
            yield
        except RayEndedError:
            ended = True
            raise
        finally:
            if not ended:  # it would end this process before the reason is said
                ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    if address.startswith("ray://"):
        raise InputError(
            f"--ray {address}: Ray's client protocol is not used; run this command on a machine of the cluster with --ray auto"
        )
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"num_cpus": usable_cores(), "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except SystemExit as error:  # a handler of Ray's for SIGTERM
        raise KeyboardInterrupt from error
    except Exception as error:  # whatever a cluster of another version or a wrong address raises
        place = "be started here" if address == "local" else f"be reached at {address}"
        reason, hint = error_line(error), ""
        if isinstance(error, ConnectionError) and address == "auto":
            reason = "no Ray runs on this machine; start one, pass the address of one, or --ray local"
        elif address != "local":
            hint = " (a cluster with tokens needs RAY_AUTH_MODE=token)"
        raise InputError(f"Ray cannot {place}: {reason}{hint}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def check_running(ray: Any) -> None:
    """Check that the part of Ray with which this process is connected runs.

    Raises:
        RayEndedError: it does not.
    """
    try:
        here = ray.get_runtime_context().get_node_id()
        if any(node["Alive"] for node in ray.nodes() if node["NodeID"] == here):
            return
        reason = "its process on this machine is gone"
    except Exception as error:  # noqa: BLE001 - whatever a broken connection raises
        reason = error_line(error)
    raise RayEndedError(f"Ray has ended ({reason}): run the same command again, it goes on where it stopped")


@dataclass(frozen=True)
class Layout:
    """Actors of a job.

    Attributes:
        actors: number of actors.
        cpus: number of CPUs that each reserves.
        gpus: number of GPUs that each reserves, 0 or 1.
    """

    actors: int
    cpus: int
    gpus: int

    def __str__(self) -> str:
        each = f"{self.cpus} CPUs" + (f" and {self.gpus} GPU" if self.gpus else "")
        return f"{self.actors} × {each}"


def actor_layout(ray: Any, options: RayOptions, device: str) -> Layout:
    """The actors for a cluster.

    Args:
        ray: Ray's module, connected.
        options: numbers that the user fixed.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: no machine of the cluster has what an actor needs.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpu = [machine for machine in machines if machine.get("GPU", 0) >= 1] if device != "cpu" else []
    if with_gpu or device == "cuda":
        # A cluster that grows when it is needed may have no GPU yet.
        if not with_gpu and options.actors is None:
            raise InputError("--device cuda: the Ray cluster has no GPU now; pass --ray-actors N if it will get some")
        shares = [int(machine.get("CPU", 0) // machine["GPU"]) for machine in with_gpu]
        gpus = sum(int(machine["GPU"]) for machine in with_gpu)
        return Layout(options.actors or gpus, options.cpus or min(shares, default=1), 1)
    sizes = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1]
    share = min(sizes, default=1)
    if options.actors is not None:
        share = min(share, max(1, sum(sizes) // options.actors))
    cpus = options.cpus or share
    actors = options.actors or sum(size // cpus for size in sizes)
    if not actors:
        raise InputError(f"--ray-cpus {cpus}: no machine of the Ray cluster has more than {max(sizes, default=0)} CPUs")
    return Layout(actors, cpus, 0)
