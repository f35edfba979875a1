"""Images that `engines` decodes in the C++ library: the pixels, refusals and messages of Pillow, threads, forks, and the end."""

from __future__ import annotations

import gc
import os
import random
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_pictures import picture
from PIL import Image, ImageFile
from test_cpp_pixels import kinds, noise, saved

import engines
from engines.embedder import Embedder
from engines.errors import EngineError, ImageError
from engines.inputs import native
from engines.inputs.native import Library, NativeDecoder, find_library
from engines.inputs.preprocess import preprocess_private
from engines.inputs.transform import OVERSAMPLING
from engines.manifest import read_manifest


@pytest.fixture(autouse=True)
def _library(cpp_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, str(cpp_folder / "libopenclip_engines.so"))


@pytest.fixture
def clip(demo_bundle: Path) -> Iterator[Embedder]:
    with engines.load(demo_bundle, towers=["image"], decoder="native", workers=2) as clip:
        yield clip


@pytest.fixture
def pillow(demo_bundle: Path) -> Iterator[Embedder]:
    with engines.load(demo_bundle, towers=["image"], decoder="pillow", workers=2) as clip:
        yield clip


@pytest.fixture
def decoder(demo_bundle: Path) -> NativeDecoder:
    return opened(demo_bundle)


def opened(bundle: Path, **options: Any) -> NativeDecoder:
    library = find_library()
    assert isinstance(library, Library)
    return NativeDecoder(library, bundle, read_manifest(bundle).preprocess, 2, **options)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and bool((one == other).all())
    return isinstance(one, ImageError) and isinstance(other, ImageError) and str(one) == str(other)


def all_images(folder: Path) -> list[Any]:
    """Images of every kind in every form, also those that only Pillow reads, and some that nobody reads."""
    files = [*kinds().values(), *(saved(picture(i), kind) for i, kind in enumerate(("GIF", "BMP", "TIFF", "PPM")))]
    paths = [folder / f"{index}.dat" for index in range(3)]
    for path, data in zip(paths, files, strict=False):
        path.write_bytes(data)
    views = (
        noise(70, 90, 3),
        noise(70, 90, 3)[::2, 5:40],
        noise(40, 40, 3)[::-1],
        np.broadcast_to(noise(1, 50, 3), (30, 50, 3)),
    )
    bad = [
        b"",
        b"no picture",
        kinds()["jpeg"][:900],
        kinds()["png rgb"][:900],
        folder,
        folder / "missing.jpg",
        "bad\0name",
    ]
    return [
        *files,
        *paths,
        str(paths[0]),
        *views,
        picture(3),
        (folder / "0.dat").open("rb"),
        bytearray(files[1]),
        *bad,
        "\ud800",
    ]


def test_pixels_and_errors_are_those_of_pillow(clip: Embedder, pillow: Embedder, tmp_path: Path) -> None:
    assert clip.decoder == "native 0.1.0"
    assert pillow.decoder.startswith("pillow ")
    images = all_images(tmp_path)
    for size in (1, 7, 64):
        found = [item for _, batch in clip.preprocess_ahead(images, size) for item in batch]
        expected = [item for _, batch in pillow.preprocess_ahead(images, size) for item in batch]
        for image, one, other in zip(images, expected, found, strict=True):
            assert equal(one, other), image
    readable = [image for image, item in zip(images, expected, strict=True) if isinstance(item, np.ndarray)]
    assert (clip.encode_image(readable) == pillow.encode_image(readable)).all()
    assert (clip.preprocess(readable[0]) == pillow.preprocess(readable[0])).all()


def test_common_files_are_read_natively(decoder: NativeDecoder) -> None:
    """Else all tests above would pass with Pillow alone."""
    exif = Image.Exif()
    exif[0x112], exif[0x11A] = 6, 72.0
    rgb = picture(2)
    names = (
        "jpeg",
        "jpeg grey",
        "jpeg progressive",
        "jpeg cmyk",
        "jpeg restarts",
        "jpeg 422",
        "png rgb",
        "png palette",
        "webp",
    )
    files = [*(kinds()[name] for name in names), saved(rgb, "JPEG", exif=exif, comment=b"text", optimize=True)]
    images: list[Any] = [*files, noise(50, 60, 3)]
    assert all(decoder.takes(image) for image in images)
    assert decoder.preprocess(images)[1] == []


