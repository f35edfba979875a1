"""Embeddings of the C++ library against the Python runtime's: both engines, all kinds of inputs, threads, failures."""

from __future__ import annotations

import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cpp_library import IMAGE, TEXT, CppLibrary
from made_pictures import picture

import engines
from engines.errors import EngineError, EngineUnavailableError, ImageError, InputError

TEXTS = [
    "a photo of a dog.",
    "AT&amp;T schÃ¶n",
    "собака на снегу",
    "",
    "word " * 300,
    "🐶 a",
    *(f"picture {n}" for n in range(90)),
]
TOLERANCE = {"onnxruntime": 0.0, "openvino": 1e-6}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Forty pictures of several formats and shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for index in range(40):
        image = picture(index).resize((40 + 7 * index, 64 + (11 * index) % 50))
        path = folder / f"{index}.{('jpg', 'png', 'webp')[index % 3]}"
        image.save(path)
        found.append(path)
    return found


@pytest.mark.parametrize("engine", TOLERANCE)
def test_embeddings_are_those_of_python(
    cpp: CppLibrary, two_engines_bundle: Path, files: list[Path], engine: str
) -> None:
    with engines.load(two_engines_bundle, engine=engine) as clip, cpp.open(two_engines_bundle, engine=engine) as other:
        assert other.engine(IMAGE) == clip.engines["image"]
        assert other.engine(TEXT) == clip.engines["text"]
        # OpenVINO's kernels depend on the rows of a run, so each comparison has one split on both sides.
        for images in (files[:1], files):
            expected = clip.encode_image(images)
            assert np.abs(other.encode_images(images) - expected).max() <= TOLERANCE[engine]
        for texts in (TEXTS[:1], TEXTS):
            assert np.abs(other.encode_texts(texts) - clip.encode_text(texts)).max() <= TOLERANCE[engine]
        pixels, ids = np.stack([clip.preprocess(file) for file in files]), clip.tokenize(TEXTS)
        assert (other.preprocess(files) == pixels).all()
        assert (other.tokenize(TEXTS) == ids).all()
        assert np.abs(other.encode_pixels(pixels) - clip.encode_image(pixels)).max() <= TOLERANCE[engine]
        assert np.abs(other.encode_ids(ids) - clip.encode_text(ids)).max() <= TOLERANCE[engine]


def test_bytes_paths_and_arrays_are_one(cpp: CppLibrary, two_engines_bundle: Path, files: list[Path]) -> None:
    png = files[1]
    from PIL import Image

    array = np.asarray(Image.open(png).convert("RGB"))
    wide = np.zeros((array.shape[0], array.shape[1] + 5, 3), np.uint8)
    wide[:, : array.shape[1]] = array
    with cpp.open(two_engines_bundle, engine="onnxruntime", towers=IMAGE) as clip:
        rows = clip.encode_images([png, png.read_bytes(), array, wide[:, : array.shape[1]]])
    assert (rows == rows[0]).all()


def test_normalized_pixels(cpp: CppLibrary, normalized_image_bundle: Path, files: list[Path]) -> None:
    with engines.load(normalized_image_bundle) as clip, cpp.open(normalized_image_bundle) as other:
        assert (other.encode_images(files) == clip.encode_image(files)).all()
        assert other.info.towers == IMAGE
        with pytest.raises(EngineError, match=r"this bundle has no text tower \(it has image\)"):
            other.encode_texts(["a"])


def test_classification(cpp: CppLibrary, demo_bundle: Path, files: list[Path]) -> None:
    labels, templates = ["a red circle", "a blue square", "a star"], ["{}", "a picture of {}"]
    with engines.load(demo_bundle) as clip, cpp.open(demo_bundle) as other:
        expected = clip.encode_labels(labels, templates)
        given = other.encode_labels(labels, templates)
        assert np.abs(given - expected).max() <= 1e-6
        images = other.encode_images(files)
        assert np.abs(other.probabilities(images, given) - clip.probabilities(images, expected)).max() <= 1e-5
        with pytest.raises(InputError, match=r"templates\[1\] has none"):
            other.encode_labels(labels, ["{}", "x"])


