"""A contact sheet: a slice each of test patients that a seed draws, before and after translation.

``<run>/evaluation/sheet/<source>/`` holds ``source.npy``, ``translated.npy`` and, where the same
slice of the target is known, ``truth.npy``: arrays [n, S, S] of uint8; and ``sheet.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from medxlate.base.errors import MedxlateError, ModelError
from medxlate.base.files import whole_file, write_json
from medxlate.base.grey_levels import to_stored
from medxlate.base.records import read_json
from medxlate.dataset.loading import Slices
from medxlate.evaluation.examples import label_text
from medxlate.evaluation.paired import find_pairs
from medxlate.evaluation.results import Record
from medxlate.evaluation.subject import Subject

SHEET, FILE = "sheet", "sheet.json"
COUNT = 12
SEED = 0


class Drawn(Record):
    """The content of sheet.json.

    Attributes:
        seed: By which patients and slices were drawn.
        labels: Of each slice, as people read it.
        patients: How many patients they are of.
        truth: Whether the true target images are there.
    """

    seed: int
    labels: tuple[str, ...]
    patients: int
    truth: bool = False


def write_contact_sheets(subject: Subject, out: Path) -> None:
    """Write a sheet for each source that has test images.

    Args:
        subject: What is evaluated.
        out: The folder ``<run>/evaluation``.
    """
    for source in subject.translators:
        slices = subject.cohort.test[source]
        if not len(slices):
            continue
        truth = _truth(subject, source)
        rows = draw_rows(slices.patients, [row for row in range(len(slices)) if row in truth])
        images = {
            "source": slices.batch(rows).images,
            "translated": subject.translated[source].images(rows),
        }
        whole = bool(rows) and all(row in truth for row in rows)
        if whole:
            images["truth"] = _stack(truth, rows)
        task = subject.cohort.dataset.info.task
        drawn = Drawn(
            seed=SEED,
            labels=tuple(label_text(slices.labels[row].item(), task) for row in rows),
            patients=len({slices.patients[row] for row in rows}),
            truth=whole,
        )
        _write(out / SHEET / source, images, drawn)


def draw_rows(patients: list[str], preferred: list[int], *, seed: int = SEED) -> list[int]:
    """Draw 12 rows: patients in random order, one slice of each; fewer patients, more of each.

    Args:
        patients: The patient of each row.
        preferred: Rows to draw from; none: all of them.
        seed: Decides which.
    """
    random = np.random.default_rng(seed)
    left: dict[str, list[int]] = {}
    for row in preferred or range(len(patients)):
        left.setdefault(patients[row], []).append(row)
    for rows in left.values():
        random.shuffle(rows)
    order = [list(left)[i] for i in random.permutation(len(left))]
    found: list[int] = []
    while len(found) < COUNT and any(left.values()):
        found += [left[name].pop() for name in order if left[name]][: COUNT - len(found)]
    return found


Truth = Mapping[int, tuple[Slices, int]]  # by row of the source's test slices


def _truth(subject: Subject, source: str) -> Truth:
    """Return where the true target image of each source test slice is, as far as there is one.

    It is a slice of the target's, or of ``data.oracle``, of the same patient and place.
    """
    cohort, config = subject.cohort, subject.cohort.config
    slices = cohort.test[source]
    own = cohort.tables[source].slices.iloc[slices.rows].reset_index(drop=True)
    for name in filter(None, (config.data.target, config.data.oracle)):
        try:
            modality = cohort.dataset.modality(name)
        except MedxlateError:
            continue
        found = find_pairs(own, modality.slices.reset_index(drop=True))
        if found is None:
            continue
        task = cohort.dataset.info.task
        true = Slices(modality, found.target, task=task, image_size=slices.shape[-1])
        return {row: (true, i) for i, row in enumerate(found.source)}
    return {}


def _stack(truth: Truth, rows: list[int]) -> Tensor:
    true = truth[rows[0]][0]
    return true.batch([truth[row][1] for row in rows]).images


def _write(folder: Path, images: Mapping[str, Tensor], drawn: Drawn) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for role, batch in images.items():
        stored: npt.NDArray[Any] = to_stored(np.nan_to_num(batch[:, 0].numpy()), 8)
        with whole_file(folder / f"{role}.npy") as part, part.open("wb") as stream:
            np.save(stream, stored.astype(np.uint8), allow_pickle=False)
    write_json(folder / FILE, drawn.model_dump(mode="json"))


def read_drawn(folder: Path) -> Drawn:
    """Read sheet.json; raises ModelError where it is missing or damaged."""
    path = folder / FILE
    try:
        return Drawn.model_validate(read_json(path, error=ModelError))
    except (TypeError, ValueError) as problem:
        raise ModelError(f"{path} is damaged: {problem}.", "Evaluate the run again.") from None
