"""Images side by side, as a PNG: of the demo, and of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from medxlate.charts.style import COLOURS, INK, MUTED, cut, save, styled
from medxlate.images.stack import FloatArray


@dataclass(frozen=True)
class ImageRow:
    """A row of equally sized images [S, S] in [-1, 1], its title, and a caption an image."""

    title: str
    images: Sequence[FloatArray]
    captions: Sequence[str]


@dataclass(frozen=True)
class Gains:
    """Errors of several ways of training, to show beside images.

    Attributes:
        title: What the error is, with its unit.
        errors: By name, top to bottom.
        ours: The name that is set off.
    """

    title: str
    errors: Mapping[str, float]
    ours: str


@styled
def images_and_gains(path: Path, rows: Sequence[ImageRow], gains: Gains, *, note: str = "") -> None:
    """Write rows of grey images under their titles, beside bars of errors, as a PNG.

    Args:
        path: The file to write.
        rows: Top to bottom, as many images each.
        gains: The errors.
        note: Below the picture.
    """
    columns = len(rows[0].images)
    figure = Figure(figsize=(11, 1.45 * len(rows) + 0.75))
    figure.set_layout_engine("none")
    grid = figure.add_gridspec(
        len(rows), columns, left=0.09, right=0.09 + 0.112 * columns, bottom=0.09, top=0.94,
        hspace=0.03, wspace=0.03,
    )  # fmt: skip
    for i, row in enumerate(rows):
        for j, image in enumerate(row.images):
            axis = figure.add_subplot(grid[i, j])
            axis.set_axis_off()
            axis.imshow(image, cmap="gray", vmin=-1, vmax=1)
            if row.captions[j]:
                axis.set_title(row.captions[j], fontsize=9, pad=3, loc="center")
            if not j:
                axis.text(-0.08, 0.5, row.title, transform=axis.transAxes, ha="right",
                          va="center", fontsize=12, fontweight="bold", color=INK)  # fmt: skip
    left = 0.125 + 0.112 * columns
    axis = figure.add_axes((left, 0.12, 0.98 - left, 0.68))
    axis.set_axis_off()
    largest = max(gains.errors.values())
    for place, (name, error) in enumerate(gains.errors.items()):
        colour = COLOURS[1] if name == gains.ours else COLOURS[0]
        axis.barh(place, error, 0.4, color=colour, alpha=1 if name == gains.ours else 0.55)
        axis.text(0, place - 0.3, name, fontsize=10.5, color=INK)
        axis.text(error + 0.02 * largest, place, f"{error:.0f}", fontsize=11, va="center")
    axis.set_xlim(0, 1.15 * largest)
    axis.set_ylim(len(gains.errors) - 0.4, -0.9)
    figure.text(left, 0.85, gains.title, fontsize=11.5, fontweight="bold", color=INK)
    if note:
        figure.text(0.012, 0.025, note, fontsize=9, color=MUTED)
    save(figure, path, dpi=110)


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
        title = "\n".join(cut(each, 20) for each in row.title.splitlines())
        line[0].text(
            -0.06, 0.5, title, transform=line[0].transAxes, rotation=90,
            ha="right", va="center", fontsize=10,
        )  # fmt: skip
    if note:
        figure.supxlabel(note, fontsize=8)
    save(figure, path, dpi=110)