@pytest.mark.parametrize("engine", TOLERANCE)
def test_thirty_two_threads_at_once(cpp: CppLibrary, two_engines_bundle: Path, files: list[Path], engine: str) -> None:
    with cpp.open(two_engines_bundle, engine=engine) as clip, ThreadPoolExecutor(32) as pool:
        images, texts = clip.encode_images(files[:8]), clip.encode_texts(TEXTS[:8])
        jobs = [pool.submit(clip.encode_images, files[:8]) for _ in range(32)]
        jobs += [pool.submit(clip.encode_texts, TEXTS[:8]) for _ in range(32)]
        for number, job in enumerate(jobs):
            assert np.abs(job.result() - (images if number < 32 else texts)).max() <= TOLERANCE[engine]


def test_unreadable_pictures_among_good_ones(cpp: CppLibrary, demo_bundle: Path, files: list[Path]) -> None:
    broken = files[0].read_bytes()[:200]
    mixed = [*files[:3], broken, "missing.png", *files[3:40], b""]
    with cpp.open(demo_bundle) as clip:
        failures: dict[int, str] = {}
        rows = clip.encode_images(mixed, failures)
        assert sorted(failures) == [3, 4, len(mixed) - 1]
        assert failures[4] == "missing.png: no such file; check the path"
        good = [index for index in range(len(mixed)) if index not in failures]
        assert np.isnan(rows[sorted(failures)]).all()
        assert (rows[good] == clip.encode_images(files)).all()
        with pytest.raises(ImageError, match="truncated"):
            clip.encode_images(mixed)
        assert (clip.encode_images(files[:2]) == rows[:2]).all()


def test_an_empty_picture_is_reported_with_its_index(cpp: CppLibrary, demo_bundle: Path, files: list[Path]) -> None:
    with cpp.open(demo_bundle) as clip:
        failures: dict[int, str] = {}
        rows = clip.encode_images([files[0], np.zeros((0, 5, 3), np.uint8)], failures)
        assert list(failures) == [1]
        assert np.isfinite(rows[0]).all()
        assert np.isnan(rows[1]).all()


def test_a_tower_that_was_not_loaded(cpp: CppLibrary, demo_bundle: Path) -> None:
    with cpp.open(demo_bundle, towers=IMAGE) as clip:
        for function in (clip.tokenize, clip.encode_texts):
            with pytest.raises(InputError, match="the text tower was not loaded"):
                function(["a"])


def test_empty_and_wrong_inputs(cpp: CppLibrary, demo_bundle: Path, files: list[Path]) -> None:
    with cpp.open(demo_bundle) as clip:
        with pytest.raises(InputError, match="there is no image"):
            clip.encode_images([])
        with pytest.raises(InputError, match="there is no text"):
            clip.encode_texts([])
        with pytest.raises(InputError, match="outside the vocabulary"):
            clip.encode_ids(np.full((1, 5), 49408, np.int32))
        with pytest.raises(InputError, match="the model takes at most 77"):
            clip.encode_ids(np.zeros((1, 78), np.int32))
        status = clip._api.oce_encode_texts(clip._handle, None, 1, None, 0)
        with pytest.raises(InputError, match="embeds has room for 0 values, and needs 1 x 64"):
            cpp.check(status)
        assert len(clip.encode_texts(["a" * 1_000_000])) == 1


def test_limit_of_pixels(cpp: CppLibrary, demo_bundle: Path) -> None:
    file = io.BytesIO()
    picture(0).resize((300, 200)).save(file, "PNG")
    with (
        cpp.open(demo_bundle, max_pixels=59_999) as clip,
        pytest.raises(ImageError, match="over the limit of 59999 pixels"),
    ):
        clip.encode_images([file.getvalue()])


