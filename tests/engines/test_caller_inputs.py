"""What callers may pass: file objects, iterables, templates and options; and a named error for what means nothing."""

from __future__ import annotations

import io
import itertools
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from made_pictures import archive, encoded, picture
from PIL import Image

import engines
from engines.embedder import Embedder
from engines.errors import EngineError, ImageError, InputError
from engines.inputs.decode import Decoder
from engines.inputs.image_inputs import MAX_PIXELS, damaged, pixel_limit
from engines.manifest import MANIFEST_NAME, manifest_bytes, read_manifest


@pytest.fixture(scope="module")
def clip(demo_bundle: Path) -> Iterator[Embedder]:
    with engines.load(demo_bundle, workers=8) as embedder:
        yield embedder


class TestFiles:
    def test_files_and_buffers(self, clip: Embedder, tmp_path: Path) -> None:
        data = encoded(4, "PNG")
        path = tmp_path / "x.png"
        path.write_bytes(data)
        written = io.BytesIO()
        written.write(data)  # its position is at the end
        with path.open("rb") as opened, archive("PNG", 5) as tar:
            member = tar.extractfile("4.x")
            images = [
                data,
                written,
                io.BytesIO(data),
                opened,
                member,
                bytearray(data),
                memoryview(data),
                _Stream(data),
                _Seekable(data),
            ]
            found = clip.encode_image(images)
        np.testing.assert_allclose(found, found[:1].repeat(len(images), axis=0), atol=2e-6)

    def test_one_buffer_twice(self, clip: Embedder) -> None:
        file = io.BytesIO(encoded(4, "PNG"))
        first, second = clip.encode_image([file, file])
        np.testing.assert_allclose(first, second, atol=2e-6)

    def test_wrong_files(self, clip: Embedder, tmp_path: Path) -> None:
        path = tmp_path / "x.txt"
        path.write_text("text", encoding="utf-8")
        with path.open(encoding="utf-8") as text, pytest.raises(InputError, match="binary mode"):
            clip.encode_image([text])
        with pytest.raises(ImageError, match="empty"):
            clip.encode_image([io.BytesIO()])
        with path.open("rb") as closed:
            pass
        with pytest.raises(ImageError, match=r"x\.txt: cannot be read .*closed"):
            clip.encode_image([closed])
        released = memoryview(b"x")
        released.release()
        for wrong in (released, _Path()):
            with pytest.raises(InputError, match="cannot read an image from a "):
                clip.encode_image([wrong])

    @pytest.mark.parametrize(
        "one", [io.BytesIO(b"x"), bytearray(b"x"), b"x", "x.jpg", Path("x.jpg"), 3, None, {"a": 1}, np.array("x.jpg")]
    )
    def test_one_image_in_the_place_of_a_list(self, one: Any, clip: Embedder) -> None:
        with pytest.raises(InputError, match="images must be a list"):
            clip.encode_image(one)
        with pytest.raises(InputError, match="images must be a list"):
            clip.preprocess_ahead(one, 2)


class _Seekable:
    """A file object with ``seek`` and without ``seekable``, as Python 3.10's SpooledTemporaryFile is; at its end."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self._file.seek(0, io.SEEK_END)

    def seek(self, place: int) -> int:
        return self._file.seek(place)

    def read(self) -> bytes:
        return self._file.read()


class _Path:
    def __fspath__(self) -> Any:
        return 3


class _Items:
    """A data set that has ``__getitem__`` alone."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __getitem__(self, index: int) -> Any:
        return self._items[index]


