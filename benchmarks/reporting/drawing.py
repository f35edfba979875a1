"""Panels → pictures: PNG files on white, and SVG that takes its text and grid colours from the page around it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.reporting import styles
from benchmarks.reporting.charts import Guide, Panel, Plot, Series
from engines.process.optional import import_or_reason

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that `svg` replaces by the page's own.
_INK, _FAINT, _PAPER = "#010203", "#040506", "#070809"
_WHITE_PAGE = {_INK: "#1f2328", _FAINT: "#8c959f", _PAPER: "#ffffff"}
_ANY_PAGE = {_INK: "currentColor", _FAINT: "var(--faint)", _PAPER: "var(--paper)"}
_WIDTH, _HEIGHT = 4.7, 3.1  # inches of a panel without its legend
_FONT = 9
_SVG = {"svg.fonttype": "none", "svg.hashsalt": "openclip-engines"}  # text stays text, and a rerun writes the same file


def available() -> str | None:
    """Why no plots can be made here; None if they can."""
    library = import_or_reason("matplotlib", "matplotlib", "pip install 'openclip-engines[bench]'")
    return library if isinstance(library, str) else None


def svg(panel: Panel) -> str:
    """One panel as an ``<svg>`` element that is as wide as its place and follows the page's colours."""
    return _svg(_figure([panel], 1, _ANY_PAGE, legend=False))


def svg_keys(panels: Sequence[Panel]) -> list[tuple[str, str]]:
    """The legend of these panels: (text, a small ``<svg>`` with line and marker), in the order of all tables."""
    from matplotlib.figure import Figure as NewFigure

    keys = []
    for (engine, precision), text in _entries(panels).items():
        figure = NewFigure(figsize=(0.46, 0.18), facecolor="none")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(0, 1))
        axes.set_axis_off()
        style = _style(engine, precision, _PAPER)
        axes.plot([0.02, 0.5, 0.98], [0.5] * 3, markevery=[1], **style)
        keys.append((text, _svg(figure)))
    return keys


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    import matplotlib

    with matplotlib.rc_context(_SVG):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    match = re.search(r"<svg.*</svg>", text.getvalue(), re.DOTALL)
    assert match is not None
    element = re.sub(r"<metadata>.*?</metadata>\s*", "", match[0], flags=re.DOTALL)
    for stands_for, colour in _ANY_PAGE.items():
        element = element.replace(stands_for, colour)
    element = re.sub(r' (width|height)="[^"]*"', "", element, count=2)
    return element.replace("<svg ", '<svg role="img" ', 1)


def write_png(path: Path, plot: Plot) -> None:
    """All panels of a plot in one picture, two side by side, for a page of any README."""
    figure = _figure(plot.panels, min(2, len(plot.panels)), _WHITE_PAGE, legend=True)
    figure.savefig(path, dpi=160, metadata={"Software": None})