def chunk_with_checksum(name: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")


def exif_with(entry: bytes) -> bytes:
    """A JPEG file whose Exif has the resolution's unit and one more entry, both big-endian."""
    tiff = b"MM\0*\0\0\0\x08\0\2\1\x28\0\3\0\0\0\1\0\2\0\0" + entry + bytes(4)
    segment = b"Exif\0\0" + tiff
    return b"\xff\xd8\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + saved(picture(1), "JPEG")[20:]


def unusual_files() -> dict[str, bytes]:
    """Files that this library alone reads, and that Pillow refuses or may refuse."""
    jpeg, png = saved(picture(1), "JPEG"), saved(picture(1), "PNG")
    large = zlib.compress(bytes(3 << 20))
    photoshop = b"Photoshop 3.0\0" + b"8BIM\4\4"
    segment = b"\xff\xed" + (len(photoshop) + 2).to_bytes(2, "big") + photoshop
    return {
        "png text that grows": png[:33] + chunk_with_checksum(b"zTXt", b"k\0\0" + large) + png[33:],
        "png profile that grows": png[:33] + chunk_with_checksum(b"iCCP", b"k\0\0" + large) + png[33:],
        "png text after the pixels": png[:-12] + chunk_with_checksum(b"zTXt", b"k\0\0" + large) + png[-12:],
        "png short gAMA": png[:33] + chunk_with_checksum(b"gAMA", b"\0\0") + png[33:],
        "png without end": png[:-12],
        "jpeg cut JFIF": b"\xff\xd8\xff\xe0\0\x07JFIF\0" + jpeg[20:],
        "jpeg junk between markers": jpeg[:20] + b"\1\2\3" + jpeg[20:],
        "jpeg cut Photoshop marker": jpeg[:20] + segment + jpeg[20:],
        "jpeg cut profile": jpeg[:20] + b"\xff\xe2\0\x0eICC_PROFILE\0" + jpeg[20:],
        "jpeg without end": jpeg[:-2],
        "jpeg Exif with a resolution of no number": exif_with(b"\1\x1a\0\2\0\0\0\1\0\0\0\0"),
        "jpeg Exif with an empty resolution": exif_with(b"\1\x1a\0\1\0\0\0\1\0\0\0\0"),
        "jpeg several": kinds()["mpo"],
        "webp animated": kinds()["webp animated"],
        "apng": kinds()["apng"],
    }


def test_unusual_files_are_left_to_pillow(decoder: NativeDecoder, clip: Embedder, pillow: Embedder) -> None:
    files = unusual_files()
    for name, data in files.items():
        assert decoder.preprocess([data])[1] == [0], name
    (one,), (other,) = (
        [batch for _, batch in each.preprocess_ahead(list(files.values()), 64)] for each in (clip, pillow)
    )
    assert all(equal(a, b) for a, b in zip(one, other, strict=True))
    assert sum(isinstance(item, ImageError) for item in one) >= 4


@pytest.mark.parametrize("fast", [False, True])
def test_damaged_files(demo_bundle: Path, fast: bool) -> None:
    """Of files with random damage, those that the library accepts have Pillow's pixels."""
    decoder, config = opened(demo_bundle, fast_decode=fast), read_manifest(demo_bundle).preprocess
    choose = random.Random(fast)
    files = [
        *kinds().values(),
        saved(picture(4).resize((700, 500)), "JPEG"),
        saved(picture(4), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08"),
    ]
    accepted = 0
    for _ in range(1200):
        data = bytearray(choose.choice(files))
        for _ in range(choose.choice((1, 1, 3))):
            place = choose.randrange(min(len(data), choose.choice((40, 200, len(data)))))
            match choose.randrange(3):
                case 0:
                    data[place] = choose.randrange(256)
                case 1:
                    del data[place : place + choose.choice((1, 2, 9))]
                case _:
                    data[place:place] = bytes([choose.randrange(256)])
        pixels, failed = decoder.preprocess([bytes(data)])
        if not failed:
            accepted += 1
            assert (pixels[0] == preprocess_private(bytes(data), config, None, OVERSAMPLING * fast)).all()
    assert accepted > 50


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 1}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_rows": 1}]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_fast_decode_has_the_pixels_of_pillow(demo_bundle: Path, mode: str, options: dict[str, Any]) -> None:
    decoder, config = opened(demo_bundle, fast_decode=True), read_manifest(demo_bundle).preprocess
    side, plain = config.size[0], opened(demo_bundle)
    for width, height in ((3, 3), (4, 4), (5, 7), (9, 12), (17, 19), (33, 8)):
        data = saved(picture(7).resize((width * side - 3, height * side + 5)).convert(mode), "JPEG", **options)
        pixels, failed = decoder.preprocess([data])
        assert not failed
        assert (pixels[0] == preprocess_private(data, config, None, OVERSAMPLING)).all()
        assert ((pixels[0] != plain.preprocess([data])[0][0]).any()) == (min(width, height) > 4)


def test_limits_of_pixels(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(picture(1).resize((100, 90)), "JPEG")
    for limit, refused in ((8999, True), (9000, False)):
        with engines.load(demo_bundle, towers=["image"], decoder="native", max_pixels=limit) as clip:
            if not refused:
                clip.preprocess(data)
                continue
            with pytest.raises(ImageError, match=r"raise max_pixels of engines\.load"):
                clip.preprocess(data)
    with engines.load(demo_bundle, towers=["image"], decoder="native") as clip:
        clip.preprocess(data)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)  # after the library has opened the bundle
        with pytest.raises(ImageError, match="over the limit of 8000 pixels"):
            clip.preprocess(data)


def test_linked_files_are_not_read_again(demo_bundle: Path, tmp_path: Path) -> None:
    """Python has compared the checksums of linked files already; the library reads the manifest alone."""
    (tmp_path / "manifest.json").write_bytes((demo_bundle / "manifest.json").read_bytes())
    pixels, failed = opened(tmp_path).preprocess([kinds()["jpeg"]])
    assert not failed
    assert (pixels == opened(demo_bundle).preprocess([kinds()["jpeg"]])[0]).all()


def test_truncated_files_where_pillow_reads_them(clip: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    data = kinds()["jpeg"][:-100]
    with pytest.raises(ImageError, match="truncated"):
        clip.preprocess(data)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert clip.preprocess(data).shape == (*clip.manifest.preprocess.size, 3)


def test_versions(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "VERSION", (0, 99))
    with pytest.raises(
        EngineError, match=r"the C\+\+ library is version 0\.1\.0, and this package needs 0\.99; correct it"
    ):
        engines.load(demo_bundle)


def test_bundle_that_only_python_opens(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise EngineError("the C++ library cannot open it")

    monkeypatch.setattr("engines.inputs.decode.NativeDecoder", refuse)
    with engines.load(demo_bundle, towers=["image"]) as clip:
        assert clip.decoder.startswith("pillow ")
    with pytest.raises(EngineError, match="cannot open it"):
        engines.load(demo_bundle, towers=["image"], decoder="native")


def test_many_threads_share_an_embedder(clip: Embedder, pillow: Embedder) -> None:
    images = [*kinds().values(), saved(picture(1), "GIF")]
    expected = np.stack([pillow.preprocess(image) for image in images])
    found: list[Any] = []

    def work() -> None:
        batches = [np.stack(batch) for _, batch in clip.preprocess_ahead(images * 3, 16)]  # type: ignore[arg-type]
        found.append(np.concatenate(batches))

    run_together(work, 6)
    assert len(found) == 6
    assert all((pixels == np.concatenate([expected] * 3)).all() for pixels in found)


def test_memory_of_bytes_and_arrays_lives_as_long_as_it_is_read(clip: Embedder) -> None:
    """A generator drops each image when it makes the next one, and changes the array that it reuses."""
    shared = np.empty((90, 80, 3), np.uint8)

    def images() -> Iterator[Any]:
        for value in range(60):
            shared[:] = value
            yield shared if value % 2 else saved(Image.fromarray(shared), "PNG")
            gc.collect(0)

    found = [item for _, batch in clip.preprocess_ahead(images(), 5) for item in batch]
    assert [int(item[0, 0, 0]) for item in found if isinstance(item, np.ndarray)] == list(range(60))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child(clip: Embedder) -> None:
    data = kinds()["jpeg"]
    expected = clip.preprocess(data)
    list(clip.preprocess_ahead([data] * 9, 2))
    child = os.fork()
    if child == 0:
        same = False
        try:
            found = [item for _, batch in clip.preprocess_ahead([data] * 9, 2) for item in batch]
            same = all((item == expected).all() for item in found)  # type: ignore[attr-defined]
            clip.close()
        finally:
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (clip.preprocess(data) == expected).all()


def test_close_while_images_are_decoded(demo_bundle: Path) -> None:
    data = saved(picture(4).resize((900, 700)), "JPEG")
    for _ in range(5):
        clip = engines.load(demo_bundle, towers=["image"], decoder="native", workers=2)
        begun, errors = threading.Event(), []

        def work(clip: Embedder = clip, begun: threading.Event = begun, errors: list[Any] = errors) -> None:
            try:
                for _ in clip.preprocess_ahead([data] * 200, 8):
                    begun.set()
            except EngineError as error:
                errors.append(str(error))

        thread = threading.Thread(target=work)
        thread.start()
        begun.wait(60)
        clip.close()
        thread.join(60)
        assert not thread.is_alive()
        assert errors == ["the embedder was closed: load the bundle again"]
        with pytest.raises(EngineError, match="closed"):
            clip.preprocess(data)


def test_unused_results_are_dropped(clip: Embedder) -> None:
    batches = clip.preprocess_ahead([kinds()["jpeg"], b"none"] * 50, 10)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert clip.preprocess(kinds()["jpeg"]).any()


def run_together(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
