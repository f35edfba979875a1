"""Work per tower against open_clip's published profile (docs/model_profile.csv of its repository), and the prediction from it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks.records.csv_file import read_rows
from benchmarks.records.results import COMMITTED
from benchmarks.records.table_files import ROOFLINE
from benchmarks.roofline import predicted_rate
from benchmarks.workloads.architectures import CLASSIC
from benchmarks.workloads.flops import count_work
from benchmarks.workloads.gpus import GPUS, GpuCeiling

# GFLOP for one image, for one text; RoBERTa's texts are left out, for the profile counts them at 512 tokens and they have 77.
with (Path(__file__).parent / "published_profile.csv").open(newline="") as file:
    PUBLISHED = {row["model"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    "model",
    [
        *("ViT-B-32", "RN50", "EVA02-B-16", "convnext_base_w", "coca_ViT-B-32"),
        pytest.param("ViT-bigG-14", marks=pytest.mark.slow),  # as ViT-B-32, and more of it
    ],
)
def test_counted_work_is_the_published(model: str) -> None:
    work = count_work(model)
    for tower in ("image", "text"):
        assert work[tower].flops / 1e9 == pytest.approx(float(PUBLISHED[model][f"{tower}_gflops"]), abs=0.006, rel=1e-3)
        assert 0 < work[tower].activation_bytes < work[tower].flops
        assert work[tower].looked_up < work[tower].parameters
    assert work["image"].tokens is None


def test_every_row_is_the_published() -> None:
    rows = read_rows(COMMITTED / ROOFLINE.name)
    assert list(dict.fromkeys(row["model"] for row in rows)) == list(CLASSIC)
    for row in rows:
        published = PUBLISHED[row["model"]][f"{row['tower']}_gflops"]
        if published:
            assert float(row["gflops"]) == pytest.approx(float(published), abs=0.006, rel=1e-3), row


def test_what_bounds_a_batch() -> None:
    gpu = GpuCeiling("x", half=100, int8=200, fp8=None, bandwidth=1, source="")
    assert predicted_rate(1e12, 0, 0, 8, gpu) == pytest.approx(100)  # arithmetic
    assert predicted_rate(0, 1e12, 0, 8, gpu) == pytest.approx(8)  # weights: once for a batch
    assert predicted_rate(0, 0, 1e12, 8, gpu) == pytest.approx(1)  # activations: for each


def test_ceilings_are_plausible() -> None:
    for gpu in GPUS.values():
        assert gpu.half < gpu.int8
        assert gpu.source.startswith("NVIDIA")
        assert gpu.fp8 is None or gpu.half < gpu.fp8 <= gpu.int8
