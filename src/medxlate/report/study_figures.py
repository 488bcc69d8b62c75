"""Figures of a study: errors of all systems, and errors over the number of patients."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from medxlate.report.figures import save
from medxlate.report.interval_chart import Errors

OURS, OTHER, FAINT = "#c1440e", "#33506b", 0.35
# From Okabe and Ito's colours, which the colour-blind tell apart.
OUR_COLOURS = (OURS, "#e69f00", "#cc79a7")
OTHER_COLOURS = ("#111111", "#0072b2", "#009e73", "#56b4e9", "#777777")
LINES = (("#555555", ":"), ("#111111", "--"), ("#777777", "-."))
MARKERS = "osD^vP*"
DPI = 130
LETTERS = 15  # of a note, an inch

Names = Callable[[str, str], str]


@dataclass(frozen=True)
class Curve:
    """A method's error over a number of patients, or over a ratio.

    Attributes:
        name: As it is printed.
        patients: Rising, [N]; of a sweep of the ratio, source images to a real one.
        means: Mean loss over repeats, [N].
        stds: Its standard deviation over repeats, [N]; NaN where there is none.
        ours: Whether it is drawn as the method that the others are held against.
    """

    name: str
    patients: Sequence[float]
    means: Sequence[float]
    stds: Sequence[float]
    ours: bool = False


def errors_of(
    results: pd.DataFrame,
    names: Names,
    intervals: Mapping[tuple[str, str], tuple[float, float]] | None = None,
) -> list[Errors]:
    """Return the systems of a comparison, the lowest mean first.

    Args:
        results: A row a cell, of one target fraction and one source fraction.
        names: From a method and its sources to the printed name.
        intervals: Of each method's and sources' mean, where there are any.
    """
    groups = results.groupby(["method", "sources"], sort=False)["loss"]
    found = [
        Errors(
            names(str(method), str(sources)),
            losses.to_list(),
            (intervals or {}).get((str(method), str(sources))),
            ours=_is_ours(str(method)),
        )
        for (method, sources), losses in groups
    ]
    return sorted(found, key=lambda system: float(np.mean(system.losses)))


def target_curves(results: pd.DataFrame, names: Names) -> list[Curve]:
    """Return each system's error over target patients, at its largest source fraction.

    Args:
        results: A row a finished cell.
        names: From a method and its sources to the printed name.
    """
    results = results[results["method"] != "constant"]
    curves = []
    for (method, sources), cells in results.groupby(["method", "sources"], sort=False):
        whole = cells[cells["source_fraction"] == cells["source_fraction"].max()]
        if whole["target_fraction"].nunique() > 1:
            name, ours = names(str(method), str(sources)), _is_ours(str(method))
            curves.append(_curve(name, whole, "target_fraction", "train_patients", ours))
    return curves


def source_curves(
    results: pd.DataFrame,
    names: Names,
    *,
    reference: str = "target-only",
    over: Literal["source_patients", "ratio"] = "source_patients",
) -> list[Curve]:
    """Return each system's error over what it had of sources, at the largest target fraction.

    Args:
        results: A row a finished cell.
        names: From a method and its sources to the printed name.
        reference: The method whose error stands at 0 source patients.
        over: Source patients, or source images to one real target image.
    """
    whole = results[results["target_fraction"] == results["target_fraction"].max()]
    if over == "ratio":
        whole = whole.assign(ratio=whole["source_images"] / whole["train_images"])
    none = whole[whole["method"] == reference].assign(**{"source_fraction": 0.0, over: 0})
    curves = []
    for (method, sources), cells in whole.groupby(["method", "sources"], sort=False):
        if cells["source_fraction"].nunique() > 1:
            every = pd.concat([none, cells]) if len(none) else cells
            name, ours = names(str(method), str(sources)), _is_ours(str(method))
            curves.append(_curve(name, every, "source_fraction", over, ours))
    return curves


def _is_ours(method: str) -> bool:
    return method.partition("+")[0] == "joint"


def _curve(name: str, cells: pd.DataFrame, fraction: str, patients: str, ours: bool) -> Curve:
    groups = cells.groupby(fraction)
    losses = groups["loss"]
    numbers, means = groups[patients].mean().to_list(), losses.mean().to_list()
    return Curve(name, numbers, means, losses.std(ddof=1).to_list(), ours)


def error_plot(
    path: Path,
    systems: Sequence[Errors],
    *,
    measure: str,
    references: Sequence[tuple[str, float]] = (),
    title: str = "",
    note: str = "",
) -> None:
    """Write a PNG with a line a system: each repeat faint, their mean and its interval.

    Args:
        path: The file to write.
        systems: Top to bottom.
        measure: What the loss is, with its unit.
        references: Names and losses that are drawn as vertical lines, such as the constant's.
        title: Above the picture.
        note: Below the picture.
    """
    figure = _figure((8.2, 1.9 + 0.34 * len(systems)), title, note)
    axis = figure.subplots()
    for (name, loss), (colour, dashes) in zip(references, LINES, strict=False):
        axis.axvline(loss, color=colour, linestyle=dashes, linewidth=1.2, label=name, zorder=1)
    for row, system in enumerate(systems):
        colour = OURS if system.ours else OTHER
        losses = np.asarray(system.losses, dtype=float)
        mean = float(losses.mean())
        axis.scatter(
            losses, np.full(len(losses), row), s=22, color=colour, alpha=FAINT, linewidth=0
        )
        if system.interval is not None:
            axis.plot(system.interval, [row, row], color=colour, linewidth=2.2, zorder=3)
        axis.plot(mean, row, "D", color=colour, markersize=6.5, markeredgecolor="white", zorder=4)
    axis.set_yticks(range(len(systems)), [system.name for system in systems])
    for label, system in zip(axis.get_yticklabels(), systems, strict=True):
        label.set_color(OURS if system.ours else "black")
    axis.set_ylim(len(systems) - 0.4, -0.6)
    axis.set_xlabel(f"{measure} (lower is better)")
    axis.grid(axis="x", color="#e4e4e4", zorder=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    if references:
        axis.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(references),
            frameon=False,
            fontsize=9,
        )
    save(figure, path, dpi=DPI)


def dose_plot(
    path: Path,
    *,
    measure: str,
    target: Sequence[Curve] = (),
    source: Sequence[Curve] = (),
    ratio: Sequence[Curve] = (),
    title: str = "",
    note: str = "",
) -> None:
    """Write a PNG with errors over target patients and, beside it, over source patients and ratios.

    Args:
        path: The file to write.
        measure: What the loss is, with its unit.
        target: Curves over the number of real target patients, drawn over its log.
        source: Curves over the number of source patients, from 0 on where a reference has none.
        ratio: The same over source images to one real target image.
        title: Above the picture.
        note: Below the picture.
    """
    panels = [
        (curves, label)
        for curves, label in (
            (target, "Real target patients in training"),
            (source, "Source patients in training"),
            (ratio, "Source images to one real target image"),
        )
        if curves
    ]
    colours = _colours([curve for curves, _ in panels for curve in curves])
    columns, rows = max(len(panels), 1), max(-(-len(colours) // 3), 1)
    figure = _figure((1.2 + 4.6 * columns, 4.2 + 0.24 * rows), title, note)
    grid = figure.add_gridspec(2, columns, height_ratios=[4, 0.24 * rows])
    lines: dict[str, Line2D] = {}
    for column, (curves, label) in enumerate(panels):
        axis = figure.add_subplot(grid[0, column])
        for curve in curves:
            lines[curve.name] = _draw(axis, curve, *colours[curve.name])
        _patients_axis(axis, curves, logarithmic=curves is target)
        axis.set_xlabel(label)
        axis.set_ylabel(f"{measure}\n(lower is better)" if not column else "")
        axis.grid(color="#e4e4e4")
        axis.spines[["top", "right"]].set_visible(False)
    below = figure.add_subplot(grid[1, :])
    below.set_axis_off()
    below.legend(
        list(lines.values()), list(lines), loc="center", ncols=3, frameon=False, fontsize=9
    )
    save(figure, path, dpi=DPI)


def _colours(curves: Sequence[Curve]) -> dict[str, tuple[str, str]]:
    """Return a colour and a marker for each name."""
    found: dict[str, tuple[str, str]] = {}
    counts = {True: 0, False: 0}
    for curve in curves:
        if curve.name not in found:
            palette = OUR_COLOURS if curve.ours else OTHER_COLOURS
            colour = palette[counts[curve.ours] % len(palette)]
            found[curve.name] = colour, MARKERS[len(found) % len(MARKERS)]
            counts[curve.ours] += 1
    return found


def _draw(axis: Axes, curve: Curve, colour: str, marker: str) -> Line2D:
    """Draw a mean with a band of one standard deviation."""
    patients, means = np.asarray(curve.patients, float), np.asarray(curve.means, float)
    stds = np.nan_to_num(np.asarray(curve.stds, float))
    axis.fill_between(patients, means - stds, means + stds, color=colour, alpha=0.13, linewidth=0)
    return axis.plot(patients, means, color=colour, marker=marker, markersize=5)[0]


def _patients_axis(axis: Axes, curves: Sequence[Curve], *, logarithmic: bool) -> None:
    """Put a tick at every number of patients, unless it would run into its neighbour."""
    found = sorted({float(number) for curve in curves for number in curve.patients})
    if logarithmic and found[0] > 0:
        axis.set_xscale("log")
        place = np.log(found)
    else:
        place = np.asarray(found)
    room, kept = 0.07 * (place[-1] - place[0]), [len(found) - 1]
    for i in range(len(found) - 2, -1, -1):
        if place[kept[-1]] - place[i] > room:
            kept.append(i)
    axis.xaxis.set_major_locator(FixedLocator([found[i] for i in kept]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:.3g}"))


def _figure(size: tuple[float, float], title: str, note: str) -> Figure:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=12)
    if note:
        lines = textwrap.wrap(note, int(LETTERS * size[0]))
        figure.supxlabel("\n".join(lines), fontsize=8, color="#444444")
    return figure
