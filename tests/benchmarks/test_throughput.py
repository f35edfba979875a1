"""The throughput harness on the demo bundle: real contenders in real processes, few rounds; no figure decides a test."""

from __future__ import annotations

import dataclasses
import io
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_datasets import noise, picture_bytes
from PIL import Image

from benchmarks import throughput
from benchmarks.contenders import Contender, contenders_of
from benchmarks.harness.console import Console
from benchmarks.harness.plan import Plan
from benchmarks.harness.process import ContenderError, ContenderProcess, started
from benchmarks.harness.run import Run
from benchmarks.harness.worker import Worker
from benchmarks.records import rows
from benchmarks.records.estimates import estimate, rates, speedup
from benchmarks.records.machine import this_machine
from benchmarks.records.rows import Row
from benchmarks.workloads.inputs import SETS, Case, files_case, image_case, text_case
from benchmarks.workloads.subject import Subject, subject_of_bundle, subject_of_model

NULL, EAGER, ENGINE = Contender("null", "fp32"), Contender("eager", "fp32"), Contender("onnxruntime", "fp32", True)
SECOND = dataclasses.replace(
    ENGINE, precision="again"
)  # the same engine under another name: its process needs no PyTorch
seconds = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def subject(demo_bundle: Path) -> Subject:
    return subject_of_bundle(demo_bundle)


@given(seconds, st.floats(1.01, 10), st.integers(1, 512))
def test_estimates(taken: list[float], factor: float, batch: int) -> None:
    rate = rates(taken, batch)
    assert rate.low <= rate.value <= rate.high
    assert rate.value == pytest.approx(np.median([batch / s for s in taken]))
    ratio = speedup(taken, [s * factor for s in taken])
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((factor,) * 3)
    assert not ratio.noisy


def test_noise_is_seen() -> None:
    assert estimate([1, 2, 3, 4]).noisy
    assert not estimate([1.0, 1.01, 1.02, 9.0]).map(3).noisy or estimate([1.0, 1.01, 1.02, 9.0]).noisy
    assert not estimate([1.0, 1.0, 1.01, 1.02]).noisy


def test_subjects(subject: Subject, tmp_path: Path) -> None:
    assert (subject.name, subject.kinds, subject.image_shape) == ("demo", ("onnxruntime",), "64x64")
    model = subject_of_model("ViT-B-16-plus-240")
    assert (model.image_shape, model.context_length, model.bundle) == ("240x240", 77, None)
    with pytest.raises(ValueError, match="knows no architecture"):
        subject_of_model("ViT-Q-99")


def test_inputs_differ_from_call_to_call(subject: Subject, tmp_path: Path) -> None:
    pixels = image_case(tmp_path, subject, 4).load()
    assert pixels.shape == (SETS, 4, *subject.size, 3)
    assert not (pixels[0] == pixels[1]).all()
    real, full = (text_case(tmp_path, subject, 8, full).load() for full in (False, True))
    assert real.shape == full.shape == (SETS, 8, subject.context_length)
    lengths = (real != 0).sum(axis=-1)
    assert lengths.min() >= 8
    assert lengths.max() <= 25
    assert (full != 0).all()
    photographs = files_case(tmp_path, 2, count=2)
    assert [max(Image.open(file).size) for file in photographs.load()] == [640, 640]
    assert photographs.rows_per_call == 2


def test_contenders(subject: Subject) -> None:
    on_cpu = contenders_of(subject, "cpu")
    assert on_cpu[0] == EAGER
    assert ENGINE in on_cpu
    assert "torch-tensorrt" not in {c.engine for c in on_cpu}
    on_gpu = contenders_of(subject, "cuda")
    assert {c.precision for c in on_gpu if c.engine == "eager"} == {"fp32", "fp16", "bf16"}
    assert "openvino plain" not in {c.engine for c in on_gpu}
    assert contenders_of(subject, "cpu", ["onnxruntime"]) == [EAGER, ENGINE]
    with pytest.raises(ValueError, match="is none of"):
        contenders_of(subject, "cpu", ["tensorrt"])


def run(argv: Sequence[str]) -> int:
    return throughput.main(
        [*argv, "--device", "cpu", "--rounds", "2", "--round-seconds", "0.001", "--case-seconds", "0"]
    )


