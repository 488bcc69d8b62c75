"""A report as one HTML file, which loads nothing: style, script and images are inside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment
from markupsafe import Markup

from medxlate.base.files import whole_file

Tone = Literal["good", "bad", "unsure"]


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
    tone: Tone,
    sections: Sequence[Section],
    facts: dict[str, Any],
) -> None:
    """Write a page. Texts are escaped, markup is taken as it is.

    A content security policy inside it refuses every request, and all script but its own.

    Args:
        path: The file to write.
        title: Its heading.
        verdict: Sentences that come first.
        tone: What they come to.
        sections: What follows.
        facts: Names and values, below the verdict.
    """
    style, script = _asset("page.css"), _asset("page.js")
    template = Environment(autoescape=True).from_string(_asset("page.html"))
    whole = template.render(
        title=title,
        verdict=verdict,
        tone=tone,
        sections=sections,
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
