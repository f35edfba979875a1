"""Named pipes, sockets and devices with the name of a picture: they are counted or named, and nobody waits for a writer."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.__main__ import main
from engines.errors import ImageError, InputError
from engines.inputs.image_files import describe_left_out, find_images
from engines.inputs.image_inputs import opened_image

KIND = "pipe or device that is named as a picture"

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


@pytest.fixture(autouse=True)
def at_most_seconds() -> Iterator[None]:
    """Whoever waits for a writer is interrupted."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waited for a writer"))
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One picture, a link to it, a link to nothing, and a pipe in three places."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(folder / "a.png")
    (folder / "b.png").symlink_to("a.png")
    (folder / "c.png").symlink_to("nothing")
    os.mkfifo(folder / "pipe.jpg")
    os.mkfifo(folder / "deep" / "pipe.png")
    (folder / "link.jpg").symlink_to("pipe.jpg")
    return folder


def test_a_folder_counts_them(folder: Path) -> None:
    os.mkfifo(folder / "pipe.mov")
    (folder / "null.png").symlink_to(os.devnull)
    (folder / "folder.png").mkdir()
    (folder / "linked.png").symlink_to("deep")
    here = os.getcwd()
    os.chdir(folder)  # the path of a socket may be 107 bytes long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.gif")
    os.chdir(here)
    found = find_images(folder)
    assert [file.name for file in found.files] == ["a.png", "b.png", "c.png"]
    assert found.left_out == {KIND: 5, "linked folder": 1, ".mov": 1}
    assert describe_left_out({KIND: 5}) == "left out: 5 pipes or devices that are named as pictures"
    assert describe_left_out({KIND: 1, ".mov": 1}) == f"left out: 1 .mov, 1 {KIND}: not among the image suffixes"


def test_the_system_is_asked_about_no_regular_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder on a network holds millions: what its listing says is enough."""
    for i in range(5):
        (tmp_path / f"{i}.png").touch()
    asked: list[object] = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, *a, **k: (asked.append(path), stat(path, *a, **k))[1])
    assert len(find_images(tmp_path).files) == 5
    assert asked == [tmp_path]


def test_one_that_is_named_itself(folder: Path, tmp_path: Path) -> None:
    for name in ("pipe.jpg", "link.jpg"):
        with pytest.raises(InputError, match=rf"{name} is not a regular file"):
            find_images(folder / name)
        with pytest.raises(ImageError, match=rf"{name}: is not a regular file"), opened_image(str(folder / name)):
            pass
    with pytest.raises(ImageError, match="null: is not a regular file"), opened_image(os.devnull):
        pass
    with pytest.raises(ImageError, match="Is a directory"), opened_image(str(folder)):
        pass
    with pytest.raises(ImageError, match="no such file"), opened_image(str(folder / "c.png")):
        pass


def test_embed_and_classify(
    folder: Path, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, out = str(demo_bundle), tmp_path / "x.npy"
    assert main(["embed", bundle, str(folder), "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["rows"], printed["left_out"], len(printed["skipped"])) == (2, {KIND: 3}, 1)
    assert main(["classify", bundle, str(folder), "--labels", "a,b"]) == 0
    assert "left out: 3 pipes or devices" in capsys.readouterr().err
    (tmp_path / "list.txt").write_text(f"{folder}/a.png\n{folder}/pipe.jpg\n")
    assert main(["embed", bundle, "--list", str(tmp_path / "list.txt"), "--out", str(out), "--json"]) == 0
    (skipped,) = json.loads(capsys.readouterr().out)["skipped"]
    assert skipped["message"].startswith(f"{folder}/pipe.jpg: is not a regular file")


def test_a_list_may_come_from_a_pipe(folder: Path, demo_bundle: Path, tmp_path: Path) -> None:
    """As the shell's `<(find …)` gives it."""
    read, write = os.pipe()
    os.write(write, f"{folder}/a.png\n".encode())
    os.close(write)
    try:
        assert main(["embed", str(demo_bundle), "--list", f"/dev/fd/{read}", "--out", str(tmp_path / "x.npy")]) == 0
    finally:
        os.close(read)
    assert np.load(tmp_path / "x.npy").shape == (1, 64)