# Texts are measured in `test_no_time_left`, without eager PyTorch.
@pytest.mark.parametrize("towers", [("image",), pytest.param(("image", "text"), marks=pytest.mark.slow)])
def test_a_bundle(
    towers: tuple[str, ...], demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(demo_bundle), "--results", str(tmp_path / "rows"), "--batches", "1,2", "--texts", "real"]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        (pictures / f"{number}.png").write_bytes(picture_bytes(noise(number)))
    command += ["--contenders", "onnxruntime,null", "--towers", ",".join(towers), "--files", str(pictures)]
    # One pass: every one starts eager PyTorch anew for each tower. Several passes are measured below, without it.
    one = ["--rounds", "1", "--round-seconds", "0.001", "--case-seconds", "0"]
    assert throughput.main([*command, "--device", "cpu", *one]) == 0
    shown = capsys.readouterr().out
    assert "image, batch 2, 64x64" in shown
    found = rows.read(tmp_path / "rows")
    assert all(row.status in ("ok", "noisy") and row.value is not None for row in found)
    assert {row.what for row in found} == {"throughput", "latency", "start", "end_to_end", "overhead"}
    rated = list(rows.select(found, what="throughput", figure="per_second"))
    assert {(r.tower, r.engine, r.batch) for r in rated} == {
        (tower, engine, batch) for tower in towers for engine in ("eager", "onnxruntime") for batch in (1, 2)
    }
    assert all(r.weights == "demo" and r.repeats == 1 and r.commit and r.machine == this_machine().name for r in rated)
    assert {r.engine for r in rows.select(found, figure="speedup")} == {"onnxruntime"}
    assert {r.figure for r in rows.select(found, what="latency", engine="eager", tower="image")} == {
        "p50",
        "p90",
        "p99",
    }
    files = {r.figure: r for r in rows.select(found, what="end_to_end", engine="onnxruntime")}
    assert set(files) == {"per_second", "speedup", "decode_share"}
    assert 0 <= (files["decode_share"].value or 0) <= 1
    memory = {r.engine: r.value or 0 for r in rows.select(found, figure="peak_host_memory", tower="image")}
    assert memory["onnxruntime"] < memory["eager"]  # the engine's process has not loaded PyTorch
    assert not list((tmp_path / "rows").glob(".unfinished*"))


@pytest.mark.parametrize("first", [True, False])
def test_what_cannot_run_here_is_a_row(first: bool, subject: Subject, tmp_path: Path) -> None:
    """TensorRT of another machine's bundle, on a machine without a GPU: as the baseline, or beside it."""
    other, absent = dataclasses.replace(subject, kinds=("tensorrt",)), Contender("tensorrt", "fp16", True)
    plan = Plan(
        other,
        (absent, ENGINE) if first else (ENGINE, absent),
        lambda work: [image_case(work, subject, 1)],
        "cpu",
        2,
        0.001,
    )
    one_run(tmp_path).measure(plan, tmp_path)
    found = {row.engine: row for row in rows.read(tmp_path / "throughput.csv")}
    assert (found["onnxruntime"].status, found["tensorrt"].status) in {("ok", "missing"), ("noisy", "missing")}
    assert "no such engine" in found["tensorrt"].note


def one_run(folder: Path, name: str = "test", deadline: float | None = None) -> Run:
    return Run(folder, this_machine(), name, console=Console(out=io.StringIO()), deadline=deadline)


def kill_at_measure(monkeypatch: pytest.MonkeyPatch, contender: Contender, times: int) -> None:
    """The contender's process dies of a segmentation fault when it is to measure."""
    measure, left = ContenderProcess.measure, [times]

    def dying(self: ContenderProcess, calls: int, each: bool):  # type: ignore[no-untyped-def]
        if self.contender == contender and left[0]:
            left[0] -= 1
            self._process.send_signal(signal.SIGSEGV)
            self._process.wait()
        return measure(self, calls, each)

    monkeypatch.setattr(ContenderProcess, "measure", dying)


@pytest.mark.parametrize("dying", [ENGINE, SECOND])
def test_a_crash_is_a_row_and_the_others_go_on(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: Contender
) -> None:
    kill_at_measure(monkeypatch, dying, times=1)
    plan = Plan(subject, (ENGINE, SECOND), lambda work: [image_case(work, subject, b) for b in (1, 2)], "cpu", 1, 0.001)
    one_run(tmp_path).measure(plan, tmp_path)
    found = {
        (r.precision, r.batch): r for r in rows.select(rows.read(tmp_path / "throughput.csv"), figure="per_second")
    }
    died = found[dying.precision, 1]
    assert died.status == "failed"
    assert "SIGSEGV" in died.note
    assert all(
        r.value is not None for key, r in found.items() if key != (dying.precision, 1)
    )  # started again for batch 2


