"""Identifying values as they may be written in a file, and the search for them."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Literal

import numpy as np
import numpy.typing as npt

from medxlate.dataset.identifiers import PLACEHOLDERS, canonical
from medxlate.images.pseudonym import NOT_NAMES, is_short_word

HIDDEN = "***"
SHORTEST = 4
BOUNDED = 8  # shorter values count only as whole words

ValueKind = Literal["a date", "an ID or name", "a UID", "a path", "the key of the pseudonyms"]

_STANDARD_UIDS = "1.2.840.10008."  # of DICOM itself: SOP classes, transfer syntaxes
_UID = re.compile(r"\d+(?:\.\d+){3,}")
_OWN_NUMBER = re.compile(  # what stands before a number that medxlate itself wrote
    r'"(?:step|epoch|epochs|best_step|images|patients|seed|steps|size|image_size|prepared_size)"'
    r": {0,2}$|\b(?:step|epoch)-$"
)
_FORMAT_SUFFIX = re.compile(  # at the end of a file's name; no part of an id or name
    r"\.(?:nii\.gz|png|jpe?g|tiff?|dcm|nii|nrrd|nhdr|mh[ad]|hdr|img|raw|gz|zip|np[yz]|pt|txt|md|csv"
    r"|html|jsonl?|toml|ya?ml|log|parquet|safetensors)$"
)
_SHORT_WORD = re.compile(r"(?<![^\W_])[^\W_]{2,3}(?![^\W_])")
_SEPARATORS = ("", " ", "_", "-", ".", ", ", "^")
# What medxlate itself writes into every run.
_OWN_WORDS = frozenset(
    {
        "patient", "patients", "test", "train", "phantom", "phantoms", "image", "images",
        "slice", "slices", "scan", "scans", "model", "best", "last", "step", "epoch", "mean",
        "source", "target",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Form:
    """A spelling of a value.

    Attributes:
        text: In the spelling of ``canonical``.
        kind: What kind of value it is.
        whole: Whether it counts only where no letter or digit stands beside it.
    """

    text: str
    kind: ValueKind
    whole: bool


def is_uid(value: str) -> bool:
    """Return whether the value is a DICOM UID (PS3.5, section 9) of at least four components."""
    return _UID.fullmatch(value) is not None


def is_generic(value: str) -> bool:
    """Return whether the value tells nothing of a patient: a placeholder, or DICOM's own UID."""
    return canonical(
        value.strip(" ^=")
    ) in PLACEHOLDERS | _OWN_WORDS | NOT_NAMES or value.startswith(_STANDARD_UIDS)


def forms(value: str) -> Iterator[Form]:
    """Yield the spellings of a value that is not a UID; none where it is too short.

    A date with and without separators, in three orders; a name or id with other signs between its
    parts, a name of two parts also in the other order; a path as it is.
    """
    text = canonical(value.strip())
    day = _day(text)
    if day is not None:
        for pattern in ("%Y%m%d", "%Y{0}%m{0}%d", "%d{0}%m{0}%Y", "%m{0}%d{0}%Y"):
            for separator in "-/." if "{0}" in pattern else "-":
                yield Form(day.strftime(pattern.format(separator)), "a date", whole=True)
        yield Form(text, "a date", whole=True)
        return
    if "/" in text:
        if len(text) >= SHORTEST:
            yield Form(text, "a path", whole=True)
        return
    runs = re.findall(r"[^\W_]+", text)
    spellings = {text.strip("^= ")}
    if 1 < len(runs) <= 4 and not all(run.isdigit() for run in runs):
        spellings |= {sign.join(runs) for sign in _SEPARATORS}
        if "^" in text and len(runs) == 2:
            spellings |= {sign.join(reversed(runs)) for sign in _SEPARATORS}
    for spelling in sorted(spellings):
        if len(spelling) >= SHORTEST:
            whole = len(spelling) < BOUNDED or spelling.isdigit()
            yield Form(spelling, "an ID or name", whole=whole)


def short_words(value: str) -> set[str]:
    """Return words of 2 or 3 letters and digits: the name or id itself, or the family name."""
    text = canonical(value.strip(" ^="))
    return {each for each in (text, text.partition("^")[0].strip()) if is_short_word(each)}


