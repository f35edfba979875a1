"""The answers of both readers to a bundle, Python's and the C++ library's, and manifests to ask them with."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpp_library import CppLibrary

from engines.bundle_files import verify_files
from engines.errors import BundleError, EngineError
from engines.manifest import read_manifest

DELETED = object()
FIGURES = {"top1": {"value": 0.5, "low": 0.25, "high": 0.75}}


def python_answer(bundle: Path) -> str | None:
    """The sentence with which Python refuses a bundle's manifest or files; None where it accepts them."""
    try:
        verify_files(bundle, read_manifest(bundle))
    except BundleError as error:
        return f"{type(error).__name__}: {error}"
    return None


def cpp_answer(cpp: CppLibrary, bundle: Path) -> str | None:
    try:
        with cpp.open(bundle, engine="none"):
            return None
    except EngineError as error:
        return f"{type(error).__name__}: {error}"


def same_answer(cpp: CppLibrary, bundle: Path) -> str | None:
    """Python's answer, which must be the C++ library's."""
    expected, actual = python_answer(bundle), cpp_answer(cpp, bundle)
    if expected is None:
        # The tokenizer and the transform refuse some values of fields after the manifest was read.
        assert actual is None or not ("manifest.json" in actual or "the manifest of" in actual), actual
    else:
        assert actual == expected
    return expected


def full_manifest(bundle: Path) -> Any:
    """A manifest in which every field of every struct has a value."""
    data = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    data["model"] |= {"tag": "t", "logit_bias": -1.5, "license": "MIT", "license_source": "https://example.org"}
    data["accuracy"] = [
        {"engine": "e", "verified_with": "x", "dataset": "d", "samples": 2, "classes": 1, "limit": 0.1, "passed": True}
        | dict.fromkeys(("eager", "figures", "change"), FIGURES)
    ]
    build: dict[str, Any] = {"seconds": 1.5, "peak_memory_bytes": 5, "fused_attention": 1, "decomposed_attention": 0}
    build |= {"layers": {"MatMul": {"float32": 3}}, "options": {"level": 3, "fast": True, "mode": "x"}}
    for engine in data["engines"]:
        length = {"length": {"min": 77, "opt": 77, "max": 77}} if engine["tower"] == "text" else {}
        engine["profiles"] = [{"batch": {"min": 1, "opt": 8, "max": 64}} | length]
        engine["batch"] = {"min": 1, "opt": 8, "max": 64}
        engine["target"] |= {
            "device": "cpu",
            "isa": "avx2",
            "device_compatible": "ampere+",
            "version_compatible": False,
        }
        engine |= {"build": build, "inspector": "report.json", "stripped": False, "input_layout": "padded"}
    units = {"fp32_units": {"a": "b"}}
    quantization = {"dtype": "int8", "layers": 1, "share": 0.5, "kept": {"a": "b"}, "calibration": "x", "samples": 3}
    for tower in data["towers"].values():
        tower |= units | {"quantization": quantization}
    data["tokenizer"] |= {"last_id": 0, "strip_sep_token": False}
    check = {"failing": 1, "samples": 1, "eager": 1.0, "engine": 1.5, "ratio": 1.5, "limit": 4}
    data["parity"][0] |= {"float64": {"image": check}, "accuracy_loss_allowed": False, "top1_agreement": 1.0}
    data["parity"][0]["limits"]["tie_margin"] = 1e-5
    data["kernels"] = {"mode": "auto", "swapped": {"attention": 1}}
    return data


def with_value(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(data)
    *before, last = path
    parent = changed
    for key in before:
        parent = parent[key]
    if value is DELETED:
        del parent[last]
    else:
        parent[last] = value
    return changed


def write(bundle: Path, data: Any) -> None:
    (bundle / "manifest.json").write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")


def engine_change(tower: str, **fields: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        next(engine for engine in data["engines"] if engine["tower"] == tower).update(fields)

    return change
