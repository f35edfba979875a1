"""Which files of a folder are pictures, and what is said about the others."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.__main__ import main
from engines.errors import ImageError, InputError
from engines.inputs.image_files import describe_left_out, find_all_images, find_images
from engines.inputs.image_formats import HEIF_SUFFIXES, SUFFIXES, heif_problem
from engines.inputs.preprocess import preprocess_image
from engines.manifest import Preprocess

CONFIG = Preprocess(
    size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", resize_mode="shortest", fill_color=0
)
HEIC_HEAD = b"\x00\x00\x00\x24ftypheic" + bytes(24)
# Runs a command as on a machine without pillow-heif, or with one that fails when it is imported.
WITHOUT = "import sys; sys.modules['pillow_heif'] = None"
BROKEN = "import sys; sys.path.insert(0, {folder!r})"


def picture(size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def run_engines(prelude: str, *commands: tuple[str, ...]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each command, all of them in one new process."""
    code = f"""
{prelude}
import contextlib, io, json
from engines.__main__ import main
for command in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(command)
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return [tuple(json.loads(line)) for line in ran.stdout.splitlines()]


def each_in_a_fresh_child(imports: str, *codes: str) -> None:
    """Run each code in a process of its own, forked from one that has imported what they need."""
    code = f"""
import os, sys, traceback
{imports}
for code in sys.argv[1:]:
    if os.fork() == 0:
        try:
            exec(code)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.wait()[1] == 0, code
