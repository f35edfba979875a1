"""Parity inputs: natural, varied, the same every time, and honest about what could not be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exporter.errors import ExportError
from exporter.reference import parity_data
from exporter.reference.parity_data import MAX_SIDE, ParityData, load_parity_data, prompt_captions


@pytest.fixture(scope="module")
def default() -> ParityData:
    return load_parity_data()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    for index, name in enumerate(("a.png", "b.JPG", "deep/c.webp", "deep/deeper/d.bmp")):
        Image.fromarray(rng.integers(0, 255, (40, 50 + index, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.md").write_text("not an image")
    return tmp_path


def test_default_has_the_counts_asked_for(default: ParityData) -> None:
    assert (len(default.images), len(default.captions)) == (64, 128)
    assert "scikit-image" in default.source
    assert "scikit-learn" in default.source
    assert default.skipped == ()


def test_default_is_deterministic_and_seeded(default: ParityData) -> None:
    again, other = load_parity_data(), load_parity_data(seed=1)
    assert again.captions == default.captions != other.captions
    assert all(a.tobytes() == b.tobytes() for a, b in zip(default.images, again.images, strict=True))
    assert [image.size for image in other.images] != [image.size for image in default.images]


def test_default_images_are_rgb_varied_in_size_and_shape_and_not_flat(default: ParityData) -> None:
    aspects = [image.width / image.height for image in default.images]
    assert {image.mode for image in default.images} == {"RGB"}
    assert len({image.size for image in default.images}) > 50
    assert min(aspects) < 0.7
    assert max(aspects) > 1.5
    assert min(min(image.size) for image in default.images) >= 64
    assert np.median([np.asarray(image).std() for image in default.images]) > 25
    assert len({image.tobytes() for image in default.images}) == 64


def test_default_images_are_natural_not_noise(default: ParityData) -> None:
    """Neighbouring pixels of a photograph are alike; those of white noise are not."""
    correlations = []
    for image in default.images:
        grey = np.asarray(image.convert("L"), dtype=np.float64)
        correlations.append(np.corrcoef(grey[:, 1:].ravel(), grey[:, :-1].ravel())[0, 1])
    assert np.median(correlations) > 0.85


def test_captions_are_distinct_and_mostly_of_natural_length_with_a_few_long_ones(default: ParityData) -> None:
    from open_clip import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    lengths = np.array([len(tokenizer.encode(caption)) for caption in default.captions])
    assert len(set(default.captions)) == 128
    assert (lengths > 77).sum() == 2
    assert np.mean((lengths >= 3) & (lengths <= 25)) > 0.85
    assert lengths.min() >= 1


def test_many_captions_stay_distinct() -> None:
    assert len(set(prompt_captions(20_000))) == 20_000


def test_more_images_than_photographs_use_all_of_them_evenly() -> None:
    data = load_parity_data(images=200, captions=1)
    assert len(data.images) == 200
    assert "200 crops of 17 photographs" in data.source


def test_importing_the_module_imports_neither_torch_nor_skimage() -> None:
    code = "import sys, exporter.reference.parity_data; print({'torch', 'skimage', 'sklearn', 'open_clip'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_folder_is_read_recursively_in_a_fixed_order(folder: Path) -> None:
    data = load_parity_data(folder)
    assert sorted(image.width for image in data.images) == [50, 51, 52, 53]
    assert [image.width for image in data.images] == [image.width for image in load_parity_data(folder).images]
    assert data.captions == prompt_captions(128)
    assert data.source == f"4 images of {folder.name}; open_clip's prompt templates"


def test_folder_with_more_images_than_asked_for_gives_a_seeded_choice(folder: Path) -> None:
    choices = {tuple(i.width for i in load_parity_data(folder, images=2, seed=s).images) for s in range(8)}
    assert all(len(choice) == 2 for choice in choices)
    assert len(choices) > 1


def test_folder_captions_are_used_without_blank_lines_and_repeats(folder: Path) -> None:
    (folder / "captions.txt").write_text("\ufeffein Hund\n\n  ein Vogel \nein Hund\n一只猫\n", encoding="utf-8")
    data = load_parity_data(folder)
    assert data.captions == ("ein Hund", "ein Vogel", "一只猫")
    assert data.source.endswith("3 captions of captions.txt")
    assert len(load_parity_data(folder, captions=2).captions) == 2


def test_unreadable_files_are_skipped_and_counted(folder: Path) -> None:
    whole = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.gif").write_text("hello")
    data = load_parity_data(folder)
    assert len(data.images) == 4
    assert data.skipped == ("cut.png", "empty.jpg", "text.gif")
    assert "(3 unreadable skipped)" in data.source


def test_large_pictures_are_shrunk(folder: Path) -> None:
    Image.new("RGB", (4000, 1000), (200, 30, 30)).save(folder / "wide.jpg")
    sizes = {image.size for image in load_parity_data(folder).images}
    assert (MAX_SIDE, MAX_SIDE // 4) in sizes


def test_other_modes_become_rgb(folder: Path) -> None:
    for mode in ("L", "P", "RGBA", "CMYK", "I;16"):
        Image.new(mode, (20, 20)).save(folder / f"{mode.replace(';', '')}.{'tif' if mode == 'CMYK' else 'png'}")
    data = load_parity_data(folder)
    assert len(data.images) == 9
    assert {image.mode for image in data.images} == {"RGB"}


def test_folder_without_a_readable_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="has no image file"):
        load_parity_data(tmp_path)
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"none of the 1 image files .* x\.png"):
        load_parity_data(tmp_path)


def test_a_missing_folder_and_a_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="not there"):
        load_parity_data(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="a file, not a folder"):
        load_parity_data(tmp_path / "file")


@pytest.mark.parametrize(("content", "message"), [(b"\n \n", "no caption"), (b"\xff\xfe\xff", "UTF-8")])
def test_bad_captions_are_errors(folder: Path, content: bytes, message: str) -> None:
    (folder / "captions.txt").write_bytes(content)
    with pytest.raises(ExportError, match=message):
        load_parity_data(folder)


@pytest.mark.parametrize("counts", [{"images": 0}, {"captions": 0}])
def test_a_count_below_one_is_an_error(counts: dict[str, int]) -> None:
    with pytest.raises(ExportError, match="at least 1"):
        load_parity_data(**counts)


def test_too_few_photographs_name_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parity_data, "_SKIMAGE_PHOTOGRAPHS", ("not_in_any_wheel.png",))
    with pytest.raises(ExportError, match=r"only 2 photographs found .*pip install scikit-image scikit-learn, or pass"):
        load_parity_data()


def test_what_is_left_out_is_said_and_suffixes_are_those_of_serving(folder: Path) -> None:
    for name in ("e.jp2", "f.tga", "g.ppm"):
        Image.new("RGB", (20, 30), (9, 99, 200)).save(folder / name)
    (folder / "captions.txt").write_text("a caption\n")
    (folder / "film.mov").write_bytes(b"")
    (folder / ".hidden.png").write_bytes(b"")
    data = load_parity_data(folder)
    assert len(data.images) == 7
    assert data.skipped == ()
    assert data.notes == ("parity data: left out: 1 .md, 1 .mov: not among the image suffixes",)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_captions_of_windows(encoding: str, folder: Path) -> None:
    (folder / "captions.txt").write_bytes("ein Hund\r\n一只猫\r\n".encode(encoding))
    assert load_parity_data(folder).captions == ("ein Hund", "一只猫")


def test_heic_is_read_where_pillow_heif_is(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), (9, 99, 200))).save(tmp_path / "a.heic")
    # With captions of its own nothing imports open_clip and PyTorch.
    (tmp_path / "captions.txt").write_text("a blue square\n", encoding="utf-8")
    code = f"from exporter.reference.parity_data import load_parity_data; print(load_parity_data({str(tmp_path)!r}).images[0].size)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(64, 48)"


def test_a_bare_machine_without_msgspec_reads_it() -> None:
    code = "import sys; sys.modules['msgspec'] = None; import exporter.reference.parity_data"
    subprocess.run([sys.executable, "-c", code], check=True)
