"""Images of a report: examples one at a time, with a wipe and a window."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
from markupsafe import Markup

from medxlate.dataset.arrays import open_array
from medxlate.errors import ModelError
from medxlate.evaluation.results import EXAMPLES_FILE, Example
from medxlate.images.recipes import Recipe
from medxlate.records import read_json
from medxlate.report.svg import tag

MOST = 16  # examples of a source
LARGEST = 256  # pixels a side; a larger image is shown at every second pixel, and so on
ROLES = ("source", "translated", "cycled", "nearest")

Stored = npt.NDArray[np.uint16]


def viewer(folder: Path, source: str, target: str, recipe: Recipe) -> tuple[Markup, str]:
    """Return the viewer of a source's examples, and its id.

    Args:
        folder: ``<run>/evaluation/examples/<source>``.
        source: The source modality.
        target: The target modality.
        recipe: The target's, for the values of level and width.

    Raises:
        ModelError: A file is missing or damaged.
    """
    path = folder / EXAMPLES_FILE
    try:
        examples = [Example.model_validate(each) for each in read_json(path, error=ModelError)]
    except (TypeError, ValueError) as problem:
        raise ModelError(f"{path} is damaged: {problem}.", "Evaluate the run again.") from None
    planes = _planes(folder, len(examples))
    if "cycled" in planes:
        change = planes["cycled"].astype(np.int32) - planes["source"]
        planes["difference"] = np.abs(change).astype(np.uint16)
    roles = list(planes)
    titles = {
        "wipe": f"{source}, wiped over its translation",
        "source": f"{source}, real",
        "translated": f"translated to {target}",
        "cycled": f"translated back to {source}",
        "difference": "difference: there and back, less real",
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
        for role in ("wipe", *roles)
    ]
    kept = [
        tag(
            "template",
            *(tag("img", alt="", src=_png(planes[role][i])) for role in roles),
            data_example=json.dumps({"text": _text(example)}),
        )
        for i, example in enumerate(examples[:MOST])
    ]
    low, high = recipe.output_range
    scales = {"target": {"low": low, "high": high, "unit": recipe.unit or "of its values"}}
    inside = [
        tag("div", *_controls(), class_="controls"),
        tag("div", *panes, class_="panes"),
        tag("p", class_="said", aria_live="polite"),
        *kept,
    ]
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
    return made, key


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
    PIL.Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _controls() -> list[Markup]:
    def slider(name: str, title: str, **limits: Any) -> Markup:
        control = tag("input", type="range", name=name, **limits)
        return tag("label", tag("span", title), control, tag("output"))

    return [
        tag("button", "Back", type="button", class_="back"),
        tag("button", "Next", type="button", class_="next"),
        slider("wipe", "Wipe", min=0, max=100, step=1, value=50),
        slider("level", "Level", min=0, max=1, step=0.005, value=0.5),
        slider("width", "Window", min=0.02, max=1, step=0.005, value=1),
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
