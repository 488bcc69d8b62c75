"""The charts of a study: errors with their intervals, and curves over patients.

A chart of a page is SVG; the same as a figure of the study folder is written as PNG.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from medxlate.charts.style import COLOURS, look_of, save, styled
from medxlate.report.drawing import (
    HEIGHT,
    NONE,
    PANEL,
    PAPER,
    WIDTH,
    Values,
    blank,
    draw_thresholds,
    fields,
    finite,
    legend,
    legend_name,
    nothing,
    threshold_text,
)
from medxlate.report.printing import csv_text, short
from medxlate.report.svg import svg


@dataclass(frozen=True)
class Errors:
    """A row of a chart of errors: a system, or a group of patients.

    Attributes:
        name: As it is printed.
        losses: One a repeat, [R].
        interval: Of the mean, 95 %; None where there is none.
        ours: Whether it is drawn as the method that the others are compared with.
    """

    name: str
    losses: Sequence[float]
    interval: tuple[float, float] | None = None
    ours: bool = False

    @property
    def mean(self) -> float:
        """The mean of the finite losses; NaN where there is none."""
        losses = self.finite
        return float(losses.mean()) if len(losses) else math.nan

    @property
    def finite(self) -> Values:
        """The losses of the repeats that did not diverge, by which verdicts are too."""
        losses = finite(self.losses)
        return losses[np.isfinite(losses)]


@dataclass(frozen=True)
class Curve:
    """A method's error over a number of patients, or over a ratio.

    Attributes:
        name: As it is printed.
        patients: Rising, [N]; of a sweep of the ratio, source images to a real one.
        means: Mean loss over repeats, [N].
        stds: Its standard deviation over repeats, [N]; NaN where there is none.
        ours: Whether it is drawn as the method that the others are compared with.
    """

    name: str
    patients: Sequence[float]
    means: Sequence[float]
    stds: Sequence[float]
    ours: bool = False


@dataclass(frozen=True)
class Panel:
    """Curves over one axis.

    Attributes:
        label: Of the axis.
        curves: At least one.
        logarithmic: Whether they are drawn over the logarithm.
    """

    label: str
    curves: Sequence[Curve]
    logarithmic: bool = False


@styled
def interval_chart(
    systems: Sequence[Errors],
    *,
    title: str,
    label: str,
    references: Mapping[str, float] = NONE,
) -> Markup:
    """Return a row a system: each repeat as a small dot, the mean as a large sign on its interval.

    Args:
        systems: Top to bottom.
        title: Above the chart.
        label: Of the axis, with the unit.
        references: Names and losses that are drawn as vertical lines, such as the constant's.
    """
    systems = [each for each in systems if len(each.losses)]
    if not systems:
        return nothing(title)
    words = [f"{each.name}: {_mean(each)}" for each in systems]
    figure = _intervals(systems, label, references, width=WIDTH, title=title)
    return svg(figure, title=title, description=f"{label}. {'; '.join(words)}.")


def errors_values(systems: Sequence[Errors], label: str) -> str:
    """Return what a chart of errors shows, as CSV: a row a repeat, with the mean's interval."""
    rows = [
        (each.name, i, float(loss), each.mean, *(each.interval or (None, None)))
        for each in systems
        for i, loss in enumerate(each.losses)
    ]
    return csv_text(("method", "repeat", label, "mean", "low", "high"), rows)


def curves_values(panel: Panel, label: str) -> str:
    """Return what a panel of curves shows, as CSV: a row a point."""
    rows = [
        (each.name, float(x), float(mean), float(std))
        for each in panel.curves
        for x, mean, std in zip(each.patients, each.means, each.stds, strict=True)
    ]
    return csv_text(("method", panel.label, label, "standard deviation"), rows)


def _mean(system: Errors) -> str:
    """Return the mean in words, and over how many repeats where some diverged."""
    drawn, all_repeats = len(system.finite), len(system.losses)
    if not drawn:
        return "no finite value"
    over = "" if drawn == all_repeats else f" over {drawn} of {all_repeats} repeats"
    return f"mean {short(system.mean)}{over}"