def _figure(panels: Sequence[Panel], columns: int, page: dict[str, str], legend: bool) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure as NewFigure

    on_white = page is _WHITE_PAGE
    ink, faint, paper = (page[name] if on_white else name for name in (_INK, _FAINT, _PAPER))
    settings: dict[str, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": _FONT,
        "axes.titlesize": _FONT,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.titlecolor": ink,
        "xtick.color": faint,
        "ytick.color": faint,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "axes.edgecolor": faint,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    entries = _entries(panels)
    rows = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(settings):
        spare = len(panels) < rows * columns  # an empty place, for the legend
        names = 1 if spare else 2 * columns if max(map(len, entries.values())) < 27 else columns
        legend_height = 0.2 * math.ceil(len(entries) / names) + 0.15 if legend and not spare else 0.0
        size = (_WIDTH * columns, _HEIGHT * rows + legend_height)
        figure = NewFigure(figsize=size, layout="constrained", facecolor=paper if on_white else "none")
        axes = figure.subplots(rows, columns, squeeze=False)
        for place, panel in zip(axes.flat, panels, strict=False):
            _draw(place, panel, faint, paper)
        handles = [_handle(engine, precision, text, paper) for (engine, precision), text in entries.items()]
        options: dict[str, Any] = {"handles": handles, "frameon": False, "handlelength": 3.2, "ncols": names}
        if spare:
            axes.flat[-1].set_axis_off()
            axes.flat[-1].legend(loc="center", **options)
        elif legend:
            figure.legend(loc="outside lower center", **options)
        figure.get_layout_engine().set(h_pad=0.08, w_pad=0.06, hspace=0.04, wspace=0.04)  # type: ignore[union-attr, call-arg]
        figure.draw_without_rendering()
    return figure


def _entries(panels: Sequence[Panel]) -> dict[tuple[str, str], str]:
    """Engine and precision → text of the legend, in the order of all tables."""
    pairs = {(series.engine, series.precision) for panel in panels for series in panel.series}
    return {pair: " ".join(filter(None, pair)) for pair in sorted(pairs, key=lambda pair: styles.order(*pair))}


def _style(engine: str, precision: str, paper: str) -> dict[str, Any]:
    look, dashes, filling = styles.look(engine), styles.dashes(precision), styles.filling(precision)
    return {
        "color": look.colour,
        "marker": look.marker,
        "markersize": 8 if look.marker == "*" else 5.5,
        "fillstyle": "full" if filling == "none" else filling,
        "markerfacecolor": paper if filling == "none" else look.colour,
        "markerfacecoloralt": paper,
        "markeredgewidth": 1.2,
        "linewidth": 1.6,
        "linestyle": (0, dashes) if dashes else "-",
    }


def _handle(engine: str, precision: str, text: str, paper: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], label=text, **_style(engine, precision, paper))


def _draw(axes: Axes, panel: Panel, faint: str, paper: str) -> None:
    points = [point for series in panel.series for point in series.points]
    axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y, xscale="log")
    x_range = _room([value for p in points for value in (p.x_low, p.x_high)], 1.12)
    y_values = [value for p in points for value in (p.y_low, p.y_high)]
    if panel.guides:
        x_range, y_range = _guided_ranges(panel.guides, x_range, y_values)
    elif panel.y_log:
        y_range = _room(y_values, 1.2)
    else:
        margin = max(0.1 * (max(y_values) - min(y_values)), 0.005)
        y_range = min(y_values) - margin, max(y_values) + margin
    axes.set_xlim(*x_range)
    if panel.y_log:
        axes.set_yscale("log")
    axes.set_ylim(*y_range)
    _set_ticks(axes, panel, x_range, y_range)
    axes.grid(color=faint, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=3, width=0.6)
    for guide in panel.guides:
        _draw_guide(axes, guide, x_range, y_range, faint)
    for number, series in enumerate(panel.series):
        _draw_series(axes, series, paper, 3 + 0.01 * number)


def _draw_series(axes: Axes, series: Series, paper: str, order: float) -> None:
    x, y = [p.x for p in series.points], [p.y for p in series.points]
    style = _style(series.engine, series.precision, paper)
    if not series.joined:
        style["linestyle"] = "none"
    axes.errorbar(
        x,
        y,
        xerr=_bars([(p.x, p.x_low, p.x_high) for p in series.points]),
        yerr=_bars([(p.y, p.y_low, p.y_high) for p in series.points]),
        elinewidth=1.0,
        capsize=1.5,
        zorder=order,
        **style,
    )


def _bars(intervals: Sequence[tuple[float, float, float]]) -> list[list[float]] | None:
    below = [max(value - low, 0) for value, low, _ in intervals]
    above = [max(high - value, 0) for value, _, high in intervals]
    return [below, above] if any(below) or any(above) else None


