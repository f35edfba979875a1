"""Pillow images that are opened and not decoded, file objects and generators: the same embeddings as decoded pictures give."""

from __future__ import annotations

import io
import itertools
import tarfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

import engines
from engines.embedder import Embedder
from engines.errors import ImageError, InputError
from engines.image_inputs import MAX_PIXELS, damaged, pixel_limit

FORMATS = ["JPEG", "PPM", "TIFF", "TGA", "PNG", "WEBP", "GIF"] + ["AVIF"] * features.check("avif")


@pytest.fixture(scope="module")
def clip(demo_bundle: Path) -> Iterator[Embedder]:
    with engines.load(demo_bundle, workers=8) as embedder:
        yield embedder


def picture(index: int) -> Image.Image:
    rng = np.random.default_rng(index)
    coarse = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((400 + 3 * index, 300 - 2 * index), Image.Resampling.BICUBIC)


def encoded(index: int, kind: str) -> bytes:
    file = io.BytesIO()
    picture(index).save(file, kind)
    return file.getvalue()


def archive(kind: str, count: int) -> tarfile.TarFile:
    """An opened tar file of pictures: all members share one file object and its position."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for index in range(count):
            data = encoded(index, kind)
            info = tarfile.TarInfo(f"{index}.x")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    file.seek(0)
    return tarfile.open(fileobj=file)


def members(tar: tarfile.TarFile) -> list[Image.Image]:
    files = [tar.extractfile(member) for member in tar.getmembers()]
    return [Image.open(file) for file in files if file is not None]


@pytest.mark.parametrize("kind", FORMATS)
def test_undecoded_images_of_one_tar(kind: str, clip: Embedder) -> None:
    expected = clip.encode_image([encoded(index, kind) for index in range(12)])
    for _ in range(3):
        with archive(kind, 12) as tar:
            np.testing.assert_allclose(clip.encode_image(members(tar)), expected, atol=2e-6)


@pytest.mark.parametrize("kind", FORMATS)
def test_one_opened_image_many_times_in_a_list(kind: str, clip: Embedder) -> None:
    data = encoded(3, kind)
    expected = clip.encode_image([data])
    for _ in range(4):
        found = clip.encode_image([Image.open(io.BytesIO(data))] * 8)
        np.testing.assert_allclose(found, expected.repeat(8, axis=0), atol=2e-6)


@pytest.mark.parametrize("kind", FORMATS)
def test_callers_with_the_same_opened_images(kind: str, clip: Embedder) -> None:
    """All methods that take images, at once."""
    pixels = [clip.preprocess(encoded(index, kind)) for index in range(6)]
    expected = clip.encode_image(np.stack(pixels))
    probabilities = clip.classify(np.stack(pixels), ["a red circle", "a blue square"])
    with archive(kind, 6) as tar, ThreadPoolExecutor(12) as pool:
        images = members(tar)

        def ahead() -> list[Any]:
            return [item for _, batch in clip.preprocess_ahead(images, 4) for item in batch]

        calls: list[Callable[[], Any]] = [
            lambda: clip.encode_image(images),
            lambda: clip.preprocess(images[2]),
            lambda: clip.classify(images, ["a red circle", "a blue square"]),
            ahead,
        ] * 3
        found = [future.result() for future in [pool.submit(call) for call in calls]]
    for embeds, one, shares, several in _fours(found):
        np.testing.assert_allclose(embeds, expected, atol=2e-6)
        np.testing.assert_array_equal(one, pixels[2])
        np.testing.assert_allclose(shares, probabilities, atol=1e-4)
        np.testing.assert_array_equal(np.stack(several), np.stack(pixels))


def _fours(items: list[Any]) -> list[list[Any]]:
    return [items[i : i + 4] for i in range(0, len(items), 4)]


@pytest.mark.parametrize("kind", ["JPEG2000", "PNG", "GIF", "JPEG"])
def test_a_damaged_image_fails_as_often_as_it_is_passed(kind: str, clip: Embedder) -> None:
    """Pillow takes an image whose decoder has failed for decoded, and gives what is in its memory the second time."""
    data = encoded(1, kind)
    cut = Image.open(io.BytesIO(data[: len(data) // 2]))
    for _ in range(3):
        with pytest.raises(ImageError, match="truncated, damaged"):
            clip.encode_image([cut])
        with pytest.raises(ImageError, match="truncated, damaged"):
            clip.preprocess(cut)
    good = picture(0)
    (_, batch), *rest = clip.preprocess_ahead([good, cut, good, cut], 4)
    assert not rest
    assert [isinstance(item, ImageError) for item in batch] == [False, True, False, True]


def test_an_image_whose_file_was_closed(clip: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded(0, "JPEG"))
    with Image.open(path) as image:
        pass
    with pytest.raises(ImageError, match="closed before its pixels were decoded; call load"):
        clip.encode_image([image])


class TestFiles:
    def test_files_and_buffers(self, clip: Embedder, tmp_path: Path) -> None:
        data = encoded(4, "PNG")
        path = tmp_path / "x.png"
        path.write_bytes(data)
        written = io.BytesIO()
        written.write(data)  # its position is at the end
        with path.open("rb") as opened, archive("PNG", 5) as tar:
            member = tar.extractfile("4.x")
            images = [data, written, io.BytesIO(data), opened, member, bytearray(data), memoryview(data), _Stream(data)]
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

    @pytest.mark.parametrize(
        "one", [io.BytesIO(b"x"), bytearray(b"x"), b"x", "x.jpg", Path("x.jpg"), 3, None, {"a": 1}]
    )
    def test_one_image_in_the_place_of_a_list(self, one: Any, clip: Embedder) -> None:
        with pytest.raises(InputError, match="images must be a list"):
            clip.encode_image(one)
        with pytest.raises(InputError, match="images must be a list"):
            clip.preprocess_ahead(one, 2)


class _Stream:
    """A file object that can only be read forwards, such as the answer of a web server."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self) -> bytes:
        return self._file.read()


