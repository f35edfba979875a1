"""The measured costs of --dry-run: the file is that of the zoo's rows, and estimates are not below what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import open_clip
import pytest
import timm
from made_sources import TIMM
from open_clip import factory

from benchmarks.records.results import COMMITTED
from benchmarks.reporting.measured_costs import PLACE, measured_costs
from benchmarks.zoo import main as zoo_main
from engines.precisions import PRECISIONS
from exporter.options.export_options import Options
from exporter.planning import measured
from exporter.planning.command import format_plan
from exporter.planning.model import plan_model
from exporter.planning.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]


def test_the_file_is_made_from_the_rows() -> None:
    assert (ROOT / PLACE).read_text(encoding="utf-8") == measured_costs(COMMITTED), "run python -m benchmarks tables"


def test_the_file_has_the_largest_figure_of_all_targets_and_no_failure(tmp_path: Path) -> None:
    (tmp_path / "zoo.csv").write_text(
        "model,tower,precision,status,seconds,peak_memory_mb,weights_fp32_mb,file_mb\n"
        "a,image,fp16,ok,1.5,900,600,300\nb,image,fp16,out of memory,,,,\n"
    )
    (tmp_path / "zoo_engines.csv").write_text(
        "model,tower,precision,engine,target,status,seconds,peak_memory_mb,weights_mb,file_mb\n"
        "a,image,fp16,tensorrt-rtx,sm80,ok,9.0,800,300,310\na,image,fp16,tensorrt-rtx,sm89,ok,10.0,700,300,305\n"
        "a,image,fp16,tensorrt-rtx,sm90,left out: why,,,,\n"
    )
    assert measured_costs(tmp_path).splitlines() == [
        ",".join(measured.COLUMNS),
        "a,image,fp16,,1.5,900,300,600",
        "a,image,fp16,tensorrt-rtx,10.0,800,310,300",
    ]


def test_no_measured_export_took_more_memory_than_its_estimate() -> None:
    assert len(measured.rows()) > 100
    # Small models, of which the libraries are the larger part, do not make the line steep for large ones.
    largest = max(row.weights_bytes for key, row in measured.rows().items() if not key[3])
    assert 1.0 < measured.estimated_peak(largest) / largest < 2.5
    for key, row in measured.rows().items():
        assert row.peak_bytes <= measured.estimated_peak(row.weights_bytes, built=bool(key[3])) * (1 + 1e-9), key
        assert row.seconds > 0


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "convnext_base", "coca_ViT-B-32", "EVA02-B-16"])
def test_files_have_the_bytes_of_the_parameters_that_are_counted(name: str) -> None:
    model = plan_model(name, "none", False, None)
    for tower, size in model.towers.items():
        row = measured.graph(name, tower, "fp16")
        assert row is not None
        assert size.parameters * PRECISIONS["fp16"].operand_bytes == pytest.approx(row.file_bytes, rel=0.02)
    assert model.parameters is not None
    assert 4 * model.parameters == pytest.approx(measured.graph(name, "text", "fp16").weights_bytes, rel=0.01)  # type: ignore[union-attr]


def test_a_quantized_export_has_no_measured_cost(tmp_path: Path) -> None:
    """Its time depends on the calibration data, which differ between the zoo and a user."""
    head = "model,tower,precision,status,seconds,peak_memory_mb,weights_fp32_mb,file_mb\n"
    (tmp_path / "zoo.csv").write_text(f"{head}a,image,int8,ok,1.5,900,600,150\na,image,fp32,ok,1.2,900,600,600\n")
    (tmp_path / "zoo_engines.csv").write_text("model,tower,precision,engine,target,status\n")
    assert measured_costs(tmp_path).splitlines()[1:] == ["a,image,fp32,,1.2,900,600,600"]


def test_the_time_of_an_export_that_was_not_measured_is_that_of_its_width() -> None:
    per_parameter = {
        name: [
            row.seconds * PRECISIONS[name].operand_bytes / row.file_bytes
            for key, row in measured.rows().items()
            if key[2:] == (name, "")
        ]
        for name in ("fp32", "fp16")
    }
    for name, like in (("fp32", "fp32"), ("fp16", "fp16"), ("bf16", "fp16")):
        found = measured.estimated_export_seconds(10**8, name)
        assert found == pytest.approx(10**8 * median(per_parameter[like]))
    both = [item for values in per_parameter.values() for item in values]
    assert measured.estimated_export_seconds(10**8, "int8") == pytest.approx(10**8 * median(both))


@pytest.fixture
def value_dependent(tmp_path: Path) -> Iterator[str]:
    """An architecture whose image tower reads a value of its input, which tensors without values refuse."""
    from timm.models import _registry as registry

    @timm.models.register_model  # type: ignore[untyped-decorator]
    def value_dependent_convnext(**options: Any) -> Any:
        model = timm.create_model("test_convnext", **options)
        model.register_forward_pre_hook(lambda _, inputs: None if inputs[0].abs().amax().item() > 0 else inputs)
        return model

    name = "value-dependent"
    vision = {**TIMM["vision_cfg"], "timm_model_name": "value_dependent_convnext"}  # type: ignore[dict-item]
    (tmp_path / f"{name}.json").write_text(json.dumps({**TIMM, "vision_cfg": vision}))
    open_clip.add_model_config(tmp_path)
    yield name
    del factory._MODEL_CONFIGS[name]
    factory._MODEL_CONFIG_PATHS.remove(tmp_path)
    del registry._model_entrypoints["value_dependent_convnext"]


def test_operations_that_cannot_be_counted_are_not_zero(value_dependent: str, tmp_path: Path) -> None:
    options = Options(value_dependent, pretrained="none", engines=("onnxruntime",), out=tmp_path / "out")
    size = plan_model(value_dependent, "none", False, None).towers["image"]
    assert size.flops is None
    assert size.parameters > 0
    made = make_plan(options)
    assert made.seconds is None
    assert any("operations of the image tower are not known" in note for note in made.notes)
    shown = format_plan(made)
    assert "time       not known (see the notes)\n" in shown
    assert shown.endswith("the export can run")
    # The gate takes no more pictures than the measured exports, so their operations do not matter.
    few = make_plan(replace(options, parity_samples=measured.PICTURES))
    assert few.seconds is not None
    assert few.seconds > 0


def test_the_pictures_are_those_of_the_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        zoo_main(["--help"])
    assert f"images for the parity gate (default {measured.PICTURES})" in " ".join(capsys.readouterr().out.split())
