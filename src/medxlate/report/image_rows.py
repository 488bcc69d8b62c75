"""Images side by side, as a PNG: of the demo, and of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from medxlate.charts.style import INK, cut, save, styled
from medxlate.images.stack import FloatArray


@dataclass(frozen=True)
class ImageRow:
    """A row of equally sized images [S, S] in [-1, 1], its title, and a caption an image."""

    title: str
    images: Sequence[FloatArray]
    captions: Sequence[str]


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
