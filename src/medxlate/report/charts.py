"""All charts of reports and figures of studies, drawn by matplotlib in the colours of the page.

Charts go into a page as SVG (`medxlate.report.svg`), which is sharp at any size and follows the
page's theme; figures are written as PNG. Lines differ by dashes or markers as well, so that colour
is not needed. Names are text everywhere: nothing between dollars is read as TeX.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

from medxlate.base.files import whole_file
from medxlate.evaluation.results import Picture, Points
from medxlate.images.stack import FloatArray
from medxlate.report.printing import short
from medxlate.report.svg import FONT_SIZE, THEME, svg

Values = npt.NDArray[np.float64]

INK, MUTED, GRID = (THEME[name] for name in ("ink", "muted", "grid"))
COLOURS = (*(THEME[f"c{number}"] for number in range(1, 6)), MUTED)
DASHES = ("-", (0, (3.5, 2)), (0, (1, 1.5)), (0, (4.5, 1.5, 1, 1.5)), (0, (2, 1)), (0, (0.5, 2)))
MARKERS = "os^Dx+"
STROKES = "x+"  # of these, drawn without an area
OPACITIES = (0.9, 0.25, 0.6, 0.1, 0.75, 0.4)  # of bars
WIDTH, PAPER, PANEL = 400, 640, 340  # points: a chart of a page, a figure, a panel of several
HEIGHT = 190  # points of a field
ROW = 18  # points of a line of text
LETTER = 7  # points, the mean width of a letter
DPI = 130  # of PNG
LARGEST = 1e300  # beyond it differences overflow
DOTS, SHAPES, LINE_POINTS, BINS = 2400, 1200, 300, 30  # at most; of a chart, of a line
NAME = 44  # letters of a name in the legend, at most
NONE: Mapping[str, float] = MappingProxyType({})
CURVES = 12  # drawn at most; more cannot be followed
# Everything else is matplotlib's own default, whatever a matplotlibrc says.
STYLE = {
    "figure.dpi": 72,
    "figure.constrained_layout.use": True,
    "font.size": FONT_SIZE,
    "text.color": INK,
    "text.parse_math": False,
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.04,
    "axes.ymargin": 0.06,
    "axes.titlelocation": "left",
    "axes.titlesize": FONT_SIZE,
    "axes.titlecolor": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 1,
    "xtick.color": MUTED,
    "xtick.labelsize": FONT_SIZE,
    "ytick.color": MUTED,
    "ytick.labelsize": FONT_SIZE,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": FONT_SIZE,
    "legend.borderpad": 0,
    "legend.handletextpad": 0.5,
    "legend.labelspacing": 0.3,
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "lines.markeredgewidth": 0,
    "savefig.dpi": DPI,
}
styled = style.context(STYLE, after_reset=True)


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
        losses = _finite(self.losses)
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


@dataclass(frozen=True)
class ImageRow:
    """A row of equally sized images [S, S] in [-1, 1], its title, and a caption an image."""

    title: str
    images: Sequence[FloatArray]
    captions: Sequence[str]


# What a run measured


@styled
def draw(picture: Picture) -> Markup:
    """Return a picture as an ``svg`` element to put into a page.

    Thousands of points are thinned: of a scatter one of those that lie on one another is kept, and
    of more than 2400 (of further lines 1200) evenly many; of a line lowest and highest of each
    stretch (``thin``).

    Args:
        picture: The picture; of more than 12 lines the first 12 are drawn, which its title says.
    """
    found = [line for line in picture.lines if line.x]
    lines = found[:CURVES]
    if not lines:
        return _nothing(picture.title)
    left = f" (the first {CURVES} of {len(found)})" if len(found) > CURVES else ""
    title = f"{picture.title}{left}"
    bars = picture.kind == "bars"
    names = [line.name for line in lines] if len(lines) > 1 else []
    names += [_threshold(*each) for each in picture.thresholds.items()]
    height = HEIGHT
    if bars:
        groups = len({value for line in lines for value in line.x})
        height = groups * ((15 if len(lines) == 1 else 10 * len(lines)) + 9)
    figure = _figure(WIDTH, height, title=title, names=names)
    axis = figure.add_subplot()
    {"histogram": _histogram, "bars": _bars}.get(picture.kind, _points)(axis, picture, lines)
    upright = picture.kind in ("histogram", "bars")
    _draw_thresholds(axis, picture.thresholds, upright=upright)
    _legend(figure, axis)
    return svg(figure, title=title, description=_description(picture, lines))


def _description(picture: Picture, lines: Sequence[Points]) -> str:
    values = [value for line in lines for value in line.x]
    parts = [f"{line.name}: {len(line.x)} values" for line in lines]
    parts += [_threshold(*each) for each in picture.thresholds.items()]
    if not picture.ticks:
        where = picture.x_label or "Values"
        parts.insert(0, f"{where} from {short(min(values))} to {short(max(values))}")
    if picture.y_label:
        parts.insert(0, picture.y_label)
    return "; ".join(parts) + "."


def _histogram(axis: Axes, picture: Picture, lines: Sequence[Points]) -> None:
    """Draw the values of each line in the same bins; several as shares, for they differ in number.

    Bins are at most 30, of the width that Freedman and Diaconis give for all values together.
    """
    values = [_finite(line.x) for line in lines]
    together = np.concatenate(values)
    spread = float(np.subtract(*np.percentile(together, [75, 25])))
    width = 2 * spread / len(together) ** (1 / 3)
    bins = int(min(max(np.ptp(together) / width, 5), BINS)) if width > 0 else 10
    edges = np.histogram_bin_edges(together, bins)
    for i, (line, each) in enumerate(zip(lines, values, strict=True)):
        counts = np.histogram(each, edges)[0].astype(float)
        if len(lines) > 1:
            counts *= 100 / counts.sum()
        colour, dashes, _ = _look(i)
        axis.stairs(counts, edges, fill=True, color=colour, alpha=0.18)
        look: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 2}
        axis.stairs(counts, edges, label=_label(line, lines), **look)
    share = ", share of each (%)" if len(lines) > 1 else ""
    _fields(axis, picture.x_label, (picture.y_label or "Number") + share)


def _points(axis: Axes, picture: Picture, lines: Sequence[Points]) -> None:
    """Draw lines or a scatter; with a diagonal both axes show the same range."""
    scatter = picture.kind == "scatter"
    for i, line in enumerate(lines):
        xs, ys = _finite(line.x), _finite(line.y)
        joined = not scatter and len(line.x) > 1
        colour, dashes, marker = _look(i)
        look: dict[str, Any] = {"color": colour, "linestyle": dashes if joined else "none"}
        if scatter or len(line.x) <= 12:
            look |= marker
        if scatter:
            dotted = i < 2 and len(line.x) > 100
            look |= {"markersize": 4.5, "alpha": 0.5} if dotted else {}
            xs, ys = _apart(xs, ys, (DOTS if dotted else SHAPES) // len(lines))
        else:
            xs, ys = map(np.asarray, thin(xs.tolist(), ys.tolist()))
        axis.plot(xs, ys, label=_label(line, lines), clip_on=False, **look)
    if picture.diagonal:
        ends = (
            min(axis.get_xlim()[0], axis.get_ylim()[0]),
            max(axis.get_xlim()[1], axis.get_ylim()[1]),
        )
        axis.plot(ends, ends, color=MUTED, linewidth=1, scalex=False, scaley=False)
        axis.set(xlim=ends, ylim=ends)
    whole = all(float(value).is_integer() for line in lines for value in line.x)
    _fields(axis, picture.x_label, picture.y_label, whole=whole)


def _bars(axis: Axes, picture: Picture, lines: Sequence[Points]) -> None:
    """Draw bars from left to right, so that long names have room."""
    groups = sorted({value for line in lines for value in line.x})
    thick = 0.8 / len(lines)
    for i, line in enumerate(lines):
        places = [groups.index(x) + thick * (i - (len(lines) - 1) / 2) for x in line.x]
        colour, dashes, _ = _look(i)
        axis.barh(
            places, _finite(line.y), 0.9 * thick, label=_label(line, lines),
            facecolor=to_rgba(colour, OPACITIES[i % 6]), edgecolor=colour,
            linestyle=dashes, linewidth=1,
        )  # fmt: skip
    axis.axvline(0, color=MUTED, linewidth=1)
    _fields(axis, picture.y_label, picture.x_label, rows=[_tick(picture, each) for each in groups])


def _look(i: int) -> tuple[str, Any, dict[str, Any]]:
    """Return colour, dashes and marker of a line; those of one colour differ in the others."""
    other = (i + i // 6) % 6
    marker = MARKERS[other]
    edge = {"marker": marker, "markeredgewidth": 1.6 if marker in STROKES else 0}
    return COLOURS[i % 6], DASHES[other], edge


def _label(line: Points, lines: Sequence[Points]) -> str | None:
    """Return a line's name for the legend; one that is alone needs none."""
    return _name(line.name) if len(lines) > 1 else None


