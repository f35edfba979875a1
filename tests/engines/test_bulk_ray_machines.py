"""A Ray cluster of three machines, each a raylet of its own on this one, of which one dies in the middle of a shard."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs_on_ray import NAMES, PATTERN, ROWS, SHARDS, events, files, left, wait_for, write_tars

from engines.__main__ import main
from engines.ray.cluster import import_ray

pytestmark = pytest.mark.long


@pytest.fixture
def machines() -> Iterator[tuple[Any, list[Any]]]:
    """The cluster, and its machines but for the first, which is that of the job."""
    import_ray()
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **store})
    try:
        others = [cluster.add_node(num_cpus=1, **store) for _ in range(2)]
        cluster.wait_for_nodes()
        yield cluster, others
    finally:
        cluster.shutdown()


def machine_of(process: int, machines: list[Any]) -> Any:
    """The machine whose raylet started a process; None if it is the first one."""
    parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    for machine in machines:
        if parent in [started.process.pid for group in machine.all_processes.values() for started in group]:
            return machine
    return None


def test_a_machine_dies(
    demo_bundle: Path, tmp_path: Path, machines: tuple[Any, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, others = machines
    write_tars(tmp_path)
    arguments = ["embed", str(demo_bundle), f"{tmp_path}/{PATTERN}", "--json"]
    assert main([*arguments, "--out", str(tmp_path / "plain")]) == 0
    capsys.readouterr()
    out, killed = tmp_path / "out", []

    def holder(lease: Path) -> int | None:
        try:
            return int(json.loads(lease.read_text())["holder"].split(" ")[0].split(".")[-2])
        except (OSError, ValueError):
            return None

    def kill() -> None:
        def one() -> bool:
            for name in NAMES:
                process = holder(out / ".job" / "locks" / f"{name}.json")
                machine = None if process is None else machine_of(process, others)
                if machine is not None:
                    cluster.remove_node(machine, allow_graceful=False)
                    killed.append(name)
                    return True
            return False

        wait_for(one)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert main([*arguments, "--out", str(out), "--ray", cluster.address, "--ray-cpus", "1"]) == 0
    finally:
        killer.join()
    end = events(capsys.readouterr().out)[-1]
    assert (end["made"], end["failed"], end["rows"]) == (SHARDS, 0, SHARDS * ROWS)
    assert len(killed) == 1  # its shard is in end["again"], unless it was finished a moment before
    assert files(out) == files(tmp_path / "plain")
    assert not left(out)
