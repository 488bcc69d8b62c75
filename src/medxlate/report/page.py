"""A report as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup

from medxlate.files import whole_file
from medxlate.report.svg import tag


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        key: Its anchor.
        title: Its heading.
        body: What it holds.
    """

    key: str
    title: str
    body: Markup


def write_page(
    path: Path,
    *,
    title: str,
    verdict: Sequence[str],
    tone: Literal["good", "bad", "unsure"],
    sections: Sequence[Section],
    facts: dict[str, Any],
) -> None:
    """Write a page.

    Args:
        path: The file to write.
        title: Its heading.
        verdict: Sentences that come first.
        tone: What they come to.
        sections: What follows.
        facts: Names and values, beside the heading.
    """
    pairs = [part for k, v in facts.items() for part in (tag("dt", k), tag("dd", str(v)))]
    body = tag(
        "main",
        tag("h1", title),
        tag("div", *(tag("p", each) for each in verdict), class_=f"verdict {tone}"),
        tag("dl", *pairs),
        *(tag("section", tag("h2", each.title), each.body, id=each.key) for each in sections),
    )
    head = tag("head", Markup('<meta charset="utf-8"/>'), tag("title", title))
    whole = tag("html", head, tag("body", body), lang="en")
    with whole_file(path) as partial:
        partial.write_text(f"<!DOCTYPE html>\n{whole}\n", encoding="utf-8")