"""
    ran = subprocess.run([sys.executable, "-c", code, *codes], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_every_file_is_found_or_counted(tmp_path: Path) -> None:
    (tmp_path / "deep" / ".hidden").mkdir(parents=True)
    for name in ("a.JPG", "b.TiFf", "deep/c.tga", "deep/d.qoi", "deep/e.ico", "f.jpeg"):
        (tmp_path / name).write_bytes(b"")
    others = ("film.MOV", "deep/film.mov", "notes.txt", "README", "x.", "Mr. Smith on holiday", "page.pdf")
    for name in (*others, ".hidden.jpg", "deep/.hidden/x.mov", "captions.txt", "deep/captions.txt"):
        (tmp_path / name).write_bytes(b"")
    found = find_images(tmp_path, own_files=("captions.txt",))
    assert [str(file.relative_to(tmp_path)) for file in found.files] == [
        *("a.JPG", "b.TiFf", "deep/c.tga", "deep/d.qoi", "deep/e.ico", "f.jpeg")
    ]
    assert found.left_out == {"without a suffix": 3, ".mov": 2, ".txt": 2, ".pdf": 1}
    assert sum(found.left_out.values()) == len(others) + 1
    assert (
        describe_left_out(found.left_out)
        == "left out: 3 without a suffix, 2 .mov, 2 .txt, 1 .pdf: not among the image suffixes"
    )


def test_folders_that_are_not_entered_are_counted(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.png").write_bytes(b"")
    for i in range(2):
        (root / f"link{i}").symlink_to(elsewhere)
    # Deeper than a path may be long: the system refuses to list it.
    here = os.open(root, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    found = find_images(root)
    assert found.files == [root / "a.png"]
    assert found.left_out == {"linked folder": 2, "folder that cannot be read": 1}
    assert describe_left_out(found.left_out) == "left out: 2 linked folders, 1 folder that cannot be read"
    subprocess.run(["rm", "-rf", str(root)], check=True)  # pytest could not


def test_many_kinds_are_one_line() -> None:
    line = describe_left_out({f".{i}x": i for i in range(1, 3001)})
    assert line.startswith("left out: 3,000 .3000x, 2,999 .2999x, ")
    assert line.endswith(" of 2992 other kinds: not among the image suffixes")
    assert len(line) < 250


def test_several_paths_are_added_up(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"")
        (tmp_path / name / "a.mov").write_bytes(b"")
    found = find_all_images([tmp_path / "two", tmp_path / "one" / "a.mov", tmp_path / "one"])
    assert found.files == [tmp_path / "two" / "a.png", tmp_path / "one" / "a.mov", tmp_path / "one" / "a.png"]
    assert found.left_out == {".mov": 2}


def test_pillow_reads_every_suffix() -> None:
    registered = Image.registered_extensions()
    assert {suffix for suffix in SUFFIXES if registered.get(suffix) not in Image.OPEN} <= {".mpo", ".avif"}


def test_a_folder_with_other_files_only(tmp_path: Path) -> None:
    (tmp_path / "film.mov").write_bytes(b"")
    with pytest.raises(InputError, match=r"has no image file .*left out: 1 \.mov"):
        find_images(tmp_path)


class TestWithoutPillowHeif:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "phone"
        folder.mkdir()
        picture().save(folder / "a.png")
        for name in ("b.heic", "C.HEIC", "d.heif"):
            (folder / name).write_bytes(HEIC_HEAD)
        return folder

    def test_a_folder_names_what_it_leaves_out(self, folder: Path, demo_bundle: Path, tmp_path: Path) -> None:
        out = str(tmp_path / "x.npy")
        given = (str(demo_bundle), str(folder))
        for status, shown, said in run_engines(
            WITHOUT, ("embed", *given, "--out", out, "--json"), ("classify", *given, "--labels", "a,b", "--json")
        ):
            assert status == 0, said
            assert (
                "left out: 2 .heic, 1 .heif: not among the image suffixes; HEIC needs pillow-heif, which is not installed: pip "
                "install pillow-heif"
            ) in said
            assert said.count("pip install pillow-heif") == 1
            assert json.loads(shown)["left_out"] == {".heic": 2, ".heif": 1}

    def test_a_file_by_its_name_or_content(self, folder: Path, demo_bundle: Path, tmp_path: Path) -> None:
        (folder / "really.jpg").write_bytes(HEIC_HEAD)
        names = ("b.heic", "really.jpg")
        commands = [("classify", str(demo_bundle), str(folder / name), "--labels", "a,b") for name in names]
        for name, (status, _, said) in zip(names, run_engines(WITHOUT, *commands), strict=True):
            assert status == 1
            assert f"{name}: HEIC needs pillow-heif, which is not installed: pip install pillow-heif" in said

    @pytest.mark.parametrize(
        ("name", "raised"),
        [
            # test_broken_libraries.py has these three of libraries that are tried in the same way.
            pytest.param("RuntimeError", "RuntimeError('no card')", marks=pytest.mark.long),
            pytest.param("ImportError", "ImportError('_heif')", marks=pytest.mark.long),
            pytest.param("SystemExit", "SystemExit('leave')", marks=pytest.mark.long),
            ("OSError", "OSError('libheif.so.1')"),
            ("PanicException", "type('PanicException', (BaseException,), {'__module__': 'builtins'})('a panic')"),
        ],
    )
    def test_one_that_is_broken_is_as_good_as_none(
        self, name: str, raised: str, folder: Path, demo_bundle: Path, tmp_path: Path
    ) -> None:
        package = tmp_path / "packages"
        package.mkdir()
        (package / "pillow_heif.py").write_text(f"raise {raised}")
        command = ("classify", str(demo_bundle), str(folder), "--labels", "a,b")
        ((status, shown, said),) = run_engines(BROKEN.format(folder=str(package)), command)
        assert status == 0, said
        assert "a.png" in shown
        assert f"HEIC needs pillow-heif, which is installed and cannot be imported ({name}: " in said
        assert said.count("\n") == 1

    def test_is_not_asked_for_without_heic(self, folder: Path) -> None:
        for name in ("b.heic", "C.HEIC", "d.heif"):
            (folder / name).unlink()
        (folder / "text.jpg").write_bytes(b"hello")
        code = (
            "import sys\nfrom pathlib import Path\nfrom engines.inputs.image_files import find_images\n"
            "from engines.inputs.image_formats import advice, open_image\n"
            "from PIL import UnidentifiedImageError\n"
            f"found = find_images(Path({str(folder)!r})).files\nassert len(found) == 2\n"
            "open_image(found[0])\n"
            "try: open_image(found[1])\nexcept UnidentifiedImageError: assert 'JPEG, PNG' in advice(found[1])\n"
            "else: raise AssertionError\nassert 'pillow_heif' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestPillowHeif:
    @pytest.fixture
    def heic(self, tmp_path: Path) -> Path:
        pillow_heif = pytest.importorskip("pillow_heif")
        folder = tmp_path / "phone"
        folder.mkdir()
        pillow_heif.from_pillow(picture((64, 48))).save(folder / "a.HEIC", quality=95)
        return folder / "a.HEIC"

    def test_paths_bytes_and_wrong_suffixes(self, heic: Path) -> None:
        """In a fresh process each, where nothing has been registered before."""
        (heic.parent / "b.jpg").write_bytes(heic.read_bytes())
        imports = (
            "from pathlib import Path\nfrom engines.inputs.preprocess import preprocess_image\n"
            f"from engines.manifest import Preprocess\nconfig = {CONFIG!r}\nassert 'pillow_heif' not in sys.modules"
        )
        places = (f"Path({str(heic)!r})", f"Path({str(heic.parent / 'b.jpg')!r})", f"{str(heic)!r}")
        made = [form for place in places for form in (place, f"Path({place}).read_bytes()")]
        each_in_a_fresh_child(
            imports, *(f"assert preprocess_image({form}, config).shape == (16, 16, 3)" for form in made)
        )

    def test_pixels_are_those_of_the_picture(self, heic: Path) -> None:
        expected = preprocess_image(picture((64, 48)), CONFIG).astype(int)
        assert np.abs(preprocess_image(heic, CONFIG).astype(int) - expected).mean() < 8

    def test_brands_that_avif_files_may_have_too(self, heic: Path) -> None:
        data = heic.read_bytes()
        assert data[4:12] == b"ftypheic"
        assert preprocess_image(data[:8] + b"mif1" + data[12:], CONFIG).shape == (16, 16, 3)

    def test_cut_and_damaged_files_are_named(self, heic: Path) -> None:
        data = heic.read_bytes()
        for cut in range(12, len(data), 97):
            with pytest.raises(ImageError):
                preprocess_image(data[:cut], CONFIG)
        rng = np.random.default_rng(0)
        for _ in range(100):
            damaged = bytearray(data)
            for place in rng.integers(12, len(data), 8):
                damaged[place] = int(rng.integers(256))
            with contextlib.suppress(ImageError):
                assert preprocess_image(bytes(damaged), CONFIG).shape == (16, 16, 3)

    def test_too_many_pixels_are_refused_before_decoding(self, heic: Path) -> None:
        with pytest.raises(ImageError, match="over the limit of 3000"):
            preprocess_image(heic, CONFIG, max_pixels=3000)

    def test_folders_count_them_as_pictures(
        self, heic: Path, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert heif_problem() is None
        picture().save(heic.parent / "b.png")
        out = tmp_path / "x.npy"
        assert main(["embed", str(demo_bundle), str(heic.parent), "--out", str(out), "--json"]) == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out)["left_out"] == {}
        assert "left out" not in captured.err
        assert np.load(out).shape == (2, 64)

    def test_threads_that_come_at_once(self, heic: Path) -> None:
        code = (
            "start, sizes = threading.Barrier(8), []\n"
            "def read():\n"
            f"    start.wait()\n    sizes.append(open_image({str(heic)!r}).convert('RGB').size)\n"
            "threads = [threading.Thread(target=read) for _ in range(8)]\n"
            "[thread.start() for thread in threads]\n[thread.join() for thread in threads]\n"
            "assert sizes == [(64, 48)] * 8, sizes"
        )
        imports = "import threading\nfrom engines.inputs.image_formats import open_image\nassert 'pillow_heif' not in sys.modules"
        each_in_a_fresh_child(imports, *[code] * 3)

    def test_suffixes(self) -> None:
        pytest.importorskip("pillow_heif")
        assert heif_problem() is None
        assert Image.registered_extensions().keys() >= HEIF_SUFFIXES
