"""``python -m benchmarks compare A B``: the figures that became slower or less accurate from A to B, beyond the noise.

Only rows with the same key, measured on the same machine, are compared; by default only figures that were measured against
something else in the same run (speedups over eager, accuracies), because a shared machine's speed drifts from run to run. Of those

- a speed that both runs measured in several passes has changed if it differs by more than the threshold and by more than the spread
  between passes allows; and so has the mean over all of an engine's figures on a model, which is less noisy. The limits are such
  that among all figures and means of a comparison one false alarm comes in 20 reruns, or fewer (`benchmarks.regression.noise`).
  Where even a slowdown of 20 % would lie within the limit, the figure or mean is too noisy to judge;
- any other speed (older rows, a single pass) has changed if its medians differ by more than the threshold and the boxes between its
  quartiles do not overlap, each widened on both sides by three quarters of its height, or of the median height of that run's boxes
  where that is more. That does not show differences between processes and drift within minutes. Without
  quartiles it has to differ by four times the threshold;
- a share (top-1, recall, agreement; and the change from eager's on the same samples) has changed if the 95 % confidence intervals
  do not overlap; without intervals, by the threshold;
- a cosine or an error has changed if its distance from exact has doubled or halved, and that by more than 0.00001.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal

from benchmarks.records import rows as rowfiles
from benchmarks.records.figures import FIGURES
from benchmarks.records.rows import Row
from benchmarks.regression.findings import Comparison, describe
from benchmarks.regression.noise import Noise, has_passes

Verdict = Literal["worse", "better", "same"]
_WIDENED = 0.75
_WITHOUT_QUARTILES = 4
_TO_BE_SEEN = -math.log(0.8)  # a slowdown of 20 %
_LEAST_ERROR = 1e-5


def compare(before: Iterable[Row], after: Iterable[Row], threshold: float = 0.05, absolute: bool = False) -> Comparison:
    """Compare rows by key.

    Args:
        before: rows of A.
        after: rows of B.
        threshold: relative change of a speed that counts as none.
        absolute: compare also figures that were not measured against something else in the same run.
    """
    before, after = list(before), list(after)
    old, new = ({row.key: row for row in rows if _counts(row, absolute)} for rows in (before, after))
    usual_old, usual_new = _usual_heights(old.values()), _usual_heights(new.values())
    # One row says for its whole case that it could not be measured; older figures beside it no longer count.
    empty = {row.case: row for row in after if row.value is None}
    had = {row.case: row for row in before if row.value is not None}
    comparison = Comparison(added=[row for key, row in new.items() if key not in old and row.case not in empty])
    for case, row in empty.items():
        if case in had:
            (comparison.failed if row.status == "failed" else comparison.missing).append(row)
    for key, a in old.items():
        b = new.get(key)
        if a.case in empty:
            continue
        if b is None:
            comparison.vanished.append(a)
        elif a.machine != b.machine:
            comparison.elsewhere.append((a, b))
        else:
            comparison.compared.append((a, b))
    noise = Noise([(a, b) for a, b in comparison.compared if _in_passes(a, b)])
    for mean in noise.means():
        if abs(mean.change) > max(mean.limit, math.log1p(threshold)):
            slower = (mean.change < 0) == (FIGURES[mean.pairs[0][0].figure].better == "higher")
            (comparison.slower if slower else comparison.faster).append(mean)
        elif mean.limit > _TO_BE_SEEN:
            comparison.blurred.append(mean)
        else:
            comparison.steady.append(mean)
    for a, b in comparison.compared:
        limit = noise.limit(a, b) if _in_passes(a, b) else None
        verdict = judge(a, b, threshold, usual_old.get(a.figure, 0.0), usual_new.get(b.figure, 0.0), limit)
        if verdict != "same":
            (comparison.worse if verdict == "worse" else comparison.better).append((a, b))
        elif limit is not None and limit > _TO_BE_SEEN:
            comparison.unsure.append((a, b))
    return comparison


def judge(
    a: Row, b: Row, threshold: float, usual_a: float = 0.0, usual_b: float = 0.0, limit: float | None = None
) -> Verdict:
    """Whether a figure changed beyond the noise, by the rules above.

    Args:
        a: before, with a value.
        b: after, with a value.
        threshold: relative change.
        usual_a, usual_b: height of the run's usual box of that figure, relative to the median.
        limit: change of the logarithm that the spread between passes explains; None: not known.
    """
    assert a.value is not None
    assert b.value is not None
    figure = FIGURES[a.figure]
    if figure.exact is not None:
        distances = abs(a.value - figure.exact), abs(b.value - figure.exact)
        if max(distances) - min(distances) <= _LEAST_ERROR or max(distances) <= 2 * min(distances):
            return "same"
        return "worse" if distances[1] > distances[0] else "better"
    higher = b.value > a.value
    verdict: Verdict = "better" if higher == (figure.better == "higher") else "worse"
    box_a, box_b = _box(a), _box(b)
    relative = abs(b.value - a.value) / abs(a.value) if a.value else float(b.value != a.value)
    if limit is not None:
        return verdict if relative > threshold and abs(math.log(b.value / a.value)) > limit else "same"
    if box_a is None or box_b is None:
        factor = 1 if figure.is_share else _WITHOUT_QUARTILES
        return verdict if relative > factor * threshold else "same"
    if figure.is_share:
        return "same" if _overlap(box_a, box_b) else verdict
    wide_a, wide_b = _widened(box_a, usual_a * abs(a.value)), _widened(box_b, usual_b * abs(b.value))
    return verdict if relative > threshold and not _overlap(wide_a, wide_b) else "same"


def load(source: str) -> list[Row]:
    """Rows of a folder, a CSV or parquet file, or of ``REVISION:PATH`` in git.

    Raises:
        ValueError: there is no such thing, or it holds no rows.
    """
    path = Path(source)
    if path.exists():
        rows = rowfiles.read(path)
    elif ":" in source:
        rows = _load_revision(*source.split(":", 1))
    else:
        raise ValueError(f"{source} is not there; give a folder, a CSV or parquet file, or REVISION:PATH")
    if not rows:
        raise ValueError(f"there are no rows in {source}")
    return rows


def _load_revision(revision: str, path: str) -> list[Row]:
    root = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(root), "archive", "--format=tar", "--end-of-options", revision, path]
    ran = subprocess.run(command, capture_output=True, check=False)
    if ran.returncode:
        problem = (ran.stderr.decode(errors="replace").strip().splitlines() or ["git failed"])[-1]
        raise ValueError(f"{revision}:{path} cannot be read: {problem.removeprefix('fatal: ')}")
    with tempfile.TemporaryDirectory(prefix="rows-") as folder:
        with tarfile.open(fileobj=BytesIO(ran.stdout)) as archive:
            for member in archive.getmembers():
                if member.isfile():
                    target = Path(folder) / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    content = archive.extractfile(member)
                    assert content is not None
                    target.write_bytes(content.read())
        return rowfiles.read(Path(folder) / path)


def _counts(row: Row, absolute: bool) -> bool:
    if row.figure == "speedup" and (row.engine, row.precision) == ("eager", "fp32"):
        return False  # over itself
    figure = FIGURES[row.figure]
    return row.value is not None and (figure.relative or (absolute and figure.better is not None))


def _in_passes(a: Row, b: Row) -> bool:
    """Whether the noise of both is known from passes."""
    figure = FIGURES[a.figure]
    return has_passes(a) and has_passes(b) and not figure.is_share and figure.exact is None


def _box(row: Row) -> tuple[float, float] | None:
    return None if row.low is None or row.high is None else (row.low, row.high)


def _widened(box: tuple[float, float], usual: float) -> tuple[float, float]:
    more = _WIDENED * max(box[1] - box[0], usual)
    return box[0] - more, box[1] + more


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]


def _usual_heights(rows: Iterable[Row]) -> dict[str, float]:
    """Figure → median height of its boxes, relative to their medians."""
    heights: dict[str, list[float]] = {}
    for row in rows:
        box = _box(row)
        if row.value and box is not None:
            heights.setdefault(row.figure, []).append((box[1] - box[0]) / abs(row.value))
    return {figure: statistics.median(values) for figure, values in heights.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: nothing is worse; 1: something is worse or fails now; 2: wrong usage, or nothing can be compared or judged."""
    description, rules = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description=description,
        epilog=rules
        + "\nexit codes: 0 nothing is worse; 1 something is worse, or fails now; 2 wrong usage, nothing to compare, or too noisy.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = "a machine's folder of rows, a CSV or parquet file, or REVISION:PATH in git"
    parser.add_argument("a", metavar="A", help=f"before: {what}")
    parser.add_argument("b", metavar="B", help="after")
    parser.add_argument(
        "--threshold", type=_share, default=0.05, help="relative change of a speed that is none (default 0.05)"
    )
    parser.add_argument(
        "--absolute", action="store_true", help="also seconds, rates and memory, which drift on shared machines"
    )
    args = parser.parse_args(argv)
    try:
        comparison = compare(load(args.a), load(args.b), args.threshold, args.absolute)
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(describe(comparison))
    if not (comparison.compared or comparison.failed or comparison.missing):
        print(f"error: {args.a} and {args.b} have no figure in common that can be compared", file=sys.stderr)
        return 2
    if comparison.worse or comparison.slower or comparison.failed:
        return 1
    if comparison.compared and not comparison.judged:
        print(
            "error: all is too noisy to judge: measure again on a quieter machine, or with more --passes",
            file=sys.stderr,
        )
        return 2
    return 0


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
