"""The C++ library's reading of reference.npz: damaged archives, and every layout that NumPy writes."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_library import CppLibrary
from edited_bundles import relist

from engines.errors import BundleError


def _header(text: str, content: bytes = b"") -> bytes:
    """A .npy array with this header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + content


def _archive(arrays: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def _shaped(shape: str) -> bytes:
    return _archive({"image_pixels": _header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}")})


def _claiming(size: int) -> bytes:
    """An archive whose directory claims that its array has so many bytes."""
    data = bytearray(_archive({"image_pixels": _header("{}")}, zipfile.ZIP_DEFLATED))
    struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 24, size)
    return bytes(data)


ARCHIVES = {
    "empty": b"",
    "no archive": b"PK\x03\x04" * 50,
    "no dictionary": _archive({"image_pixels": _header("[]")}),
    "objects": _archive({"image_pixels": _header("{'descr': '|O', 'fortran_order': False, 'shape': (0,), }")}),
    "too many items": _shaped(f"({2**60},)"),
    "a product that overflows": _shaped(f"({2**33}, {2**33})"),
    "fewer bytes than items": _shaped("(5,)"),
    "a claim": _claiming(2**32 - 2),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_damaged_reference_files(name: str, cpp: CppLibrary, bundle_copy: Path) -> None:
    (bundle_copy / "reference.npz").write_bytes(ARCHIVES[name])
    relist(bundle_copy, ["reference.npz"])
    with pytest.raises(BundleError, match=r"reference\.npz is missing or damaged .*: copy or export the bundle again"):
        cpp.verify(bundle_copy, towers=1)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reference_files_of_every_layout(save: Any, cpp: CppLibrary, bundle_copy: Path) -> None:
    """Stored or deflated members, and arrays in Fortran's order, hold the same numbers."""
    path = bundle_copy / "reference.npz"
    with np.load(path) as archive:
        arrays = {name: np.asfortranarray(array) if array.ndim else array for name, array in archive.items()}
    save(path, **arrays)
    relist(bundle_copy, ["reference.npz"])
    assert cpp.verify(bundle_copy, towers=1)["passed"]