@styled
def error_plot(
    path: Path,
    systems: Sequence[Errors],
    *,
    label: str,
    references: Mapping[str, float] = NONE,
    note: str = "",
) -> None:
    """Write the chart of ``interval_chart`` as a PNG.

    Args:
        path: The file to write.
        systems: Top to bottom.
        label: Of the axis, with the unit.
        references: Names and losses that are drawn as vertical lines.
        note: Below the picture.
    """
    save(_intervals(systems, label, references, width=PAPER, note=note), path)


def _intervals(
    systems: Sequence[Errors],
    label: str,
    references: Mapping[str, float],
    *,
    width: float,
    title: str = "",
    note: str = "",
) -> Figure:
    names = [threshold_text(*each) for each in references.items()]
    figure = blank(width, 24 * len(systems), title=title, note=note, names=names)
    axis = figure.add_subplot()
    for row, system in enumerate(systems):
        colour = COLOURS[1] if system.ours else COLOURS[0]
        losses = system.finite
        axis.plot(losses, np.full(len(losses), row), "o", color=colour, alpha=0.5, markersize=4.5)
        if system.interval is not None:
            axis.plot(
                finite(system.interval), [row, row], color=colour, marker="|", markeredgewidth=2
            )
        axis.plot(system.mean, row, "D" if system.ours else "o", color=colour, markersize=9)
    draw_thresholds(axis, references, upright=True)
    fields(axis, label, "", rows=[each.name for each in systems], width=width)
    legend(figure, axis)
    return figure


@styled
def curves_chart(panel: Panel, *, title: str, label: str) -> Markup:
    """Return the curves of a panel, each a mean in a band of one standard deviation.

    Args:
        panel: What is drawn.
        title: Above the chart.
        label: What the loss is, with its unit.
    """
    words = [
        f"{each.name}: {short(each.means[0])} to {short(each.means[-1])}" for each in panel.curves
    ]
    figure = _curves([panel], label, width=WIDTH, title=title)
    return svg(figure, title=title, description=f"{label}; {panel.label}. {'; '.join(words)}.")


@styled
def dose_plot(path: Path, panels: Sequence[Panel], *, label: str, note: str = "") -> None:
    """Write panels of curves side by side as a PNG.

    Args:
        path: The file to write.
        panels: Left to right.
        label: What the loss is, with its unit.
        note: Below the picture.
    """
    save(_curves(panels, label, width=max(PANEL * len(panels), PAPER), note=note), path)


def _curves(
    panels: Sequence[Panel], label: str, *, width: float, title: str = "", note: str = ""
) -> Figure:
    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    figure = blank(width, HEIGHT, title=title, note=note, names=names)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, axis in zip(panels, axes, strict=True):
        for curve in panel.curves:
            i = names.index(curve.name)
            means, stds = finite(curve.means), np.nan_to_num(finite(curve.stds))
            colour, dashes, marker = look_of(i)
            look: dict[str, Any] = {"color": colour, "linestyle": dashes, **marker}
            look |= {"linewidth": 3 if curve.ours else 1.8, "label": legend_name(curve.name)}
            band = np.concatenate([means - stds, (means + stds)[::-1]])
            there_and_back = [*curve.patients, *reversed(curve.patients)]
            axis.fill(there_and_back, band, facecolor=colour, alpha=0.12, linewidth=0)
            axis.plot(curve.patients, means, **look)
        fields(axis, panel.label, label if axis is axes[0] else "", width=width / len(panels))
        _patients_axis(axis, panel)
    legend(figure, *axes)
    return figure


def _patients_axis(axis: Axes, panel: Panel) -> None:
    """Put a tick at every number of patients, unless it would run into its neighbour."""
    found = sorted({float(number) for curve in panel.curves for number in curve.patients})
    place = np.asarray(found)
    if panel.logarithmic and found[0] > 0:
        axis.set_xscale("log")
        place = np.log(found)
    room, kept = 0.08 * (place[-1] - place[0]), [len(found) - 1]
    for i in range(len(found) - 2, -1, -1):
        if place[kept[-1]] - place[i] > room:
            kept.append(i)
    axis.xaxis.set_major_locator(FixedLocator([found[i] for i in kept]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
