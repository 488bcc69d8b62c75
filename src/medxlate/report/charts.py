"""Charts of a report as SVG inside HTML: themed by the page, sharp at any size, without script.

Colours are the page's CSS variables: ``--ink``, ``--muted``, ``--grid``, ``--surface`` and ``--c1``
to ``--c6``. Lines differ by dashes or marker shapes as well, so that colour is not needed.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from medxlate.evaluation.results import Picture, Points
from medxlate.report.axes import Axis, short, span, thin, tick_texts, ticks
from medxlate.report.svg import (
    DASHES,
    LETTER,
    MARKERS,
    ROW,
    WIDTH,
    block,
    colour,
    dots,
    frame,
    marker,
    over,
    rule,
    stroke,
    tag,
    text,
)

HEIGHT = 190  # of the field
RIGHT = 14  # margin
DOTS, SHAPES, LINE_POINTS, BINS = 2400, 1200, 300, 30  # at most; of a chart, of a line
CURVES = 12  # drawn at most; more cannot be told apart


def draw(picture: Picture) -> Markup:
    """Return a picture as an ``svg`` element to put into a page.

    Thousands of points are thinned: of a scatter one of those that lie on one another is kept, and
    of more than 2400 (of further lines 1200) evenly many; of a line lowest and highest of each
    stretch (`medxlate.report.axes.thin`).

    Args:
        picture: The picture; of more than 12 lines the first 12 are drawn.
    """
    lines = [line for line in picture.lines if line.x][:CURVES]
    picture = picture.model_copy(update={"lines": tuple(lines)})
    if not lines:
        return frame(picture.title, "No values.", nothing, names=())
    drawers: dict[str, Callable[[Picture, float], tuple[list[Markup], float]]] = {
        "histogram": _histogram,
        "scatter": _points,
        "lines": _points,
        "bars": _bars,
    }
    names = [line.name for line in lines] if len(lines) > 1 else []
    dashed, marked = _looks(picture)
    return frame(
        picture.title,
        _description(picture),
        lambda top: drawers[picture.kind](picture, top),
        names=names,
        dashed=dashed,
        marked=marked,
    )


def _looks(picture: Picture) -> tuple[list[bool], list[bool]]:
    """Say of each line whether it is a stroke, and whether it has markers."""
    strokes = picture.kind in ("lines", "histogram")
    points = picture.kind in ("lines", "scatter")
    few = [len(line.x) <= 12 for line in picture.lines]
    dashed = [
        strokes and (picture.kind == "histogram" or len(line.x) > 1) for line in picture.lines
    ]
    marked = [points and (picture.kind == "scatter" or each) for each in few]
    return dashed, marked


def _description(picture: Picture) -> str:
    values = [value for line in picture.lines for value in line.x]
    parts = [f"{line.name}: {len(line.x)} values" for line in picture.lines]
    parts += [f"{name}: {short(value)}" for name, value in picture.thresholds.items()]
    if not picture.ticks:
        where = picture.x_label or "Values"
        parts.insert(0, f"{where} from {short(min(values))} to {short(max(values))}")
    if picture.y_label:
        parts.insert(0, picture.y_label)
    return "; ".join(parts) + "."


def nothing(top: float) -> tuple[list[Markup], float]:
    """Return what stands where there is no value."""
    return [text(0, top + ROW, "No values.")], top + 2 * ROW


@dataclass(frozen=True)
class Field:
    """The field of a chart with its two axes and what is drawn of them."""

    x: Axis
    y: Axis
    parts: list[Markup]
    bottom: float


def _field(
    top: float,
    x: tuple[float, float],
    y: tuple[float, float],
    x_label: str,
    y_label: str,
    *,
    whole: bool = False,
) -> Field:
    """Return axes with grid, round ticks and labels; the vertical one's label stands on top."""
    parts = [text(0, top + 12, y_label)] if y_label else []
    top += ROW + 8 if y_label else 8
    marks = ticks(*y, count=4)
    texts = tick_texts(marks)
    left = 10 + 7.8 * max((len(each) for each in texts), default=1)
    across = Axis(*x, left, WIDTH - RIGHT)
    up = Axis(*y, top + HEIGHT, top)
    for value, words in zip(marks, texts, strict=True):
        parts.append(rule(left, up(value), WIDTH - RIGHT, up(value)))
        parts.append(text(left - 6, up(value) + 4, words, text_anchor="end"))
    below = top + HEIGHT
    parts += _below(across, below, whole=whole)
    parts.append(rule(left, below, WIDTH - RIGHT, below, stroke="var(--muted)"))
    parts.append(text((left + WIDTH - RIGHT) / 2, below + 36, x_label, text_anchor="middle"))
    return Field(across, up, parts, below + (44 if x_label else 26))


