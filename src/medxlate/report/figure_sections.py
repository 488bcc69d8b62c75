"""The figures of an evaluation in a report: of predictions, and of translated images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from medxlate.evaluation.results import Metric, Picture, Results, taught_in, trained_on
from medxlate.report.charts import draw, drawn_values
from medxlate.report.comparison_charts import Errors, errors_values, interval_chart
from medxlate.report.page import (
    Content,
    bullets,
    charts,
    figure,
    folded,
    joined,
    paragraph,
    table,
    tag,
)
from medxlate.report.printing import with_interval

CALIBRATED = 20  # test patients from which calibration is shown
NOT_CALIBRATED = (
    f"Calibration is not shown: with fewer than {CALIBRATED} test patients it is mostly chance."
)
OF_CALIBRATION = "ece"
Row = list[str | None]


def predictions_section(results: Results) -> Markup:
    """Return charts of the predictions and their figures, by patient first."""
    metrics = [m for m in results.metrics if m.group == "prediction"]
    calibrated = results.patients >= CALIBRATED
    if not calibrated:
        metrics = [m for m in metrics if m.name != OF_CALIBRATION]
    drawn = [
        drawn_figure(picture, name)
        for name, picture in results.pictures.items()
        if calibrated or name != "calibration"
    ]
    body = charts(drawn)
    if not calibrated and "calibration" in results.pictures:
        body += tag("p", NOT_CALIBRATED, class_="note")
    regression = results.task is None or results.task.kind == "regression"
    gain = "%" if regression else "points"
    levels = dict.fromkeys(m.level for m in metrics)
    first = "patient" if "patient" in levels else next(iter(levels))
    body += _predictions(metrics, first, gain)
    others = [_predictions(metrics, level, gain) for level in levels if level != first]
    if others:
        body += folded("The same by image and volume", *others)
    return body + _groups(results)


def drawn_figure(picture: Picture, name: str) -> Markup:
    """Return a chart that can be saved."""
    return figure(draw(picture), caption=picture.note, csv=drawn_values(picture), name=name)


def _predictions(metrics: Sequence[Metric], level: str, gain: str) -> Markup:
    """Return the figures of one level, beside those of a constant prediction."""
    own = {m.name: m for m in metrics if m.level == level and m.of == "model"}
    constant = {m.name: m for m in metrics if m.level == level and m.of == "constant"}
    rows = [[_named(m, gain), *_cells(m), *_cells(constant.get(name))] for name, m in own.items()]
    if not rows:
        return Markup("")
    count = next(iter(own.values())).n
    how = next((m.interval for m in own.values() if m.interval), "")
    intervals = f"95 % intervals ({how})" if how else "too few patients for intervals"
    caption = f"{count} test {level}s; {intervals}; for comparison, a constant prediction"
    columns = ["metric", "model", "interval", "constant", "interval"]
    return table(columns, rows, caption=caption)


def _named(metric: Metric, gain: str) -> str:
    """Return a figure's name, its unit, and which way is better."""
    if metric.name == "skill":
        return f"error relative to the constant, {gain} (lower is better)"
    unit = f", {metric.unit}" if metric.unit else ""
    better = f" ({metric.better} is better)" if metric.better else ""
    return f"{metric.name}{unit}{better}"


def _cells(metric: Metric | None) -> Row:
    if metric is None or metric.value is None:
        return [None, None]
    if metric.name == "skill":  # a gain; as a difference of errors, below 0 is better
        low, high = (None if end is None else -100 * end for end in (metric.high, metric.low))
        value, between = with_interval(-100 * metric.value, low, high, signed=True)
    else:
        value, between = with_interval(metric.value, metric.low, metric.high)
    return [value, between or None]


def _groups(results: Results) -> Markup:
    if not results.groups:
        return Markup("")
    unit = results.task.unit if results.task else ""
    regression = results.task is not None and results.task.kind == "regression"
    what = f"mean absolute error{f' ({unit})' if unit else ''}" if regression else "error rate"
    rows: list[list[Content]] = []
    for g in results.groups:
        value, ends = with_interval(g.error, g.low, g.high)
        bias = None if g.bias is None else with_interval(g.bias, g.low, g.high, signed=True)[0]
        rows.append([g.name, g.images, g.patients, value, ends or None, bias])
    columns = ["group", "images", "patients", what, "interval", "bias (prediction less truth)"]
    systems = [
        Errors(g.name, (g.error,), None if g.low is None or g.high is None else (g.low, g.high))
        for g in results.groups
    ]
    svg = interval_chart(
        systems, title="Errors by label, with 95 % intervals over patients", label=what
    )
    drawn = figure(svg, csv=errors_values(systems, what), name="errors by label")
    caption = "Errors of images by label, with 95 % intervals over patients"
    return table(columns, rows, caption=caption) + charts([drawn])


def images_section(metrics: Sequence[Metric], windows: Sequence[str]) -> Markup:
    """Return the figures of translated images as a set, beside those of real ones."""
    rows: list[list[Content]] = []
    for m in metrics:
        if m.value is not None:
            value, ends = with_interval(m.value, m.low, m.high)
            floor = None if m.floor is None else with_interval(m.floor, None, None)[0]
            better = f" ({m.better} is better)" if m.better else ""
            name = f"{m.source}: {m.label}{better}"
            rows.append([name, value, ends or None, floor, m.n, m.reference])
    columns = ["metric", "value", "95 % interval", "real against real", "translated", "real"]
    drawn = table(columns, rows, caption="Translated against real test images")
    return drawn + notes(metrics) + bullets(windows)


def taught_section(metrics: Sequence[Metric]) -> Markup:
    """Return how small predictors do on real test patients, by what they were trained on."""
    rows: list[list[Content]] = []
    for m in metrics:
        if m.value is not None:
            value, ends = with_interval(m.value, m.low, m.high)
            rows.append([trained_on(m), value, ends or None, m.n])
    unit = f", {metrics[0].unit}" if metrics[0].unit else ""
    caption = "A small predictor on real test patients, by what it was trained on"
    columns = ["trained on", f"{taught_in(metrics[0])}{unit}", "95 % interval", "test patients"]
    return table(columns, rows, caption=caption) + notes(metrics)


def notes(metrics: Sequence[Metric]) -> Markup:
    """Return what a reader of some figures must know, and how their intervals were found."""
    return bullets(list(dict.fromkeys([*(n for m in metrics for n in m.notes), *_ways(metrics)])))


def _ways(metrics: Sequence[Metric]) -> Iterator[str]:
    ways: dict[str, list[str]] = {}
    for m in metrics:
        if m.interval and m.label not in ways.setdefault(m.interval, []):
            ways[m.interval].append(m.label)
    yield from (f"Interval of {', '.join(names)}: {how}." for how, names in ways.items())


def missing_section(metrics: Sequence[Metric]) -> Markup:
    """Return which figures could not be taken, and what would make them possible."""
    said = [f"{m.label} ({m.level or m.source}): {m.reason} {m.remedy}" for m in metrics]
    return joined([bullets(said)]) if said else paragraph("All metrics were measured.")
