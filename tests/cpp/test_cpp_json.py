"""The C++ library's reading of JSON: unusual, damaged and missing manifests, each answered as the Python reader answers it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from bundle_answers import cpp_answer, python_answer, same_answer, write
from cpp_library import CppLibrary

from engines.manifest import MAX_MANIFEST_BYTES


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"schema_version"', '\ufeff{"schema_version"'),
        ('"precision"', '"precision": "fp32", "precision"'),  # the last of two counts
        ('"precision"', '"precision": 1, "precision"'),  # but both are looked at
        ('"precision"', '"later": {"a": [1, {"b": null}]}, "precision"'),  # a field of a later release
        ('"schema_version": 1', '"schema_version": 2'),
        ('"schema_version": 1', '"schema_version": 2, "model": 3'),
        ('"schema_version": 1', '"schema_version": 0'),
        ('"schema_version": 1', '"schema_version": 1.0'),
        ('"precision"', '"later": ' + "[" * 900 + "]" * 900 + ', "precision"'),
        ('"towers": {', '"towers": {"sound": 1, '),
        ('"created_with": {', '"created_with": {"\\u0000": "\\ud83d\\ude00", '),
        ('"created_with": {', '"created_with": {"' + "é" * 4096 + '": "", '),
        ('"created_with": {', '"created_with": {"' + "é" * 4097 + '": "", '),
        ('"created_with": {', '"created_with": {' + "".join(f'"{i % 9000}": "", ' for i in range(18_000))),
        ('"created_with": {', '"created_with": {' + "".join(f'"{i}": "", ' for i in range(10_001))),
        ('"engines": [', '"engines": [' + "{}, " * 3),
    ],
)
def test_json(before: str, after: str, cpp: CppLibrary, original: Any, bundle: Path) -> None:
    text = json.dumps(original)
    assert before in text
    write(bundle, text.replace(before, after, 1))
    if after.startswith("\ufeff"):
        assert (cpp_answer(cpp, bundle) or "").startswith(
            f"BundleError: {bundle / 'manifest.json'} is damaged or was edited"
        )
    same_answer(cpp, bundle)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff\xfe",
        b'{"schema_version": 1}',
        b"[" * 5_000_000,
        b'{"schema_version": 1} x',
        b"{}\0",
        b'{"a": \xff}',
        b'{"a": NaN}',
        b'{"schema_version": "\\ud800"}',
        b'{"schema_version": 1,}',
    ],
    ids=range(13),
)
def test_damaged_json(data: bytes, cpp: CppLibrary, bundle: Path) -> None:
    """The words after the colon are the JSON library's own."""
    (bundle / "manifest.json").write_bytes(data)
    for answer in (python_answer(bundle), cpp_answer(cpp, bundle)):
        assert answer is not None
        assert answer.startswith(f"BundleError: {bundle / 'manifest.json'} is damaged or was edited: ")


def test_where_the_manifest_is_no_file(cpp: CppLibrary, demo_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    assert "it has no manifest.json" in (same_answer(cpp, tmp_path) or "")
    assert "is not there" in (same_answer(cpp, tmp_path / "nowhere") or "")
    assert "a file, not" in (same_answer(cpp, demo_bundle / "manifest.json") or "")
    assert "cannot be reached" in (same_answer(cpp, tmp_path / ("x" * 300)) or "")
    path.mkdir()
    assert "not a regular file" in (same_answer(cpp, tmp_path) or "")
    path.rmdir()
    os.mkfifo(path)
    assert "not a regular file" in (same_answer(cpp, tmp_path) or "")
    path.unlink()
    path.write_bytes(b" " * (MAX_MANIFEST_BYTES + 1))
    assert "more than the" in (same_answer(cpp, tmp_path) or "")
