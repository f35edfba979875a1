"""Texts of a manifest, which whoever made the bundle wrote, print no lines of their own and no escapes to the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from edited_bundles import edit_manifest

from engines.__main__ import main

FORGED = "good\n  precision   FORGED LINE\x1b[31m"
SHOWN = r"good\n  precision   FORGED LINE\x1b[31m"


def forge(manifest: Any) -> None:
    model = manifest["model"]
    for name in ("name", "architecture", "tag", "license", "license_source"):
        model[name] = FORGED
    manifest["created_with"]["pillow"] = FORGED
    for tower in manifest["towers"].values():
        tower["fp32_units"] = {FORGED: FORGED}
    for row in manifest["parity"]:
        row["engine"] = row["verified_with"] = FORGED
        row["float64"] = {
            name: {"failing": 1, "samples": 1, "eager": 1.0, "engine": 1.0, "ratio": 1.0, "limit": 4.0}
            for name in row["towers"]
        }


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_line_breaks_in_a_manifest(command: str, bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(bundle_copy)]) == 0
    lines = capsys.readouterr().out.count("\n")
    edit_manifest(bundle_copy, forge)
    assert main([command, str(bundle_copy)]) == 0
    out = capsys.readouterr().out
    assert SHOWN in out
    assert "\x1b" not in out
    assert not any(line.startswith("  precision   FORGED") for line in out.splitlines())
    # A unit of each tower, and a sentence on float64 for each tower.
    assert out.count("\n") - lines == (4 if command == "inspect" else 0)
