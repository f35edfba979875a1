"""--dry-run: the plan against a real export, what is not known offline, refusals, and that nothing is written or fetched."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from engines.manifest import read_manifest
from exporter.__main__ import main
from exporter.errors import ExportError
from exporter.options.engine_options import EngineOptions
from exporter.options.export_options import Options
from exporter.planning import plan as planning
from exporter.planning.command import format_plan
from exporter.planning.plan import Plan, make_plan

ROOT = Path(__file__).resolve().parents[2]
_Usage = namedtuple("_Usage", "total used free")


@pytest.fixture(autouse=True)
def _no_network_and_an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    def refuse(*_: Any) -> None:
        raise AssertionError("a dry run opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def plan(name: str, **options: Any) -> Plan:
    return make_plan(Options(name, **options))


def test_the_plan_of_the_demo_is_what_its_export_wrote(demo_bundle: Path, tmp_path: Path) -> None:
    made = plan("demo", out=tmp_path / "out")
    manifest = read_manifest(demo_bundle)
    report = json.loads((demo_bundle / "report.json").read_text())
    for tower in made.towers:
        graph = sum(manifest.files[f"{tower.name}.onnx{end}"].bytes for end in ("", ".data"))
        assert tower.file_bytes == pytest.approx(graph, rel=0.05)
    assert sum(tower.parameters or 0 for tower in made.towers) == pytest.approx(
        next(stage["parameters"] for stage in report["stages"] if stage["step"] == "load"), rel=1e-4
    )
    size = sum(file.stat().st_size for file in demo_bundle.rglob("*") if file.is_file())
    assert size <= (made.bundle_bytes or 0) <= 1.5 * size
    assert made.kinds == tuple({engine.kind for engine in manifest.engines})
    assert set(made.steps) - {"checksums"} == {
        stage["step"] for stage in report["stages"]
    }  # the report comes before those
    assert (made.problems, made.download_bytes, made.license) == ((), 0.0, "MIT")


def test_nothing_is_written_and_the_answer_is_one_json_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ViT-B-32", "--fp16", "--dry-run", "--json", "--cache-dir", str(tmp_path / "downloads")]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["tag"] == "datacomp_xl_s13b_b90k"
    assert answer["license"] == "MIT"
    assert answer["download_bytes"] == 4 * 151277313
    assert answer["steps"][0] == "download"
    assert [tower["parameters"] for tower in answer["towers"]] == [87849216, 63428096]
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_its_own_writes_nothing_to_its_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    ran = subprocess.run(
        [sys.executable, "-m", "exporter", "demo", "--dry-run"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.endswith("nothing was downloaded or written; the export can run\n")
    assert max(map(len, ran.stdout.splitlines())) <= 120
    others = home / ".cache" / "Microsoft"  # ONNX Runtime 1.32 writes its own identifier there when it is imported
    left = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(others)]
    assert left == []


def test_measured_figures_are_marked_and_engines_have_theirs() -> None:
    made = plan(
        "ViT-L-14",
        precision="fp16",
        pretrained="none",
        engines=("tensorrt-rtx", "onnxruntime"),
        engine_options=EngineOptions(targets=("sm80", "sm89")),
    )
    assert {tower.basis for tower in made.towers} == {"measured"}
    if "tensorrt-rtx" in made.left_out:
        pytest.skip(made.left_out["tensorrt-rtx"])
    assert [(engine.target, engine.tower, engine.basis) for engine in made.engines] == [
        (target, tower, "measured") for target in ("sm80", "sm89") for tower in ("image", "text")
    ]
    assert (made.peak_basis, made.seconds_basis) == ("measured", "measured")
    assert "build tensorrt-rtx sm89" in made.steps


def test_an_unmeasured_precision_is_an_estimate_from_parameters() -> None:
    made = plan("ViT-B-32", precision="bf16", pretrained="none")
    assert [tower.file_bytes for tower in made.towers] == [2.0 * 87849216, 2.0 * 63428096]
    assert {tower.basis for tower in made.towers} == {"estimate"}
    assert "(estimate)" in format_plan(made)


def test_a_text_tower_that_only_the_hub_describes_is_not_known() -> None:
    made = plan("nllb-clip-base", pretrained="none", precision="bf16")
    image, text = made.towers
    assert image.parameters == 87849216
    if text.basis == "estimate" and text.parameters is None:
        assert made.bundle_bytes is None
        assert "whether memory and disk suffice is not known" in format_plan(made)
    assert any("facebook/nllb-200-distilled-600M" in note for note in made.notes)


def test_a_repository_of_the_hub_is_known_by_its_tag_or_refused() -> None:
    made = plan("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    assert (made.architecture, made.tag) == ("ViT-B-32", "laion2b_s34b_b79k")
    assert any("is not in the cache" in note for note in made.notes)
    with pytest.raises(ExportError, match="--dry-run downloads nothing"):
        plan("hf-hub:nobody/nothing")


def test_too_little_memory_and_disk_are_problems(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(planning, "available_memory", lambda: 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: _Usage(10**12, 10**12, 10**6))
    assert main(["ViT-B-32", "--fp16", "--dry-run"]) == 1
    text = capsys.readouterr().out
    assert "memory: 1.7 GB are needed, and 1.0 GB are available" in text
    assert "--out, --cache-dir and TMPDIR" in text
    assert text.endswith("see the problems above\n")


def test_a_named_engine_that_cannot_be_built_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["demo", "--engine", "onnxruntime", "--engine", "tensorrt-rtx", "--target", "sm1"]
    assert main([*words, "--dry-run"]) == 1
    text = capsys.readouterr().out
    assert "left out   tensorrt-rtx: " in text
    assert "the bundle would lack tensorrt-rtx" in text


def test_what_the_export_refuses_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    for words in (["demo", "--out", "out"], ["ViT-B-3"], ["demo", "--towers", "audio"], ["ViT-B-32", "--fp8"]):
        assert main([*words, "--dry-run"]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("coca_ViT-B-32", "a token of its own behind the text"),
        ("MobileCLIP2-S0", "no causal mask"),
        ("ViT-B-16-SigLIP2", "a logit bias"),
        ("roberta-ViT-B-32", "'whitespace'"),
        ("ViT-L-14-CLIPA", "changes ids after the padding"),
    ],
)
def test_a_layout_that_transformers_cannot_describe_is_refused_by_the_configuration(
    model: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [model, "--pretrained", "none", "--engine", "onnxruntime", "--dry-run", "--layout", "transformers"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {model} has no layout for transformers: ")
    assert why in error


def test_a_repository_that_cannot_be_pushed_to_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--dry-run", "--push", "no-organisation"]) == 1
    assert "write ORG/NAME" in capsys.readouterr().err


def test_a_tokenizer_that_is_not_in_the_cache_is_a_note() -> None:
    made = plan("ViT-B-16-SigLIP2", pretrained="none", engines=("onnxruntime",))
    assert any("the tokenizer timm/ViT-B-16-SigLIP2 is on the Hugging Face hub" in note for note in made.notes)
    image = plan("ViT-B-16-SigLIP2", pretrained="none", engines=("onnxruntime",), towers=("image",))
    for other in (image, plan("ViT-B-32", pretrained="none")):
        assert not any("tokenizer" in note for note in other.notes)


def test_quantized_graphs_and_their_engine_have_their_own_sizes() -> None:
    made = plan("demo", precision="int8")
    image, text = made.towers
    both = "tensorrt-rtx" in made.kinds
    assert image.file_bytes == 583776 * (2 if both else 1) + 6720 * (6 if both else 4)
    assert text.basis == "estimate"
    for engine in made.engines:
        assert (engine.file_bytes or 0) < (image.file_bytes if engine.tower == "image" else text.file_bytes or 0)
    assert {"calibration", "quantize"} <= set(made.steps)


def test_a_layout_is_a_step_and_needs_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A layout has every tower's weights twice, and its folder is checked as the export checks it."""
    words = ["demo", "--engine", "onnxruntime", "--dry-run", "--json", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    alone = json.loads(capsys.readouterr().out)
    assert main([*words, "--layout", "transformers"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert (alone["steps"][-1], both["steps"][-1]) == ("checksums", "layout")
    assert both["disks"][0]["need_bytes"] > 2 * alone["disks"][0]["need_bytes"]
    (tmp_path / "out--transformers").mkdir()
    (tmp_path / "out--transformers" / "mine.txt").write_text("mine")
    assert main([*words, "--layout", "transformers"]) == 1
    assert "out--transformers" in capsys.readouterr().err
