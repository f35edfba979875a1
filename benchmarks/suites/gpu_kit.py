"""The packages that a bare PyTorch machine lacks, to be taken along with the tree: ``make gpu-kit``; GPU.md shows its use.

The wheels go to ``gpu-kit/``, with the commit of the tree in ``commit.txt``: a copy without its repository has it from there.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.records.csv_file import COMMIT_FILE, commit

_ROOT = Path(__file__).resolve().parents[2]
# Neither in PyTorch's images nor small enough to do without; wcwidth is ftfy's, and the onnx-ir there is older than the one of CI.
_WHEELS = ("open_clip_torch", "ftfy", "wcwidth", "msgspec", "onnx-ir")
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def requirements(constraints: str) -> list[str]:
    """The packages at the versions of a constraints file; one that it does not name has none.

    Args:
        constraints: the file's text.
    """
    pinned = {}
    for line in constraints.splitlines():
        match = re.match(r"([\w.-]+)==([^;\s]+)", line)
        if match:
            pinned[_plain(match[1])] = match[2]
    return [f"{name}=={pinned[_plain(name)]}" if _plain(name) in pinned else name for name in _WHEELS]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch the wheels and write the commit down."""
    parser = argparse.ArgumentParser(prog="make gpu-kit", description=__doc__.splitlines()[0])
    parser.add_argument("--python", default="3.12", help="version on the machine with the GPU (default 3.12)")
    parser.add_argument("--out", type=Path, default=COMMIT_FILE.parent, help="folder (default gpu-kit)")
    args = parser.parse_args(argv)
    folder: Path = args.out
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    wanted = requirements((_ROOT / "constraints.txt").read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "-q", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", args.python, "-d", str(folder)]
    for platform in _PLATFORMS:
        command += ["--platform", platform]
    ran = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        said = [line for line in ran.stderr.strip().splitlines() if line.startswith("ERROR: ")]
        why = (said or ran.stderr.strip().splitlines() or ["it said nothing"])[-1].removeprefix("ERROR: ")
        print(f"error: pip cannot fetch the wheels: {why}", file=sys.stderr)
        return 1
    (folder / COMMIT_FILE.name).write_text(commit() + "\n", encoding="utf-8")
    wheels = sorted(folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels)
    print(
        f"{len(wheels)} wheels, {size / 1e6:.1f} MB, and the commit {commit()}: {folder}/ is what to take along with the tree"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
