"""Figures of exports come from the report's fields, and rows go to the working directory."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from benchmarks import cold_start, zoo
from benchmarks.records import table_files
from benchmarks.records.results import COMMITTED, RESULTS


def test_a_report_becomes_rows(demo_bundle: Path) -> None:
    report = json.loads((demo_bundle / "report.json").read_text())
    engines = cold_start.engines_of(json.loads((demo_bundle / "manifest.json").read_text()))
    assert engines.label == "onnxruntime"
    rows = cold_start.export_rows(cold_start.ExportOrder("demo"), engines, report)
    assert [row.figure for row in rows] == ["export_seconds", "export_memory"]
    assert rows[0].value == pytest.approx(sum(stage["seconds"] for stage in report["stages"]))
    # Names of stages are for people: the figures do not depend on them.
    stages = [stage | {"stage": "renamed"} for stage in report["stages"]]
    stages += [{"stage": "x", "step": "calibration", "seconds": 1.0, "peak_memory_bytes": 1, "images": 256}]
    for tower, share in (("image", 0.9), ("text", 0.8)):
        more = {"tower": tower, "seconds": 2.0, "peak_memory_bytes": 1, "share_of_flops": share}
        stages.append({"stage": "x", "step": "quantize"} | more)
    rows = cold_start.export_rows(cold_start.ExportOrder("demo", "int8"), engines, {"stages": stages})
    quantized = {row.figure: row for row in rows[2:]}
    assert quantized["quantize_seconds"].value == 4.0
    assert quantized["quantize_seconds"].note == "both towers, search included; 256 images"
    assert quantized["quantized_share"].value == 0.8


def test_why_an_engine_of_the_zoo_is_not_there() -> None:
    left_out = [
        {"kind": "tensorrt-rtx", "tower": "image", "device": "sm80", "why": "too large"},
        {"kind": "tensorrt-rtx", "tower": None, "device": None, "why": "no memory"},
        {"kind": "aotinductor", "tower": None, "device": None, "why": "no compiler"},
    ]
    why = zoo.why_left_out(left_out, "tensorrt-rtx", "image", "sm80")
    assert why == "left out: too large left out: no memory"
    assert zoo.why_left_out(left_out, "tensorrt-rtx", "text", "sm80") == "left out: no memory"
    assert zoo.why_left_out([], "tensorrt-rtx", "text", "sm80") == "not built"


def test_rows_go_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = RESULTS / table_files.ZOO.name
    row = {"model": "RN50", "tower": "image", "precision": "fp16", "status": "ok"}
    table_files.ZOO.upsert(file, [row])
    assert (tmp_path / "benchmarks" / "results" / "zoo.csv").is_file()
    assert table_files.ZOO.done(file) == {("RN50", "image", "fp16")}


@pytest.mark.parametrize(
    "table", [table_files.ZOO, table_files.ZOO_ENGINES, table_files.ROOFLINE, table_files.KERNELS_STATIC]
)
def test_the_committed_tables_have_these_columns(table: table_files.TableFile) -> None:
    with (COMMITTED / table.name).open(newline="", encoding="utf-8") as file:
        assert next(csv.reader(file)) == list(table.columns)
    assert set(table.key) <= set(table.columns)
