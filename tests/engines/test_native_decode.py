"""The search for the C++ library that decodes images, without the library: tests/cpp/test_cpp_decoder.py runs it."""

from __future__ import annotations

import ctypes.util
import io
from pathlib import Path

import numpy as np
import pytest
from made_pictures import picture

import engines
from engines.errors import EngineError, InputError
from engines.inputs import native
from engines.inputs.decode import Decoder
from engines.inputs.preprocess import preprocess_image, preprocess_private
from engines.inputs.transform import OVERSAMPLING
from engines.manifest import Preprocess, read_manifest


@pytest.fixture(autouse=True)
def _no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the library is installed."""
    monkeypatch.delenv(native.VARIABLE, raising=False)
    monkeypatch.setattr(native, "NAME", "libopenclip_engines.so.absent")


def jpeg(width: int, height: int, **options: object) -> bytes:
    file = io.BytesIO()
    picture(3).resize((width, height)).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.fixture
def config(demo_bundle: Path) -> Preprocess:
    return read_manifest(demo_bundle).preprocess


def test_without_the_library_pillow_decodes(demo_bundle: Path) -> None:
    with engines.load(demo_bundle, towers=["image"]) as clip:
        assert clip.decoder.startswith("pillow ")
        assert clip.encode_image([jpeg(90, 80)]).shape == (1, clip.manifest.model.embed_dim)


def test_native_without_the_library_is_an_error_with_the_remedy(demo_bundle: Path) -> None:
    with pytest.raises(
        EngineError, match=r"cannot be loaded \(.*absent.*\); build it with `make cpp` and set OPENCLIP_EN"
    ):
        engines.load(demo_bundle, decoder="native")


def test_unknown_decoder(demo_bundle: Path) -> None:
    with pytest.raises(InputError, match="decoder is 'turbo': pass 'auto', 'pillow' or 'native'"):
        engines.load(demo_bundle, decoder="turbo")  # type: ignore[arg-type]


@pytest.mark.parametrize("decoder", ["auto", "native"])
def test_variable_that_names_no_library(
    decoder: str, config: Preprocess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "text.so").write_text("no library")
    for path, words in {
        tmp_path / "missing.so": "No such file",
        tmp_path / "text.so": "cannot be loaded",
        Path(ctypes.__file__): "cannot be loaded",
        tmp_path: "cannot be loaded",
    }.items():
        monkeypatch.setenv(native.VARIABLE, str(path))
        with pytest.raises(
            EngineError, match=f"OPENCLIP_ENGINES_LIBRARY is '{path}'.*{words}.*correct it, or unset it"
        ):
            Decoder(config, bundle=tmp_path, decoder=decoder)
        assert Decoder(config, bundle=tmp_path, decoder="pillow").description.startswith("pillow ")


def test_another_library_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "NAME", ctypes.util.find_library("c") or "libc.so.6")
    assert "it is not this release's C++ library" in str(native.find_library())


def test_the_working_directory_is_not_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file there would fail with another reason than a missing one."""
    (tmp_path / native.NAME).write_text("no library")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert "No such file" in str(native.find_library())


def test_versions_are_those_of_the_package() -> None:
    lines = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    (version,) = [line.split('"')[1] for line in lines if line.startswith("version = ")]
    assert tuple(int(part) for part in version.split(".")[:2]) == native.VERSION


class TestFastDecode:
    @pytest.mark.parametrize(("factor", "reduced"), [(1, 1), (3, 1), (4, 2), (7, 2), (9, 4), (17, 8), (40, 8)])
    def test_scale(self, config: Preprocess, factor: int, reduced: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both sides stay at least OVERSAMPLING times the resized picture's, and the scale is the smallest that allows it."""
        from engines.inputs import transform

        sizes: list[tuple[int, int]] = []
        resize = transform.resize
        monkeypatch.setattr(transform, "resize", lambda image, *rest: sizes.append(image.size) or resize(image, *rest))
        side = config.size[0]
        preprocess_private(jpeg(side * factor, side * factor), config, None, OVERSAMPLING)
        assert sizes == [(-(-side * factor // reduced),) * 2]
        assert reduced == 8 or 2 * reduced * OVERSAMPLING > factor
        assert reduced == 1 or sizes[0][0] >= OVERSAMPLING * side

    def test_pixels_differ_slightly_and_only_of_large_jpeg_files(self, config: Preprocess) -> None:
        side = config.size[0]
        large, small = jpeg(side * 9, side * 7), jpeg(side * 2, side * 2)
        slow, fast = preprocess_image(large, config), preprocess_private(large, config, None, OVERSAMPLING)
        assert 0 < np.abs(slow.astype(int) - fast).mean() < 4
        assert (preprocess_image(small, config) == preprocess_private(small, config, None, OVERSAMPLING)).all()
        file = io.BytesIO()
        picture(3).resize((side * 9, side * 7)).save(file, "PNG")
        assert (
            preprocess_image(file.getvalue(), config) == preprocess_private(file.getvalue(), config, None, OVERSAMPLING)
        ).all()

    def test_option(self, demo_bundle: Path, config: Preprocess) -> None:
        large = jpeg(config.size[0] * 9, config.size[0] * 7)
        with engines.load(demo_bundle, towers=["image"], fast_decode=True) as clip:
            assert (clip.preprocess(large) == preprocess_private(large, config, None, OVERSAMPLING)).all()
            ((_, batch),) = clip.preprocess_ahead([large], 4)
            assert (batch[0] == clip.preprocess(large)).all()  # type: ignore[comparison-overlap]
