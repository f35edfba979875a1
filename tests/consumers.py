"""The libraries that load a layout, each in an environment of its own, which is kept between test runs.

Optimum needs transformers 4, which cannot be in the environment of these tests; PyTorch and what else fits is taken from there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
OPTIMUM = ("optimum-onnx==0.1.0", "optimum==2.1.0", "transformers==4.57.6", "onnxruntime>=1.23")
TRANSFORMERS_JS = "@huggingface/transformers@4.3.2"


def optimum_python() -> Path:
    """Python with Optimum, in ``.venv-optimum``."""
    folder = ROOT / ".venv-optimum"
    python = folder / "bin" / "python"
    with FileLock(f"{folder}.lock"):
        if not _is_made(folder, *OPTIMUM, sys.prefix):
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            shared = subprocess.check_output(
                [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
            )
            # The name comes last in the alphabet, and its folder last in the path: what pip installs here comes first.
            (Path(shared.strip()) / "zz_shared.pth").write_text(sysconfig.get_path("purelib"))
            pip = [python, "-m", "pip", "--disable-pip-version-check", "-q"]
            _install([*pip, "install", *OPTIMUM], [*pip, "download", "--no-deps", "-d", folder / "probe", OPTIMUM[0]])
            _mark(folder, *OPTIMUM, sys.prefix)
    return python


def node_folder() -> Path:
    """A folder with transformers.js for Node, ``.node-transformers``. Tests are skipped without Node, but not in CI.

    Its folder ``python`` has ONNX Runtime for Python in the version that transformers.js brings for Node.
    """
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing and not os.environ.get("CI"):  # CI installs them, and lets nothing be skipped
        pytest.skip(f"not installed: {' and '.join(missing)}")
    folder = ROOT / ".node-transformers"
    with FileLock(f"{folder}.lock"):
        if not _is_made(folder, TRANSFORMERS_JS):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            npm = ["npm", "--prefix", folder]
            _install(
                [*npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", TRANSFORMERS_JS],
                [*npm, "view", TRANSFORMERS_JS, "version"],
            )
            runtime = json.loads((folder / "node_modules" / "onnxruntime-node" / "package.json").read_text())["version"]
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
            same = f"onnxruntime=={runtime}"
            _install(
                [*pip, "install", "--no-deps", "--target", folder / "python", same],
                [*pip, "download", "--no-deps", "-d", folder / "probe", same],
            )
            _mark(folder, TRANSFORMERS_JS)
    return folder


def _install(command: list[str | Path], probe: list[str | Path]) -> None:
    """Run a package manager; where it fails, and its index does not answer to `probe` either, tests are skipped."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        asked = subprocess.run(probe, capture_output=True, text=True, check=False)
        if asked.returncode and not os.environ.get("CI"):
            pytest.skip(f"no package index: {asked.stderr.strip()[-300:]}")
        pytest.fail(ran.stderr[-2000:])


def _is_made(folder: Path, *content: str) -> bool:
    mark = folder / ".made"
    return mark.is_file() and mark.read_text() == "\n".join(content)


def _mark(folder: Path, *content: str) -> None:
    (folder / ".made").write_text("\n".join(content))
