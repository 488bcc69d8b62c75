"""Figures (matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from medxlate.base.files import whole_file
from medxlate.images.stack import FloatArray


@dataclass(frozen=True)
class Row:
    """A row of equally sized images [S, S] in [-1, 1], its title, and a caption an image."""

    title: str
    images: Sequence[FloatArray]
    captions: Sequence[str]


def image_rows(path: Path, rows: Sequence[Row], *, note: str = "") -> None:
    """Write rows of grey images with titles and captions as a PNG.

    Args:
        path: The file to write.
        rows: Top to bottom.
        note: A line below the picture.
    """
    columns = max(len(row.images) for row in rows)
    figure = Figure(figsize=(1.5 * columns + 0.6, 1.75 * len(rows) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for i, axis in enumerate(line):
            axis.set_axis_off()
            if i < len(row.images):
                axis.imshow(row.images[i], cmap="gray", vmin=-1, vmax=1)
                axis.set_title(row.captions[i], fontsize=8, pad=2)
        line[0].text(
            -0.06, 0.5, row.title, transform=line[0].transAxes, rotation=90,
            ha="right", va="center", fontsize=10,
        )  # fmt: skip
    if note:
        figure.supxlabel(note, fontsize=8)
    save(figure, path, dpi=110)


def save(figure: Figure, path: Path, *, dpi: int) -> None:
    """Write a figure as a PNG; names in it are text, also between dollars, where TeX would be."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi, metadata={"Software": "medxlate"})
