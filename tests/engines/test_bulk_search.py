"""What a real job wrote is found by a search: both layouts, rows with errors, both towers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from engines.__main__ import main


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Plain pictures of eight colours, and one that is damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(8):
        Image.new("RGB", (64, 64), (32 * i, 255 - 32 * i, 128)).save(folder / f"{i}.png")
    (folder / "9.png").write_bytes(b"\x89PNG")
    return folder


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_a_picture_is_found(
    layout: str, demo_bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert (
        main(["embed", str(demo_bundle), str(photos), "--out", str(out), "--format", layout, "--rows-per-shard", "5"])
        == 0
    )
    capsys.readouterr()
    for number in (0, 5, 7):
        picture = photos / f"{number}.png"
        assert (
            main(
                [
                    "search",
                    str(out),
                    "--image",
                    str(picture),
                    "--top",
                    "20",
                    "--json",
                    "--html",
                    str(tmp_path / "s.html"),
                ]
            )
            == 0
        )
        hits = json.loads(capsys.readouterr().out)["queries"][0]["hits"]
        assert len(hits) == 8, "the damaged picture is no hit"
        assert hits[0]["key"] == str(picture)
        assert hits[0]["score"] == pytest.approx(1, abs=2e-3)
        assert "data:image/jpeg" in (tmp_path / "s.html").read_text()
