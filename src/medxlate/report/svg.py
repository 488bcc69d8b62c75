"""The elements that charts are made of, and a chart's frame: title, legend, description."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup, escape

WIDTH = 400  # of every drawing; letters of 12.5 units stay legible on a screen of 360 pixels
LETTER, ROW = 6.7, 18  # mean width of a letter; a line of text
DASHES = ("", "7 4", "2 3", "9 3 2 3", "4 2", "1 4")
# A marker around the point that the pen is at.
MARKERS = (
    "m-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0",
    "m-3-3h6v6h-6z",
    "m0-4l3.8 6.8h-7.6z",
    "m0-4.4l4.4 4.4l-4.4 4.4l-4.4-4.4z",
    "m-3-3l6 6m0-6l-6 6",
    "m-4 0h8m-4-4v8",
)
_numbers = itertools.count(1)  # ids of charts are unique in a process, and so on a page


VOID = ("img", "input")  # elements of HTML that have no end


def tag(name: str, /, *inside: str | Markup, **attributes: Any) -> Markup:
    """Return an element; texts are escaped, ``stroke_width`` becomes ``stroke-width``."""
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value not in ("", None)
    )
    if name in VOID:
        return Markup(f"<{name}{words}>")
    return Markup(f"<{name}{words}>{''.join(escape(each) for each in inside)}</{name}>")


def text(x: float, y: float, words: str, **attributes: Any) -> Markup:
    """Return a text; by default in the page's muted colour."""
    return tag("text", words, x=round(x, 1), y=round(y, 1), **{"fill": "var(--muted)"} | attributes)


def rule(x1: float, y1: float, x2: float, y2: float, **attributes: Any) -> Markup:
    """Return a straight line, by default a thin one of the grid."""
    style = {"stroke": "var(--grid)", "stroke_width": 1} | attributes
    style = {"d": f"M{x1:g} {y1:g}L{x2:g} {y2:g}"} | style
    return tag("path", fill="none", **style)


def colour(index: int) -> str:
    """Return the colour of the line with that number."""
    return f"var(--c{index % 6 + 1})"


def frame(
    title: str,
    description: str,
    inside: Callable[[float], tuple[list[Markup], float]],
    *,
    names: Sequence[str],
    dashed: Sequence[bool] = (),
    marked: Sequence[bool] = (),
) -> Markup:
    """Return an ``svg`` with title and legend above what ``inside`` draws from a height on.

    Args:
        title: Above the chart, and what it is called for those who do not see it.
        description: What it shows, in words.
        inside: From the upper end of the free room to elements and their lower end.
        names: Of the lines, for the legend; none for no legend.
        dashed: Whether each is shown as a stroke.
        marked: Whether each is shown with its marker.
    """
    heading = textwrap.wrap(title, 46) or [""]
    parts = [
        text(0, 14 + ROW * i, line, fill="var(--ink)", font_weight="600", font_size=14)
        for i, line in enumerate(heading)
    ]
    top = 8 + ROW * len(heading)
    x = 0.0
    for i, name in enumerate(names):
        label = textwrap.shorten(name, 44, placeholder="…")
        room = 30 + LETTER * len(label) + 14
        if x and x + room - 14 > WIDTH:
            x, top = 0.0, top + ROW
        parts += _swatch(x, top + 8, i, dashed=dashed[i], marked=marked[i])
        parts.append(text(x + 30, top + 12, label, fill="var(--ink)"))
        x += room
    top += ROW + 3 if names else 2
    drawn, bottom = inside(top)
    key = f"chart-{next(_numbers)}"
    return tag(
        "svg",
        tag("title", title, id=f"{key}-title"),
        tag("desc", description, id=f"{key}-desc"),
        *parts,
        *drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {bottom:g}",
        width="100%",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
        class_="chart",
        font_size=12.5,
        font_family="system-ui, sans-serif",
    )


def _swatch(x: float, y: float, index: int, *, dashed: bool, marked: bool) -> list[Markup]:
    parts = []
    if dashed:
        parts.append(stroke(f"M{x:g} {y:g}h24", index))
    if marked:
        parts.append(marker(f"M{x + 12:g} {y:g}{MARKERS[index % 6]}", index))
    if not dashed and not marked:
        parts.append(block(x + 5, y - 5, 14, 10, index))
    return parts


def stroke(path: str, index: int) -> Markup:
    """Return a line in the colour and dashes of its number."""
    return tag(
        "path",
        d=path,
        fill="none",
        stroke=colour(index),
        stroke_width=2,
        stroke_linejoin="round",
        stroke_dasharray=DASHES[index % 6],
    )


def dots(places: Sequence[tuple[float, float]], index: int) -> Markup:
    """Return many points in few bytes: strokes without length, round or square at their ends."""
    return tag(
        "path",
        d="".join(f"M{x:g} {y:g}h0" for x, y in places),
        fill="none",
        stroke=colour(index),
        stroke_width=4.5,
        stroke_linecap="square" if index % 2 else "round",
        opacity=0.5,
    )


def marker(path: str, index: int) -> Markup:
    """Return markers in the colour of their line's number."""
    filled = index % 6 < 4
    return tag(
        "path",
        d=path,
        fill=colour(index) if filled else "none",
        stroke="var(--surface)" if filled else colour(index),
        stroke_width=0.7 if filled else 1.6,
    )


def block(x: float, y: float, width: float, height: float, index: int) -> Markup:
    """Return a bar; those of the second line are hollow, of the third dotted at the edge..."""
    return tag(
        "rect",
        x=round(x, 1),
        y=round(y, 1),
        width=round(max(width, 0.5), 1),
        height=round(height, 1),
        rx=1.5,
        fill=colour(index),
        fill_opacity=(0.9, 0.25, 0.6, 0.1, 0.75, 0.4)[index % 6],
        stroke=colour(index),
        stroke_dasharray=DASHES[index % 6],
    )


def over(x: float, y: float, words: str, *, right: bool) -> Markup:
    """Return a text that stays legible over what is drawn."""
    return text(
        x, y, words, text_anchor="start" if right else "end", fill="var(--ink)", font_size=11.5,
        paint_order="stroke", stroke="var(--surface)", stroke_width=3, stroke_linejoin="round",
    )  # fmt: skip
