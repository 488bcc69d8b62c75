"""Texts: how they are encoded, in which parts they are searched, and what they hold as base64."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

PART = 4 * 2**20  # characters that are searched at a time
BLOCK = 16 * PART  # bytes of a text that are held at a time
OVERLAP = 2**13
LONG = 256  # characters of base64 of an unknown kind that are reported
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
_SIGN = r"[A-Za-z0-9+/_-]"
_URL_SIGN = rf"(?:{_SIGN}|=|\\/|%2[BbFf]|%3[Dd])"
_BREAK = r"(?:\\r|\r)?(?:\\n|\n)[ \t]*"
# Later lines count only where they are long, or where a quote follows: else they are words.
_DECLARED = re.compile(
    rf"data:[^,\s\"'<>]{{0,200}};base64,"
    rf"({_URL_SIGN}+(?:{_BREAK}{_URL_SIGN}{{40,}})*(?:{_BREAK}{_URL_SIGN}+(?=[\"')]))?)"
)
_BARE = re.compile(
    rf"(?<![\w+/-])({_SIGN}{{60,}}(?:{_BREAK}{_SIGN}{{60,}})+(?:{_BREAK}{_SIGN}+)?|{_SIGN}{{24,}})"
    r"={0,2}"
)
_NO_BASE64 = re.compile(r"[0-9a-fA-F]*|[A-Za-z/+]*|[a-z0-9/+]*|[A-Z0-9/+]*")


@dataclass(frozen=True)
class Encoded:
    """A block of base64 (RFC 4648) in a text.

    Attributes:
        text: In the standard alphabet, without what breaks lines.
        where: What it is called.
        is_declared: Whether it stands in a ``data:`` URL.
        at_end: Whether the text ends with it.
    """

    text: str
    where: str
    is_declared: bool
    at_end: bool

    @property
    def is_long(self) -> bool:
        """Whether it is too long to be a word, and neither digits, hexadecimal ones nor words."""
        return len(self.text) >= LONG and not _NO_BASE64.fullmatch(self.text)


def encoding_of(start: bytes) -> str:
    """Return how a text that begins like this is encoded, or "" where the bytes are no text."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        words = codecs.getincrementaldecoder("utf-16")("replace").decode(start)
        return "" if _CONTROL.search(words.encode("utf-8", "replace")) else "utf-16"
    if _CONTROL.search(start):
        return ""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def is_plain(raw: bytes) -> bool:
    """Whether the bytes can be read as words: printable, in UTF-8."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return False
    return bool(text) and all(sign.isprintable() or sign.isspace() for sign in text)


def blocks(stream: IO[bytes], encoding: str) -> Iterator[tuple[str, int, bool]]:
    """Yield overlapping blocks of a text, the number of their first line, and if more follows."""
    line, carried, decoder = 1, b"", encoding
    while chunk := stream.read(BLOCK):
        block = carried + chunk
        if decoder == "utf-16":
            decoder = "utf-16-le" if block.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
        yield block.decode(decoder, "replace"), line, len(chunk) == BLOCK
        carried = block[-OVERLAP:]
        line += block[: len(block) - len(carried)].count(b"\n")


def parts(text: str) -> Iterator[tuple[int, str]]:
    """Yield a text in overlapping parts, each with the place of its first character."""
    for start in range(0, len(text), PART):
        yield start, text[start : start + PART + OVERLAP]


def encoded(text: str) -> Iterator[Encoded]:
    """Yield the blocks of base64 in a text, and words that look like some."""
    for match in _DECLARED.finditer(text):
        yield Encoded(_joined(match[1]), "embedded data", True, match.end() == len(text))
    for match in _BARE.finditer(_DECLARED.sub(" ", text)):
        yield Encoded(_joined(match[1]), "embedded base64", False, match.end() == len(text))


def without_encoded(text: str) -> str:
    """Return a text in which nothing is left of long base64 but its lines: it holds no words."""
    return _BARE.sub(_lines_of_long, _DECLARED.sub(_lines, text))


def _lines(found: re.Match[str]) -> str:
    return " " + "\n" * found[0].count("\n")


def _lines_of_long(found: re.Match[str]) -> str:
    block = Encoded(_joined(found[1]), "", is_declared=False, at_end=False)
    return _lines(found) if block.is_long else found[0]


def has_control(text: str) -> bool:
    """Whether signs stand in a text that no text holds."""
    return "\0" in text


def _joined(text: str) -> str:
    text = re.sub(r"\\[nr]|\s", "", text).replace("\\/", "/")
    for escape, sign in (("%2B", "+"), ("%2F", "/"), ("%3D", "=")):
        text = text.replace(escape, sign).replace(escape.lower(), sign)
    return text.translate(str.maketrans("-_", "+/", "=")).rstrip("=")
