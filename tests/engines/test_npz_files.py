"""Damaged archives of arrays: whatever zipfile, zlib and NumPy raise is one named error."""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_verify import accept

from engines.commands.embed_part import Part, load_part, save_part
from engines.errors import BundleError, EngineError
from engines.files.npz_files import opened_npz
from engines.manifest import Manifest, read_manifest
from engines.verification.embeddings import read_reference
from engines.verification.pixels import verify_pixels

CENTRAL, METHOD, FLAGS = b"PK\x01\x02", 10, 8  # the start of an entry of a zip file's directory, and places in it


def in_directory(data: bytes, place: int, value: int) -> bytes:
    """An archive with a byte of every entry of its directory replaced."""
    changed, at = bytearray(data), data.find(CENTRAL)
    while at >= 0:
        changed[at + place] = value
        at = data.find(CENTRAL, at + 4)
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "unknown compression": lambda data: in_directory(data, METHOD, 99),  # NotImplementedError
    "encrypted": lambda data: in_directory(data, FLAGS, 1),  # RuntimeError
    "deflated": lambda data: in_directory(data, METHOD, 8),  # zlib.error
    "LZMA": lambda data: in_directory(data, METHOD, 14),  # lzma.LZMAError
    "header": lambda data: data.replace(b"{'descr'", b"{('desc'"),  # SyntaxError or tokenize.TokenError
    "header with an open quote": lambda data: data.replace(b"'descr': '", b'"""cr": \''),
    "too large": lambda data: data.replace(b"(3,), ", b"(9**9,", 1).replace(b"(3,)", b"(9999999999999999,)"),
    "a single array": lambda data: b"\x93NUMPY" + data[6:],
    "cut": lambda data: data[:-30],
    "empty": lambda data: b"",
    "not there": lambda data: b"",
}


def make_part(path: Path) -> bytes:
    save_part(path, Part(np.arange(3), np.ones((3, 4), np.float32), {3: "bad"}, np.ones((4, 2), np.int64)))
    return path.read_bytes()


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_the_named_error(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, kept=np.arange(3))
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    if damage == "not there":
        path.unlink()
    with (
        pytest.raises(BundleError, match=r"x\.npz is odd \(.+\): mend it$") as caught,
        opened_npz(path, BundleError, "is odd", "mend it") as arrays,
    ):
        arrays["kept"]
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_is_no_damage_passes_through(kind: type[BaseException], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", kept=np.arange(3))
    with pytest.raises(kind), opened_npz(tmp_path / "x.npz", BundleError, "is damaged", "mend it"):
        raise kind


def changed_at_random(data: bytes, count: int, from_end: int) -> list[bytes]:
    """Copies with one to three other bytes each, every second time among the last ones, where the directory is."""
    rng, copies = np.random.default_rng(0), []
    for i in range(count):
        copy = bytearray(data)
        for place in rng.integers(max(0, len(data) - from_end) if i % 2 else 0, len(data), rng.integers(1, 4)):
            copy[place] = rng.integers(256)
        copies.append(bytes(copy))
    return copies


def test_changed_bytes_of_parts(tmp_path: Path) -> None:
    path = tmp_path / "part.npz"
    found = collections.Counter[str]()
    for i, data in enumerate(changed_at_random(make_part(path), 600, 400)):
        path.write_bytes(data)
        try:
            part = load_part(path, with_embeds=bool(i % 2))
        except EngineError:
            found["named"] += 1
        else:
            found["read"] += 1
            assert (len(part.kept), len(part.skipped), part.stats.shape) == (3, 1, (4, 2))
    assert min(found["named"], found["read"]) > 20


@pytest.mark.parametrize(
    "changed",
    [
        {"kept": np.arange(2)},
        {"kept": np.arange(1, 4)},
        {"kept": np.arange(3.0)},
        {"kept": np.arange(3)[None]},
        {"kept": np.array(0)},
        {"embeds": np.ones((2, 4), np.float32)},
        {"embeds": np.ones((3, 4))},
        {"embeds": np.ones(3, np.float32)},
        {"skipped": np.array('{"2": "kept, too"}')},
        {"skipped": np.array("[]")},
        {"stats": np.ones((3, 2), np.int64)},
        {"stats": np.ones((4, 3), np.int64)},
    ],
)
def test_arrays_of_a_part_that_do_not_fit_together(changed: dict[str, np.ndarray], tmp_path: Path) -> None:
    make_part(tmp_path / "part.npz")
    with np.load(tmp_path / "part.npz") as found:
        arrays = {name: found[name] for name in found.files} | changed
    np.savez(tmp_path / "part.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="is damaged"):
        load_part(tmp_path / "part.npz")


@pytest.fixture
def small_reference(bundle_copy: Path) -> tuple[Path, Manifest, bytes]:
    """A bundle whose reference file has two pictures only, the manifest, and that file's bytes."""
    path = bundle_copy / "reference.npz"
    with np.load(path) as arrays:
        kept = {
            name: arrays[name] for name in arrays.files if "/" not in name or "tall.png" in name or "gray.png" in name
        }
        kept = {name: array[:2] if name.split("_")[0] in ("image", "text") else array for name, array in kept.items()}
    np.savez_compressed(path, **kept)
    accept(bundle_copy, "reference.npz")
    return bundle_copy, read_manifest(bundle_copy), path.read_bytes()


def test_changed_bytes_of_reference_files(small_reference: tuple[Path, Manifest, bytes]) -> None:
    bundle, manifest, whole = small_reference
    assert verify_pixels(bundle).pictures == 2
    found = collections.Counter[str]()
    for data in [*changed_at_random(whole, 40, 1000), *(damage(whole) for damage in DAMAGES.values())]:
        (bundle / "reference.npz").write_bytes(data)
        for read in (verify_pixels, lambda folder: read_reference(folder, manifest)):
            try:
                read(bundle)
            except BundleError:
                found["named"] += 1
            else:
                found["read"] += 1
    assert min(found["named"], found["read"]) > 5
