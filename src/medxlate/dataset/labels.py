"""From the text of a label to its value."""

from __future__ import annotations

import math
import re
from typing import Literal

from pydantic import BaseModel, ConfigDict

from medxlate.errors import DataError

TaskKind = Literal["regression", "classification"]

# DICOM age string, PS3.5 6.2: three digits and days, weeks, months or years.
AGE_STRING = re.compile(r"(\d{1,3})([DWMY])")
MISSING = frozenset({"", "na", "n/a", "nan", "null"})  # not "none": it can be a class
YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


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


def parse_label(text: str | None, *, kind: TaskKind, decimal_comma: bool = False) -> float | str:
    """Return a number for a regression (DICOM ages in years), the trimmed text otherwise.

    Raises:
        DataError: The label is missing or no number.
    """
    if text is None or text.strip().lower() in MISSING:
        raise DataError("the label is missing")
    text = text.strip()
    if kind == "classification":
        return text
    age = AGE_STRING.fullmatch(text)
    if age:
        return int(age[1]) * YEARS[age[2]]
    try:
        value = float(text.replace(",", ".") if decimal_comma else text)
    except ValueError:
        raise DataError(f"the label '{text}' is no number") from None
    if not math.isfinite(value):
        raise DataError(f"the label '{text}' is not finite")
    return value
