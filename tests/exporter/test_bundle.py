"""exporter.bundle: all or nothing, whatever interrupts it."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engines.bundle_files import verify_files
from engines.manifest import Manifest, read_manifest
from exporter.bundle import BundleWriter, check_destination
from exporter.errors import ExportError


@pytest.fixture
def manifest(demo_bundle: Path) -> Manifest:
    return msgspec.structs.replace(read_manifest(demo_bundle), files={})


def fill(folder: Path, demo_bundle: Path) -> None:
    for path in demo_bundle.iterdir():
        if path.name not in ("manifest.json", "report.json"):
            (folder / path.name).write_bytes(path.read_bytes())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(out: Path, manifest: Manifest, demo_bundle: Path, force: bool = False) -> Path:
    with BundleWriter(out, force) as writer:
        fill(writer.folder, demo_bundle)
        return writer.commit(manifest, {"note": "x"})


def test_commit(manifest: Manifest, demo_bundle: Path, tmp_path: Path) -> None:
    out = write(tmp_path / "deep" / "er" / "b", manifest, demo_bundle)
    verify_files(out, read_manifest(out), full=True)
    assert "report.json" in read_manifest(out).files
    assert names(out.parent) == ["b"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_errors_leave_nothing(error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error), BundleWriter(tmp_path / "b") as writer:
        (writer.folder / "x").write_text("x")
        raise error
    assert names(tmp_path) == []


def test_no_commit_leaves_nothing(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b"):
        pass
    assert names(tmp_path) == []


def test_existing_bundle_needs_force(manifest: Manifest, demo_bundle: Path, tmp_path: Path) -> None:
    out = write(tmp_path / "b", manifest, demo_bundle)
    with pytest.raises(ExportError, match="--force"), BundleWriter(out):
        pass
    (out / "extra").write_text("old")
    write(out, manifest, demo_bundle, force=True)
    assert not (out / "extra").exists()
    assert names(tmp_path) == ["b"]


def test_a_bundle_that_nobody_could_read_replaces_nothing(
    manifest: Manifest, demo_bundle: Path, tmp_path: Path
) -> None:
    out = write(tmp_path / "b", manifest, demo_bundle)
    wrong = msgspec.structs.replace(manifest, model=msgspec.structs.replace(manifest.model, logit_scale=2.7e43))
    for place in (out, tmp_path / "new"):
        with pytest.raises(ExportError, match=r"model\.logit_scale is 2\.7e\+43.*nothing was written"):
            write(place, wrong, demo_bundle, force=True)
    verify_files(out, read_manifest(out), full=True)
    assert names(tmp_path) == ["b"]


@pytest.mark.parametrize("force", [False, True])
def test_other_folders_and_files_are_never_replaced(force: bool, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for name, message in (("mine", "not a bundle"), ("file", "is a file")):
        with pytest.raises(ExportError, match=message), BundleWriter(tmp_path / name, force):
            pass
        with pytest.raises(ExportError, match=message):
            check_destination(tmp_path / name, force)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_link_is_no_place_for_a_bundle(bundle_copy: Path, tmp_path: Path) -> None:
    """Replacing it would leave the folder it leads to, and a hidden link beside it."""
    for target in (bundle_copy, tmp_path / "nowhere"):
        link = tmp_path / f"to-{target.name}"
        link.symlink_to(target)
        with pytest.raises(ExportError, match="is a link: pass the folder it leads to"):
            check_destination(link, True)


def test_folders_in_which_no_bundle_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    # Root may write everywhere, but not below these.
    for name in ("file/new", "dangling/new", "dangling/deep/new", "/proc/new", "/proc/deep/new"):
        with pytest.raises(ExportError, match=r"cannot write .*; pass an --out that is writable"):
            check_destination(tmp_path / name, False)
    before = sorted(tmp_path.iterdir())
    for name in ("new", "deep/new", "empty"):
        check_destination(tmp_path / name, False)
    assert sorted(tmp_path.iterdir()) == before

    def refuse(path: str, mode: int = 0o777) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr("tempfile._os.mkdir", refuse)
    with pytest.raises(ExportError, match="empty: Permission denied; pass an --out that is writable"):
        check_destination(tmp_path / "empty", False)


def test_an_empty_folder_is_as_good_as_none(manifest: Manifest, demo_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    assert (write(tmp_path / "b", manifest, demo_bundle) / "manifest.json").is_file()


def test_a_place_that_appears_meanwhile(manifest: Manifest, demo_bundle: Path, tmp_path: Path) -> None:
    """Two exports to one place: the second to finish is refused, the first one's bundle stays."""
    with pytest.raises(ExportError, match="--force"), BundleWriter(tmp_path / "b") as slow:
        fill(slow.folder, demo_bundle)
        first = write(tmp_path / "b", manifest, demo_bundle)
        stamp = (first / "manifest.json").stat().st_ino
        slow.commit(manifest, {})
    assert (tmp_path / "b" / "manifest.json").stat().st_ino == stamp
    assert names(tmp_path) == ["b"]


