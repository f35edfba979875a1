"""engines.precisions and engines.engine_kinds: the tables, and every other place that has to name their entries."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from engines.engine_kinds import KINDS
from engines.manifest import KernelMode, Manifest, Quantization
from engines.precisions import PRECISIONS, QUANTIZED, PrecisionName, QuantizedDtype

ROOT = Path(__file__).parents[2]


def test_type_checkers_read_the_same_names() -> None:
    assert get_args(PrecisionName) == tuple(PRECISIONS)
    assert set(get_args(QuantizedDtype)) == {entry.quantized for entry in PRECISIONS.values()} - {None}
    assert all(name == entry.name for name, entry in PRECISIONS.items())


def test_the_manifest_takes_them() -> None:
    """The schema is made from those types; msgspec reads it as a reader does."""
    names = next(field.type for field in msgspec.structs.fields(Manifest) if field.name == "precision")
    dtypes = next(field.type for field in msgspec.structs.fields(Quantization) if field.name == "dtype")
    assert get_args(names) == tuple(PRECISIONS)
    assert get_args(dtypes) == get_args(QuantizedDtype)


def test_the_format_in_prose_names_them() -> None:
    text = (ROOT / "engines" / "FORMAT.md").read_text(encoding="utf-8")
    for name in (*PRECISIONS, *KINDS, *get_args(QuantizedDtype)):
        assert re.search(rf"`\"?{re.escape(name)}\"?`", text), f"engines/FORMAT.md does not name {name}"


def test_wider_precisions_demand_more() -> None:
    entries = list(PRECISIONS.values())
    for wide, narrow in itertools.pairwise(entries):
        assert wide.min_cosine >= narrow.min_cosine
        assert wide.tie_margin <= narrow.tie_margin
        assert wide.operand_bytes >= narrow.operand_bytes
    assert PRECISIONS["fp32"].remedy == ""  # nothing is wider
    assert all(entry.remedy for name, entry in PRECISIONS.items() if name != "fp32")


def test_quantized_precisions_have_arithmetic_and_a_target() -> None:
    torch = pytest.importorskip("torch")
    from exporter.precision.precisions import PRECISIONS as TORCH
    from exporter.quantization.operators import LARGEST

    for name in QUANTIZED:
        assert TORCH[name].quantized in LARGEST
        assert PRECISIONS[name].default_target
    assert all(isinstance(each.dtype, torch.dtype) for each in TORCH.values())


def test_kernels_have_the_modes_of_the_manifest() -> None:
    """`kernels` imports no other package of ours, so that it has the names once more."""
    plan = pytest.importorskip("kernels.plan")
    assert get_args(plan.Mode) == get_args(KernelMode)