def test_no_engine_is_needed_for_pixels_and_ids(cpp: CppLibrary, demo_bundle: Path, files: list[Path]) -> None:
    with cpp.open(demo_bundle, engine="none", module_folder="/nowhere") as clip:
        assert clip.preprocess(files[:1]).shape == (1, clip.info.image_height, clip.info.image_width, 3)
        assert clip.tokenize(["a"]).shape == (1, 77)
        with pytest.raises(EngineError, match="opened with engine none"):
            clip.encode_texts(["a"])


def test_engines_are_chosen_as_in_python(
    cpp: CppLibrary, two_engines_bundle: Path, cpp_folder: Path, tmp_path: Path
) -> None:
    lines: list[tuple[int, str]] = []
    with (
        engines.load(two_engines_bundle) as expected,
        cpp.open(two_engines_bundle, log=lambda *line: lines.append(line)) as clip,
    ):
        assert {"image": clip.engine(IMAGE), "text": clip.engine(TEXT)} == expected.engines
    assert [level for level, _ in lines] == [1, 1]
    shutil.copy(cpp_folder / "openclip_engines_openvino.so", tmp_path)
    lines.clear()
    with cpp.open(two_engines_bundle, module_folder=tmp_path, log=lambda *line: lines.append(line)) as clip:
        assert (clip.engine(IMAGE) or "").startswith("openvino ")
    assert "not on onnxruntime: its module openclip_engines_onnxruntime.so is not in" in lines[0][1]
    with pytest.raises(EngineUnavailableError, match="the bundle has no engine 'tensorrt'"):
        cpp.open(two_engines_bundle, engine="tensorrt")
    with pytest.raises(EngineUnavailableError, match="device 'tpu' is none of auto, cpu, cuda"):
        cpp.open(two_engines_bundle, device="tpu")
    with pytest.raises(EngineUnavailableError, match="OpenVINO runs on the CPU"):
        cpp.open(two_engines_bundle, engine="openvino", device="cuda")


def test_library_of_onnxruntime(cpp: CppLibrary, demo_bundle: Path, tmp_path: Path) -> None:
    missing = tmp_path / "libonnxruntime.so.1"
    with pytest.raises(EngineUnavailableError, match="ONNX Runtime was not found"):
        cpp.open(demo_bundle, engine_library=missing)
    with pytest.raises(EngineUnavailableError, match="is not ONNX Runtime"):
        cpp.open(demo_bundle, engine_library="libz.so.1")


def test_inspect_has_a_reason_for_each_engine(cpp: CppLibrary, two_engines_bundle: Path) -> None:
    report = cpp.inspect(two_engines_bundle, module_folder="/nowhere")
    assert report["model"] == json.loads((two_engines_bundle / "manifest.json").read_text())["model"]
    assert [engine["runs_here"] for engine in report["engines"]] == [False] * 4
    assert all("/nowhere" in engine["why_not"] for engine in report["engines"])
    assert all(engine["runs_here"] for engine in cpp.inspect(two_engines_bundle)["engines"])


def test_verify_finds_what_differs(cpp: CppLibrary, two_engines_bundle: Path, tmp_path: Path) -> None:
    report = cpp.verify(two_engines_bundle, engine="all")
    assert report["passed"]
    assert cpp.verify(two_engines_bundle)["parity"][0]["engine"] == "onnxruntime"
    assert [row["engine"] for row in report["parity"]] == ["onnxruntime", "openvino"]
    assert report["pixels"]["pictures"] >= 10
    assert report["ids"]["captions"] >= 30
    assert report["parity"][0]["towers"]["image"]["min_cosine"] > 0.99999
    folder = tmp_path / "edited"
    shutil.copytree(two_engines_bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["preprocess"]["resize_mode"] = "squash"
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    edited = cpp.verify(folder)
    assert not edited["passed"]
    assert not edited["pixels"]["passed"]
