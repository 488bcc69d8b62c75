"""The look of all charts: colours of the page, matplotlib's settings, lines that differ by more.

Lines differ by dashes or markers as well, so that colour is not needed. Names are text everywhere:
nothing between dollars is read as TeX.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure

from medxlate.base.files import whole_file

# The light colours of page.css by the names of its variables; figures on white are drawn in them.
THEME = {
    "surface": "#ffffff", "ink": "#1d2328", "muted": "#56616b", "grid": "#dfe3e6",
    "c1": "#0b5f8a", "c2": "#b0500a", "c3": "#1c6b3c", "c4": "#7b3f98", "c5": "#8a6500",
}  # fmt: skip
INK, MUTED, GRID = (THEME[name] for name in ("ink", "muted", "grid"))
COLOURS = (*(THEME[f"c{number}"] for number in range(1, 6)), MUTED)
DASHES = ("-", (0, (3.5, 2)), (0, (1, 1.5)), (0, (4.5, 1.5, 1, 1.5)), (0, (2, 1)), (0, (0.5, 2)))
MARKERS = "os^Dx+"
STROKES = "x+"  # of these, drawn without an area
FONT_SIZE = 12.5  # of most texts; legible on a screen of 360 pixels
DPI = 130  # of PNG
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


def look_of(i: int) -> tuple[str, Any, dict[str, Any]]:
    """Return colour, dashes and marker of a line; those of one colour differ in the others."""
    other = (i + i // 6) % 6
    marker = MARKERS[other]
    edge = {"marker": marker, "markeredgewidth": 1.6 if marker in STROKES else 0}
    return COLOURS[i % 6], DASHES[other], edge


def cut(text: str, most: int) -> str:
    """Return a text on one line; of a longer one both ends, for names often differ in the last."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end].rstrip()}…{text[-end:].lstrip()}"


def save(figure: Figure, path: Path, *, dpi: int = DPI) -> None:
    """Write a figure as a PNG without a date."""
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi, metadata={"Software": "medxlate"})
