"""Samples become rows in their order, whatever the batches, and however many calls of the engine run at a time."""

from __future__ import annotations

import io
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
from made_pictures import encoded

from engines.__main__ import main
from engines.embedder import Embedder
from engines.runtimes.batches import ThroughputPlan, throughput_plan


@pytest.fixture
def tars(tmp_path: Path) -> str:
    """Three tars with 11, 0 and 7 samples; the fourth picture of each is damaged, the sixth sample has none."""
    for number, count in enumerate((11, 0, 7)):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for i in range(count):
                data = encoded(10 * number + i, "PNG")
                files = {"txt": b"a caption"} if i == 5 else {"png": data[:60] if i == 3 else data, "txt": b"a caption"}
                for suffix, content in files.items():
                    member = tarfile.TarInfo(f"{number}-{i:02d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return f"{tmp_path}/{{0..2}}.tar"


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(out.glob("*.parquet")) for row in parquet.read_table(file).to_pylist()]


@pytest.mark.parametrize(
    "plan", [ThroughputPlan(1, 1), ThroughputPlan(5, 2), ThroughputPlan(3, 3), ThroughputPlan(64, 2)]
)
def test_batches_and_calls_at_a_time(
    plan: ThroughputPlan, demo_bundle: Path, tars: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["embed", str(demo_bundle), tars, "--towers", "image,text"]
    assert main([*arguments, "--out", str(tmp_path / "usual")]) == 0
    running, most, lock, encode = 0, 0, threading.Lock(), Embedder.encode_image

    def counted(clip: Embedder, images: Any) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01 if len(images) % 2 else 0.001)  # calls end in another order than they began
        try:
            return encode(clip, images)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(Embedder, "encode_image", counted)
    monkeypatch.setattr(Embedder, "throughput_plan", lambda clip, tower: plan)
    assert main([*arguments, "--out", str(tmp_path / "planned")]) == 0
    assert most <= plan.in_flight
    rows = rows_of(tmp_path / "planned")
    assert rows == rows_of(tmp_path / "usual")
    assert [row["key"] for row in rows] == [f"0-{i:02d}" for i in range(11)] + [f"2-{i:02d}" for i in range(7)]
    assert [row["key"] for row in rows if row["error"] is not None] == ["0-03", "0-05", "2-03", "2-05"]
    assert all(any(row["image_embedding"]) == (row["error"] is None) for row in rows)
    assert all(any(row["text_embedding"]) for row in rows)


def test_a_gpu_gets_larger_batches_and_two_calls(demo_bundle: Path) -> None:
    import engines

    with engines.load(demo_bundle, towers=("image",)) as clip:
        runtime = clip._runtime("image")
        assert throughput_plan(runtime, 32) == clip.throughput_plan("image") == ThroughputPlan(32, 1)
        runtime.on_gpu = True
        assert throughput_plan(runtime, 32) == ThroughputPlan(128, 2)
