"""``benchmarks decode`` on a few files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.decoding import command
from benchmarks.records import rows
from engines.inputs import native


@pytest.fixture(autouse=True)
def _few_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "usable_cores", lambda: 2)


def test_rows(
    cpp_folder: Path,
    demo_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(native.VARIABLE, str(cpp_folder / "libopenclip_engines.so"))
    words = ["--bundle", str(demo_bundle), "--files", "3", "--rounds", "1", "--results", str(tmp_path)]
    assert command.main(words) == 0, capsys.readouterr().err
    found = rows.read(tmp_path / "decode.csv")
    rated = {(row.engine, row.threads) for row in found if row.figure == "per_second" and row.value}
    ways = {"pillow", "native", "pillow fast", "native fast"}
    assert rated == {(way, threads) for way in ways for threads in (1, 2)} | {("pillow processes", 2)}
    assert len([row for row in found if row.figure == "speedup"]) == 7
    cosines = [row.value or 0 for row in found if row.figure == "min_cosine"]
    assert len(cosines) == 4
    assert all(0.9 < cosine < 1 for cosine in cosines)
    assert cosines[1] < cosines[2] < cosines[3]  # the larger the decoded picture, the nearer
    printed = capsys.readouterr().out
    assert "native            16 cores: " in printed
    assert printed.count("predicted;") == 4


def test_files(tmp_path: Path) -> None:
    first, second = command.make_files(tmp_path, 2)
    with Image.open(first) as image:
        assert (image.size, image.format) == ((1600, 1200), "JPEG")
        assert np.asarray(image).std() > 20
        assert [component[1:3] for component in image.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]
    assert first.read_bytes() != second.read_bytes()


def test_without_the_library(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(native.VARIABLE, raising=False)
    monkeypatch.setattr(native, "NAME", "libopenclip_engines.so.absent")
    assert command.main(["--bundle", str(demo_bundle), "--files", "2"]) == 1
    assert "error: the decoder 'native' cannot be used: the C++ library cannot be loaded" in capsys.readouterr().err


def test_pixels_that_differ_are_an_error() -> None:
    pixels = {"pillow": np.zeros((1, 2, 2, 3), np.uint8), "native": np.ones((1, 2, 2, 3), np.uint8)}
    with pytest.raises(Exception, match="the pixels of native differ from those of pillow"):
        command._check_equal(pixels)