class _Stream:
    """A file object that can only be read forwards, such as the answer of a web server."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self) -> bytes:
        return self._file.read()


class TestIterables:
    def test_of_images(self, clip: Embedder) -> None:
        data = [encoded(index, "PPM") for index in range(70)]
        expected = clip.encode_image(data)
        np.testing.assert_allclose(clip.encode_image(item for item in data), expected, atol=2e-6)
        names: Any = np.empty(3, dtype=object)
        names[:] = data[:3]
        np.testing.assert_allclose(clip.encode_image(names), expected[:3], atol=2e-6)
        np.testing.assert_allclose(clip.encode_image(_Items(data[:3])), expected[:3], atol=2e-6)
        with pytest.raises(InputError, match="there is no image"):
            clip.encode_image(iter(()))

    def test_that_reuse_one_array_or_one_file(self, clip: Embedder) -> None:
        frames = [np.asarray(picture(index)) for index in range(9)]
        buffer = np.empty((400, 500, 3), np.uint8)

        def camera() -> Iterator[np.ndarray]:
            for frame in frames:
                view = buffer[: frame.shape[0], : frame.shape[1]]
                view[:] = frame
                yield view

        np.testing.assert_allclose(clip.encode_image(camera()), clip.encode_image(frames), atol=2e-6)
        file = io.BytesIO()
        stills = [Image.fromarray(np.full((64, 64, 3), shade, np.uint8)) for shade in (0, 90, 180, 250)]
        stills[0].save(file, "TIFF", save_all=True, append_images=stills[1:])
        opened = Image.open(file)

        def pages() -> Iterator[Image.Image]:
            for index in range(4):
                opened.seek(index)
                yield opened

        np.testing.assert_allclose(clip.encode_image(pages()), clip.encode_image(stills), atol=2e-6)

    def test_are_read_a_few_batches_ahead(self, clip: Embedder) -> None:
        drawn = []

        def images() -> Iterator[np.ndarray]:
            for index in range(100):
                drawn.append(index)
                yield np.zeros((8, 8, 3), np.uint8)

        next(iter(clip.preprocess_ahead(images(), 5)))
        assert len(drawn) == 15

    def test_of_texts(self, clip: Embedder) -> None:
        texts = ["a red circle", "two blue squares", "x"]
        expected = clip.encode_text(texts)
        for given in (
            iter(texts),
            tuple(texts),
            np.array(texts),
            np.array(texts, dtype=object),
            dict.fromkeys(texts).keys(),
        ):
            np.testing.assert_allclose(clip.encode_text(given), expected, atol=2e-6)
        np.testing.assert_array_equal(clip.tokenize(iter(texts)), clip.tokenize(texts))
        np.testing.assert_allclose(clip.encode_text(_Items(texts)), expected, atol=2e-6)
        together = set(texts)
        np.testing.assert_allclose(clip.encode_text(together), clip.encode_text(list(together)), atol=2e-6)

    @pytest.mark.parametrize(
        ("texts", "words"),
        [
            ([b"x"], r"texts\[0\] is a bytes; .*decode"),
            (("x", None), r"texts\[1\] is None"),
            (iter(["x", 3]), r"texts\[1\] is an int"),
            (b"x", "not a bytes"),
            ({"x": 1}, "not a dict"),
            (None, "not None"),
            (7, "not an int"),
            (set(), "there is no text"),
            (np.array(["x"], dtype="S"), r"texts\[0\] is a bytes"),
            (np.array([["x"]]), "2 dimensions"),
        ],
    )
    def test_that_are_no_texts(self, texts: Any, words: str, clip: Embedder) -> None:
        with pytest.raises(InputError, match=words):
            clip.encode_text(texts)

    def test_the_index_of_a_wrong_text_counts_from_the_first(self, clip: Embedder) -> None:
        with pytest.raises(InputError, match=r"texts\[8200\] is None"):
            clip.encode_text(itertools.chain(["x"] * 8200, [None]))


class TestClassify:
    def test_templates_that_are_functions(self, clip: Embedder) -> None:
        from open_clip import SIMPLE_IMAGENET_TEMPLATES

        written = [template("{}") for template in SIMPLE_IMAGENET_TEMPLATES]
        expected = clip.encode_labels(["circle", "square"], written)
        np.testing.assert_allclose(clip.encode_labels(["circle", "square"], SIMPLE_IMAGENET_TEMPLATES), expected)
        np.testing.assert_allclose(clip.encode_labels(iter(["circle", "square"]), iter(written)), expected)

    @pytest.mark.parametrize(
        ("labels", "templates", "words"),
        [
            (None, ("{}",), "labels must be a list of str, not None"),
            (5, ("{}",), "labels must be a list of str, not an int"),
            ([b"x"], ("{}",), r"labels\[0\] is a bytes"),
            (["x", None], ("{}",), r"labels\[1\] is None"),
            ([], ("{}",), "there is no label"),
            (["x"], None, "templates must be .*not None"),
            (["x"], [b"{}"], r"templates\[0\] is a bytes"),
            (["x"], [3], r"templates\[0\] is an int"),
            (["x"], str.upper, "templates must be a list"),
            (["x"], [lambda label: label.encode()], r"templates\[0\] gives a bytes for the label 'x'"),
            (["x"], [lambda label: 1 / 0], r"templates\[0\] failed on the label 'x': ZeroDivisionError"),
        ],
    )
    def test_wrong_labels_and_templates(self, labels: Any, templates: Any, words: str, clip: Embedder) -> None:
        with pytest.raises(InputError, match=words):
            clip.classify([picture(0)], labels, templates)

    def test_wrong_embeddings(self, clip: Embedder) -> None:
        embeds = clip.encode_image([picture(0)])
        for images, labels in (
            (embeds[:, :5], embeds),
            (embeds, embeds[0]),
            (embeds, None),
            ("x", embeds),
            ([[10**400] * 64], embeds),
        ):
            with pytest.raises(InputError, match=r"_embeds must be"):
                clip.probabilities(images, labels)


@pytest.mark.parametrize(
    "options",
    [
        {"workers": "4"},
        {"workers": 0},
        {"workers": 1.5},
        {"max_pixels": 0},
        {"max_pixels": "9"},
        {"towers": "image"},
        {"towers": [3]},
        {"threads": "2"},
        {"threads": 0},
    ],
)
def test_wrong_options_of_load(options: dict[str, Any], demo_bundle: Path) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        engines.load(demo_bundle, engine="onnxruntime", **options)


def test_a_path_that_is_none(demo_bundle: Path) -> None:
    with pytest.raises(InputError, match="path must be"):
        engines.load(None)  # type: ignore[arg-type]


class TestPixels:
    def test_the_limit_of_load(self, demo_bundle: Path) -> None:
        large = Image.new("RGB", (300, 200))
        with engines.load(demo_bundle, max_pixels=50_000) as clip:
            calls = (
                lambda: clip.encode_image([large]),
                lambda: clip.preprocess(large),
                lambda: clip.classify([large], ["x"]),
            )
            for call in calls:
                with pytest.raises(
                    ImageError, match=r"over the limit of 50000 pixels.*raise max_pixels of engines\.load"
                ):
                    call()
            assert isinstance(next(clip.preprocess_ahead([large], 1))[1][0], ImageError)

    def test_a_limit_above_pillows(self, demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = encoded(0, "PNG")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
        assert pixel_limit(None) == 40_000
        with engines.load(demo_bundle) as clip, pytest.raises(ImageError, match="over the limit of 40000 pixels"):
            clip.encode_image([data])
        with engines.load(demo_bundle, max_pixels=1_000_000) as clip:
            assert len(clip.encode_image([data])) == 1
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        assert pixel_limit(None) == MAX_PIXELS

    def test_a_large_file_where_warnings_are_errors(self, clip: Embedder, tmp_path: Path) -> None:
        path = tmp_path / "large.png"
        Image.new("L", (10_000, 10_000), 77).save(path, compress_level=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = clip.preprocess(path)
        np.testing.assert_array_equal(found, np.full_like(found, 77))

    def test_a_warning_that_is_an_error_is_named(self) -> None:
        assert "warnings are errors in this process" in str(damaged("x.png", UserWarning("odd metadata")))


def test_no_memory_is_no_damage() -> None:
    assert "no memory is left" in str(damaged("x.png", MemoryError()))


def test_a_tower_that_is_named_twice(demo_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "engines"), engines.load(demo_bundle, towers=("text", "text")):
        pass
    assert [record.getMessage().split(" of ")[0] for record in caplog.records] == ["the text tower"]  # opened once


def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch, demo_bundle: Path) -> None:
    decoder = Decoder(read_manifest(demo_bundle).preprocess)

    def submit(*arguments: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(decoder._pool.get(), "submit", submit)
    with pytest.raises(EngineError, match=r"no thread for decoding can be started .*use fewer workers"):
        next(decoder.batches([b"x"], 1))
    decoder.close()
    with pytest.raises(EngineError, match="closed"):
        next(decoder.batches([b"x"], 1))


@pytest.mark.parametrize(("device", "warned"), [("auto", True), ("cpu", False)])
def test_engines_that_the_caller_excluded_are_no_warning(
    device: str, warned: bool, bundle_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = read_manifest(bundle_copy)
    target = msgspec.structs.replace(manifest.engines[0].target, device="sm80")
    plans = [msgspec.structs.replace(engine, kind="tensorrt", target=target) for engine in manifest.engines]
    manifest = msgspec.structs.replace(manifest, engines=(*plans, *manifest.engines))
    (bundle_copy / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
    with caplog.at_level(logging.INFO, "engines"), engines.load(bundle_copy, device=device):
        pass
    assert any(record.levelno == logging.WARNING for record in caplog.records) == warned