def _tick(picture: Picture, value: float) -> str:
    known = value == int(value) and 0 <= value < len(picture.ticks)
    return picture.ticks[int(value)] if known else short(value)


def thin(
    x: Sequence[float], y: Sequence[float], limit: int = LINE_POINTS
) -> tuple[list[float], list[float]]:
    """Return at most ``limit`` points of a curve: lowest and highest of each stretch of points.

    No peak is lost, nothing is averaged. The first and the last point stay.
    """
    if len(x) <= limit:
        return list(x), list(y)
    stretches = max((limit - 2) // 2, 1)
    kept = {0, len(x) - 1}
    for k in range(stretches):
        places = range(k * len(x) // stretches, (k + 1) * len(x) // stretches)
        kept |= {min(places, key=y.__getitem__), max(places, key=y.__getitem__)}
    order = sorted(kept)
    return [x[i] for i in order], [y[i] for i in order]


def _apart(xs: Values, ys: Values, most: int) -> tuple[Values, Values]:
    """Return points that do not hide one another, evenly chosen where they are too many."""
    squares = [
        np.floor((values - values.min()) / (np.ptp(values) or 1) * room / 2)
        for values, room in ((xs, WIDTH), (ys, HEIGHT))
    ]
    _, first = np.unique(squares, axis=1, return_index=True)
    kept = np.sort(first)
    kept = kept[np.arange(min(len(kept), most)) * len(kept) // min(len(kept), most)]
    return xs[kept], ys[kept]


def _finite(values: Sequence[float]) -> Values:
    """Return values that can be subtracted; NaN for infinite ones, for NaN is not drawn."""
    found = np.asarray(values, dtype=np.float64)
    return np.where(np.isinf(found), np.nan, np.clip(found, -LARGEST, LARGEST))


# What a study compared


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
        return _nothing(title)
    words = [f"{each.name}: {_mean(each)}" for each in systems]
    figure = _intervals(systems, label, references, width=WIDTH, title=title)
    return svg(figure, title=title, description=f"{label}. {'; '.join(words)}.")


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
    _save(_intervals(systems, label, references, width=PAPER, note=note), path)


def _intervals(
    systems: Sequence[Errors],
    label: str,
    references: Mapping[str, float],
    *,
    width: float,
    title: str = "",
    note: str = "",
) -> Figure:
    names = [_threshold(*each) for each in references.items()]
    figure = _figure(width, 24 * len(systems), title=title, note=note, names=names)
    axis = figure.add_subplot()
    for row, system in enumerate(systems):
        colour = COLOURS[1] if system.ours else COLOURS[0]
        losses = system.finite
        axis.plot(losses, np.full(len(losses), row), "o", color=colour, alpha=0.5, markersize=4.5)
        if system.interval is not None:
            axis.plot(
                _finite(system.interval), [row, row], color=colour, marker="|", markeredgewidth=2
            )
        axis.plot(system.mean, row, "D" if system.ours else "o", color=colour, markersize=9)
    _draw_thresholds(axis, references, upright=True)
    _fields(axis, label, "", rows=[each.name for each in systems], width=width)
    _legend(figure, axis)
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
    _save(_curves(panels, label, width=max(PANEL * len(panels), PAPER), note=note), path)


def _curves(
    panels: Sequence[Panel], label: str, *, width: float, title: str = "", note: str = ""
) -> Figure:
    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    figure = _figure(width, HEIGHT, title=title, note=note, names=names)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, axis in zip(panels, axes, strict=True):
        for curve in panel.curves:
            i = names.index(curve.name)
            means, stds = _finite(curve.means), np.nan_to_num(_finite(curve.stds))
            colour, dashes, marker = _look(i)
            look: dict[str, Any] = {"color": colour, "linestyle": dashes, **marker}
            look |= {"linewidth": 3 if curve.ours else 1.8, "label": _name(curve.name)}
            band = np.concatenate([means - stds, (means + stds)[::-1]])
            there_and_back = [*curve.patients, *reversed(curve.patients)]
            axis.fill(there_and_back, band, facecolor=colour, alpha=0.12, linewidth=0)
            axis.plot(curve.patients, means, **look)
        _fields(axis, panel.label, label if axis is axes[0] else "", width=width / len(panels))
        _patients_axis(axis, panel)
    _legend(figure, *axes)
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


# Images side by side


@styled
def image_rows(path: Path, rows: Sequence[ImageRow], *, note: str = "") -> None:
    """Write rows of grey images with titles and captions as a PNG.

    Args:
        path: The file to write.
        rows: Top to bottom.
        note: A line below the picture.
    """
    columns = max(len(row.images) for row in rows)
    figure = Figure(figsize=(1.5 * columns + 0.6, 1.75 * len(rows) + 0.4))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for i, axis in enumerate(line):
            axis.set_axis_off()
            if i < len(row.images):
                axis.imshow(row.images[i], cmap="gray", vmin=-1, vmax=1)
                axis.set_title(row.captions[i], fontsize=8, pad=2, loc="center", color=INK)
        title = "\n".join(_cut(each, 20) for each in row.title.splitlines())
        line[0].text(
            -0.06, 0.5, title, transform=line[0].transAxes, rotation=90,
            ha="right", va="center", fontsize=10,
        )  # fmt: skip
    if note:
        figure.supxlabel(note, fontsize=8)
    _save(figure, path, dpi=110)


# What all have in common


def _figure(
    width: float, field: float, *, title: str = "", note: str = "", names: Sequence[str] = ()
) -> Figure:
    """Return a figure with its title and note, high enough for a field and its legend, points."""
    heading = textwrap.wrap(title, int(width / 8.7))
    notes = textwrap.wrap(note, int(width / 5.6))
    legend = -(-len(names) // _columns(width, names)) if names else 0
    height = field + 50 + ROW * (len(heading) + legend + 1) + 12 * len(notes) + 4 * bool(names)
    figure = Figure(figsize=(width / 72, height / 72))
    FigureCanvasAgg(figure)  # its letters measure the layout
    if heading:
        figure.suptitle("\n".join(heading), x=0, ha="left", fontsize=14, fontweight="bold")
    if notes:
        figure.supxlabel("\n".join(notes), fontsize=9, color=MUTED)
    return figure


def _nothing(title: str) -> Markup:
    figure = _figure(WIDTH, 0, title=title)
    figure.text(0, 0.5, "No values.", color=MUTED, va="top")
    return svg(figure, title=title, description="No values.")


def _fields(
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
    axis.set_title(_cut(y_label, int(width / LETTER)))
    axis.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10], integer=whole))
    if rows:
        names = [_cut(each, int(width / 15)) for each in rows]
        axis.set_yticks(range(len(rows)), names, color=INK)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
    else:
        axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.grid(axis="x", visible=False)


def _draw_thresholds(axis: Axes, thresholds: Mapping[str, float], *, upright: bool) -> None:
    for i, (name, value) in enumerate(thresholds.items()):
        look: dict[str, Any] = {"color": INK, "linewidth": 1.3, "linestyle": DASHES[i % 5 + 1]}
        line = axis.axvline if upright else axis.axhline
        line(float(_finite([value])[0]), label=_name(_threshold(name, value)), **look)


def _threshold(name: str, value: float) -> str:
    return f"{name}: {short(value)}"


def _legend(figure: Figure, *axes: Axes) -> None:
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
    longest = max(len(_name(name)) for name in names)
    return max(min(int((width + 15) // (45 + LETTER * longest)), len(names)), 1)


def _name(name: str) -> str:
    """Return a name for the legend; one that begins with _ would be left out of it."""
    name = _cut(name, NAME)
    return f"\u200b{name}" if name.startswith("_") else name


def _cut(text: str, most: int) -> str:
    """Return a text on one line; of a longer one both ends, for names often differ in the last."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end].rstrip()}…{text[-end:].lstrip()}"


def _save(figure: Figure, path: Path, *, dpi: int = DPI) -> None:
    """Write a figure as a PNG without a date."""
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi, metadata={"Software": "medxlate"})
