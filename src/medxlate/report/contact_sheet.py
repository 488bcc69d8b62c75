"""The contact sheet of a report: test slices that a seed has drawn, each beside its translation."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import PIL.Image
from markupsafe import Markup

from medxlate.base.errors import ModelError, plural
from medxlate.dataset.arrays import open_array
from medxlate.evaluation.contact_sheet import Drawn, read_drawn
from medxlate.report.page import paragraph, tag

LARGEST = 192  # pixels a side


def contact_sheet(folder: Path, source: str, target: str) -> Markup:
    """Return a source's sheet as static images; "" where the evaluation left none.

    Args:
        folder: ``<run>/evaluation/sheet/<source>``.
        source: The source modality, as it is read.
        target: The target modality, likewise.

    Raises:
        ModelError: A file is missing or damaged.
    """
    if not folder.is_dir():
        return Markup("")
    drawn = read_drawn(folder)
    planes = {f"{source}": _plane(folder / "source.npy", drawn)}
    planes[f"to {target}"] = _plane(folder / "translated.npy", drawn)
    if drawn.truth:
        planes[f"real {target}"] = _plane(folder / "truth.npy", drawn)
    figures = [
        tag(
            "figure",
            tag(
                "div",
                *(
                    tag("div", tag("img", src=_png(images[i]), alt=f"{title}, {label}"),
                        tag("span", title))
                    for title, images in planes.items()
                ),
                class_="row",
            ),
            tag("figcaption", label),
        )
        for i, label in enumerate(drawn.labels)
    ]  # fmt: skip
    beside = f", beside the real {target} of the same slice" if drawn.truth else ""
    patients = "one slice each of" if drawn.patients == len(drawn.labels) else "slices of"
    words = (
        f"{source} and its translation to {target}{beside}: {patients} "
        f"{plural(drawn.patients, 'test patient')}, drawn at random (seed "
        f"{drawn.seed}), not chosen by how they look."
    )
    return paragraph(words) + tag("div", *figures, class_="sheet")


def _plane(path: Path, drawn: Drawn) -> np.ndarray:
    try:
        images = np.array(open_array(path))
    except (OSError, ValueError) as problem:
        raise ModelError(f"{path} cannot be read: {problem}.", "Evaluate again.") from None
    if images.ndim != 3 or images.dtype != np.uint8 or len(images) != len(drawn.labels):
        raise ModelError(f"{path} is damaged.", "Evaluate the run again.")
    step = -(-images.shape[-1] // LARGEST)
    return images[:, ::step, ::step]


def _png(image: np.ndarray) -> str:
    stream = io.BytesIO()
    PIL.Image.fromarray(image).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
