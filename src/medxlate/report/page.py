"""A report as one HTML file, which loads nothing: style, script and images are inside it.

The reports of runs and of studies are made of the same pieces: chapters of paragraphs, lists,
tables and charts. Texts are escaped, markup is taken as it is.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment
from markupsafe import Markup, escape

from medxlate.base.files import whole_file
from medxlate.report.printing import Number, PrintedTable, short

Tone = Literal["good", "bad", "unsure"]
Content = str | Markup | float | int | Number | None  # of a table's cell
TEXT = re.compile("[A-Za-z]{3}")  # a column of these is not one of numbers
VOID = ("img", "input")  # elements of HTML that have no end
Level = Literal["green", "amber", "red", "grey"]
WORDS: Mapping[Level, str] = {
    "green": "OK", "amber": "Caution", "red": "Problem", "grey": "Not measured",
}  # fmt: skip
SIGNS: Mapping[Level, str] = {"green": "\u2713", "amber": "!", "red": "\u2715", "grey": "\u2013"}


@dataclass(frozen=True)
class Verdict:
    """What comes first in a report: the answer, and how good the news is.

    Attributes:
        sentences: The first one answers; the others say what it rests on.
        tone: How good the news is.
        badge: The answer in a few words, such as "No benefit shown".
    """

    sentences: tuple[str, ...]
    tone: Tone
    badge: str = ""

    def then(self, sentence: str) -> Verdict:
        """Return the verdict with a sentence more, the second one."""
        first, *others = self.sentences
        return replace(self, sentences=(first, sentence, *others))

    def doubted(self, sentence: str, badge: str, tone: Tone = "unsure") -> Verdict:
        """Return the verdict behind a sentence by which it does not hold as it stands."""
        worst: Tone = "bad" if "bad" in (self.tone, tone) else tone
        return Verdict((sentence, *self.sentences), worst, badge)


@dataclass(frozen=True)
class Light:
    """One of the signals below the answer.

    Attributes:
        title: What was looked at, in a few words.
        level: What was found.
        anchor: Where the page says more.
    """

    title: str
    level: Level
    anchor: str

    @property
    def word(self) -> str:
        """The level in words, for those who do not see colours."""
        return WORDS[self.level]

    @property
    def sign(self) -> str:
        """The level as a sign."""
        return SIGNS[self.level]


@dataclass(frozen=True)
class Chapter:
    """A part of a page.

    Attributes:
        title: Its heading.
        body: What it holds.
        key: Its anchor; "": made of the heading.
        brief: What it is called in the navigation; "": as in the heading.
    """

    title: str
    body: Markup
    key: str = ""
    brief: str = ""

    @property
    def anchor(self) -> str:
        """By which links find it."""
        return self.key or re.sub(r"[^a-z]+", "-", self.title.lower()).strip("-")


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


def joined(parts: Iterable[Markup]) -> Markup:
    """Return pieces one after the other."""
    return Markup("").join(parts)


def paragraph(words: str | Markup) -> Markup:
    """Return a paragraph."""
    return tag("p", words)


def with_code(words: str) -> Markup:
    """Return text with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(words.strip()))))


def bullets(sentences: Sequence[str | Markup]) -> Markup:
    """Return a list of sentences; nothing for none."""
    return tag("ul", *(tag("li", each) for each in sentences)) if sentences else Markup("")


def badge(level: Level) -> Markup:
    """Return a level as a sign and words, so that colour is not needed."""
    sign = tag("span", SIGNS[level], aria_hidden="true")
    return tag("span", sign, f" {WORDS[level]}", class_=f"badge badge-{level}")


def charts(drawn: Sequence[Markup]) -> Markup:
    """Return figures beside one another where there is room; nothing for none."""
    return tag("div", *drawn, class_="charts") if drawn else Markup("")


def figure(svg: Markup, *, caption: str | Markup = "", csv: str = "", name: str = "") -> Markup:
    """Return a drawing with its caption, and a way to save it as SVG and its values as CSV.

    Args:
        svg: The drawing.
        caption: Below it.
        csv: Its values; "" for none.
        name: What the saved files are called; "": they cannot be saved.
    """
    parts = [svg, *([tag("figcaption", caption)] if caption else [])]
    if name:
        stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        save = [tag("button", "SVG", type="button", data_save=f"{stem}.svg",
                    aria_label=f"Save as SVG: {name}")]  # fmt: skip
        if csv:
            coded = base64.b64encode(csv.encode()).decode()
            save.append(tag("a", "CSV", download=f"{stem}.csv", aria_label=f"Save as CSV: {name}",
                            href=f"data:text/csv;charset=utf-8;base64,{coded}"))  # fmt: skip
        parts.append(tag("p", *save, class_="save"))
    return tag("figure", *parts)


def folded(summary: str, *inside: Markup) -> Markup:
    """Return what is shown on demand."""
    return tag("details", tag("summary", summary), *inside)


def table(
    columns: Sequence[str | Markup],
    rows: Sequence[Sequence[Content]],
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


def printed(found: PrintedTable) -> Markup:
    """Return a table for papers as HTML, with its headings over several columns and its note."""
    *upper, names = found.columns
    heads = [tag("tr", *_spans(row)) for row in upper]
    right = [not any(TEXT.search(str(row[i])) for row in found.rows) for i in range(len(names))]
    heads.append(tag("tr", *map(_head, names, right)))
    whole = _scrolling(_body(tag("thead", *heads), found.rows, right, found.title), found.title)
    return whole + (tag("p", found.note, class_="note") if found.note else Markup(""))


def _body(
    head: Markup,
    rows: Sequence[Sequence[Content]],
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


def _cell(value: Content, right: bool) -> Markup:
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


def _shown(value: Content) -> str | Markup:
    if value is None or value != value:  # NaN
        return "\u2013"
    if isinstance(value, float):
        return short(value)
    return value if isinstance(value, Markup) else str(value)


def write_page(
    path: Path,
    *,
    title: str,
    verdict: Verdict,
    chapters: Sequence[Chapter],
    facts: dict[str, Any],
    lights: Sequence[Light] = (),
    note: str = "",
) -> None:
    """Write a page. Texts are escaped, markup is taken as it is.

    A content security policy inside it refuses every request, and all script but its own.

    Args:
        path: The file to write.
        title: Its heading.
        verdict: What comes first.
        chapters: What follows.
        facts: Names and values, below the verdict.
        lights: Signals, below the verdict.
        note: How to read the figures, below the facts.
    """
    style, script = _asset("page.css"), _asset("page.js")
    template = Environment(autoescape=True).from_string(_asset("page.html"))
    whole = template.render(
        title=title,
        verdict=verdict,
        sentences=[with_code(each) for each in verdict.sentences],
        chapters=chapters,
        lights=lights,
        note=note,
        facts={name: str(value) for name, value in facts.items()},
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )
    with whole_file(path) as partial:
        partial.write_text(whole, encoding="utf-8")


def _asset(name: str) -> str:
    return (files("medxlate.report") / "assets" / name).read_text(encoding="utf-8").rstrip("\n")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