def _below(across: Axis, y: float, *, whole: bool = False) -> list[Markup]:
    marks = ticks(across.low, across.high, count=5, whole=whole)
    if sum(map(len, tick_texts(marks))) > 30:
        marks = ticks(across.low, across.high, count=3, whole=whole)
    parts = []
    for value, words in zip(marks, tick_texts(marks), strict=True):
        parts.append(rule(across(value), y, across(value), y + 4, stroke="var(--muted)"))
        parts.append(text(across(value), y + 17, words, text_anchor="middle"))
    return parts


def upright(thresholds: dict[str, float], across: Axis, top: float, bottom: float) -> list[Markup]:
    """Return named vertical lines; their names stand below one another, away from the others."""
    parts = []
    highest = max(thresholds.values(), default=0.0)
    for i, (name, value) in enumerate(thresholds.items()):
        words = textwrap.shorten(f"{name}: {short(value)}", 34, placeholder="…")
        x, room = across(value), LETTER * len(words) + 5
        right = x < room or (value == highest and x + room < WIDTH)
        parts.append(rule(x, top, x, bottom, **_threshold(i)))
        parts.append(over(x + (5 if right else -5), top + 10 + 15 * i, words, right=right))
    return parts


def _threshold(index: int) -> dict[str, Any]:
    return {"stroke": "var(--ink)", "stroke_width": 1.3, "stroke_dasharray": DASHES[index % 5 + 1]}


def _histogram(picture: Picture, top: float) -> tuple[list[Markup], float]:
    """Draw the values of each line in the same bins; several as shares, for they differ in number.

    Bins are at most 30, of the width that Freedman and Diaconis give for all values together.
    """
    values = [np.clip(np.asarray(line.x, float), -1e300, 1e300) for line in picture.lines]
    every = np.concatenate(values)
    low, high = span([float(every.min()), float(every.max())], pad=0)
    spread = float(np.subtract(*np.percentile(every, [75, 25])))
    width = 2 * spread / len(every) ** (1 / 3)
    bins = int(min(max((high - low) / width, 5), BINS)) if width > 0 else 10
    edges = np.linspace(low, high, bins + 1)
    counts = [np.histogram(each, edges)[0].astype(float) for each in values]
    several = len(values) > 1
    if several:
        counts = [each / each.sum() * 100 for each in counts]
    label = picture.y_label or "Number"
    label += ", share of each (%)" if several else ""
    x_range = span([low, high, *picture.thresholds.values()], pad=0.02)
    tallest = max(float(each.max()) for each in counts)
    field = _field(top, x_range, span([tallest], zero=True, pad=0.1), picture.x_label, label)
    places, floor = [field.x(float(edge)) for edge in edges], field.y(0)
    parts = field.parts
    for i, each in enumerate(counts):
        heights = [field.y(float(count)) for count in each]
        path = f"M{places[0]:g} {floor:g}" + "".join(
            f"V{height:g}H{place:g}" for height, place in zip(heights, places[1:], strict=True)
        )
        path += f"V{floor:g}"
        parts.append(tag("path", d=path + "z", fill=colour(i), fill_opacity=0.18))
        parts.append(stroke(path, i))
    parts += upright(picture.thresholds, field.x, field.y.end, floor)
    return parts, field.bottom


def _points(picture: Picture, top: float) -> tuple[list[Markup], float]:
    """Draw lines or a scatter; with a diagonal both axes show the same range."""
    x_range = span([value for line in picture.lines for value in line.x])
    heights = [value for line in picture.lines for value in line.y]
    y_range = span([*heights, *picture.thresholds.values()], pad=0.06)
    if picture.diagonal:
        x_range = y_range = min(x_range[0], y_range[0]), max(x_range[1], y_range[1])
    whole = all(value.is_integer() for line in picture.lines for value in line.x)
    field = _field(top, x_range, y_range, picture.x_label, picture.y_label, whole=whole)
    x, y, parts = field.x, field.y, field.parts
    if picture.diagonal:
        low, high = x_range
        parts.append(rule(x(low), y(low), x(high), y(high), stroke="var(--muted)", class_="same"))
    dashed, marked = _looks(picture)
    for i, line in enumerate(picture.lines):
        places = _places(picture, i, field)
        if dashed[i]:
            parts.append(stroke("M" + "L".join(f"{a:g} {b:g}" for a, b in places), i))
        if marked[i] and _is_dotted(i, line):
            parts.append(dots(places, i))
        elif marked[i]:
            path = "".join(f"M{a:g} {b:g}{MARKERS[i % 6]}" for a, b in places)
            parts.append(marker(path, i))
    for i, (name, value) in enumerate(picture.thresholds.items()):
        parts.append(rule(x.start, y(value), x.end, y(value), **_threshold(i)))
        words = f"{name}: {short(value)}"
        parts.append(over(x.end - 2, y(value) - 4, words, right=False))
    return parts, field.bottom