class TestIterables:
    def test_of_images(self, clip: Embedder) -> None:
        data = [encoded(index, "PNG") for index in range(70)]
        expected = clip.encode_image(data)
        np.testing.assert_allclose(clip.encode_image(item for item in data), expected, atol=2e-6)
        names: Any = np.empty(3, dtype=object)
        names[:] = data[:3]
        np.testing.assert_allclose(clip.encode_image(names), expected[:3], atol=2e-6)
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
        together = set(texts)
        np.testing.assert_allclose(clip.encode_text(together), clip.encode_text(list(together)), atol=2e-6)

    @pytest.mark.parametrize(
        ("texts", "words"),
        [
            ([b"x"], r"texts\[0\] is a bytes; .*decode"),
            (("x", None), r"texts\[1\] is None"),
            (iter(["x", 3]), r"texts\[1\] is a int"),
            (b"x", "not a bytes"),
            ({"x": 1}, "not a dict"),
            (None, "not None"),
            (7, "not a int"),
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
            (5, ("{}",), "labels must be a list of str, not a int"),
            ([b"x"], ("{}",), r"labels\[0\] is a bytes"),
            (["x", None], ("{}",), r"labels\[1\] is None"),
            ([], ("{}",), "there is no label"),
            (["x"], None, "templates must be .*not None"),
            (["x"], [b"{}"], r"templates\[0\] is a bytes"),
            (["x"], [3], r"templates\[0\] is a int"),
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
        for images, labels in ((embeds[:, :5], embeds), (embeds, embeds[0]), (embeds, None), ("x", embeds)):
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


@pytest.mark.slow
def test_thirty_two_threads_for_two_minutes(clip: Embedder, tmp_path: Path) -> None:
    """Mixed inputs, Pillow images shared among the threads, bad files among good ones: the embeddings of a single thread."""
    kinds = list(itertools.islice(itertools.cycle(FORMATS), 24))
    data = [encoded(index, kind) for index, kind in enumerate(kinds)]
    expected = np.concatenate([clip.encode_image([item]) for item in data])
    for index, item in enumerate(data):
        (tmp_path / f"{index}.x").write_bytes(item)
    cut = data[0][: len(data[0]) // 2]
    (tmp_path / "cut.x").write_bytes(cut)
    forms: list[Callable[[int], Any]] = [
        lambda index: data[index],
        lambda index: tmp_path / f"{index}.x",
        lambda index: io.BytesIO(data[index]),
        lambda index: Image.open(tmp_path / f"{index}.x"),
        lambda index: np.asarray(Image.open(io.BytesIO(data[index])).convert("RGB")),
    ]
    shared: list[list[Any]] = [[]]
    lock, end, wrong, done = threading.Lock(), time.monotonic() + 120, [], [0]
    broken: list[Callable[[], Any]] = [
        lambda: cut,
        lambda: tmp_path / "cut.x",
        lambda: Image.open(io.BytesIO(cut)),
        lambda: b"x",
    ]

    def renew() -> list[Any]:
        """Images that nobody has decoded yet, for all threads: members of one tar file, and one image for several places."""
        with lock:
            if len(shared[0]) == 0 or np.random.random() < 0.1:
                file = io.BytesIO()
                with tarfile.open(fileobj=file, mode="w") as tar:
                    for index, item in enumerate(data):
                        info = tarfile.TarInfo(f"{index}.x")
                        info.size = len(item)
                        tar.addfile(info, io.BytesIO(item))
                file.seek(0)
                tar = tarfile.open(fileobj=file)  # noqa: SIM115
                shared[0] = [Image.open(opened) for m in tar.getmembers() if (opened := tar.extractfile(m)) is not None]
            return shared[0]

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while time.monotonic() < end and not wrong:
            chosen = rng.integers(0, len(data), rng.integers(1, 9))
            if rng.random() < 0.5:
                given = [renew()[index] for index in chosen]
                tolerance = 2e-6
            else:
                form = forms[rng.integers(0, 4)]
                given, tolerance = [form(index) for index in chosen], 2e-6
            try:
                if rng.random() < 0.2:
                    place = int(rng.integers(0, len(given) + 1))
                    given.insert(place, broken[rng.integers(0, len(broken))]())
                    (_, items), *_ = clip.preprocess_ahead(given, len(given))
                    assert [isinstance(item, ImageError) for item in items] == [i == place for i in range(len(given))]
                    found = clip.encode_image(np.stack([item for i, item in enumerate(items) if i != place]))
                else:
                    found = clip.encode_image(given)
                np.testing.assert_allclose(found, expected[chosen], atol=tolerance)
                done[0] += 1
            except BaseException as error:  # noqa: BLE001
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert not [thread for thread in threads if thread.is_alive()]
    assert not wrong, wrong[0]
    assert done[0] > 100
