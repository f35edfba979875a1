"""What ``--json`` prints is JSON, whatever was measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.__main__ import main
from engines.files.json_text import json_text
from engines.verification import embeddings as verify

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def strict(text: str) -> Any:
    """As a reader that takes nothing but JSON."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def replaced(value: Any) -> Any:
    if isinstance(value, list):
        return [replaced(item) for item in value]
    if isinstance(value, dict):
        return {name: replaced(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@settings(max_examples=30, deadline=None)
@given(VALUES)
def test_numbers_that_are_not_finite_are_null(value: Any) -> None:
    assert strict(json_text(value)) == replaced(value)


def test_tuples_and_numbers_of_numpy() -> None:
    assert strict(json_text({"a": (1.5, np.float64("nan"), (math.inf,)), "b": -math.inf})) == {
        "a": [1.5, None, [None]],
        "b": None,
    }


def test_an_engine_that_gives_nan(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = verify._run
    monkeypatch.setattr(verify, "_run", lambda *given: run(*given) * np.float32("nan"))
    assert main(["verify", str(demo_bundle), "--json"]) == 3
    found = strict(capsys.readouterr().out)
    assert found["passed"] is False
    assert [tower["max_abs_error"] for tower in found["parity"][0]["towers"].values()] == [None, None]
    assert main(["verify", str(demo_bundle)]) == 3
    assert " inf " in capsys.readouterr().out
