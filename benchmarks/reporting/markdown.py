"""Tables and the report in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.records.rows import Row
from benchmarks.reporting.charts import Plot
from benchmarks.reporting.report_tables import Section, Table, measured_on, sections


def document(
    title: str,
    intro: Sequence[str],
    machines: Mapping[str, Sequence[Row]],
    pictures: Mapping[str, Sequence[tuple[Plot, str]]],
) -> str:
    """The report.

    Args:
        title: the document's title.
        intro: sentences under the title.
        machines: name → rows.
        pictures: name → plots and their files, relative to the report.
    """
    lines = [f"# {title}", "", " ".join(intro), ""]
    for machine, rows in machines.items():
        lines += [f"## {machine}", "", f"Measured on {measured_on(rows)}.", ""]
        for plot, file in pictures.get(machine, ()):
            lines += [f"### {plot.title}", "", plot.caption, "", f"![{plot.title}, {machine}]({file})", ""]
        for section in sections(rows):
            lines += _markdown_section(section)
    return "\n".join(lines).rstrip() + "\n"


def markdown_table(table: Table) -> str:
    """A pipe table with its notes under it; numbers to the right."""
    rule = ["---" if column < table.texts else "---:" for column in range(len(table.header))]
    lines = [_pipes(table.header), _pipes(rule)]
    for number, line in enumerate(table.lines):
        lines.append(_pipes(f"**{cell}**" if (number, i) in table.best else cell for i, cell in enumerate(line)))
    return "\n".join(lines + (["", " ".join(table.notes)] if table.notes else []))


def _markdown_section(section: Section) -> list[str]:
    lines = [f"### {section.title}", ""]
    for table in section.tables:
        lines += [*([f"#### {table.title}", ""] if table.title else []), markdown_table(table), ""]
    return lines


def _pipes(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
