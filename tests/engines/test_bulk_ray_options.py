"""Options of jobs on Ray: what is refused, and the actors that are started in a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines.__main__ import main
from engines.errors import InputError
from engines.ray.cluster import Layout, RayOptions, actor_layout


def test_without_ray_one_line_says_so(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "out"
    assert main(["embed", str(demo_bundle), f"{tmp_path}/none.tar", "--out", f"{out}/", "--ray", "local"]) == 1
    said = capsys.readouterr()
    assert said.err == "error: --ray needs Ray: Ray is not installed: pip install 'openclip-engines[ray]'\n"
    assert not said.out
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--ray-actors", "2"), "--ray-actors is for jobs on Ray"),
        (("--ray-cpus", "2"), "--ray-cpus is for jobs on Ray"),
        (("--shard-timeout", "2"), "--shard-timeout is for jobs on Ray"),
        (("--ray", "local", "--ray-actors", "0"), "--ray-actors 0: pass 1 or more"),
        (("--ray", "local", "--ray-cpus", "-1"), "--ray-cpus -1: pass 1 or more"),
        (("--ray", "local", "--shard-timeout", "nan"), "--shard-timeout nan: pass a number of seconds above 0"),
    ],
)
def test_arguments_that_cannot_be(
    more: tuple[str, ...], words: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(demo_bundle), "x.tar", "--out", f"{tmp_path}/out/", *more]) == 1
    assert words in capsys.readouterr().err


def nodes(*resources: dict[str, float]) -> Any:
    return SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": dict(each)} for each in resources])


@pytest.mark.parametrize(
    ("machines", "options", "device", "layout"),
    [
        ([{"CPU": 8.0}], {}, "auto", Layout(1, 8, 0)),
        ([{}, {"CPU": 16.0}, {"CPU": 8.0}], {}, "auto", Layout(3, 8, 0)),
        ([{"CPU": 8.0}], {"actors": 3}, "auto", Layout(3, 2, 0)),
        ([{"CPU": 8.0}], {"cpus": 3}, "auto", Layout(2, 3, 0)),
        ([{"CPU": 8.0}], {"actors": 9, "cpus": 4}, "auto", Layout(9, 4, 0)),
        ([{"CPU": 32.0, "GPU": 4.0}, {"CPU": 8.0}], {}, "auto", Layout(4, 8, 1)),
        ([{"CPU": 32.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}], {}, "cuda", Layout(6, 4, 1)),
        ([{"CPU": 32.0, "GPU": 4.0}], {"actors": 2, "cpus": 5}, "auto", Layout(2, 5, 1)),
        ([{"CPU": 32.0, "GPU": 4.0}], {}, "cpu", Layout(1, 32, 0)),
        ([{"CPU": 4.0}], {"actors": 2}, "cuda", Layout(2, 1, 1)),
    ],
)
def test_actors_for_a_cluster(
    machines: list[dict[str, float]], options: dict[str, int], device: str, layout: Layout
) -> None:
    assert actor_layout(nodes(*machines), RayOptions("auto", **options), device) == layout


def test_a_cluster_without_room() -> None:
    with pytest.raises(InputError, match="--ray-cpus 5: no machine of the Ray cluster has more than 4 CPUs"):
        actor_layout(nodes({"CPU": 4.0}), RayOptions("auto", cpus=5), "auto")
    with pytest.raises(InputError, match="--device cuda: the Ray cluster has no GPU now"):
        actor_layout(nodes({"CPU": 4.0}), RayOptions("auto"), "cuda")
