"""Which translated images people should look at, and how they are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medxlate.base.files import whole_file, write_json
from medxlate.base.grey_levels import to_stored
from medxlate.dataset.labels import Task
from medxlate.evaluation.results import EXAMPLES_FILE, ROLES, Example

Array = npt.NDArray[Any]
COUNT = 12  # examples of a source: a page
WORST, NEAREST = 4, 3  # of them by label and by distance; the others are evenly spaced


@dataclass(frozen=True)
class Choice:
    """An example: which test image, and why."""

    row: int
    why: str


def choose(disagreement: Array | None, distance: Array) -> list[Choice]:
    """Choose about 12 of N images, each once.

    Args:
        disagreement: How far the labels that are read before and after are apart [N]; or None.
        distance: To the nearest real training image [N].
    """
    count = len(distance)
    wanted: list[Choice] = []
    if disagreement is not None:
        order = np.argsort(-disagreement, kind="stable")[:WORST]
        wanted += [Choice(int(row), "worst label agreement") for row in order]
    order = np.argsort(distance, kind="stable")[: WORST + NEAREST]
    fresh = [int(row) for row in order if int(row) not in {each.row for each in wanted}][:NEAREST]
    wanted += [Choice(row, "nearest to a real training image") for row in fresh]
    left = [row for row in range(count) if row not in {each.row for each in wanted}]
    places = np.linspace(0, len(left) - 1, min(COUNT - len(wanted), len(left)))
    wanted += [Choice(left[place], "evenly spaced") for place in np.unique(places.astype(int))]
    return wanted


def label_text(value: Any, task: Task) -> str:
    """Return a label as people read it.

    Args:
        value: A number, a class's number, or the probabilities of the classes [K].
        task: What it is a label of.
    """
    if task.kind == "regression":
        return f"{float(value):.4g} {task.unit}".strip()
    if np.ndim(value):
        best = int(np.argmax(value))
        return f"{task.classes[best]} ({float(value[best]):.0%})"
    return task.classes[int(value)]


def write_examples(folder: Path, images: Mapping[str, Array], examples: Sequence[Example]) -> None:
    """Write ``<role>.npy`` and examples.json; a role that is not given is removed.

    Args:
        folder: ``<run>/evaluation/examples/<source>``.
        images: By role, float [N, S, S] in [-1, 1].
        examples: N.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for role in ROLES:
        path = folder / f"{role}.npy"
        if role not in images:
            path.unlink(missing_ok=True)
            continue
        stored = to_stored(np.nan_to_num(images[role]), 16)
        with whole_file(path) as part, part.open("wb") as stream:
            np.save(stream, stored, allow_pickle=False)
    write_json(folder / EXAMPLES_FILE, [each.model_dump(mode="json") for each in examples])
