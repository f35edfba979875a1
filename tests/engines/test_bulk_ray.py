"""Bulk jobs on Ray: the files of a job without it, also where workers are killed or hang, and nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobs_on_ray import (
    NAMES,
    PATTERN,
    ROWS,
    SHARDS,
    WhereverItIsMade,
    events,
    files,
    is_running,
    left,
    marked,
    wait_for,
    write_tars,
)

from engines.__main__ import main
from engines.ray import front
from engines.ray.cluster import Layout, import_ray


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five tars of 70 pictures; one picture of the first is damaged."""
    folder = tmp_path_factory.mktemp("tars")
    write_tars(folder)
    return folder


@pytest.fixture(scope="module")
def plain(tars: Path, demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a job without Ray."""
    out = tmp_path_factory.mktemp("plain")
    assert main(["embed", str(demo_bundle), f"{tars}/{PATTERN}", "--out", str(out)]) == 0
    return files(out)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    ray = import_ray()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    try:
        yield
    finally:
        ray.shutdown()


def on_ray(bundle: Path, tars: Path, out: Path, *more: str) -> int:
    inputs = f"{tars}/{PATTERN}"
    return main(
        ["embed", str(bundle), inputs, "--out", str(out), "--json", "--ray", "auto", "--ray-actors", "2", *more]
    )


@pytest.mark.long
def test_the_files_of_a_job_without_ray(
    demo_bundle: Path,
    tars: Path,
    plain: dict[str, bytes],
    tmp_path: Path,
    ray_here: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # One shard fails, here and without Ray.
    (tmp_path / "more").mkdir()
    bad = tmp_path / "more" / "bad.tar"
    bad.write_bytes(b"no tar at all" * 100)
    ends = []
    for out, more in ((tmp_path / "here", ()), (tmp_path / "ray", ("--ray", "auto", "--ray-actors", "2"))):
        inputs = [str(bad), f"{tars}/{PATTERN}"]
        assert main(["embed", str(demo_bundle), *inputs, "--out", str(out), "--json", *more]) == 1
        said = capsys.readouterr()
        assert files(out) == plain
        assert not left(out)
        assert not said.err
        lines = events(said.out)
        assert {(line["name"], line["status"]) for line in lines if line["event"] == "shard"} == {
            ("bad", "failed"),
            *((name, "made") for name in NAMES),
        }
        ends.append({key: value for key, value in lines[-1].items() if key not in ("out", "seconds")})
    assert ends[0] == ends[1]
    assert ends[0]["rows"] == SHARDS * ROWS
    assert ends[0]["errors"] == 1

    # All is whole: nothing is sent to Ray.
    def refuse(*arguments: object) -> Layout:
        raise AssertionError("actors are started")

    monkeypatch.setattr(front, "actor_layout", refuse)
    assert on_ray(demo_bundle, tars, tmp_path / "ray") == 0
    end = events(capsys.readouterr().out)[-1]
    assert (end["made"], end["there"]) == (0, SHARDS)
    assert files(tmp_path / "ray") == plain


@pytest.mark.long
def test_relative_paths(
    demo_bundle: Path,
    tars: Path,
    tmp_path: Path,
    ray_here: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bundle").symlink_to(demo_bundle)
    (tmp_path / "data").symlink_to(tars)
    monkeypatch.chdir(tmp_path)
    for out, more in (("here", ()), ("ray", ("--ray", "auto"))):
        assert main(["embed", "bundle", "data/00001.tar", "--out", f"{out}/", *more]) == 0
    assert files(Path("here")) == files(Path("ray"))
    assert list(files(Path("ray"))) == ["00001.parquet"]


@pytest.mark.long
def test_a_killed_worker(
    demo_bundle: Path,
    tars: Path,
    plain: dict[str, bytes],
    tmp_path: Path,
    ray_here: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with WhereverItIsMade(tmp_path / "out", NAMES[2], signal.SIGKILL, times=1) as killer:
        assert on_ray(demo_bundle, tars, tmp_path / "out") == 0
    assert len(killer.met) == 1
    assert files(tmp_path / "out") == plain
    assert not left(tmp_path / "out")
    said = capsys.readouterr()
    end = events(said.out)[-1]
    assert not said.err
    assert (end["made"], end["rows"], end["errors"]) == (SHARDS, SHARDS * ROWS, 1)
    again = {line["shard"]: line["reason"] for line in end["again"]}
    assert again[NAMES[2]].startswith("its worker died")
    assert len(again) <= 2


@pytest.mark.long
def test_a_shard_on_which_every_worker_dies(
    demo_bundle: Path,
    tars: Path,
    plain: dict[str, bytes],
    tmp_path: Path,
    ray_here: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with WhereverItIsMade(tmp_path / "out", NAMES[1], signal.SIGKILL, times=99) as killer:
        assert on_ray(demo_bundle, tars, tmp_path / "out") == 1
    assert len(killer.met) == 3
    end = events(capsys.readouterr().out)[-1]
    assert (end["made"], end["failed"]) == (SHARDS - 1, 1)
    assert [problem["shard"] for problem in end["problems"]] == [NAMES[1]]
    assert "(3 attempts)" in end["problems"][0]["reason"]
    assert files(tmp_path / "out") == {name: data for name, data in plain.items() if name != f"{NAMES[1]}.parquet"}
    # The same command makes it.
    assert on_ray(demo_bundle, tars, tmp_path / "out") == 0
    assert files(tmp_path / "out") == plain
    assert not left(tmp_path / "out")


@pytest.mark.long
def test_a_worker_that_hangs(
    demo_bundle: Path,
    tars: Path,
    plain: dict[str, bytes],
    tmp_path: Path,
    ray_here: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with WhereverItIsMade(tmp_path / "out", NAMES[3], signal.SIGSTOP, times=1) as stopper:
        assert on_ray(demo_bundle, tars, tmp_path / "out", "--shard-timeout", "6") == 0
    end = events(capsys.readouterr().out)[-1]
    assert files(tmp_path / "out") == plain
    assert NAMES[3] in {line["shard"] for line in end["again"]}
    assert "it took longer than --shard-timeout 6" in {line["reason"] for line in end["again"]}
    assert wait_for(lambda: not any(is_running(process) for process in stopper.met))


@pytest.mark.long
def test_an_engine_that_cannot_be_opened(
    demo_bundle: Path, tars: Path, tmp_path: Path, ray_here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert on_ray(demo_bundle, tars, tmp_path / "out", "--engine", "openvino") == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert "openvino" in said.err
    assert said.err.count("\n") == 1
    assert not files(tmp_path / "out")


@pytest.mark.long
def test_an_output_that_cannot_be_written(
    demo_bundle: Path, tars: Path, tmp_path: Path, ray_here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs, said = f"{tars}/00001.tar", []
    (tmp_path / "out" / "img_emb" / "img_emb_00001.npy").mkdir(parents=True)
    for more in ((), ("--ray", "auto")):
        assert main(["embed", str(demo_bundle), inputs, "--out", f"{tmp_path}/out", "--format", "npy", *more]) == 1
        said.append(capsys.readouterr().err)
        assert not left(tmp_path / "out")
    plain, on_ray = said
    assert plain.startswith("error: cannot write ")
    assert on_ray.startswith(plain.rstrip())
    assert on_ray.count("\n") == 1


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_leaves_nothing(
    number: signal.Signals, demo_bundle: Path, tars: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "engines", "embed", str(demo_bundle), f"{tars}/{PATTERN}", "--out", f"{out}/"]
    # A name in the environment finds all processes of this job, whoever became their parent.
    mark = f"OPENCLIP_ENGINES_TEST={tmp_path}"
    environment = {**os.environ, "OPENCLIP_ENGINES_TEST": str(tmp_path)}
    with subprocess.Popen(
        [*command, "--ray", "local", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as job:
        assert wait_for(lambda: any((out / ".job" / "locks").glob("*")))
        assert marked(mark)
        job.send_signal(number)
        said, errors = job.communicate(timeout=60)
    assert job.returncode == 130
    assert errors == "\ninterrupted: run the same command again, it goes on where it stopped\n"
    assert events(said)[0] == {"event": "begin", "shards": SHARDS}
    assert wait_for(lambda: not marked(mark)), marked(mark)
    assert not left(out)


@pytest.mark.long
def test_lines_of_ray_do_not_stand_among_lines_of_json(demo_bundle: Path, tars: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "engines", "embed", str(demo_bundle), f"{tars}/{PATTERN}", "--out", f"{out}/"]
    # With these settings Ray says all that it has to say.
    environment = {**os.environ, "RAY_DEDUP_LOGS": "0"}
    killer = WhereverItIsMade(out, NAMES[1], signal.SIGKILL, times=1)
    with killer:
        job = subprocess.run(
            [*command, "--ray", "local", "--json"], env=environment, capture_output=True, text=True, check=True
        )
    assert len(killer.met) == 1
    assert "(raylet)" in job.stderr
    assert [line["event"] for line in events(job.stdout)] == ["begin", *["shard"] * SHARDS, "end"]


@pytest.mark.long
def test_ray_itself_is_killed(demo_bundle: Path, tars: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "engines", "embed", str(demo_bundle), f"{tars}/{PATTERN}", "--out", f"{out}/"]
    # The worker would live for a while without it, and finish these small shards.
    worker = WhereverItIsMade(out, NAMES[0], signal.SIGKILL, times=1)
    with subprocess.Popen([*command, "--ray", "local"], stderr=subprocess.PIPE, text=True) as job, worker:
        assert wait_for(lambda: bool(worker.met))
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        raylet = [int(child) for child in children if b"raylet/raylet" in Path(f"/proc/{child}/cmdline").read_bytes()]
        for process in raylet:
            os.kill(process, signal.SIGKILL)
        _, errors = job.communicate(timeout=120)
    assert len(raylet) == 1
    assert job.returncode == 1
    assert errors.startswith("error: Ray has ended (")
    assert errors.count("\n") == 1
    assert not any((out / ".job" / "locks").glob("*"))