class Needles:
    """Identifying values, prepared for a search whose time does not depend on their number.

    Args:
        values: As they were.
        own_path: The dataset's own folder, absolute, which a run names; it does not count as a
            path of the raw data even where it lies inside the raw folder.
        key: The key of the pseudonyms, or "".

    Attributes:
        count: Number of values that are looked for.
        too_short: Number of values left out because they are too short.
        generic: Number of values left out because they say nothing about a patient.
        is_ascii: Whether all values are, so that bytes need one reading only.
    """

    def __init__(self, values: Iterable[str], *, own_path: str = "", key: str = "") -> None:
        self.count = self.too_short = self.generic = 0
        self._uids: set[str] = set()
        self._forms: dict[str, Form] = {}
        self._short: set[str] = set()
        for value in values:
            short = set() if is_generic(value) else short_words(value)
            self._short |= short
            if is_generic(value):
                self.generic += 1
            elif is_uid(value):
                self._uids.add(value)
                self.count += 1
            elif made := {form.text: form for form in forms(value)}:
                self._forms.update(made)
                self.count += 1
            elif short:
                self.count += 1
            else:
                self.too_short += 1
        if key:
            self._forms[key] = Form(key, "the key of the pseudonyms", whole=False)
        self._own = canonical(own_path)
        lengths: dict[str, set[int]] = {}
        for text in self._forms:
            lengths.setdefault(text[:SHORTEST], set()).add(len(text))
        self.is_ascii = all(text.isascii() for text in (*self._forms, *self._short))
        self._lengths = {start: sorted(some) for start, some in lengths.items()}
        self._starts = np.zeros(2**20, dtype=np.bool_)
        self._starts[_hashes("".join(self._lengths))[::SHORTEST]] = True

    def find(
        self, text: str, *, long_only: bool = False, is_name: bool = False
    ) -> Iterator[tuple[int, ValueKind]]:
        """Yield the line, from 0, and the kind of every value in a text.

        Args:
            text: Any text; escapes of JSON, HTML and URLs are understood.
            long_only: Whether to leave out values shorter than 8 characters and escapes, where
                random bytes are searched.
            is_name: Whether this is the name of a file: values of 2 or 3 characters then count in
                any case, in a text only where they begin with no small letter.
        """
        for reading in [text] if long_only else _readings(text):
            newlines: list[int] | None = None
            found = self._find(canonical(reading), long_only=long_only)
            short = () if long_only else self._find_short(reading, any_case=is_name)
            for position, kind in chain(found, short):
                if newlines is None:
                    newlines = [match.start() for match in re.finditer("\n", reading)]
                yield int(np.searchsorted(newlines, position)), kind

    def hidden(self, name: str) -> str:
        """Return a path without the parts that hold a value, but for the suffix of a format."""
        parts = (
            self._hidden_part(part) if any(self.find(part, is_name=True)) else part
            for part in name.split("/")
        )
        shown = "/".join(parts)
        return HIDDEN if any(self.find(shown, is_name=True)) else shown

    def _hidden_part(self, part: str) -> str:
        suffix = _FORMAT_SUFFIX.search(part)
        return HIDDEN + suffix[0] if suffix else HIDDEN

    def _find(self, text: str, *, long_only: bool) -> Iterator[tuple[int, ValueKind]]:
        if self._own and self._own in text:
            own = rf"(?<![\w./-]){re.escape(self._own)}(?![\w./-])"
            text = re.sub(own, lambda found: " " * len(found[0]), text)
        for match in _UID.finditer(text):
            if self._is_uid(match[0]):
                yield match.start(), "a UID"
        for start in np.flatnonzero(self._starts[_hashes(text)]).tolist():
            for length in self._lengths.get(text[start : start + SHORTEST], ()):
                form = self._forms.get(text[start : start + length])
                if form is None or (long_only and length < BOUNDED):
                    continue
                if not form.whole or _stands_alone(text, start, start + length):
                    yield start, form.kind

    def _find_short(self, text: str, *, any_case: bool) -> Iterator[tuple[int, ValueKind]]:
        for match in _SHORT_WORD.finditer(text) if self._short else ():
            word = match[0]
            if word.lower() in self._short and (any_case or not word[0].islower()):
                yield match.start(), "an ID or name"

    def _is_uid(self, text: str) -> bool:
        """Return whether this UID, or one of which it is an extension, is a value."""
        parts = text.split(".")
        return any(".".join(parts[:n]) in self._uids for n in range(4, len(parts) + 1))


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Return whether a match is a word by itself, not part of a fraction or a number of ours."""
    before, after = text[max(start - 2, 0) : start], text[end : end + 2]
    if before[-1:].isalnum() or after[:1].isalnum():
        return False
    if not text[start:end].isdigit():
        return True
    if before[-1:] == "." and before[:1].isdigit():
        return False
    if _OWN_NUMBER.search(text[max(start - 24, 0) : start]):
        return False
    return not (after[:1] == "." and after[1:].isdigit())


def _hashes(text: str) -> npt.NDArray[np.intp]:
    """Return a number below 2**20 for every four characters in a row."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    mixed = np.zeros(max(len(codes) - SHORTEST + 1, 0), dtype=np.uint32)
    for i, factor in enumerate((2654435761, 2246822519, 3266489917, 668265263)):
        mixed += codes[i : i + len(mixed)] * np.uint32(factor)
    return (mixed >> np.uint32(12)).astype(np.intp)


def _readings(text: str) -> Iterator[str]:
    """Yield the text composed, and with escapes undone where it may hold any; lines are kept."""
    yield unicodedata.normalize("NFC", text)
    undone = re.sub(r"\\(u[0-9a-fA-F]{4}|[^u\n])", _json, text) if "\\" in text else text
    if "&" in undone:
        undone = re.sub(r"&#?\w+;", lambda found: _one_line(html.unescape(found[0])), undone)
    if "%" in undone:
        undone = re.sub(r"(?:%[0-9A-Fa-f]{2})+", _percent, undone)
    if undone != text:
        yield unicodedata.normalize("NFC", undone)


def _json(found: re.Match[str]) -> str:
    escape = found[1]
    if len(escape) == 1:
        return " " if escape in "nrtbf" else escape
    return _one_line(chr(int(escape[1:], 16)))


def _percent(found: re.Match[str]) -> str:
    return _one_line(bytes.fromhex(found[0].replace("%", "")).decode("utf-8", "replace"))


def _one_line(text: str) -> str:
    return text.replace("\n", " ")


def _day(text: str) -> datetime | None:
    """Return the date of a DICOM date or date-time (PS3.5, section 6.2) or an ISO date."""
    match = re.fullmatch(r"(\d{4})([-./]?)(\d\d)\2(\d\d)((\d\d){1,3}(\.\d+)?([+-]\d{4})?)?", text)
    if match is None or not "1850" <= match[1] <= "2150":
        return None
    try:
        return datetime(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:
        return None
