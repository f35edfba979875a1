"""Pillow images that are opened and not decoded, given to several threads: the embeddings that decoded pictures give."""

from __future__ import annotations

import io
import itertools
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_pictures import archive, encoded, members, picture
from PIL import Image, ImageSequence, features

import engines
from engines.embedder import Embedder
from engines.errors import ImageError

FORMATS = ["JPEG", "PPM", "TIFF", "TGA", "PNG", "WEBP", "GIF"] + ["AVIF"] * features.check("avif")


@pytest.fixture(scope="module")
def clip(demo_bundle: Path) -> Iterator[Embedder]:
    with engines.load(demo_bundle, workers=8) as embedder:
        yield embedder


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


def test_frames_behind_a_damaged_one(clip: Embedder) -> None:
    file = io.BytesIO()
    noise = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8) for seed in range(4)]
    pages = [Image.fromarray(page) for page in noise]
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    data = bytearray(file.getvalue())
    with Image.open(io.BytesIO(bytes(data))) as opened:
        opened.seek(1)
        start = opened.tag_v2[273][0]  # where the page's pixels begin
    data[start : start + 4000] = bytes(4000)
    frames = ImageSequence.Iterator(Image.open(io.BytesIO(bytes(data))))
    (_, batch), *_ = clip.preprocess_ahead(frames, 4)
    assert [isinstance(item, ImageError) for item in batch] == [False, True, False, False]
    np.testing.assert_array_equal(batch[3], clip.preprocess(noise[3]))


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