def test_it_is_not_started_a_third_time(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_at_measure(monkeypatch, SECOND, times=99)
    plan = Plan(
        subject, (ENGINE, SECOND), lambda work: [image_case(work, subject, b) for b in (1, 2, 3)], "cpu", 2, 0.001
    )
    one_run(tmp_path).measure(plan, tmp_path)
    notes = [r.note for r in rows.select(rows.read(tmp_path / "throughput.csv"), precision=SECOND.precision)]
    assert ["SIGSEGV" in note for note in notes] == [True, True, False]
    assert "not started again" in notes[2]


class Interrupting(Console):
    """Ctrl-C after the first case."""

    def passed(self, case: Case, number: int, passes: int) -> None:
        raise KeyboardInterrupt

    def case(self, case: Case, found: Sequence[Row]) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_run_goes_on(subject: Subject, tmp_path: Path) -> None:
    plan = Plan(subject, (ENGINE,), lambda work: [image_case(work, subject, b) for b in (1, 2)], "cpu", 2, 0.001)
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path, this_machine(), "x", console=Interrupting()).measure(plan, tmp_path)
    kept = rows.read(tmp_path / "throughput.csv")
    assert {(row.batch, len(row.by_pass), row.repeats) for row in kept} == {(1, 1, 1)}
    assert kept[0].by_pass == (kept[0].value,)
    with (tmp_path / ".unfinished-x.samples").open("a") as file:
        file.write('{"case": ["cut o')
    again = one_run(tmp_path, "x")
    first = again.samples.of(kept[0].case)[0]
    again.measure(plan, tmp_path)
    assert again.samples.of(kept[0].case)[0] is first  # not measured again
    again.finish()
    found = rows.read(tmp_path / "throughput.csv")
    assert {(row.batch, len(row.by_pass), row.repeats) for row in found} == {(1, 2, 2), (2, 2, 2)}
    assert not any(one_run(tmp_path, "x").is_done(row.case) for row in kept)
    assert not one_run(tmp_path, "x").samples.of(kept[0].case)


def test_a_turn_ends_when_the_threads_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's threads look for work for 50 ms after a call; whoever comes next had one core less."""
    used = iter([0.0, 0.008, 0.008, 0.012, 0.012, 0.0121])  # seconds of the processor, before and after each nap
    naps: list[float] = []
    monkeypatch.setattr(time, "process_time", lambda: next(used))
    monkeypatch.setattr(time, "sleep", naps.append)
    Worker().rest()
    assert len(naps) == 3


def test_rounds_are_divided_over_passes(subject: Subject) -> None:
    plan = Plan(subject, (ENGINE,), lambda work: [], "cpu", rounds=7)
    assert [plan.rounds_of(number, seconds=1.0) for number in range(plan.passes)] == [3, 2, 2]
    filled = dataclasses.replace(plan, case_seconds=3.0)
    assert [filled.rounds_of(0, seconds) for seconds in (2.0, 0.5, 1e-9)] == [3, 6, 20]
    assert dataclasses.replace(plan, rounds=2).passes == 2
    passes = estimate([1.0, 1.1, 2.0, 2.2, 4.0, 4.0], [0, 0, 1, 1, 2, 2])
    assert (passes.value, passes.low, passes.high) == pytest.approx((2.1, 1.05, 4.0))
    assert passes.by_pass == pytest.approx((1.05, 2.1, 4.0))
    for one in (rates([1.0, 2.0], 8, [0, 1]), estimate([1.0, 2.0], [0, 1]).map(3)):
        assert max(one.by_pass) == pytest.approx(2 * min(one.by_pass)) == pytest.approx(one.high)


def test_no_time_left(subject: Subject, tmp_path: Path) -> None:
    late = one_run(tmp_path, "x", deadline=0.0)
    plan = Plan(
        subject,
        (ENGINE,),
        lambda work: [image_case(work, subject, 1), text_case(work, subject, 2, False)],
        "cpu",
        2,
        0.001,
    )
    late.measure(plan, tmp_path)
    late.finish()
    assert not late.complete
    assert [row.note.split(":")[0] for row in rows.read(tmp_path)] == ["out of time"] * 2
    again = one_run(tmp_path, "x")
    assert not any(again.is_done(row.case) for row in rows.read(tmp_path))
    again.measure(plan, tmp_path)
    rated = rows.select(rows.read(tmp_path), what="throughput", figure="per_second")
    assert {(row.tower, row.batch, row.value is not None) for row in rated} == {("image", 1, True), ("text", 2, True)}


