"""The charts of a run, drawn by matplotlib in the colours of the page.

Charts go into a page as SVG (`medxlate.report.svg`), which is sharp at any size and follows the
page's theme.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from medxlate.charts.style import MUTED, look_of, styled
from medxlate.evaluation.results import Picture, Points
from medxlate.report.drawing import (
    HEIGHT,
    WIDTH,
    Values,
    blank,
    draw_thresholds,
    fields,
    finite,
    legend,
    legend_name,
    nothing,
    threshold_text,
)
from medxlate.report.printing import csv_text, short
from medxlate.report.svg import svg

OPACITIES = (0.9, 0.25, 0.6, 0.1, 0.75, 0.4)  # of bars
DOTS, SHAPES, LINE_POINTS, BINS = 2400, 1200, 300, 30  # at most; of a chart, of a line
CURVES = 12  # drawn at most; more cannot be followed


@styled
def draw(picture: Picture) -> Markup:
    """Return a picture as an ``svg`` element to put into a page.

    Thousands of points are thinned: of a scatter one of those that lie on one another is kept, and
    of more than 2400 (of further lines 1200) evenly many; of a line lowest and highest of each
    stretch (``thin``).

    Args:
        picture: The picture; of more than 12 lines the first 12 are drawn, which its title says.
    """
    found = [line for line in picture.lines if line.x]
    lines = found[:CURVES]
    if not lines:
        return nothing(picture.title)
    left = f" (the first {CURVES} of {len(found)})" if len(found) > CURVES else ""
    title = f"{picture.title}{left}"
    bars = picture.kind == "bars"
    names = [line.name for line in lines] if len(lines) > 1 else []
    names += [threshold_text(*each) for each in picture.thresholds.items()]
    height = HEIGHT
    if bars:
        groups = len({value for line in lines for value in line.x})
        height = groups * ((15 if len(lines) == 1 else 10 * len(lines)) + 9)
    figure = blank(WIDTH, height, title=title, names=names)
    axis = figure.add_subplot()
    {"histogram": _histogram, "bars": _bars}.get(picture.kind, _points)(axis, picture, lines)
    upright = picture.kind in ("histogram", "bars")
    draw_thresholds(axis, picture.thresholds, upright=upright)
    legend(figure, axis)
    return svg(figure, title=title, description=_description(picture, lines))


def drawn_values(picture: Picture) -> str:
    """Return what a chart shows, as CSV: a row a point, a bin or a bar."""
    lines = [line for line in picture.lines if line.x][:CURVES]
    x_label, y_label = picture.x_label or "x", picture.y_label or "y"
    if picture.kind == "histogram" and lines:
        edges, counts = _binned(lines)
        share = "share (%)" if len(lines) > 1 else "number"
        rows = [
            (line.name, float(low), float(high), float(count))
            for line, each in zip(lines, counts, strict=True)
            for low, high, count in zip(edges, edges[1:], each, strict=False)
        ]
        return csv_text(("series", f"{x_label}, from", "to", share), rows)
    found: list[tuple[str | float, ...]] = []
    for line in lines:
        xs, ys = (line.x, line.y) if picture.kind != "lines" else thin(line.x, line.y)
        for x, y in zip(xs, ys, strict=False):
            found.append((line.name, _tick(picture, x) if picture.ticks else x, y))
    return csv_text(("series", x_label, y_label), found)


def _description(picture: Picture, lines: Sequence[Points]) -> str:
    values = [value for line in lines for value in line.x]
    parts = [f"{line.name}: {len(line.x)} values" for line in lines]
    parts += [threshold_text(*each) for each in picture.thresholds.items()]
    if not picture.ticks:
        where = picture.x_label or "Values"
        parts.insert(0, f"{where} from {short(min(values))} to {short(max(values))}")
    if picture.y_label:
        parts.insert(0, picture.y_label)
    return "; ".join(parts) + "."


def _histogram(axis: Axes, picture: Picture, lines: Sequence[Points]) -> None:
    """Draw the values of each line in the same bins; several as shares, for they differ in number.

    Bins are at most 30, of the width that Freedman and Diaconis give for all values together.
    """
    edges, shares = _binned(lines)
    for i, (line, counts) in enumerate(zip(lines, shares, strict=True)):
        colour, dashes, _ = look_of(i)
        axis.stairs(counts, edges, fill=True, color=colour, alpha=0.18)
        look: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 2}
        axis.stairs(counts, edges, label=_label(line, lines), **look)
    share = ", share of each (%)" if len(lines) > 1 else ""
    fields(axis, picture.x_label, (picture.y_label or "Number") + share)


def _binned(lines: Sequence[Points]) -> tuple[Values, list[Values]]:
    """Return the edges of the bins, and numbers of values; of several lines shares in %."""
    values = [finite(line.x) for line in lines]
    together = np.concatenate(values)
    spread = float(np.subtract(*np.percentile(together, [75, 25])))
    width = 2 * spread / len(together) ** (1 / 3)
    bins = int(min(max(np.ptp(together) / width, 5), BINS)) if width > 0 else 10
    edges = np.histogram_bin_edges(together, bins)
    counts = [np.histogram(each, edges)[0].astype(float) for each in values]
    if len(lines) > 1:
        counts = [each * 100 / each.sum() for each in counts]
    return edges, counts


def _points(axis: Axes, picture: Picture, lines: Sequence[Points]) -> None:
    """Draw lines or a scatter; with a diagonal both axes show the same range."""
    scatter = picture.kind == "scatter"
    for i, line in enumerate(lines):
        xs, ys = finite(line.x), finite(line.y)
        joined = not scatter and len(line.x) > 1
        colour, dashes, marker = look_of(i)
        look: dict[str, Any] = {"color": colour, "linestyle": dashes if joined else "none"}
        if scatter or len(line.x) <= 12:
            look |= marker
        if scatter:
            dotted = i < 2 and len(line.x) > 100
            look |= {"markersize": 4.5, "alpha": 0.5} if dotted else {}
            xs, ys = _apart(xs, ys, (DOTS if dotted else SHAPES) // len(lines))
        else:
            xs, ys = map(np.asarray, thin(xs.tolist(), ys.tolist()))
        axis.plot(xs, ys, label=_label(line, lines), clip_on=False, **look)
    if picture.diagonal:
        ends = (
            min(axis.get_xlim()[0], axis.get_ylim()[0]),
            max(axis.get_xlim()[1], axis.get_ylim()[1]),
        )
        axis.plot(ends, ends, color=MUTED, linewidth=1, scalex=False, scaley=False)
        axis.set(xlim=ends, ylim=ends)
    whole = all(float(value).is_integer() for line in lines for value in line.x)
    fields(axis, picture.x_label, picture.y_label, whole=whole)


def _bars(axis: Axes, picture: Picture, lines: Sequence[Points]) -> None:
    """Draw bars from left to right, so that long names have room."""
    groups = sorted({value for line in lines for value in line.x})
    thick = 0.8 / len(lines)
    for i, line in enumerate(lines):
        places = [groups.index(x) + thick * (i - (len(lines) - 1) / 2) for x in line.x]
        colour, dashes, _ = look_of(i)
        axis.barh(
            places, finite(line.y), 0.9 * thick, label=_label(line, lines),
            facecolor=to_rgba(colour, OPACITIES[i % 6]), edgecolor=colour,
            linestyle=dashes, linewidth=1,
        )  # fmt: skip
    axis.axvline(0, color=MUTED, linewidth=1)
    fields(axis, picture.y_label, picture.x_label, rows=[_tick(picture, each) for each in groups])


def _label(line: Points, lines: Sequence[Points]) -> str | None:
    """Return a line's name for the legend; one that is alone needs none."""
    return legend_name(line.name) if len(lines) > 1 else None


