"""Run clang-tidy on every source of the C++ library that the build folder's compilation database names: ``make cpp-lint``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

GENERATED = ("text/tables.cpp",)


def main() -> int:
    """Check all files, two at a time; exit code 1 if there is a finding."""
    parser = argparse.ArgumentParser(description="Run clang-tidy on the C++ library.")
    parser.add_argument(
        "--folder", type=Path, default=Path("build"), metavar="DIR", help="build folder (default: build)"
    )
    parser.add_argument("files", nargs="*", help="only files whose path has one of these words")
    args = parser.parse_args()
    database = args.folder / "compile_commands.json"
    if not database.is_file():
        print(f"error: {database} is missing: run `make cpp` first", file=sys.stderr)
        return 1
    entries = json.loads(database.read_text(encoding="utf-8"))
    names = sorted({entry["file"] for entry in entries if not entry["file"].endswith(GENERATED)})
    chosen = [name for name in names if not args.files or any(word in name for word in args.files)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda name: _tidy(args.folder, name), chosen))
    findings = [text for text in results if text]
    print("\n".join(findings) if findings else f"clang-tidy: {len(chosen)} files, no finding")
    return 1 if findings else 0


def _tidy(folder: Path, name: str) -> str:
    command = ["clang-tidy", "-p", str(folder), "--quiet", "--extra-arg=-Wno-unknown-warning-option", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode else ""


if __name__ == "__main__":
    sys.exit(main())
