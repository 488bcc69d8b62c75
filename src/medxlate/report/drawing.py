"""What charts of reports and studies have in common: a field with its labels, and a legend."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medxlate.charts.style import DASHES, INK, MUTED, cut
from medxlate.report.printing import short
from medxlate.report.svg import svg

Values = npt.NDArray[np.float64]

WIDTH, PAPER, PANEL = 400, 640, 340  # points: a chart of a page, a figure, a panel of several
HEIGHT = 190  # points of a field
ROW = 18  # points of a line of text
LETTER = 7  # points, the mean width of a letter
LARGEST = 1e300  # beyond it differences overflow
NAME = 44  # letters of a name in the legend, at most
NONE: Mapping[str, float] = MappingProxyType({})


def blank(
    width: float, field: float, *, title: str = "", note: str = "", names: Sequence[str] = ()
) -> Figure:
    """Return a figure with its title and note, high enough for a field and its legend, points."""
    heading = textwrap.wrap(title, int(width / 8.7))
    notes = textwrap.wrap(note, int(width / 5.6))
    rows = -(-len(names) // _columns(width, names)) if names else 0
    height = field + 50 + ROW * (len(heading) + rows + 1) + 12 * len(notes) + 4 * bool(names)
    figure = Figure(figsize=(width / 72, height / 72))
    FigureCanvasAgg(figure)  # its letters measure the layout
    if heading:
        figure.suptitle("\n".join(heading), x=0, ha="left", fontsize=14, fontweight="bold")
    if notes:
        figure.supxlabel("\n".join(notes), fontsize=9, color=MUTED)
    return figure


def nothing(title: str) -> Markup:
    """Return a chart that says that there are no values."""
    figure = blank(WIDTH, 0, title=title)
    figure.text(0, 0.5, "No values.", color=MUTED, va="top")
    return svg(figure, title=title, description="No values.")


def fields(
    axis: Axes,
    x_label: str,
    y_label: str,
    *,
    whole: bool = False,
    rows: Sequence[str] = (),
    width: float = WIDTH,
) -> None:
    """Give a field its labels, the vertical axis's on top; or rows with names."""
    label = textwrap.fill(x_label, int(width / LETTER * (0.98 if rows else 0.85)))
    axis.set_xlabel(label, loc="right" if rows else "center")
    axis.set_title(cut(y_label, int(width / LETTER)))
    axis.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10], integer=whole))
    if rows:
        names = [cut(each, int(width / 15)) for each in rows]
        axis.set_yticks(range(len(rows)), names, color=INK)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
    else:
        axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.grid(axis="x", visible=False)


def draw_thresholds(axis: Axes, thresholds: Mapping[str, float], *, upright: bool) -> None:
    """Draw named vertical or horizontal lines."""
    for i, (name, value) in enumerate(thresholds.items()):
        look: dict[str, Any] = {"color": INK, "linewidth": 1.3, "linestyle": DASHES[i % 5 + 1]}
        line = axis.axvline if upright else axis.axhline
        line(float(finite([value])[0]), label=legend_name(threshold_text(name, value)), **look)


def threshold_text(name: str, value: float) -> str:
    """Return a named line's text in the legend."""
    return f"{name}: {short(value)}"


def legend(figure: Figure, *axes: Axes) -> None:
    """Put one legend of all axes, each name once, below a titled figure, or else above."""
    found = list(zip(*axes[0].get_legend_handles_labels(), strict=True))
    for axis in axes[1:]:
        known = {name for _, name in found}
        found += [
            each
            for each in zip(*axis.get_legend_handles_labels(), strict=True)
            if each[1] not in known
        ]
    if found:
        handles, names = zip(*found, strict=True)
        width = 72 * figure.get_figwidth()
        titled = bool(figure.get_suptitle())
        figure.legend(
            handles,
            names,
            loc="outside lower left" if titled else "outside upper left",
            ncols=_columns(width, names),
            columnspacing=1.2,
        )


def _columns(width: float, names: Sequence[str]) -> int:
    """Return how many columns a legend has."""
    longest = max(len(legend_name(name)) for name in names)
    return max(min(int((width + 15) // (45 + LETTER * longest)), len(names)), 1)


def legend_name(name: str) -> str:
    """Return a name for the legend; one that begins with _ would be left out of it."""
    name = cut(name, NAME)
    return f"\u200b{name}" if name.startswith("_") else name


def finite(values: Sequence[float]) -> Values:
    """Return values that can be subtracted; NaN for infinite ones, for NaN is not drawn."""
    found = np.asarray(values, dtype=np.float64)
    return np.where(np.isinf(found), np.nan, np.clip(found, -LARGEST, LARGEST))
