"""Double-precision instructions in compiled kernels, as NVIDIA's disassembler shows them; it comes with Triton.

One run reads the instructions of all kernels, because the disassembler takes half a second before it begins.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

_BYTES = 16  # of an instruction, from Volta on
_TARGETS = {"sm80": "SM80", "sm90": "SM90a"}
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", re.MULTILINE)
# D for double: DADD, DMUL, DFMA, DMNMX, DSETP, DMMA; conversions and reciprocals say F64, as in F2F.F32.F64, and 64H.
_DOUBLE = re.compile(r"(?:DADD|DMUL|DFMA|DMNMX|DSETP|DMMA)\b.*|.*(?:F64|64H).*")


def instructions(cubins: Mapping[str, bytes], arch: str) -> dict[str, list[str]]:
    """Every instruction with its modifiers, in order, by the names that the kernels are given under.

    Args:
        cubins: compiled kernels.
        arch: ``sm80`` or ``sm90``, that they are compiled for.
    """
    from triton import knobs

    code = {name: b"".join(_code(cubin)) for name, cubin in cubins.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "code.bin"
        path.write_bytes(b"".join(code.values()))
        command = [os.fspath(knobs.nvidia.nvdisasm.path), "-b", _TARGETS[arch], os.fspath(path)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    listing = [name for _, name in _INSTRUCTION.findall(said)]
    total = sum(map(len, code.values())) // _BYTES
    if len(listing) != total:
        raise RuntimeError(f"the disassembler shows {len(listing)} of {total} instructions")
    found, start = {}, 0
    for name, part in code.items():
        end = start + len(part) // _BYTES
        found[name] = listing[start:end]
        start = end
    return found


def doubles(listing: list[str]) -> list[str]:
    """Those of double precision."""
    return [instruction for instruction in listing if _DOUBLE.fullmatch(instruction)]


def _code(cubin: bytes) -> Iterator[bytes]:
    """The sections with instructions of a 64-bit ELF file."""
    if cubin[:5] != b"\x7fELF\x02":
        raise ValueError("a compiled kernel is no 64-bit ELF file")
    (headers,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, headers + index * size) for index in range(count)]
    for name, _, _, _, start, length in sections:
        place = sections[names][4] + name
        if cubin[place : place + 6] == b".text.":
            yield cubin[start : start + length]
