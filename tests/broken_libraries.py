"""Libraries that are installed and broken: packages in a folder that Python looks into first, and processes that do so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engines.manifest import MANIFEST_NAME, Engine, Manifest, manifest_bytes, read_manifest

ROOT = Path(__file__).parents[1]
# What a library's import does, and the end of the reason that is given for it.
BREAKAGES = {
    "raise RuntimeError('Could not determine home directory.')": "RuntimeError: Could not determine home directory.",
    "import ctypes; ctypes.CDLL('lib.so.7')": "OSError: lib.so.7: cannot open shared object file: No such file or directory",
    "raise ImportError('DLL load failed')": "ImportError: DLL load failed",
    "import a_part_of_it_that_is_missing": "ModuleNotFoundError: No module named 'a_part_of_it_that_is_missing'",
    "import math; math.nothing": "AttributeError: module 'math' has no attribute 'nothing'",
    "raise SystemError('initialization failed')": "SystemError: initialization failed",
    "raise SystemExit('this processor is not supported')": "SystemExit: this processor is not supported",
    "match = = 1": "SyntaxError: invalid syntax",
}


def break_library(folder: Path, name: str, code: str = "raise RuntimeError('it is broken')") -> Path:
    """Put a package of that name, whose import runs `code`, into a folder, which is returned: pass it to `run_python`."""
    place = folder.joinpath(*name.split("."))
    place.mkdir(parents=True)
    (place / "__init__.py").write_text(f"{code}\n", encoding="utf-8")
    return folder


def run_python(*words: str, first: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python <words>`` with this tree, after the folder of `break_library`, at the front of its path."""
    path = os.pathsep.join(map(str, filter(None, (first, ROOT))))
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def answer_of(code: str, first: Path | None = None, **environment: str) -> Any:
    """What a program gives to its function `answer`, which it finds defined."""
    preamble = "import json\ndef answer(value): print('ANSWER' + json.dumps(value))\n"
    ran = run_python("-c", preamble + code, first=first, **environment)
    lines = [line for line in ran.stdout.splitlines() if line.startswith("ANSWER")]
    if ran.returncode or len(lines) != 1:
        pytest.fail(f"exit code {ran.returncode}\n{ran.stdout}\n{ran.stderr}")
    return json.loads(lines[0].removeprefix("ANSWER"))


def add_engines(bundle: Path, *kinds: str, device: str = "cpu", version: str = "1.0") -> Manifest:
    """Enter engines into a bundle's manifest that read its own files, all of them, and the bundle's own, for one device."""
    manifest = read_manifest(bundle)
    own = [_retargeted(engine, engine.kind, device, engine.target.version) for engine in manifest.engines]
    more = [_retargeted(engine, kind, device, version) for kind in kinds for engine in manifest.engines]
    manifest = msgspec.structs.replace(manifest, engines=(*own, *more))
    (bundle / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
    return manifest


def _retargeted(engine: Engine, kind: str, device: str, version: str) -> Engine:
    target = msgspec.structs.replace(engine.target, device=device, version=version)
    return msgspec.structs.replace(engine, kind=kind, target=target)
