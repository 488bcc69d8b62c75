"""A chart of systems with their errors and intervals, a row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medxlate.report.axes import short, span
from medxlate.report.charts import nothing, rows, upright
from medxlate.report.svg import colour, dots, frame, marker, rule

DISC, DIAMOND = "m-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0", "m0-6.5l6.5 6.5l-6.5 6.5l-6.5-6.5z"


@dataclass(frozen=True)
class Errors:
    """A row of the plot: a system, or a group of patients.

    Attributes:
        name: As it is printed.
        losses: One a repeat, [R].
        interval: Of the mean, 95 %; None where there is none.
        ours: Whether it is drawn as the method that the others are held against.
    """

    name: str
    losses: Sequence[float]
    interval: tuple[float, float] | None = None
    ours: bool = False


def interval_chart(
    systems: Sequence[Errors], *, title: str, label: str, thresholds: dict[str, float]
) -> Markup:
    """Return a row a system: each repeat as a small dot, the mean as a diamond on its interval.

    Args:
        systems: Top to bottom.
        title: Above the chart.
        label: Of the axis, with the unit.
        thresholds: Named upright lines.
    """
    means = {each.name: sum(each.losses) / len(each.losses) for each in systems if each.losses}
    systems = [each for each in systems if each.losses]
    if not systems:
        return frame(title, "No values.", nothing, names=())
    ends = [value for each in systems for value in (*each.losses, *(each.interval or ()))]

    def inside(top: float) -> tuple[list[Markup], float]:
        room = 24.0
        values = span([*ends, *thresholds.values()])
        names = [each.name for each in systems]
        parts, across, top, bottom = rows(names, room, values, top, heading="", label=label)
        parts += upright(thresholds, across, top - 14 * len(thresholds), bottom)
        for i, each in enumerate(systems):
            y, look = top + room * (i + 0.5), 1 if each.ours else 0
            parts.append(dots([(across(loss), y) for loss in each.losses], 2 * look))
            if each.interval:
                low, high = map(across, each.interval)
                path = f"M{low:g} {y:g}H{high:g}M{low:g} {y - 4:g}v8M{high:g} {y - 4:g}v8"
                parts.append(rule(0, 0, 0, 0, stroke=colour(2 * look), stroke_width=2, d=path))
            shape = DIAMOND if each.ours else DISC
            parts.append(marker(f"M{across(means[each.name]):g} {y:g}{shape}", 2 * look))
        return parts, bottom + 44

    words = [f"{name}: mean {short(mean)}" for name, mean in means.items()]
    return frame(title, f"{label}. {'; '.join(words)}.", inside, names=())
