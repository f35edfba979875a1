"""``python -m benchmarks report``: rows → Markdown, one HTML file that needs nothing else, and PNG plots."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.records import rows
from benchmarks.records.machine import Machine
from benchmarks.records.results import RESULTS
from benchmarks.records.rows import Row
from benchmarks.reporting import drawing, html_page, styles
from benchmarks.reporting.charts import Plot, Work
from benchmarks.reporting.charts import plots as plots_of
from benchmarks.reporting.markdown import document
from benchmarks.reporting.report_tables import measured_on, sections
from engines.process.optional import import_or_reason

_TITLE = "openclip-engines: measured"
_INTRO = (
    "Values are medians. Speedups are over eager float32 PyTorch, each round compared with the same round. "
    "What could not be measured says why at the end of its machine.",
    f"Engines of this project's bundles are {', '.join(styles.BUNDLED)}; the others are peers.",
)


def machine_folders(results: Path = RESULTS) -> list[Path]:
    """Folders under the results that hold rows, one for each machine."""
    return sorted(path for path in results.glob("*/") if any(path.glob("*.csv")))


def read_machines(sources: Sequence[Path]) -> dict[str, list[Row]]:
    """Machine's name → its rows, from folders, CSV or parquet files.

    Two sources of one machine that have measured the same stay apart: their names are added.

    Raises:
        FileNotFoundError: a source is not there.
        ValueError: a file holds something else.
    """
    parts_by_machine: dict[str, list[tuple[Path, list[Row]]]] = {}
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"{source} is not there")
        by_machine: dict[str, list[Row]] = {}
        for row in rows.read(source):
            by_machine.setdefault(row.machine or source.stem, []).append(row)
        for machine, source_rows in by_machine.items():
            parts_by_machine.setdefault(machine, []).append((source, source_rows))
    machines: dict[str, list[Row]] = {}
    for machine, parts in parts_by_machine.items():
        together = [row for _, source_rows in parts for row in source_rows]
        if len({row.key for row in together}) == len(together):
            machines[machine] = together
        else:
            machines |= {f"{machine} ({source})": source_rows for source, source_rows in parts}
    return machines


def count_works(machines: Iterable[Sequence[Row]]) -> dict[tuple[str, str], Work]:
    """The work of every tower that the roofline can show; empty, with a line on stderr, where open_clip is missing."""
    ceilings = [
        machine_rows for machine_rows in machines if any(row.what == "ceiling" and row.value for row in machine_rows)
    ]
    models = {row.model for machine_rows in ceilings for row in machine_rows if row.what == "throughput" and row.value}
    if not models:
        return {}
    for module in ("torch", "open_clip"):
        library = import_or_reason(module, module, "pip install 'openclip-engines[export]'")
        if isinstance(library, str):
            print(f"roofline left out, because operations cannot be counted: {library}", file=sys.stderr)
            return {}
    import open_clip

    from benchmarks.workloads.flops import count_work

    known = sorted(models & set(open_clip.list_models()))
    counted = {model: count_work(model) for model in known}
    return {
        (model, tower): Work(work.flops, work.activation_bytes, work.read_bytes)
        for model, towers in counted.items()
        for tower, work in towers.items()
    }


def write_report(machines: Mapping[str, Sequence[Row]], out: Path, with_plots: bool) -> list[Path]:
    """Write ``report.md``, ``report.html`` and, with plots, ``<machine>-<plot>.png``.

    Returns:
        The files.
    """
    out.mkdir(parents=True, exist_ok=True)
    works = count_works(machines.values()) if with_plots else {}
    written, parts = [out / "report.md", out / "report.html"], []
    pictures: dict[str, list[tuple[Plot, str]]] = {}
    for machine, machine_rows in machines.items():
        slug = Machine("", machine).slug
        shown: list[html_page.Pictures] = []
        for plot in plots_of(machine_rows, works) if with_plots else []:
            file = out / f"{slug}-{plot.name}.png"
            drawing.write_png(file, plot)
            written.append(file)
            pictures.setdefault(machine, []).append((plot, file.name))
            elements = [(panel.title, drawing.svg(panel)) for panel in plot.panels]
            shown.append(
                html_page.Pictures(plot.name, plot.title, plot.caption, elements, drawing.svg_keys(plot.panels))
            )
        parts.append(html_page.Part(slug, machine, measured_on(machine_rows), shown, sections(machine_rows)))
    written[0].write_text(document(_TITLE, _INTRO, machines, pictures), encoding="utf-8")
    written[1].write_text(html_page.page(_TITLE, _INTRO, parts), encoding="utf-8")
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: written; 1: something the user can mend, said in one line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=__doc__.splitlines()[0])
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="folders or files of rows (default: all of benchmarks/results)",
    )
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "report", help="folder (default benchmarks/results/report)"
    )
    parser.add_argument("--parquet", action="store_true", help="also all rows as rows.parquet")
    parser.add_argument("--no-plots", action="store_true", help="tables only; needs no matplotlib")
    args = parser.parse_args(argv)
    try:
        machines = read_machines(args.folders or machine_folders())
    except (FileNotFoundError, ValueError) as error:
        return _sorry(str(error))
    if not machines:
        where = ", ".join(map(str, args.folders)) or "benchmarks/results"
        return _sorry(
            f"there are no rows in {where}; measure first: make bench, or python -m benchmarks throughput BUNDLE"
        )
    problem = None if args.no_plots else drawing.available()
    if problem:
        return _sorry(f"{problem}; or give --no-plots")
    written = write_report(machines, args.out, not args.no_plots)
    if args.parquet:
        try:
            rows.write_parquet(
                args.out / "rows.parquet", [row for machine_rows in machines.values() for row in machine_rows]
            )
        except ImportError:
            return _sorry("--parquet needs pyarrow: pip install 'openclip-engines[parquet]'")
        written.append(args.out / "rows.parquet")
    for path in written:
        print(path)
    return 0


def _sorry(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