def _tick(picture: Picture, value: float) -> str:
    known = value == int(value) and 0 <= value < len(picture.ticks)
    return picture.ticks[int(value)] if known else short(value)


def thin(
    x: Sequence[float], y: Sequence[float], limit: int = LINE_POINTS
) -> tuple[list[float], list[float]]:
    """Return at most ``limit`` points of a curve: lowest and highest of each stretch of points.

    No peak is lost, nothing is averaged. The first and the last point stay.
    """
    if len(x) <= limit:
        return list(x), list(y)
    stretches = max((limit - 2) // 2, 1)
    kept = {0, len(x) - 1}
    for k in range(stretches):
        places = range(k * len(x) // stretches, (k + 1) * len(x) // stretches)
        kept |= {min(places, key=y.__getitem__), max(places, key=y.__getitem__)}
    order = sorted(kept)
    return [x[i] for i in order], [y[i] for i in order]


def _apart(xs: Values, ys: Values, most: int) -> tuple[Values, Values]:
    """Return points that do not hide one another, evenly chosen where they are too many."""
    squares = [
        np.floor((values - values.min()) / (np.ptp(values) or 1) * room / 2)
        for values, room in ((xs, WIDTH), (ys, HEIGHT))
    ]
    _, first = np.unique(squares, axis=1, return_index=True)
    kept = np.sort(first)
    kept = kept[np.arange(min(len(kept), most)) * len(kept) // min(len(kept), most)]
    return xs[kept], ys[kept]
