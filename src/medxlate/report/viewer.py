"""Images of a report: examples one at a time, with a wipe and a window."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
from markupsafe import Markup

from medxlate.base.errors import ModelError
from medxlate.base.records import read_json
from medxlate.dataset.arrays import open_array
from medxlate.evaluation.results import EXAMPLES_FILE, Example
from medxlate.images.recipes import WINDOWS, Recipe
from medxlate.report.page import tag

MOST = 16  # examples of a source
BYTES = 12 << 20  # of all images of a page, as text; the page stays below 15 MB with its charts
NARROWEST = 0.02  # share of the range that the window slider still offers
LARGEST = 256  # pixels a side; a larger image is shown at every second pixel, and so on
ROLES = ("source", "translated", "cycled", "nearest")
DIFFERENCE = "difference"  # the page computes it
SHOWN = ("source", "translated", "cycled", DIFFERENCE, "nearest")

Stored = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Viewer:
    """The examples of a source, to look at.

    Attributes:
        body: The markup.
        key: Its id.
        shown: How many examples it has: the first ones of the folder.
    """

    body: Markup
    key: str
    shown: int


def viewer(folder: Path, source: str, target: str, recipe: Recipe, *, most: int = BYTES) -> Viewer:
    """Return the viewer of a source's examples.

    Args:
        folder: ``<run>/evaluation/examples/<source>``.
        source: The source modality.
        target: The target modality.
        recipe: The target's, for the values of level and width.
        most: Bytes that its images may take; the viewer says how many later examples it leaves out.

    Raises:
        ModelError: A file is missing or damaged.
    """
    path = folder / EXAMPLES_FILE
    try:
        examples = [Example.model_validate(each) for each in read_json(path, error=ModelError)]
    except (TypeError, ValueError) as problem:
        raise ModelError(f"{path} is damaged: {problem}.", "Evaluate the run again.") from None
    planes = _planes(folder, len(examples))
    roles = list(planes)
    shown = [role for role in SHOWN if role in planes or (role == DIFFERENCE and "cycled" in roles)]
    titles = {
        "wipe": f"{source}, wiped over its translation",
        "source": f"{source}, real",
        "translated": f"translated to {target}",
        "cycled": f"translated back to {source}",
        DIFFERENCE: "how far that is from the real one; white: a quarter of the range or more",
        "nearest": f"nearest real {target} in training",
    }
    key = f"viewer-{source}"
    panes = [
        tag(
            "figure",
            tag("canvas", role="img", data_role=role, data_name=titles[role], width=1, height=1),
            tag("figcaption", titles[role]),
            class_="pane",
        )
        for role in ("wipe", *shown)
    ]
    kept: list[Markup] = []
    for i, example in enumerate(examples[:MOST]):
        images = [tag("img", alt="", src=_png(planes[role][i])) for role in roles]
        most -= sum(map(len, images))
        if most < 0:
            break
        kept.append(tag("template", *images, data_example=json.dumps({"text": _text(example)})))
    left = len(examples) - len(kept)
    low, high = recipe.output_range
    scales = {"target": {"low": low, "high": high, "unit": recipe.unit or "of its values"}}
    inside = [
        tag("noscript", "These images need the script inside this file: allow it to run."),
        tag("div", *_controls(target, recipe), class_="controls"),
        tag("div", *panes, tag("p", class_="said", aria_live="polite"), class_="panes"),
        *kept,
    ]
    if left:
        inside.append(
            tag("p", f"{left} more examples would make the page too large.", class_="note")
        )
    made = tag(
        "div",
        *inside,
        class_="viewer",
        id=key,
        tabindex="0",
        role="group",
        aria_label=f"Test images of {source}; arrow keys show the next",
        data_roles=json.dumps(roles),
        data_scales=json.dumps(scales),
    )
    return Viewer(made, key, len(kept))


def _planes(folder: Path, count: int) -> dict[str, Stored]:
    """Return the stored images by role; F's are not always there."""
    found: dict[str, Stored] = {}
    for role in ROLES:
        path = folder / f"{role}.npy"
        if role == "cycled" and not path.exists():
            continue
        try:
            images = np.array(open_array(path)[:MOST])
        except (OSError, ValueError) as problem:
            raise ModelError(f"{path} cannot be read: {problem}.", "Evaluate again.") from None
        if images.ndim != 3 or images.dtype != np.uint16 or len(images) < min(count, MOST):
            raise ModelError(f"{path} is damaged.", "Evaluate the run again.")
        step = -(-images.shape[-1] // LARGEST)
        found[role] = images[:, ::step, ::step]
    return found


def _png(image: Stored) -> str:
    """Return a PNG whose red and green bytes are the 16 bits of each pixel, as a data URI."""
    pixels = np.zeros((*image.shape, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = image >> 8, image & 255
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _presets(recipe: Recipe) -> dict[str, tuple[float, float]]:
    """Return level and width by name, as shares of the range; of CT also the usual ones inside."""
    found = {"whole range": (0.5, 1.0), "darker half": (0.25, 0.5), "brighter half": (0.75, 0.5)}
    low, high = recipe.output_range
    if recipe.unit != "HU" or high <= low:
        return found
    for name, (level, width) in WINDOWS.items():
        is_inside = low <= level - width / 2 and level + width / 2 <= high
        if is_inside and NARROWEST <= width / (high - low) < 1:
            found[f"{name} ({level:g}/{width:g})"] = (
                (level - low) / (high - low),
                width / (high - low),
            )
    return found


def _controls(target: str, recipe: Recipe) -> list[Markup]:
    def slider(name: str, title: str, **limits: Any) -> Markup:
        control = tag("input", type="range", name=name, **limits)
        return tag("label", tag("span", title), control, tag("output"))

    options = [
        tag("option", name, value=f"{level:.4f} {width:.4f}")
        for name, (level, width) in _presets(recipe).items()
    ]
    options.insert(0, tag("option", "own", value="own", hidden="hidden"))
    return [
        tag("button", "Back", type="button", class_="back"),
        tag("button", "Next", type="button", class_="next"),
        slider("wipe", "Wipe", min=0, max=100, step=1, value=50),
        slider("level", f"Level ({target})", min=0, max=1, step=0.0025, value=0.5),
        slider("width", f"Window ({target})", min=NARROWEST, max=1, step=0.0025, value=1),
        tag("label", tag("span", "Preset"), tag("select", *options, name="preset")),
        tag("button", "Reset", type="button", class_="reset"),
    ]


def _text(example: Example) -> str:
    """Return what is known of an example, as people read it."""
    parts = [f"Label {example.label}"]
    if example.predicted:
        parts.append(f"predicted from the translation: {example.predicted}")
    if example.nearest_label:
        parts.append(f"the nearest real image's label: {example.nearest_label}")
    if example.cycle_error is not None:
        parts.append(f"cycle error {example.cycle_error:.3g}")
    return f"{'; '.join(parts)}. Chosen: {example.why}."
