"""What a contender says where a library that it needs is not installed, or is installed and broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken_libraries import BREAKAGES, answer_of, break_library

CODE = """
from benchmarks.contenders import missing_library
answer([missing_library({0!r}), missing_library({0!r}), missing_library("json", "a_library_that_is_missing")])
"""


@pytest.mark.parametrize("code", BREAKAGES)
def test_a_broken_library_is_a_reason(code: str, tmp_path: Path) -> None:
    first, second, missing = answer_of(CODE.format("openvino"), break_library(tmp_path, "openvino", code))
    assert first == second
    if code == "import a_part_of_it_that_is_missing":
        assert first == "not installed: a_part_of_it_that_is_missing"
    else:
        assert first.startswith("openvino cannot be imported: ")
        assert first.endswith(BREAKAGES[code])  # before it, a syntax error names its place
    assert missing == "not installed: a_library_that_is_missing"
