"""python -m exporter doctor: the facts of this machine, engines and libraries that cannot be used, exit codes, the text."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from broken_libraries import BREAKAGES, break_library, run_python

from engines.engine_kinds import KINDS
from exporter.__main__ import main
from exporter.doctor.checks import Failed, run_checks
from exporter.doctor.hub import hub_facts
from exporter.doctor.libraries import LIBRARIES
from exporter.doctor.machine import GpuFacts, disk, driver_version, machine_facts, processor
from exporter.doctor.report import Report, format_report, make_report
from exporter.memory import memory_limit
from exporter.requirements import REQUIRED

DOCTOR = ("-m", "exporter", "doctor", "--json")


@pytest.fixture(scope="module")
def report() -> Report:
    return make_report()


def doctor(first: Path | None = None, **environment: str) -> tuple[int, dict[str, Any]]:
    ran = run_python(*DOCTOR, first=first, **environment)
    assert "Traceback" not in ran.stderr
    return ran.returncode, json.loads(ran.stdout)


def by_name(rows: list[dict[str, Any]], key: str, name: str) -> dict[str, Any]:
    return next(row for row in rows if row[key] == name)


def test_this_environment_is_ready_and_every_library_and_engine_has_a_row(report: Report) -> None:
    assert (report.ready, report.missing) == (True, ())
    assert [item.name for item in report.libraries] == list(LIBRARIES)
    assert [item.kind for item in report.engines] == list(KINDS)
    onnxruntime = next(item for item in report.engines if item.kind == "onnxruntime")
    assert onnxruntime.why_not_built is None
    assert "cpu" in onnxruntime.runs
    assert {library.module for library in LIBRARIES.values() if library.required} == set(REQUIRED)
    assert all(item.version for item in report.libraries if item.required)


def test_the_text_names_what_the_report_has(report: Report) -> None:
    text = format_report(report)
    for item in (*report.libraries, *report.engines):
        assert getattr(item, "name", None) or item.kind in text
    assert f"ready: the default export ({report.default_engine})" in text
    assert max(map(len, text.splitlines())) <= 120
    for item in report.libraries:
        assert f"{item.version or 'not installed'}" in next(
            line for line in text.splitlines() if line.startswith(f"  {item.name} ")
        )


def test_a_gpu_and_what_is_missing_are_in_the_text(report: Report) -> None:
    gpu = GpuFacts(name="NVIDIA H100", target="sm90", driver="580.65.06", driver_cuda="13.0")
    machine = msgspec.structs.replace(report.machine, gpu=gpu, no_gpu=None)
    text = format_report(msgspec.structs.replace(report, machine=machine, ready=False, missing=("torch is missing",)))
    assert "NVIDIA H100, sm90, driver 580.65.06 for CUDA 13.0" in text
    assert text.endswith("the default export cannot run here\n  missing          torch is missing")


@pytest.mark.long
@pytest.mark.parametrize("code", ["raise SystemExit('this processor is not supported')", "import os; os.abort()"])
def test_a_broken_engine_library_is_a_reason_and_the_default_export_is_ready(tmp_path: Path, code: str) -> None:
    exit_code, answer = doctor(break_library(tmp_path, "openvino", code))
    assert exit_code == 0
    library = by_name(answer["libraries"], "name", "openvino")
    assert "SIGABRT" in library["problem"] or BREAKAGES[code] in library["problem"]
    engine = by_name(answer["engines"], "kind", "openvino")
    assert KINDS["openvino"].install_command in engine["why_not_built"]
    assert engine["runs"] == []
    assert by_name(answer["engines"], "kind", "onnxruntime")["runs"]


@pytest.mark.parametrize("library", [pytest.param("onnxruntime", marks=pytest.mark.long), "onnx"])
def test_what_the_default_export_needs_gives_exit_code_1(tmp_path: Path, library: str) -> None:
    exit_code, answer = doctor(break_library(tmp_path, library))
    assert exit_code == 1
    assert not answer["ready"]
    assert any(f"{LIBRARIES[library].install}" in sentence for sentence in answer["missing"])


@pytest.mark.long
def test_without_export_libraries_every_build_has_the_same_remedy(tmp_path: Path) -> None:
    exit_code, answer = doctor(break_library(tmp_path, "torch", "raise ModuleNotFoundError('no torch', name='torch')"))
    assert exit_code == 1
    for engine in answer["engines"]:
        assert "openclip-engines[export]" in engine["why_not_built"]
    assert by_name(answer["engines"], "kind", "onnxruntime")["runs"] == ["cpu"]
    aotinductor = by_name(answer["engines"], "kind", "aotinductor")
    assert aotinductor["runs"] == []
    assert "pip install 'torch==" in aotinductor["why_not_run"]  # the version that is installed, and hidden here


def test_a_check_that_hangs_ends_and_the_next_one_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_library(tmp_path, "timm", "import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    answers = run_checks([["library:timm", "library:safetensors"]], {"library:timm": 2.0})
    assert isinstance(answers["library:timm"], Failed)
    assert answers["library:timm"] == "does not answer within 2 seconds"
    assert answers["library:safetensors"]["version"]


@pytest.mark.parametrize(
    "words", [["doctor", "--fp16"], ["doctor", "--dry-run"], ["--list", "ViT*", "--fp16"], ["ViT-B-32", "--list"]]
)
def test_options_that_would_have_no_effect_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert capsys.readouterr().err.splitlines()[-1].startswith("python -m exporter: error: ")


def test_an_address_of_the_hub_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "hub.example")
    facts = hub_facts()
    assert not facts.reachable
    assert (
        facts.problem
        == "HF_ENDPOINT is 'hub.example', which is no address: write one that begins with https://, or unset it"
    )


@pytest.mark.long
def test_an_address_that_cannot_be_read_is_no_broken_open_clip() -> None:
    ran = run_python(*DOCTOR, HF_ENDPOINT="http://host:99999")
    report = json.loads(ran.stdout)
    problems = {library["name"]: library["problem"] for library in report["libraries"]}
    said = "HF_ENDPOINT is 'http://host:99999', which is no address"
    assert report["hub"]["problem"].startswith(said)
    assert problems["open_clip"].startswith(said)
    assert problems["safetensors"] is None


@pytest.mark.long
def test_offline_the_hub_is_not_asked_and_a_token_is_never_printed(tmp_path: Path) -> None:
    ran = run_python(*DOCTOR, HF_HUB_OFFLINE="1", HF_TOKEN="hf_abcdefgh")
    hub = json.loads(ran.stdout)["hub"]
    assert (hub["reachable"], hub["token"]) == (False, True)
    assert "HF_HUB_OFFLINE" in hub["problem"]
    assert "hf_abcdefgh" not in ran.stdout + ran.stderr


def test_a_folder_that_cannot_be_written_is_missing(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        assert disk(Path("/proc")).folder == "/proc"  # root may write everywhere by mode; the file system decides
    tmp_path.chmod(0o500)
    facts = disk(tmp_path / "not" / "there")
    tmp_path.chmod(0o700)
    assert facts.folder == str(tmp_path)
    assert facts.writable == (os.geteuid() == 0)


def test_the_processor_of_other_machines(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Xeon\nflags\t\t: avx2 amx_int8\n\nmodel name\t: another\n")
    assert processor(cpuinfo) == ("Xeon", frozenset({"avx2", "amx_int8"}))
    cpuinfo.write_text("processor\t: 0\nFeatures\t: asimddp bf16\n")
    assert processor(cpuinfo)[1] == {"asimddp", "bf16"}
    assert processor(tmp_path / "none")[1] == frozenset()


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023", "535.104.05"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder)",
            "570.86.15",
        ),
        ("GCC version:  gcc version 12.3.0 (Ubuntu)", None),
    ],
)
def test_the_version_of_the_driver(tmp_path: Path, line: str, version: str | None) -> None:
    (tmp_path / "version").write_text(f"{line}\nGCC version:  gcc version 11.4.0 (Ubuntu)\n")
    assert driver_version(tmp_path / "version") == version
    assert driver_version(tmp_path / "none") is None


def test_memory_and_cores_are_those_of_this_process(tmp_path: Path) -> None:
    facts = machine_facts(tmp_path)
    assert 0 < facts.available_bytes <= facts.memory_bytes
    assert 1 <= facts.cores <= facts.all_cores
    assert facts.output.folder == str(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("4294967296\n")
    assert memory_limit(tmp_path) == 4 << 30
