"""Translated images for people to look at: which are chosen, and what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medxlate.base.errors import percent
from medxlate.base.files import whole_file, write_json
from medxlate.base.grey_levels import to_stored
from medxlate.dataset.labels import Task
from medxlate.evaluation.batches import evenly_spaced
from medxlate.evaluation.results import EXAMPLES_FILE, ROLES, Example
from medxlate.evaluation.subject import Subject
from medxlate.inference.engine import run

Array = npt.NDArray[Any]
COUNT = 12  # examples of a source: a page
WORST, NEAREST = 4, 3  # of them, by label and by distance; the others are evenly spaced


@dataclass(frozen=True)
class Choice:
    """A test image, and why it is an example."""

    row: int
    why: str


def choose(disagreement: Array | None, distance: Array) -> list[Choice]:
    """Choose about 12 of N images, each once.

    Args:
        disagreement: How far the labels read before and after translation are apart [N]; or None.
        distance: To the nearest real training image [N].
    """
    count = len(distance)
    wanted: list[Choice] = []
    if disagreement is not None:
        order = np.argsort(-disagreement, kind="stable")[:WORST]
        wanted += [Choice(int(row), "worst label agreement") for row in order]
    order = np.argsort(distance, kind="stable")[: WORST + NEAREST]
    fresh = [int(row) for row in order if int(row) not in {each.row for each in wanted}][:NEAREST]
    wanted += [Choice(row, "closest to a real training image") for row in fresh]
    left = [row for row in range(count) if row not in {each.row for each in wanted}]
    places = evenly_spaced(len(left), COUNT - len(wanted))
    wanted += [Choice(left[place], "evenly spaced") for place in places]
    return wanted


def label_text(value: Any, task: Task) -> str:
    """Return a label as people read it.

    Args:
        value: A number, a class's number, or the probabilities of the classes [K].
        task: The task whose label it is.
    """
    if task.kind == "regression":
        return f"{float(value):.4g} {task.unit}".strip()
    if np.ndim(value):
        best = int(np.argmax(value))
        return f"{task.classes[best]} ({percent(float(value[best]))})"
    return task.classes[int(value)]


def make_examples(
    subject: Subject,
    source: str,
    chosen: Sequence[Choice],
    *,
    nearest: Array,
    distance: Array,
    predictions: Array | None,
) -> tuple[dict[str, Array], list[Example]]:
    """Return the images of chosen examples by role, float [N, S, S] in [-1, 1], and their records.

    The images are computed again, one at a time.

    Args:
        subject: What is judged.
        source: The source modality.
        chosen: N of its test images.
        nearest: The nearest real training image of each test image.
        distance: How far that is.
        predictions: The judge's answers for the translated test images; None without a judge.
    """
    task, cohort = subject.cohort.dataset.info.task, subject.cohort
    slices, train = cohort.test[source], cohort.train[subject.info.target]
    backward = subject.backward.get(source)
    images: dict[str, list[Tensor]] = {"source": [], "translated": [], "nearest": []}
    if backward is not None:
        images["cycled"] = []
    examples = []
    for choice in chosen:
        row, other = choice.row, int(nearest[choice.row])
        y = slices.batch([row]).images
        made = subject.translated[source].images([row])
        images["source"].append(y)
        images["translated"].append(made)
        images["nearest"].append(train.batch([other]).images)
        error = None
        if backward is not None:
            images["cycled"].append(run(backward, [made], compute=subject.compute))
            error = float((images["cycled"][-1] - y).abs().mean())
        apart = float(distance[row])
        examples.append(
            Example(
                why=choice.why,
                label=label_text(slices.labels[row].item(), task),
                predicted="" if predictions is None else label_text(predictions[row], task),
                nearest_label=label_text(train.labels[other].item(), task),
                nearest_distance=round(apart, 4) if np.isfinite(apart) else None,
                cycle_error=error if error is None else round(error, 5),
            )
        )
    return {role: torch.cat(some)[:, 0].numpy() for role, some in images.items()}, examples


def write_examples(folder: Path, images: Mapping[str, Array], examples: Sequence[Example]) -> None:
    """Write ``<role>.npy`` and examples.json; remove the file of a role that has no images.

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
