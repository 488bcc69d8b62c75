"""From the text of a label to its value."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from medxlate.base.errors import DataError
from medxlate.base.records import NUMBER

TaskKind = Literal["regression", "classification"]

# DICOM age string, PS3.5 6.2: three digits and days, weeks, months or years.
AGE_STRING = re.compile(r"(\d{1,3})([DWMY])")
MISSING = frozenset(
    {"", "na", "n/a", "n.a.", "nan", "null", "#n/a", "<na>"}
)  # not "none": it can be a class
OLDEST = 120.0  # years; the oldest person known became 122
AGE_UNITS = {"days": 1 / 365.25, "weeks": 7 / 365.25, "months": 1 / 12, "years": 1.0}  # in years
_AGE_UNITS_SPELLED = {name[: end or None]: name for name in AGE_UNITS for end in (0, -1)} | {
    "d": "days", "w": "weeks", "wk": "weeks", "wks": "weeks", "mo": "months", "mos": "months",
    "m": "months", "y": "years", "yr": "years", "yrs": "years",
}  # fmt: skip
_GROUPED = re.compile(r"[+-]?\d{1,3}(\.\d{3})+", re.ASCII)


def age_unit(text: str) -> str:
    """Return the unit of age that a text names, such as ``years`` for ``Yrs``; else the text."""
    return _AGE_UNITS_SPELLED.get(text.strip().lower(), text)


class Task(BaseModel):
    """What is predicted.

    Attributes:
        kind: ``regression`` or ``classification``.
        name: The label's name (column or tag).
        unit: Its unit, for a regression; "" where unknown.
        classes: The class names, sorted, for a classification.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: TaskKind
    name: str
    unit: str = ""
    classes: tuple[str, ...] = ()


def parse_label(
    text: str | None, *, kind: TaskKind, decimal_comma: bool = False, age_in: str | None = None
) -> float | str:
    """Return a number for a regression, the trimmed text otherwise.

    DICOM's age strings (``018M``) come in the unit of the label, or else in years.

    Args:
        text: As in the table or the file; None where it is absent.
        kind: Of the task.
        decimal_comma: Whether 67,5 is a number.
        age_in: The unit where the label is an age, which must lie between 0 and ``OLDEST``; None
            for other labels.

    Raises:
        DataError: The label is missing, not a number or not an age. The text before the colon is
            the same for all labels with that fault.
    """
    if text is None or text.strip().lower() in MISSING:
        raise DataError("the label is missing")
    text = text.strip()
    if kind == "classification":
        return text
    age = AGE_STRING.fullmatch(text)
    if age:
        value = _age(age, age_in)
    else:
        if decimal_comma and _GROUPED.fullmatch(text):
            raise DataError(
                f"the label may have a decimal point or a thousands separator: '{text}'"
            )
        plain = text.replace(",", ".") if decimal_comma else text
        if NUMBER.fullmatch(plain) is None or not math.isfinite(float(plain)):
            raise DataError(f"the label is not a number: '{text}'")
        value = float(plain)
    if age_in is not None and value < 0:
        raise DataError(f"the label is a negative age: '{text}'")
    if age_in is not None and value * AGE_UNITS.get(age_in, 0.0) > OLDEST:
        raise DataError(f"the label is an age over {OLDEST:g} years: '{text}'")
    return value


def _age(found: re.Match[str], unit: str | None) -> float:
    """Return an age string in a unit, by default in years."""
    unit = unit or "years"
    if unit not in AGE_UNITS:
        raise DataError(f"the label is an age, but '{unit}' is not a unit of age: '{found[0]}'")
    given = next(name for name in AGE_UNITS if name[0].upper() == found[2])
    return int(found[1]) * (AGE_UNITS[given] / AGE_UNITS[unit] if given != unit else 1.0)


def label_notes(labels: Mapping[float | str, int], kind: TaskKind, name: str) -> tuple[str, ...]:
    """Return sentences on what is odd about labels that are valid one by one.

    Args:
        labels: Number of a modality's images by label, at least one; classes that only other
            modalities have count 0.
        kind: Of the task.
        name: The label's name.
    """
    found = []
    here = {label: count for label, count in labels.items() if count}
    if len(here) == 1 and sum(here.values()) > 1:
        ((label, count),) = here.items()
        shown = f"{label:g}" if isinstance(label, float) else f"'{label}'"
        found.append(
            f"All {count} images have the same label ({name} {shown}): on their own they teach a "
            "predictor nothing."
        )
    if kind == "classification":
        groups: dict[str, list[str]] = {}
        for label in labels:
            groups.setdefault(_spelled_alike(str(label)), []).append(str(label))
        for alike in groups.values():
            if len(alike) > 1:
                named = ", ".join(f"'{each}' ({labels[each]} images)" for each in sorted(alike))
                found.append(
                    f"Some classes of {name} differ only in case, spaces or the spelling of a "
                    f"number: {named}. If they mean the same, use one name in the table."
                )
    return tuple(found)


def count_labels(
    labels: Iterable[float | str], others: Iterable[str] = ()
) -> dict[float | str, int]:
    """Return how many images have each label; classes that only others have count 0."""
    return {**dict.fromkeys(others, 0), **Counter(labels)}


def _spelled_alike(name: str) -> str:
    """Return a form that is the same for names which a reader takes for the same."""
    plain = "".join(unicodedata.normalize("NFKC", name).casefold().split())
    if NUMBER.fullmatch(plain) and math.isfinite(float(plain)):
        return repr(float(plain) + 0.0)
    return plain
