"""The table that a report begins with, in the order in which a reader asks.

Did it help, by how much, against what, could it have been seen, and what did it cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medxlate.report.table import Cell, Number, Table
from medxlate.study.comparison import system_name
from medxlate.study.power import POWER

Entry = Mapping[str, Any]

HEADS = (
    *("Method", "Does it help?", "Difference", "95 % interval", "Against", "p", "Detectable"),
    *("Seconds", "Theirs"),
)
NOTE = (
    "Differences of the error per {unit}; below 0 is better. p is adjusted by Holm, but for the "
    "primary contrast and the constant. Detectable: the smallest difference that such a study "
    f"finds in {100 * POWER:.0f} of 100 cases, from the measured spread and at the level that its "
    "p has to reach. Seconds are those of a training with what it needs first, and of what it is "
    "held against."
)


def answers(entries: Sequence[Entry], *, unit: str = "patient") -> Table | None:
    """Return a row a comparison.

    Args:
        entries: Comparisons as in ``statistics.json``.
        unit: What losses are taken over.

    Returns:
        None without a comparison.
    """
    if not entries:
        return None
    several = len({each["system"].get("target_fraction") for each in entries}) > 1
    heads = (HEADS[0], *(("Target share",) if several else ()), *HEADS[1:])
    rows = tuple(_row(each, several) for each in entries)
    return Table("answers", "", (heads,), rows, NOTE.format(unit=unit))


def in_order(statistics: Mapping[str, Any]) -> list[Entry]:
    """Return the comparisons by which a study answers: the primary contrast, then the others."""
    primary = list(statistics.get("primary") or [])
    others = statistics.get("against_target_only") or []
    return [*primary, *(each for each in others if not (primary and each.get("primary")))]


def _row(entry: Entry, several: bool) -> tuple[Cell, ...]:
    p = entry.get("p") if entry.get("p_holm") is None else entry["p_holm"]
    name, against = (_name(entry.get(key)) for key in ("system", "reference"))
    return (
        f"{name}, primary" if entry.get("primary") else name,
        *((_short(entry["system"].get("target_fraction"), ".3g"),) if several else ()),
        str(entry.get("verdict") or "-"),
        _short(entry.get("difference"), "+.3g"),
        _interval(entry.get("interval")),
        against,
        "< 0.001" if p is not None and p < 0.001 else _short(p, ".2g"),
        _short(entry.get("detectable"), ".3g"),
        _seconds(entry.get("seconds")),
        _seconds(entry.get("reference_seconds")),
    )


def _name(system: Mapping[str, Any] | None) -> str:
    if not system:
        return "-"
    return system_name(str(system.get("method")), str(system.get("sources") or ""))


def _short(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _interval(interval: Mapping[str, float] | None) -> str:
    return f"{interval['low']:+.3g} to {interval['high']:+.3g}" if interval else "-"


def _seconds(value: float | None) -> Cell:
    return Number(math.nan if value is None else value, 1)
