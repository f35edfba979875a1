"""exporter.options.export_options: one description of each option, for `exporter.export` and for the command line."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from engines.manifest import Range
from exporter import EngineOptions, ExportError, export
from exporter.__main__ import build_parser
from exporter.options.export_options import Options
from exporter.options.flags import from_arguments


def test_export_takes_every_option_with_its_default() -> None:
    parameters = inspect.signature(export).parameters
    fields = {field.name: field for field in dataclasses.fields(Options)}
    assert set(parameters) == set(fields)
    for name, parameter in parameters.items():
        if name == "engine_options":
            assert parameter.default is None  # stands for EngineOptions()
        elif name != "name":
            assert parameter.default == fields[name].default, name
        assert f"        {name}: " in str(export.__doc__), name


def test_every_field_is_on_the_command_line() -> None:
    known = {action.dest for action in build_parser()._actions}
    names = {field.name for options in (Options, EngineOptions) for field in dataclasses.fields(options)}
    assert names - {"engine_options"} <= known


def test_the_command_line_without_flags_is_the_default() -> None:
    assert from_arguments(Options, build_parser().parse_args(["demo"])) == Options("demo")


def test_flags_become_options() -> None:
    line = "demo --int8 --engine openvino --engine onnxruntime --towers text --calibration c --calibration-samples 200 --out o"
    line += " --force --batch 1:8:64 --batch 16 --workspace 4GiB --target SM80 --kernels native --strip-weights"
    line += " --hardware-compatible ampere+"
    options = from_arguments(Options, build_parser().parse_args(line.split()))
    assert options == Options(
        name="demo",
        precision="int8",
        engines=("openvino", "onnxruntime"),
        towers=("text",),
        calibration=Path("c"),
        calibration_samples=200,
        out=Path("o"),
        force=True,
        engine_options=EngineOptions(
            targets=("sm80",),
            batches=(Range(min=1, opt=8, max=64), Range(min=16, opt=16, max=16)),
            workspace=4 << 30,
            kernels="native",
            strip_weights=True,
            hardware_compatible="ampere+",
        ),
    )


def test_paths_and_sequences_of_any_kind() -> None:
    options = Options("demo", pretrained=Path("w.pt"), out="folder", towers=["image"], engines=["onnxruntime"])  # type: ignore[arg-type]
    assert (options.pretrained, options.out, options.towers, options.engines) == (
        "w.pt",
        Path("folder"),
        ("image",),
        ("onnxruntime",),
    )


def test_a_value_that_is_none_is_named() -> None:
    with pytest.raises(ExportError, match="batch '1:x' is not MIN:OPT:MAX"):
        from_arguments(Options, build_parser().parse_args(["demo", "--batch", "1:x"]))


def test_a_single_value_is_one_item() -> None:
    """A str is a sequence of characters to Python; here it is one name, or names between commas."""
    assert Options("demo", engines="onnxruntime", towers="image,text").engines == ("onnxruntime",)  # type: ignore[arg-type]
    options = EngineOptions(targets="sm80", batches="64")  # type: ignore[arg-type]
    assert (options.targets, options.batches) == (("sm80",), (Range(min=64, opt=64, max=64),))
    assert EngineOptions(batches=[8, "1:2:4"]).batches == (Range(min=8, opt=8, max=8), Range(min=1, opt=2, max=4))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Options("demo", image_input="float16"), "image input 'float16' is none of uint8, float32"),
        (lambda: EngineOptions(hardware_compatible="all"), "hardware compatible 'all' is none of ampere"),
        (lambda: EngineOptions(workspace=float("nan")), "nan is no amount of memory"),
        (lambda: EngineOptions(workspace=float("inf")), "inf is no amount of memory"),
        (lambda: EngineOptions(workspace=1 << 70), "is no amount of memory"),
        (lambda: EngineOptions(batches=[(1, 2, 3)]), "is not MIN:OPT:MAX"),
    ],
)
def test_values_that_flags_would_refuse_are_refused_in_python(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        make()