def _guided_ranges(
    guides: Sequence[Guide], x_range: tuple[float, float], y_values: Sequence[float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Room around the points in which no point is: for the guides' labels at the bottom, and above the ceilings."""
    low, high = min(y_values), max(y_values)
    if any(guide.slope < 0 for guide in guides):
        return (x_range[0], x_range[1] * 1.1), (low / 2.2, high * 1.4)
    ceilings = [guide.level for guide in guides if guide.slope == 0]
    corner = next((guide.until for guide in guides if guide.until), x_range[1])
    left, right = min(x_range[0] / 1.3, corner / 6), max(x_range[1], corner) * 1.5
    return (left, right), (low / 1.6, max(high, *ceilings) * 1.6)


def _draw_guide(
    axes: Axes, guide: Guide, x_range: tuple[float, float], y_range: tuple[float, float], faint: str
) -> None:
    x = [x_range[0], guide.until or x_range[1]]
    dashes = styles.dashes(guide.precision) if guide.precision else ()
    axes.plot(
        x,
        [guide.level * value**guide.slope for value in x],
        color=faint,
        linewidth=1.1 if guide.slope >= 0 else 0.6,
        linestyle=(0, dashes) if dashes else "-",
        zorder=1.5,
    )
    text: dict[str, Any] = {"fontsize": _FONT - 1.5, "zorder": 1.6}
    if guide.slope == 0:
        axes.text(x_range[1] / 1.02, guide.level * 1.04, guide.label, ha="right", va="bottom", **text)
    elif guide.slope > 0:
        start = max(x_range[0], y_range[0] / guide.level) * 1.1
        slope = math.degrees(math.atan(guide.level))  # of the tangent in the data's linear coordinates
        text |= {"rotation": slope, "rotation_mode": "anchor", "transform_rotates_text": True}
        axes.text(start, guide.level * start * 1.08, guide.label, ha="left", va="bottom", **text)
    else:
        bottom = y_range[0] * 1.08
        if x_range[0] <= guide.level / bottom <= x_range[1]:
            axes.text(guide.level / bottom, bottom, f" {guide.label}", ha="left", va="bottom", **text)
        elif guide.level / x_range[1] > y_range[0]:
            axes.text(x_range[1] * 1.02, guide.level / x_range[1], guide.label, ha="left", va="center", **text)


def _set_ticks(axes: Axes, panel: Panel, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    x_ticks = list(panel.x_ticks) or round_ticks(*x_range, most=6)
    axes.xaxis.set_major_locator(FixedLocator(x_ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([tick_text(value) for value in x_ticks])
    if panel.y_percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}")
    elif panel.y_log:
        y_ticks = round_ticks(*y_range, most=7)
        axes.yaxis.set_major_locator(FixedLocator(y_ticks))
        axes.yaxis.set_minor_locator(NullLocator())
        texts = [tick_text(value) for value in y_ticks]
        if panel.y_floor:
            texts = [f"≤ {t}" if math.isclose(v, panel.y_floor) else t for v, t in zip(y_ticks, texts, strict=True)]
        axes.set_yticklabels(texts)


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers within a range of a logarithmic axis, as many as fit, at least two where there are any."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    best = [10.0**decade for decade in decades if low <= 10.0**decade <= high]
    for steps in (
        (1,),
        (1, 3),
        (1, 2, 5),
        (1, 1.5, 2, 3, 4, 5, 7),
        tuple(range(10, 100, 2)),
        tuple(range(100, 1000, 5)),
    ):
        scale = 10 ** (len(str(int(max(steps)))) - 1)
        values = [step / scale * 10.0**decade for decade in decades for step in steps]
        inside = [float(f"{value:.6g}") for value in values if low <= value <= high]
        if len(inside) <= most and len(inside) > len(best):
            best = inside
    while len(best) > most:
        best = best[::2]
    return best


def tick_text(value: float) -> str:
    """ "0.5", "25", "1,000", "10k", "2M"; powers of ten below a thousandth."""
    if value < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    for limit, sign in ((1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (1e6 if sign == 'M' else 1e3):g}{sign}"
    return f"{value:,.6g}"


def _room(values: Sequence[float], factor: float) -> tuple[float, float]:
    """A range around positive values; at least a factor of two wide."""
    low, high = min(values) / factor, max(values) * factor
    short = math.sqrt(max(2 * low / high, 1))
    return low / short, high * short