def test_running_exports_are_left_alone(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b") as first, BundleWriter(tmp_path / "b") as second:
        assert first.folder.is_dir()
        assert second.folder.is_dir()
        assert first.folder != second.folder


def test_leftovers_of_the_dead_are_removed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\nfrom exporter.bundle import BundleWriter\n"
            "with BundleWriter(sys.argv[1]) as w:\n (w.folder / 'x').write_text('x'); time.sleep(60)",
            str(tmp_path / "b"),
        ]
    )
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".b.partial-*/x")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(names(tmp_path)) == 1
    (
        tmp_path / f".b.partial-{os.getpid()}-12345-abc"
    ).mkdir()  # this very pid, but of a process that started at another time
    (tmp_path / ".bb.partial-1-1-abc").mkdir()  # another bundle's
    with BundleWriter(tmp_path / "b"):
        pass
    assert names(tmp_path) == [".bb.partial-1-1-abc"]


def test_odd_leftovers_do_not_stop_an_export(tmp_path: Path) -> None:
    (tmp_path / ".b.partial-").mkdir()
    (tmp_path / ".b.partial-x").mkdir()
    with BundleWriter(tmp_path / "b"):
        pass


def test_a_replacement_that_was_cut_short_is_put_back(manifest: Manifest, demo_bundle: Path, tmp_path: Path) -> None:
    out = write(tmp_path / "b", manifest, demo_bundle)
    out.rename(tmp_path / ".b.replaced-0123")  # killed between the two renames
    with pytest.raises(ExportError, match="--force"), BundleWriter(out):
        pass
    verify_files(out, read_manifest(out), full=True)


def test_names_with_pattern_characters(manifest: Manifest, demo_bundle: Path, tmp_path: Path) -> None:
    out = write(tmp_path / "b[1]*", manifest, demo_bundle)
    write(out, manifest, demo_bundle, force=True)
    assert names(tmp_path) == ["b[1]*"]


def test_full_disk(tmp_path: Path) -> None:
    """No file may grow beyond a limit, as on a full disk: one sentence, and nothing is left."""
    code = (
        "import sys, signal, resource\nfrom exporter.bundle import BundleWriter\nfrom exporter.errors import ExportError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try:\n"
        " with BundleWriter(sys.argv[1]) as w:\n"
        "  resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "  (w.folder / 'x').write_bytes(b'0' * 5000)\n"
        "except ExportError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], capture_output=True, text=True, check=True)
    assert "no space left" in ran.stdout
    assert names(tmp_path) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_unwritable_place() -> None:
    with pytest.raises(ExportError, match=r"cannot write /proc/x/b: .* --out"), BundleWriter("/proc/x/b"):
        pass


def test_failing_rename_keeps_the_old(
    manifest: Manifest, demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write(tmp_path / "b", manifest, demo_bundle)
    original = Path.rename

    def rename(self: Path, target: Any) -> Path:
        if ".partial-" in self.name:
            raise OSError(5, "Input/output error")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(ExportError, match="Input/output"):
        write(out, manifest, demo_bundle, force=True)
    monkeypatch.undo()
    verify_files(out, read_manifest(out), full=True)
    assert names(tmp_path) == ["b"]