def _is_dotted(index: int, line: Points) -> bool:
    """Say whether a scatter's points are small dots: round and square, as the markers 0 and 1."""
    return index < 2 and len(line.x) > 100


def _places(picture: Picture, index: int, field: Field) -> list[tuple[float, float]]:
    """Return where the points of a line are drawn, thinned where there are many."""
    line = picture.lines[index]
    if picture.kind == "lines":
        xs, ys = thin(line.x, line.y, LINE_POINTS)
        return [(field.x(a), field.y(b)) for a, b in zip(xs, ys, strict=True)]
    # Points of the same square of two units hide each other.
    found: dict[tuple[float, float], tuple[float, float]] = {}
    for a, b in zip(line.x, line.y, strict=True):
        place = field.x(a), field.y(b)
        found.setdefault((place[0] // 2, place[1] // 2), place)
    places = list(found.values())
    room = DOTS if _is_dotted(index, line) else SHAPES
    some = min(len(places), room // len(picture.lines))
    return [places[k * len(places) // some] for k in range(some)]


def _bars(picture: Picture, top: float) -> tuple[list[Markup], float]:
    """Draw bars from left to right, so that long names have room; a threshold is upright."""
    groups = sorted({value for line in picture.lines for value in line.x})
    lines = picture.lines
    thick = 15.0 if len(lines) == 1 else 10.0
    room = thick * len(lines) + 9
    values = [value for line in lines for value in line.y]
    names = [_tick(picture.ticks, value) for value in groups]
    x_range = span([*values, *picture.thresholds.values()], zero=True, pad=0.1)
    parts, across, top, bottom = rows(
        names, room, x_range, top, heading=picture.x_label, label=picture.y_label
    )
    for i, line in enumerate(lines):
        for x, y in zip(line.x, line.y, strict=True):
            upper = top + room * groups.index(x) + 4.5 + thick * i
            start, end = sorted((across(0), across(y)))
            parts.append(block(start, upper, end - start, thick - 1.5, i))
    parts += upright(picture.thresholds, across, top - 14 * len(picture.thresholds), bottom)
    return parts, bottom + (44 if picture.y_label else 26)


def rows(
    names: Sequence[str],
    room: float,
    values: tuple[float, float],
    top: float,
    *,
    heading: str,
    label: str,
) -> tuple[list[Markup], Axis, float, float]:
    """Return named rows over an axis: elements, the axis, the rows' upper and lower end.

    Args:
        names: Of the rows, top to bottom.
        room: Height of a row.
        values: The range of the axis below.
        top: Where to begin.
        heading: What the names are.
        label: Of the axis.
    """
    names = [textwrap.shorten(name, 26, placeholder="…") for name in names]
    left = 12 + 7.1 * max(map(len, names))
    top += ROW + 18
    bottom = top + room * len(names)
    across = Axis(*values, left, WIDTH - RIGHT)
    parts = [text(0, top - 22, heading)] if heading else []
    for value in ticks(*values, count=5):
        parts.append(rule(across(value), top, across(value), bottom))
    for i, name in enumerate(names):
        y = top + room * (i + 0.5) + 4
        parts.append(text(left - 8, y, name, text_anchor="end", fill="var(--ink)"))
    if values[0] <= 0 <= values[1]:
        parts.append(rule(across(0), top, across(0), bottom, stroke="var(--muted)"))
    parts += _below(across, bottom)
    middle = min((left + WIDTH - RIGHT) / 2, WIDTH - LETTER * len(label) / 2)  # a long one fits
    parts.append(text(middle, bottom + 36, label, text_anchor="middle"))
    return parts, across, top, bottom


def _tick(names: Sequence[str], value: float) -> str:
    whole = value == int(value) and 0 <= value < len(names)
    return names[int(value)] if whole else short(value)
