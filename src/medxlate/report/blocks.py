"""Pieces of a report's HTML: tables, figures, paragraphs, badges. Texts are escaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from markupsafe import Markup

from medxlate.report.svg import tag
from medxlate.report.table import Number, Table

WORDS = {"ok": "nothing found", "fires": "look at this", "unknown": "cannot be said"}
SIGNS = {"ok": "\u2713", "fires": "!", "unknown": "?"}


def paragraph(words: str | Markup) -> Markup:
    """Return a paragraph."""
    return tag("p", words)


def bullets(sentences: Sequence[str | Markup]) -> Markup:
    """Return a list of sentences; nothing for none."""
    return tag("ul", *(tag("li", each) for each in sentences)) if sentences else Markup("")


def badge(status: Literal["ok", "fires", "unknown"]) -> Markup:
    """Return an audit's status as a sign and words, so that colour is not needed."""
    sign = tag("span", SIGNS[status], aria_hidden="true")
    return tag("span", sign, f" {WORDS[status]}", class_=f"badge badge-{status}")


def figure(svg: Markup, *, caption: str | Markup = "") -> Markup:
    """Return a drawing with its caption."""
    return tag("figure", svg, *([tag("figcaption", caption)] if caption else []))


def table(
    columns: Sequence[str | Markup],
    rows: Sequence[Sequence[str | Markup | float | int | Number | None]],
    *,
    caption: str = "",
) -> Markup:
    """Return a table that scrolls by itself on a narrow screen, also by keyboard.

    Args:
        columns: Names of the columns.
        rows: As many cells each. The first names the row; numbers stand on the right, and None is
            a dash.
        caption: What it shows.
    """
    kinds = zip(*(list(row) for row in rows), strict=True)
    right = [_numeric(cells) for cells in kinds] or [False] * len(columns)
    head = tag("tr", *(_head(name, right[i]) for i, name in enumerate(columns)))
    return _scrolling(_body(tag("thead", head), rows, right, caption), caption)


def printed(found: Table) -> Markup:
    """Return a table for papers as HTML, with its headings over several columns and its note."""
    *upper, names = found.columns
    heads = [tag("tr", *_spans(row)) for row in upper]
    heads.append(tag("tr", *(_head(name, i > 0) for i, name in enumerate(names))))
    right = [False] + [True] * (len(names) - 1)
    whole = _scrolling(_body(tag("thead", *heads), found.rows, right, found.title), found.title)
    return whole + (tag("p", found.note, class_="note") if found.note else Markup(""))


def _body(
    head: Markup,
    rows: Sequence[Sequence[str | Markup | float | int | Number | None]],
    right: Sequence[bool],
    caption: str,
) -> Markup:
    lines = [
        tag(
            "tr",
            tag("th", _shown(first), scope="row"),
            *(_cell(each, right[i]) for i, each in enumerate(others, 1)),
        )
        for first, *others in rows
    ]
    title = [tag("caption", tag("span", caption))] if caption else []
    return tag("table", *title, head, tag("tbody", *lines))


def _scrolling(inside: Markup, caption: str) -> Markup:
    return tag(
        "div", inside, class_="scroll", role="region", tabindex="0", aria_label=caption or "Table"
    )


def _head(name: str | Markup, right: bool) -> Markup:
    return tag("th", name, scope="col", class_="number" if right else "")


def _cell(value: str | Markup | float | int | Number | None, right: bool) -> Markup:
    return tag("td", _shown(value), class_="number" if right else "")


def _spans(row: Sequence[str]) -> list[Markup]:
    """Return an upper header row: neighbours with the same text are one."""
    found: list[tuple[str, int]] = []
    for name in row:
        if found and name and found[-1][0] == name:
            found[-1] = name, found[-1][1] + 1
        else:
            found.append((name, 1))
    return [
        tag("th", name, scope="colgroup", colspan=count) if name else tag("td")
        for name, count in found
    ]


def _numeric(cells: Sequence[object]) -> bool:
    return all(isinstance(cell, int | float | Number | None) for cell in cells)


def _shown(value: str | Markup | float | int | Number | None) -> str | Markup:
    if value is None or value != value:  # NaN
        return "\u2013"
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "\u2212")
    return value if isinstance(value, Markup) else str(value)
