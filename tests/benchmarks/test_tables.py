"""tables: the tables of machines, from made-up rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from made_up_rows import CPU, GPU, others, speeds

from benchmarks import tables
from benchmarks.records import rows
from benchmarks.reporting import readme_tables


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    rows.merge(folder / "cpu", [*speeds(CPU), *others(CPU)])
    rows.merge(folder / "gpu", [*speeds(GPU), *others(GPU)])
    (folder / "figures.csv").write_text("model,figure\n")  # files of another kind lie beside the folders
    return folder


def cells(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[c.strip() for c in line.strip("|").replace(r"\|", "¦").split("|")] for line in lines]


def test_bench(results: Path) -> None:
    table = readme_tables.bench_table(results)
    header, _, *lines = cells(table)
    assert header[4:] == ["eager", "torch.compile", "onnxruntime plain", "onnxruntime (bundle)", "a later kernel"]
    assert [line[:4] for line in lines] == [
        [model, tower, shape, batch]
        for model in ("demo", "ViT-B-32")
        for tower, shape in (("images", "224x224"), ("texts", "77 tokens"), ("texts", "real captions"))
        for batch in ("1", "16")
    ]
    assert all(line[7].startswith("**") and "×" in line[7] for line in lines)
    assert lines[1][8] == "100 †"
    assert "† noisy" in table
    assert "openvino plain fp32 (missing: not installed: openvino)" in table
    assert "aotinductor fp32 (failed: RuntimeError: out of | memory <at> 16)" in table
    last = table.splitlines()[-1]
    assert last.startswith(f"Measured on {CPU}; torch 2.15.0; ")
    assert GPU not in table


def test_a_suite_with_a_folder_of_its_own(results: Path) -> None:
    """Its rows stand in its table only: both suites measure eager on the same cases."""
    assert "make bench-int8" in readme_tables.int8_table(results)
    own = [row for row in rows.read(results / "cpu") if row.what == "throughput" and row.model == "ViT-B-32"]
    int8 = [dataclasses.replace(r, precision="int8") if r.engine == "onnxruntime" else r for r in own]
    before = readme_tables.bench_table(results)
    rows.merge(results / "cpu" / "int8", int8)
    assert readme_tables.bench_table(results) == before
    header, _, *_ = cells(readme_tables.int8_table(results))
    assert "onnxruntime int8 (bundle)" in header


def test_gpu(results: Path) -> None:
    table = readme_tables.gpu_table(results)
    header, _, *lines = cells(table)
    assert header[4:7] == ["eager fp32", "eager fp16", "torch.compile fp16"]
    assert "tensorrt fp16 (bundle)" in header
    assert {line[3] for line in lines} == {"1", "16", "32", "256"}
    assert {line[0] for line in lines} == {"ViT-B-32", "ViT-L-14"}
    assert f"Measured on {GPU};" in table


def test_parity(results: Path) -> None:
    table = readme_tables.parity_table(results)
    assert (
        "| demo | renders | onnxruntime | fp32 | 0.999999 / 1.000000 | 0.999999 / 1.000000 | 3.0e-06 / 3.0e-06 |"
        in table
    )
    assert "| demo | renders | eager | fp32 | 97.8 % [96.8, 98.6] | – | 97.8 % [96.8, 98.6] |" in table
    assert table.count("Measured on") == 2


def test_nothing_measured_yet(tmp_path: Path) -> None:
    assert readme_tables.gpu_table(tmp_path) == readme_tables.NO_GPU
    assert readme_tables.bench_table(tmp_path) == readme_tables.NO_CPU
    assert readme_tables.parity_table(tmp_path) == readme_tables.NO_PARITY
    rows.merge(tmp_path / "cpu", [row for row in speeds(CPU) if row.model == "demo"])
    assert readme_tables.gpu_table(tmp_path) == readme_tables.NO_GPU
    assert "demo" in readme_tables.bench_table(tmp_path)


def test_every_table_can_be_made() -> None:
    """From the rows that are in this repository, whatever they are."""
    for name in tables.TABLES:
        text = tables.fill(f"<!-- table: {name} -->\n<!-- end -->")
        assert tables.fill(text) == text
        assert len(text.splitlines()) > 2


def test_write_and_check(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "RESULTS", results)
    readme = tmp_path / "README.md"
    readme.write_text("# x\n\n<!-- table: bench -->\n<!-- end -->\n\n<!-- table: gpu -->\nold\n<!-- end -->\n")
    assert tables.main(["--check"]) == 1
    assert tables.main([]) == 0
    assert tables.main(["--check"]) == 0
    (tmp_path / tables.PLACE).unlink()  # the exporter's costs are written anew where they are missing
    assert tables.main(["--check"]) == 1
    assert tables.main([]) == 0
    assert (tmp_path / tables.PLACE).is_file()
    assert CPU in readme.read_text()
    assert GPU in readme.read_text()
    assert "old" not in readme.read_text()
