"""Figures of matplotlib as SVG inside a page: themed by the page, read aloud, without script.

matplotlib's own SVG has style attributes, which the content security policy of a page refuses,
ids that meet on a page, colours that no theme changes, and about three times the bytes. So a
small renderer writes the elements: colours of ``THEME`` become the page's CSS variables.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.backend_bases import GraphicsContextBase, RendererBase
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, Transform
from matplotlib.typing import ColorType

from medxlate.charts.style import FONT_SIZE, THEME
from medxlate.report.page import tag

VARIABLES = {colour: f"var(--{name})" for name, colour in THEME.items()}
LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
CAPS = {"round": Path.unit_circle(), "square": Path.unit_rectangle()}
ANCHORS = {"left": None, "center": "middle", "right": "end"}
_numbers = itertools.count(1)  # ids of charts are unique in a process, and so on a page


def svg(figure: Figure, *, title: str, description: str) -> Markup:
    """Return a figure of 72 dots an inch as an ``svg`` element to put into a page.

    Args:
        figure: What is drawn; its background is left to the page.
        title: What it is called for those who do not see it.
        description: What it shows, in words.
    """
    figure.patch.set_visible(False)
    renderer = PageRenderer(*figure.get_size_inches() * 72)
    with warnings.catch_warnings():  # the reader's browser has the letters that DejaVu lacks
        warnings.filterwarnings("ignore", message="Glyph")
        figure.draw(renderer)
    key = f"chart-{next(_numbers)}"
    return tag(
        "svg",
        tag("title", title, id=f"{key}-title"),
        tag("desc", description, id=f"{key}-desc"),
        *renderer.parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {renderer.width:g} {renderer.height:g}",
        width="100%",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
        class_="chart",
        font_size=FONT_SIZE,
        font_family="system-ui, sans-serif",
        stroke_linejoin="round",
        fill="none",
    )


class PageRenderer(RendererBase):
    """Collects what a figure draws as elements of SVG.

    Args:
        width: Of the figure, points.
        height: Of the figure, points.

    Attributes:
        parts: The elements so far.
    """

    def __init__(self, width: float, height: float) -> None:
        super().__init__()
        self.width, self.height = width, height
        self.parts: list[Markup] = []

    def get_canvas_width_height(self) -> tuple[float, float]:
        """Return the size of the figure, points."""
        return self.width, self.height

    def draw_path(
        self,
        gc: GraphicsContextBase,
        path: Path,
        transform: Transform,
        rgbFace: ColorType | None = None,  # noqa: N803
    ) -> None:
        """Add a path; what would not be seen is left out."""
        style = {**_stroke(gc), **_fill(gc, rgbFace)}
        self._add(_path_data(path, self._from_top(transform)), style)

    def draw_markers(
        self,
        gc: GraphicsContextBase,
        marker_path: Path,
        marker_trans: Transform,
        path: Path,
        trans: Transform,
        rgbFace: ColorType | None = None,  # noqa: N803
    ) -> None:
        """Add all markers of a line as one path; discs and squares are strokes without length."""
        places = self._from_top(trans).transform(path.vertices)
        places = places[np.isfinite(places).all(axis=1)]
        upright = not marker_trans.get_affine().get_matrix()[1, 0]  # else a square is a diamond
        cap = next((name for name, shape in CAPS.items() if _same(marker_path, shape)), None)
        if rgbFace is not None and cap and upright:
            width = marker_path.get_extents(marker_trans).width
            style: dict[str, Any] = {"stroke": _colour(rgbFace), "stroke_width": f"{width:.3g}"}
            style |= {"stroke_linecap": cap, "opacity": _opacity(gc, rgbFace)}
            shape = "h0"
        else:
            style = {**_stroke(gc), **_fill(gc, rgbFace)}
            flipped = marker_trans + Affine2D().scale(1, -1)
            shape = _path_data(marker_path, flipped, relative=True)
        self._add("".join(f"M{_pair(place)}{shape}" for place in places), style)

    def draw_text(
        self,
        gc: GraphicsContextBase,
        x: float,
        y: float,
        s: str,
        prop: FontProperties,
        angle: float,
        ismath: Any = False,
        mtext: Text | None = None,
    ) -> None:
        """Add a line of text, anchored as it is aligned, for browsers have other fonts."""
        anchor = None
        if mtext is not None and not angle:
            anchor = ANCHORS[mtext.get_horizontalalignment()]
            x = float(mtext.get_transform().transform(mtext.get_unitless_position())[0])
        size = prop.get_size_in_points()
        style = {
            "font_size": None if size == FONT_SIZE else f"{size:g}",
            "font_weight": None if prop.get_weight() in ("normal", 400) else prop.get_weight(),
            "text_anchor": anchor,
            "transform": f"rotate({-angle:g} {_pair((x, y))})" if angle else None,
        }
        place = {"x": f"{x:.1f}", "y": f"{y:.1f}"}
        self.parts.append(tag("text", s, **place, fill=_colour(gc.get_rgb()), **style))

    def _add(self, path: str, style: dict[str, Any]) -> None:
        if path and style:
            self.parts.append(tag("path", d=path, **style))

    def _from_top(self, transform: Transform) -> Transform:
        """Return the transform to a drawing that is measured from its upper end."""
        return transform + Affine2D().scale(1, -1).translate(0, self.height)


def _same(one: Path, other: Path) -> bool:
    return np.array_equal(one.vertices, other.vertices)


def _colour(colour: ColorType) -> str:
    found = to_hex(colour)
    return VARIABLES.get(found, found)


def _opacity(gc: GraphicsContextBase, colour: ColorType) -> str | None:
    alpha = gc.get_alpha() if gc.get_forced_alpha() else to_rgba(colour)[3]
    return None if alpha == 1 else f"{alpha:.3g}"


def _stroke(gc: GraphicsContextBase) -> dict[str, Any]:
    rgba, width = gc.get_rgb(), gc.get_linewidth()
    dashes = np.asarray(gc.get_dashes()[1] or (), dtype=np.float64)
    if not width or _opacity(gc, rgba) == "0":
        return {}
    return {
        "stroke": _colour(rgba),
        "stroke_width": None if width == 1 else f"{width:.3g}",
        "stroke_opacity": _opacity(gc, rgba),
        "stroke_dasharray": " ".join(f"{each:.3g}" for each in dashes),
    }


def _fill(gc: GraphicsContextBase, face: ColorType | None) -> dict[str, Any]:
    if face is None or _opacity(gc, face) == "0":
        return {}
    return {"fill": _colour(face), "fill_opacity": _opacity(gc, face)}


def _path_data(path: Path, transform: Transform, *, relative: bool = False) -> str:
    """Return a path as SVG writes it; a relative one begins where the pen is."""
    words, pen = [], np.zeros(2)
    for vertices, code in path.iter_segments(transform, simplify=False):
        if code == Path.CLOSEPOLY:
            words.append("z")
            continue
        pairs = list(vertices.reshape(-1, 2))
        letter = LETTERS[code]
        if relative:
            letter, shift = letter.lower(), pen
            pen = pairs[-1]
            pairs = [pair - shift for pair in pairs]
        words.append(letter + " ".join(_pair(pair) for pair in pairs))
    return "".join(words)


def _pair(place: Iterable[float]) -> str:
    """Return a place, in tenths of a point."""
    x, y = (round(float(each), 1) + 0.0 for each in place)
    return f"{x:g} {y:g}"
