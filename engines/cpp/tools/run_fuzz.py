"""Run every fuzz target on its committed corpus and on mutations of it, for some seconds each: ``make fuzz``."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[1] / "fuzz/corpus"


def run_target(program: Path, seconds: int, kept: Path) -> tuple[str, bool, str]:
    """Run one target.

    Args:
        program: the target's program, ``fuzz_<name>``.
        seconds: time for mutations.
        kept: folder for inputs that fail.

    Returns:
        The target's name, whether it ran without a finding, and a sentence.
    """
    name = program.name.removeprefix("fuzz_")
    seeds = CORPUS / name
    if not any(seeds.glob("*")):
        return name, False, f"it has no corpus: {seeds} is missing or empty"
    with tempfile.TemporaryDirectory() as work:
        corpus = Path(work) / "corpus"
        shutil.copytree(seeds, corpus)
        limits = [
            f"-max_total_time={seconds}",
            "-timeout=20",
            "-rss_limit_mb=2048",
            "-max_len=65536",
            "-print_final_stats=1",
        ]
        command = [str(program), str(corpus), *limits, f"-artifact_prefix={kept}/{name}-"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    if done.returncode:
        return name, False, f"failed; the input is {kept}/{name}-*\n{done.stderr[-6000:]}"
    return name, True, f"{int(runs[1]) if runs else 0:,} inputs, no finding"


def main() -> int:
    """Run all targets, two at a time; exit code 1 if one failed."""
    parser = argparse.ArgumentParser(description="Run the fuzz targets on their corpora and on mutations of them.")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="folder of the built targets")
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="seconds for each target (default 60)")
    args = parser.parse_args()
    programs = sorted(path for path in args.folder.glob("fuzz_*") if path.is_file() and path.suffix == "")
    if not programs:
        print(f"error: {args.folder} has no fuzz target: run `make fuzz`", file=sys.stderr)
        return 1
    kept = args.folder.resolve() / "findings"
    kept.mkdir(exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda program: run_target(program, args.seconds, kept), programs))
    for name, passed, words in results:
        print(f"{name:16} {'passed' if passed else 'FAILED'}: {words}")
    return 0 if all(passed for _, passed, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main())