def test_one_that_cannot_run_is_not_out_of_time(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline is over after the first case, in which it was found out."""
    absent = Contender("tensorrt", "fp16", True)
    monkeypatch.setattr(Run, "late", property(lambda run: bool(run.rows)))
    plan = Plan(
        dataclasses.replace(subject, kinds=("onnxruntime", "tensorrt")),
        (ENGINE, absent),
        lambda work: [image_case(work, subject, batch) for batch in (1, 2)],
        "cpu",
        2,
        0.001,
    )
    one_run(tmp_path).measure(plan, tmp_path)
    notes = {row.note.split(":")[0] for row in rows.read(tmp_path) if row.engine == "tensorrt"}
    assert notes == {"the bundle has no such engine for its image tower"}


def test_one_that_cannot_run_is_no_reason_to_measure_the_baseline_again(subject: Subject, tmp_path: Path) -> None:
    absent = Contender("tensorrt", "fp16", True)
    plan = Plan(
        dataclasses.replace(subject, kinds=("onnxruntime", "tensorrt")),
        (ENGINE, absent),
        lambda work: [image_case(work, subject, 1)],
        "cpu",
        2,
        0.001,
    )
    one_run(tmp_path, "x").measure(plan, tmp_path)  # no `finish`: the next run goes on from there
    before = {row.key: row.value for row in rows.read(tmp_path) if row.engine == "onnxruntime"}
    one_run(tmp_path, "x").measure(plan, tmp_path)
    after = rows.read(tmp_path)
    assert {row.key: row.value for row in after if row.engine == "onnxruntime"} == before
    assert {row.note for row in after if row.engine == "tensorrt"} == {
        "the bundle has no such engine for its image tower"
    }


def test_two_passes_are_enough_where_there_is_no_time_for_a_third(subject: Subject, tmp_path: Path) -> None:
    out = io.StringIO()
    run = Run(tmp_path, this_machine(), "x", console=Console(out=out))
    plan = Plan(subject, (ENGINE,), lambda work: [image_case(work, subject, 1)], "cpu", 3, 0.001, passes=3)
    passes = run.prepare(plan, tmp_path)
    passes.measure(0)
    passes.measure(1)
    run.deadline = 0.0
    passes.measure(2)
    run.finish()
    assert run.complete
    assert {len(row.by_pass) for row in rows.read(tmp_path / "throughput.csv")} == {2}
    table = out.getvalue().split("\nimage, batch 1, 64x64\n")[1]
    assert " images/s" in table
    assert " ms" in table


def test_weights_that_are_not_at_hand(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.contenders import eager

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _, weights, note = eager.load_clip(dataclasses.replace(subject, source="ViT-B-32", pretrained="laion2b_s34b_b79k"))
    assert weights == "random"
    assert note.startswith("random weights, for ")


def test_a_dead_process_is_an_error(subject: Subject) -> None:
    with started(NULL) as process:
        process._process.send_signal(signal.SIGKILL)
        with pytest.raises(ContenderError, match="SIGKILL"):
            process.why_not(subject, "cpu")


def test_what_is_compiled_is_kept_with_the_run(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch sets the variable in a process that has only loaded its compiler."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "elsewhere"))
    process = ContenderProcess(NULL, compiled=tmp_path)
    try:
        process.why_not(subject, "cpu")  # before it answers, the process may still be on its way to its program
        environment = Path(f"/proc/{process._process.pid}/environ").read_bytes().split(b"\0")
    finally:
        process.close()
    assert f"TORCHINDUCTOR_CACHE_DIR={tmp_path}".encode() in environment


def test_an_answer_that_never_comes(subject: Subject) -> None:
    process = ContenderProcess(NULL, patience=0.01)
    process._process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(ContenderError, match="no answer"):
            process.why_not(subject, "cpu")
    finally:
        process.close()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["no-such-bundle"], "neither a bundle's folder nor an architecture"),
        (["."], "it has no manifest.json"),
        (["ViT-B-32", "--batches", "0"], "no list of numbers"),
        (["ViT-B-32", "--towers", "audio"], "is none of image, text"),
        (["ViT-B-32", "--contenders", "jax"], "is none of eager"),
    ],
)
def test_wrong_input(argv: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*argv, "--results", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert sentence in message
    assert message.count("\n") == 1


def test_commands_are_listed_without_heavy_libraries() -> None:
    code = (
        "import sys; from benchmarks.__main__ import main; assert main(['--help']) == 0; assert main(['dance']) == 1\n"
        "assert not {'torch', 'open_clip', 'msgspec', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
