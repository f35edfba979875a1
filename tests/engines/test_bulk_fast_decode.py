"""``--fast-decode``: measured before the job, recorded in its description, refused where embeddings move too far."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import engines
from engines.__main__ import main
from engines.bulk import fast_decode
from engines.bulk.fast_decode import FastDecodeFigures, measure_fast_decode
from engines.shards.samples import Sample
from exporter.reference.parity_data import load_parity_data


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six JPEG photographs that are large enough to be decoded at a reduced scale, a PNG file, and a damaged JPEG file."""
    folder = tmp_path_factory.mktemp("photos")
    for i, image in enumerate(load_parity_data(images=6, captions=1).images):
        image.convert("RGB").resize((1200, 900), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=90)
    Image.new("RGB", (64, 64)).save(folder / "7.png")
    (folder / "8.jpg").write_bytes((folder / "0.jpg").read_bytes()[:3000])
    return folder


def embed(bundle: Path, photos: Path, out: Path, *options: str) -> int:
    return main(["embed", str(bundle), str(photos), "--out", str(out), "--decoder", "pillow", *options])


def test_the_gate_is_recorded(
    demo_bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(demo_bundle, photos, tmp_path / "out", "--fast-decode") == 0
    assert "(6 pictures)" in capsys.readouterr().err
    job = json.loads((tmp_path / "out" / ".job" / "job.json").read_text())
    assert job["fast_decode"] is True
    assert fast_decode.LEAST_COSINE <= job["fast_decode_cosine"] < 1
    # A job that goes on does not measure again.
    assert embed(demo_bundle, photos, tmp_path / "out", "--fast-decode") == 0
    assert "pictures)" not in capsys.readouterr().err
    # Rows of both kinds are never mixed.
    assert embed(demo_bundle, photos, tmp_path / "out") == 1
    assert "fast_decode True there, False here" in capsys.readouterr().err


def test_the_gate_refuses(
    demo_bundle: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fast_decode, "LEAST_MEAN", 0.9999999)
    assert embed(demo_bundle, photos, tmp_path / "out", "--fast-decode") == 3
    assert "leave --fast-decode out" in capsys.readouterr().err
    assert not (tmp_path / "out" / ".job" / "job.json").exists()


def test_only_jpeg_pictures_are_compared(demo_bundle: Path, photos: Path) -> None:
    samples = [Sample(file.name, image=str(file)) for file in sorted(photos.iterdir())]
    samples += [Sample("x", image=b"no picture"), Sample("y"), Sample("z", image=str(photos / "none.jpg"))]
    with engines.load(demo_bundle, towers=("image",), decoder="pillow", fast_decode=True) as clip:
        assert measure_fast_decode(clip, samples).pictures == 6
        nothing = measure_fast_decode(clip, samples[6:7])
    assert nothing == FastDecodeFigures(0, 1.0, 1.0)
    assert "no JPEG picture" in str(nothing)


def test_a_job_without_jpeg_pictures_is_not_read_to_its_end(demo_bundle: Path, tmp_path: Path) -> None:
    drawn = 0

    def samples() -> Iterator[Sample]:
        nonlocal drawn
        while drawn < 100_000:
            drawn += 1
            yield Sample(str(drawn), image=b"\x89PNG")

    with engines.load(demo_bundle, towers=("image",), decoder="pillow", fast_decode=True) as clip:
        assert measure_fast_decode(clip, samples()) == FastDecodeFigures(0, 1.0, 1.0)
    assert drawn == fast_decode.SAMPLES
    (tmp_path / "in").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "in" / "7.png")
    assert embed(demo_bundle, tmp_path / "in", tmp_path / "out", "--fast-decode") == 0
    assert json.loads((tmp_path / "out" / ".job" / "job.json").read_text())["fast_decode_cosine"] is None
