"""A bundle's hard pictures: every other order, decoder or mode is noticed, and named."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image
from test_verify import accept

import engines.inputs.transform
from engines.__main__ import main
from engines.errors import BundleError
from engines.inputs.preprocess import preprocess_image
from engines.manifest import Preprocess, read_manifest
from engines.verification.embeddings import verify_bundle
from engines.verification.pixels import LOSSY_LEVELS, verify_pixels
from exporter.reference.pictures import encoded_pictures, picture_arrays


def change(bundle: Path, **arrays: np.ndarray | None) -> None:
    """Replace arrays of the reference file, or drop those that are None."""
    path = bundle / "reference.npz"
    with np.load(path) as file:
        kept = {name: file[name] for name in file.files if name not in arrays}
    np.savez_compressed(path, **kept, **{name: value for name, value in arrays.items() if value is not None})  # type: ignore[arg-type]
    accept(bundle, "reference.npz")


def arrays_of(bundle: Path) -> dict[str, np.ndarray]:
    with np.load(bundle / "reference.npz") as file:
        return {name: file[name] for name in file.files}


def make_config(size: tuple[int, int], resize_mode: str, interpolation: str = "bicubic") -> Preprocess:
    return Preprocess(
        size=size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation=interpolation,  # type: ignore[arg-type]
        resize_mode=resize_mode,  # type: ignore[arg-type]
    )


def test_a_good_bundle(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify_pixels(demo_bundle)
    assert (found.passed, found.failures, found.pictures) == (True, (), 14)
    assert found.made_with == found.pillow == PIL.__version__ == read_manifest(demo_bundle).created_with["pillow"]
    assert main(["verify", str(demo_bundle)]) == 0
    assert "pixels of 14 hard pictures are the exporter's, to 0 levels of 255 (Pillow" in capsys.readouterr().out
    assert main(["verify", str(demo_bundle), "--json"]) == 0
    pixels = json.loads(capsys.readouterr().out)["pixels"]
    assert (pixels["passed"], pixels["pictures"], pixels["failures"]) == (True, 14, [])


def test_another_order_of_the_axes_fails(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What Pillow 11 does by itself: the tall picture is noticed, by both kinds of report."""

    def width_first(
        image: Image.Image, size: tuple[int, int], resampling: Image.Resampling, extent: None
    ) -> Image.Image:
        return image.resize((size[0], image.height), resampling).resize(size, resampling)

    monkeypatch.setattr(engines.inputs.transform, "resize", width_first)
    found = verify_pixels(demo_bundle)
    assert not found.passed
    assert found.max_error > 1
    assert any(sentence.startswith("picture tall.png: its pixels differ by up to ") for sentence in found.failures)
    assert main(["verify", str(demo_bundle)]) == 3
    text = capsys.readouterr().out
    assert (
        f"(limit 0), Pillow here is {PIL.__version__} and was {PIL.__version__} where the bundle was exported; " in text
    )
    assert "install that version, or export the bundle again" in text
    assert "FAILED: images become other pixels here" in text
    assert main(["verify", str(demo_bundle), "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert (report["passed"], report["pixels"]["passed"]) == (False, False)
    assert all(row["passed"] for row in report["parity"])


@pytest.mark.parametrize(("name", "allowed"), [("alpha.png", 0), ("dot.png", 0), ("cmyk.jpg", LOSSY_LEVELS)])
def test_the_limits(name: str, allowed: int, bundle_copy: Path) -> None:
    key = f"picture_pixels/{name}"
    pixels = arrays_of(bundle_copy)[key]
    away = np.where(pixels < 128, 1, -1)  # without leaving 0 to 255
    for levels, passed in [(allowed, True), (allowed + 1, False)]:
        change(bundle_copy, **{key: (pixels + away * levels).astype(np.uint8)})
        found = verify_pixels(bundle_copy)
        assert (found.passed, found.max_error) == (passed, levels)
        assert len(found.failures) == (0 if passed else 1)
    assert (
        f"picture {name}: its pixels differ by up to {allowed + 1} levels of 255 (limit {allowed})" in found.failures[0]
    )


def test_a_picture_that_cannot_be_read_here_fails(bundle_copy: Path) -> None:
    change(bundle_copy, **{"picture_files/gray.png": np.frombuffer(b"of another decoder", np.uint8)})
    found = verify_pixels(bundle_copy)
    assert not found.passed
    assert "picture gray.png: it cannot be read here (image of 18 bytes: not an image" in found.failures[0]


def test_a_bundle_of_an_earlier_release_verifies(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(bundle_copy, **dict.fromkeys(name for name in arrays_of(bundle_copy) if name.startswith("picture_")))
    assert all(row.passed for row in verify_bundle(bundle_copy))
    found = verify_pixels(bundle_copy)
    assert (found.passed, found.pictures) == (True, 0)
    assert main(["verify", str(bundle_copy)]) == 0
    assert "not checked: pixels, for the bundle was exported before bundles carried pictures" in capsys.readouterr().out
    assert main(["verify", str(bundle_copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pixels"] is None


@pytest.mark.parametrize(
    "damage",
    [
        {"picture_step": None},
        {"picture_step": np.array(0)},
        {"picture_step": np.array([1, 2])},
        {"picture_step": np.array(3)},
        {"picture_pixels/tall.png": None},
        {"picture_pixels/tall.png": np.zeros((3, 3), np.uint8)},
        {"picture_pixels/tall.png": np.zeros((64, 64, 3), np.float32)},
        {"picture_files/tall.png": np.array(["text"])},
    ],
)
def test_damaged_pictures_are_named(damage: dict[str, np.ndarray | None], bundle_copy: Path) -> None:
    change(bundle_copy, **damage)
    with pytest.raises(BundleError, match=r"reference\.npz is .*damaged.*: copy or export the bundle again"):
        verify_pixels(bundle_copy)


def test_a_step_backwards_is_named(bundle_copy: Path) -> None:
    """No rows and no columns are what such a step leaves, and so the pixels have the right shape."""
    pixels = [name for name in arrays_of(bundle_copy) if name.startswith("picture_pixels/")]
    change(bundle_copy, picture_step=np.array(-1), **dict.fromkeys(pixels, np.zeros((0, 0, 3), np.uint8)))
    with pytest.raises(BundleError, match=r"reference\.npz is .*damaged \(picture_step is -1"):
        verify_pixels(bundle_copy)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32), (224, 224), (60, 90)])
def test_the_tall_picture_tells_the_orders_apart(
    size: tuple[int, int], resize_mode: str, interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(size, resize_mode, interpolation)
    arrays = picture_arrays(config)
    data = encoded_pictures(size)["tall.png"]

    def width_first(
        image: Image.Image, size: tuple[int, int], resampling: Image.Resampling, extent: None
    ) -> Image.Image:
        return image.resize((size[0], image.height), resampling).resize(size, resampling)

    monkeypatch.setattr(engines.inputs.transform, "resize", width_first)
    step = int(arrays["picture_step"])
    kept = arrays["picture_pixels/tall.png"]
    assert kept.shape[0] <= 64
    assert kept.shape[1] <= 64
    assert not np.array_equal(preprocess_image(data, config)[::step, ::step], kept)


def test_the_pictures_are_what_their_names_say() -> None:
    found = {}
    for name, data in encoded_pictures((64, 64)).items():
        image = Image.open(io.BytesIO(data))
        found[name] = (image.mode, image.size)
    assert found["palette.png"][0] == "P"
    assert found["gray16.png"][0] == "I;16"
    assert found["bits.png"][0] == "1"
    assert found["alpha.png"][0] == "RGBA"
    assert found["gray-alpha.png"][0] == "LA"
    assert found["cmyk.jpg"][0] == "CMYK"
    assert found["dot.png"][1] == (1, 1)
    assert found["tall.png"][1] == (80, 384)
    assert found["wide.png"][1] == (384, 80)
    with Image.open(io.BytesIO(encoded_pictures((64, 64))["palette.png"])) as image:
        assert image.info["transparency"] == 3


def test_they_are_small_and_the_same_every_time() -> None:
    config = make_config((224, 224), "shortest")
    arrays, again = picture_arrays(config), picture_arrays(config)
    assert sum(array.nbytes for array in arrays.values()) < 250_000
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)


def test_a_model_of_one_pixel_leaves_thin_pictures_out() -> None:
    names = picture_arrays(make_config((1, 1), "longest"))
    assert "picture_files/dot.png" in names
    assert "picture_files/tall.png" not in names
    assert "picture_pixels/tall.png" not in names
