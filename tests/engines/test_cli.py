"""python -m engines: inspect, classify and embed on real files, interrupted and resumed, with wrong arguments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import engines
from engines.__main__ import main
from engines.commands import embed_job


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven pictures at two depths, and three files that are none."""
    root = tmp_path / "pictures"
    (root / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(7):
        place = root / "deep" if i % 2 else root
        Image.fromarray(rng.integers(0, 256, (50 + i, 60, 3), dtype=np.uint8)).save(place / f"{i}.png")
    (root / "empty.jpg").write_bytes(b"")
    (root / "noise.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    write_huge_png(root / "huge.png")
    (root / "notes.txt").write_text("not an image by its name")
    return root


def write_huge_png(path: Path) -> None:
    """A tiny file whose header claims 50,000 x 50,000 pixels."""
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = b""
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


class TestInspect:
    def test_text(self, demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["inspect", str(demo_bundle), "--full"]) == 0
        text = capsys.readouterr().out
        for word in ("demo", "fp32", "image_embeds", "onnxruntime", "yes", "passed", "checksums"):
            assert word in text

    def test_json(self, demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["inspect", str(demo_bundle), "--json"]) == 0
        data = json.loads(capsys.readouterr().out)
        assert data["engines"][0]["runs_here"] is True
        assert data["model"]["name"] == "demo"

    def test_the_licence_of_the_weights(self, bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = bundle_copy / "manifest.json"
        data = json.loads(path.read_text())
        assert data["model"]["license"] == "MIT"
        data["model"] |= {"license": "CC-BY-NC-4.0", "license_source": "https://example.org/card"}
        path.write_text(json.dumps(data))
        assert main(["inspect", str(bundle_copy)]) == 0
        assert "  licence     CC-BY-NC-4.0 (https://example.org/card)\n" in capsys.readouterr().out

    def test_a_bundle_of_an_earlier_release_states_no_licence(
        self, bundle_copy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = bundle_copy / "manifest.json"
        data = json.loads(path.read_text())
        del data["model"]["license"], data["model"]["license_source"]
        path.write_text(json.dumps(data))
        assert main(["inspect", str(bundle_copy)]) == 0
        assert "licence" not in capsys.readouterr().out

    def test_unknown_engine_kind_is_named_not_fatal(
        self, bundle_copy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = bundle_copy / "manifest.json"
        data = json.loads(path.read_text())
        data["engines"].append(data["engines"][0] | {"kind": "warp-drive"})
        path.write_text(json.dumps(data))
        assert main(["inspect", str(bundle_copy)]) == 0
        assert "does not know the engine kind 'warp-drive'" in capsys.readouterr().out
        with engines.load(bundle_copy) as clip:
            assert clip.engines["image"].startswith("onnxruntime")

    @pytest.mark.parametrize("command", ["inspect", "verify"])
    def test_no_bundle(self, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([command, str(tmp_path)]) == 1
        assert capsys.readouterr().err.startswith("error: ")


class TestClassify:
    def test_table(self, demo_bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert (
            main(["classify", str(demo_bundle), str(folder), "--labels", "a red circle, a blue square", "--top", "2"])
            == 0
        )
        captured = capsys.readouterr()
        assert captured.out.count(".png") == 7
        assert captured.out.count("%") == 14
        assert captured.err.count("skipped: ") == 3

    def test_json_labels_file_and_templates(
        self, demo_bundle: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "labels.txt").write_text("circle\nsquare\n\n")
        arguments = [
            "--labels-file",
            str(tmp_path / "labels.txt"),
            "--template",
            "a red {}",
            "--template",
            "a {}",
            "--json",
        ]
        assert main(["classify", str(demo_bundle), str(folder / "0.png"), *arguments]) == 0
        data = json.loads(capsys.readouterr().out)
        assert data["images"][0]["labels"][0]["label"] in ("circle", "square")

    @pytest.mark.parametrize(
        "arguments", [["--labels", ","], ["--labels-file", "/nowhere"], ["--labels", "a", "--template", "x"]]
    )
    def test_wrong_labels(self, arguments: list[str], demo_bundle: Path, folder: Path, capsys: Any) -> None:
        assert main(["classify", str(demo_bundle), str(folder), *arguments]) == 1
        assert capsys.readouterr().err.startswith("error: ")

    def test_nothing_readable(self, demo_bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["classify", str(demo_bundle), str(folder / "empty.jpg"), "--labels", "a"]) == 1
        assert "none of 1 images" in capsys.readouterr().err


class TestEmbed:
    def test_npy(self, demo_bundle: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "x.npy"
        assert main(["embed", str(demo_bundle), str(folder), "--out", str(out)]) == 0
        names = (tmp_path / "x.items.txt").read_text().splitlines()
        embeds = np.load(out)
        assert embeds.shape == (7, 64)
        with engines.load(demo_bundle) as clip:
            np.testing.assert_allclose(embeds, clip.encode_image(names), atol=2e-6)
        text = capsys.readouterr().out
        assert "7 of 10 embedded" in text
        for name in ("empty.jpg", "noise.png", "huge.png"):
            assert name in text
            assert name in (tmp_path / "x.skipped.txt").read_text()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["pictures", "x.items.txt", "x.npy", "x.skipped.txt"]

    def test_parquet_and_list(self, demo_bundle: Path, folder: Path, tmp_path: Path) -> None:
        import pyarrow.parquet

        files = [str(folder / "0.png"), str(folder / "nowhere.png"), str(folder / "2.png")]
        (tmp_path / "list.txt").write_text("\n".join(files) + "\n")
        out = tmp_path / "x.parquet"
        assert main(["embed", str(demo_bundle), "--list", str(tmp_path / "list.txt"), "--out", str(out)]) == 0
        table = pyarrow.parquet.read_table(out)
        assert table.column("item").to_pylist() == [files[0], files[2]]
        assert len(table.column("embedding")[0]) == 64

    def test_texts(self, demo_bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "texts.txt").write_text("a red circle\n\ntwo blue squares\n")
        assert (
            main(["embed", str(demo_bundle), "--texts", str(tmp_path / "texts.txt"), "--out", str(tmp_path / "t.npy")])
            == 0
        )
        with engines.load(demo_bundle) as clip:
            expected = clip.encode_text(["a red circle", "", "two blue squares"])
        np.testing.assert_allclose(np.load(tmp_path / "t.npy"), expected, atol=2e-6)

    def test_goes_on_where_it_stopped(
        self, demo_bundle: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        monkeypatch.setattr(embed_job, "PART_ROWS", 2)
        out = tmp_path / "x.npy"
        original = embed_job.EmbedJob._save
        saved: list[int] = []

        def save(self: Any, index: int, *rest: Any) -> None:
            if len(saved) == 3:
                raise KeyboardInterrupt
            saved.append(index)
            original(self, index, *rest)

        monkeypatch.setattr(embed_job.EmbedJob, "_save", save)
        arguments = ["embed", str(demo_bundle), str(folder), "--out", str(out)]
        assert main(arguments) == 130
        assert "same command again" in capsys.readouterr().err
        assert not out.exists()
        monkeypatch.setattr(embed_job.EmbedJob, "_save", original)
        assert main(arguments) == 0
        assert "6 of 10 are done already" in capsys.readouterr().err
        assert np.load(out).shape == (7, 64)
        assert not list(tmp_path.glob(".x.npy.parts"))

    def test_another_job_starts_anew(
        self, demo_bundle: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        parts = tmp_path / ".x.npy.parts"
        parts.mkdir()
        (parts / "job.json").write_text('{"format": 1, "digest": "another"}')
        (parts / "part-00000000.npz").write_bytes(b"garbage of another job")
        assert main(["embed", str(demo_bundle), str(folder), "--out", str(tmp_path / "x.npy")]) == 0
        assert "done already" not in capsys.readouterr().err

    def test_killed(self, demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """kill -9 in the middle: nothing at the output, and the next run finishes the job."""
        source = tmp_path / "many"
        source.mkdir()
        monkeypatch.setattr(embed_job, "PART_ROWS", 200)
        code = (
            "import sys\nfrom engines.commands import embed_job\nfrom engines.__main__ import main\n"
            "embed_job.PART_ROWS = 200\n"
        )
        picture = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
        for i in range(2 * embed_job.PART_ROWS + 10):
            picture.save(source / f"{i:05d}.bmp")
        arguments = ["embed", str(demo_bundle), str(source), "--out", str(tmp_path / "x.npy")]
        command = [sys.executable, "-c", f"{code}sys.exit(main(sys.argv[1:]))", *arguments]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".x.npy.parts/part-*.npz")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "x.npy").exists()
        assert main(arguments) == 0
        assert np.load(tmp_path / "x.npy").shape == (2 * embed_job.PART_ROWS + 10, 64)

    @pytest.mark.parametrize("limit", [2_000, 12_500])
    def test_full_disk(self, limit: int, demo_bundle: Path, folder: Path, tmp_path: Path) -> None:
        """No file may grow beyond a limit, as on a full disk: one sentence; and with space the same command goes on."""
        code = (
            "import resource, signal, sys\nfrom engines.commands import embed_job\nfrom engines.__main__ import main\n"
            "embed_job.PART_ROWS = 3\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit} // 8, resource.RLIM_INFINITY))\n"
            "sys.exit(main(sys.argv[1:]))"
        )
        arguments = ["embed", str(demo_bundle), str(folder), "--out", str(tmp_path / "x.npy")]
        ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == 1, ran.stderr
        assert "no space left" in ran.stderr
        assert "goes on where it stopped" in ran.stderr
        assert main(arguments) == 0
        assert np.load(tmp_path / "x.npy").shape == (7, 64)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--out", "x.npy"], "one of the three"),
            (["nowhere", "--out", "x.npy"], "not there"),
            (["--list", "nowhere.txt", "--out", "x.npy"], "cannot read the list"),
            (["--texts", "nowhere.txt", "--out", "x.npy"], "cannot read the texts"),
            (["a.png", "--out", "x.csv"], r".npy or .parquet"),
            (["a.png", "--out", "no/such/x.npy"], "make it first"),
            (["a.txt", "--out", "x.npy"], "none of 1 inputs"),
        ],
    )
    def test_wrong_arguments(
        self, arguments: list[str], message: str, demo_bundle: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save("a.png")
        Path("a.txt").write_text("x")
        assert main(["embed", str(demo_bundle), *arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert sorted(os.listdir()) == ["a.png", "a.txt"]


def test_a_reader_that_goes_away(demo_bundle: Path) -> None:
    command = f"{sys.executable} -m engines inspect {demo_bundle} --json | head -c 1"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in ran.stderr


class TestOptions:
    def test_max_pixels(
        self, demo_bundle: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Seven pictures of at most 60 x 56 pixels, which resizing makes up to 76 x 64, and one of 100 x 100."""
        Image.fromarray(np.full((100, 100, 3), 90, np.uint8)).save(folder / "large.png")
        out = tmp_path / "x.npy"
        command = ["embed", str(demo_bundle), str(folder), "--out", str(out)]
        assert main(command) == 0
        assert np.load(out).shape == (8, 64)
        assert main([*command, "--max-pixels", "6000"]) == 0
        assert np.load(out).shape == (7, 64)
        arguments = ["classify", str(demo_bundle), str(folder), "--labels", "a,b", "--max-pixels", "6000", "--json"]
        capsys.readouterr()
        assert main(arguments) == 0
        found = json.loads(capsys.readouterr().out)
        assert len(found["images"]) == 7
        assert sum("10000 pixels are over the limit of 6000" in message for message in found["skipped"]) == 1

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (
                ["embed", "a.png", "--out", "x.npy", "--max-pixels", "0"],
                "--max-pixels 0 leaves no image: pass 1 or more",
            ),
            (["embed", "--texts", "t.txt", "--out", "x.npy", "--max-pixels", "9"], "--max-pixels is for images"),
            (["classify", "a.png", "--labels", "a", "--max-pixels", "-1"], "--max-pixels -1 leaves no image"),
            (["classify", "a.png", "--labels", "a", "--top", "0"], "--top 0 shows no label: pass 1 or more"),
            (["classify", "a.png", "--labels", ""], "there is no label"),
            (["classify", "a.png", "--labels", "a", "--template", ""], "{} in the place of the label"),
        ],
    )
    def test_wrong_values(
        self, arguments: list[str], words: str, demo_bundle: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save("a.png")
        Path("t.txt").write_text("x\n")
        assert main([arguments[0], str(demo_bundle), *arguments[1:]]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert words in error

    def test_labels_that_are_repeated_count_once(self, demo_bundle: Path, folder: Path, capsys: Any) -> None:
        """Otherwise each of them would get half of the probability."""

        def classify(labels: str) -> tuple[list[tuple[str, float]], str]:
            assert (
                main(["classify", str(demo_bundle), str(folder / "0.png"), "--labels", labels, "--top", "9", "--json"])
                == 0
            )
            captured = capsys.readouterr()
            found = json.loads(captured.out)["images"][0]["labels"]
            return [(item["label"], item["probability"]) for item in found], captured.err

        once, nothing = classify("a red circle,a blue square")
        twice, said = classify("a red circle,a blue square, a red circle ,a red circle")
        assert twice == once
        assert nothing == ""
        assert said == "a label counts once: 'a red circle' is there 3 times\n"
