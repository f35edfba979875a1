"""report: every row is shown, plots exist where there are rows, and the page needs nothing else."""

from __future__ import annotations

import html.parser
import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_rows import CPU, GPU, others, speeds

from benchmarks import report
from benchmarks.records import rows
from benchmarks.records.rows import Row
from benchmarks.reporting import charts, drawing, styles
from benchmarks.reporting.charts import Work
from benchmarks.reporting.report_tables import flat_tables, measured_on, number, sections

WORK = {("ViT-B-32", "image"): Work(8.8e9, 15e6, 176e6), ("ViT-B-32", "text"): Work(6e9, 15e6, 76e6)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a CPU (without ceilings, so that no operations have to be counted)."""
    folder = tmp_path_factory.mktemp("rows")
    rows.merge(folder, [row for row in [*speeds(), *others()] if row.what != "ceiling"])
    out = tmp_path_factory.mktemp("report")
    assert report.main([str(folder), "--out", str(out), "--parquet"]) == 0
    return out


def test_files(written: Path) -> None:
    slug = "imaginary-cpu-2-cores"
    pictures = [f"{slug}-{name}.png" for name in ("accuracy", "latency", "throughput")]
    assert sorted(path.name for path in written.iterdir()) == sorted(
        [*pictures, "report.html", "report.md", "rows.parquet"]
    )
    assert all(f"]({name})" in (written / "report.md").read_text() for name in pictures)
    assert len(rows.read(written / "rows.parquet")) == len([r for r in [*speeds(), *others()] if r.what != "ceiling"])


def test_markdown_says_what_is_missing_failed_and_noisy(written: Path) -> None:
    text = (written / "report.md").read_text()
    assert f"## {CPU}" in text
    assert re.search(
        r"\| missing \| openvino plain fp32 \| demo \| throughput image \| not installed: openvino \|", text
    )
    assert r"RuntimeError: out of \| memory" in text
    assert re.search(r"\| a later kernel \| fp32 \| – \| 100 † \|", text)
    assert (
        "† noisy: the passes (of a single one, the quartiles of its rounds) are more than 10 % of the median apart."
        in text
    )
    assert "97.8 % [96.8, 98.6]" in text
    widths = [{line.replace(r"\|", "").count("|") for line in block.splitlines()} for block in _tables(text)]
    assert all(len(width) == 1 for width in widths)


def _tables(text: str) -> list[str]:
    return re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)


class _Page(html.parser.HTMLParser):
    VOID = ("meta", "br", "img", "link", "use", "path", "rect", "stop")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.count: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        found = dict(attrs)
        assert tag not in ("script", "link", "img", "iframe"), "the page needs something else"
        assert not any(name in ("src", "srcset") or name.startswith("on") for name in found)
        if tag in ("h2", "h3"):
            self.ids += [found["id"] or ""] if "id" in found else []
        if tag == "a":
            self.targets.append((found["href"] or "").removeprefix("#"))
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_whole_and_alone(written: Path) -> None:
    text = (written / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert set(page.targets) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert page.count["svg"] >= 9
    assert not re.findall(r"(?:url\(|href=\"|@import )[\"']?https?:", text)
    assert "prefers-color-scheme: dark" in text
    assert "out of | memory &lt;at&gt; 16" in text
    assert "#010203" not in text, "a colour that stands for the page's is still there"
    assert "currentColor" in text


def test_all_rows_are_in_the_tables() -> None:
    """TFLOP/s only at the fastest batch."""
    for machine in (CPU, GPU):
        found = [*speeds(machine), *others(machine)]
        shown = " ".join(c for s in sections(found) for t in s.tables for line in t.lines for c in line)
        for row in found:
            assert row.value is None or row.figure == "tflops" or number(row.value, row.figure) in shown, row


def test_plots_without_rows_do_not_exist() -> None:
    assert charts.plots([], {}) == []
    assert [plot.name for plot in charts.plots(speeds(), WORK)] == ["throughput", "latency"]
    everything = [*speeds(GPU), *others(GPU)]
    assert [p.name for p in charts.plots(everything, WORK)] == ["throughput", "latency", "accuracy", "roofline"]
    assert [p.name for p in charts.plots(everything, {})] == ["throughput", "latency", "accuracy"]


def test_roofline_points_are_where_they_belong() -> None:
    common = {"model": "ViT-B-32", "tower": "image", "shape": "224x224", "batch": 32, "precision": "fp32"}
    found = [
        Row("throughput", figure="per_second", engine="eager", value=1000.0, **common),  # type: ignore[arg-type]
        Row("ceiling", "matmul", "tflops", precision="fp32", value=20.0),
        Row("ceiling", "copy", "gbytes_per_second", value=1000.0),
    ]
    (panel,) = charts.roofline_panels(found, WORK)
    (point,) = panel.series[0].points
    assert point.y == pytest.approx(8.8)
    assert point.x == pytest.approx(32 * 8.8e9 / (2 * (176e6 + 32 * 15e6)))
    copy, matmul = panel.guides
    assert copy.until is not None
    assert copy.level * copy.until == pytest.approx(matmul.level) == pytest.approx(20)


def test_looks_are_told_apart_and_seen() -> None:
    markers = [look.marker for look in styles.ENGINES.values()]
    assert len(set(markers)) == len(markers)
    for name in [*styles.ENGINES, *(f"later {i}" for i in range(12))]:
        light = _luminance(styles.look(name).colour)
        for paper in ("#ffffff", "#15181c"):
            high, low = sorted((light, _luminance(paper)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 3, f"{name} on {paper}"
    assert styles.look("later") == styles.look("later")


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("low", "high"), [(1, 256), (480, 1700), (0.011, 0.013), (1e-6, 1e-3), (3, 4e6), (990, 1010)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    ticks = drawing.round_ticks(low, high, most=7)
    assert 2 <= len(ticks) <= 7
    assert all(low <= tick <= high for tick in ticks)
    assert len({drawing.tick_text(tick) for tick in ticks}) == len(ticks)


def test_numbers() -> None:
    assert [number(value, "per_second") for value in (0.123, 1, 47.52, 367.4, 52353)] == [
        "0.123",
        "1.00",
        "47.5",
        "367",
        "52,353",
    ]
    assert number(0.9999987, "min_cosine") == "0.999999"
    assert number(0.978, "top1") == "97.8 %"
    assert number(-0.004, "top1_change") == "-0.40 %"
    assert number(-0.00001, "top1_change") == "+0.00 %"
    assert number(2.5, "speedup") == "2.50×"


def test_sources_of_one_machine(tmp_path: Path) -> None:
    for name in ("a", "b"):
        rows.merge(tmp_path / name, speeds())
    both = report.read_machines([tmp_path / "a", tmp_path / "b"])
    assert list(both) == [f"{CPU} ({tmp_path / name})" for name in ("a", "b")]
    files = report.read_machines(sorted((tmp_path / "a").iterdir()))
    assert list(files) == [CPU]
    assert len(files[CPU]) == len(speeds())


def test_what_the_user_can_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.csv").write_text("model\ndemo\n")
    for source, part in (("empty", "there are no rows in"), ("nowhere", "is not there"), ("other", "lacks the column")):
        assert report.main([str(tmp_path / source), "--out", str(tmp_path / "out")]) == 1
        message = capsys.readouterr().err
        assert part in message
        assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_matplotlib(tmp_path: Path) -> None:
    rows.merge(tmp_path / "rows", speeds())
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no')")
    command = [sys.executable, "-m", "benchmarks.report", str(tmp_path / "rows"), "--out", str(tmp_path / "out")]
    root = Path(report.__file__).parents[1]
    environment = {"PYTHONPATH": f"{tmp_path}:{root}"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 1
    assert "or give --no-plots" in ran.stderr
    ran = subprocess.run([*command, "--no-plots"], capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.md"]


def test_operations_are_counted() -> None:
    ceiling = Row("ceiling", "matmul", "tflops", value=1.0)
    rate = Row("throughput", "ViT-B-32", "per_second", tower="image", batch=1, value=1.0)
    found = report.count_works([[ceiling, rate], [rate]])
    assert found["ViT-B-32", "image"].flops == pytest.approx(8.82e9, rel=0.01)
    assert found["ViT-B-32", "text"].weight_bytes < 127e6  # what is looked up is not read
    assert report.count_works([[rate]]) == {}


def test_where_it_was_measured() -> None:
    found = [
        Row(
            "throughput",
            "demo",
            "per_second",
            value=1.0,
            machine="M",
            versions="a 1.0 b 2.1+x",
            threads=2,
            date="2026-01-02T",
        ),
        Row(
            "throughput", "demo", "per_second", engine="e", value=1.0, machine="M", versions="b 2.1+x", weights="random"
        ),
    ]
    assert measured_on(found) == "M; a 1.0, b 2.1+x; 2 threads; 2026-01-02; random weights: demo"


def test_tables_have_the_columns_that_say_something() -> None:
    (latency,) = flat_tables(
        [Row("latency", "demo", "p50", tower="text", shape="77 tokens", engine="e", batch=1, value=1.0)]
    )
    assert (latency.title, list(latency.header)) == ("demo, text tower, 77 tokens", ["engine", "p50, ms"])
    (ceilings,) = flat_tables([row for row in others(GPU) if row.what == "ceiling"])
    assert list(ceilings.header) == ["operation", "engine", "precision", "note", "TFLOP/s", "GB/s"]
    assert len(ceilings.lines) == 3
