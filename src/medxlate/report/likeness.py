"""Tables of figures of translated images, and of what they teach a predictor."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from medxlate.evaluation.results import Metric, taught_in, trained_on
from medxlate.report.axes import short
from medxlate.report.blocks import bullets, table


def images_table(metrics: Sequence[Metric]) -> Markup:
    """Return the figures of translated images as a set, beside those of real ones."""
    rows = [
        [f"{m.source}: {m.label}", m.value, interval_text(m), m.floor, m.n, m.reference]
        for m in metrics
        if m.value is not None
    ]
    columns = ["figure", "value", "95 % interval", "real against real", "translated", "real"]
    return table(columns, rows, caption="Translated against real test images")


def taught_table(metrics: Sequence[Metric]) -> Markup:
    """Return how small predictors do on real test patients, by what they were trained on."""
    rows = [[trained_on(m), m.value, interval_text(m), m.n] for m in metrics]
    unit = f", {metrics[0].unit}" if metrics[0].unit else ""
    caption = "A small predictor on real test patients, by what it was trained on"
    columns = ["trained on", f"{taught_in(metrics[0])}{unit}", "95 % interval", "test patients"]
    return table(columns, rows, caption=caption) + notes_of(metrics)


def notes_of(metrics: Sequence[Metric]) -> Markup:
    """Return what a reader of some figures must know, and how their intervals were found."""
    ways: dict[str, list[str]] = {}
    for m in metrics:
        if m.interval and m.label not in ways.setdefault(m.interval, []):
            ways[m.interval].append(m.label)
    intervals = [f"Interval of {', '.join(names)}: {how}." for how, names in ways.items()]
    return bullets(list(dict.fromkeys([*(n for m in metrics for n in m.notes), *intervals])))


def interval_text(metric: Metric) -> str:
    """Return a figure's 95 % interval as tables say it."""
    return between(metric.low, metric.high)


def between(low: float | None, high: float | None) -> str:
    """Return two ends as tables say them; a dash where there are none."""
    return f"{short(low)} to {short(high)}" if low is not None and high is not None else "\u2013"
