"""What is known of the patients of images that are handed over: who, which label, which part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medxlate.artifacts.runs import find_run, read_config
from medxlate.base.errors import DataError, UsageError
from medxlate.base.events import Listener, Warned
from medxlate.dataset.annotate import Annotator
from medxlate.dataset.index import Dataset, Modality
from medxlate.dataset.labels import Task
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.spellings import fold
from medxlate.dataset.splits import PARTS, Part, generator_of, read_split
from medxlate.dataset.training_data import open_modalities
from medxlate.export.cases import Case
from medxlate.images.pseudonym import pseudonym

FOLDS = 5
Label = float | str


@dataclass(frozen=True)
class Known:
    """What is known of one image's patient.

    Attributes:
        patient: Tells patients apart; never written.
        label: Of the image; None where there is none.
        part: Where a run's split has the patient; None without a run.
    """

    patient: str
    label: Label | None = None
    part: Part | None = None


@dataclass(frozen=True)
class Knowledge:
    """What is known of all of them.

    Attributes:
        task: What the labels are of; None where there are none.
        each: In the order of the cases; None: the case is not handed over.
    """

    task: Task | None
    each: tuple[Known | None, ...]


def known_by_name(cases: Sequence[Case], key: bytes | None, listener: Listener) -> Knowledge:
    """Return what headers and paths say: the patients alone.

    Args:
        cases: The images.
        key: The secret of the pseudonyms that derived DICOM has in the place of ids, so that its
            patients and those of real DICOM are the same; None: it is not known.
        listener: Receives what is doubtful.
    """
    each = []
    for case in cases:
        patient = f"/{case.name}"
        if case.patient and key is not None and case.is_real_dicom:
            patient = pseudonym(case.patient, key)
        elif case.patient:
            patient = fold(case.patient)
        each.append(Known(patient))
    derived = any(case.scans[0].format == "dicom" and not case.is_real_dicom for case in cases)
    if key is None and derived and any(case.is_real_dicom for case in cases):
        listener(
            Warned(
                "Translated and real DICOM may be of the same patients: pseudonyms do not tell. "
                "Name the key that both go by with --key data/pseudonym.key, or a run with --run."
            )
        )
    nameless = sum(not case.patient for case in cases)
    if nameless:
        listener(
            Warned(
                f"The patient of {nameless} images is not known: each counts as a patient of its "
                "own. If they belong together, say how: --patient folder:1 or 'regex:...'."
            )
        )
    return Knowledge(None, tuple(each))


def known_by_table(cases: Sequence[Case], options: PrepareOptions) -> Knowledge:
    """Return what a label table or the headers say, as ``prepare`` would find it.

    Raises:
        UsageError: The options contradict each other.
        DataError: The label or the patient of an image is missing.
    """
    annotator = Annotator(options, [scan for case in cases for scan in case.scans])
    each = []
    for case in cases:
        labels: set[Label] = set()
        patient = ""
        for file in case.files:
            try:
                found = annotator.annotate(file, case.tags)
            except DataError as problem:
                raise DataError(
                    f"{case.name}: {problem.message}.",
                    problem.hint or "Complete the table, or leave the image out with --exclude.",
                ) from None
            labels.add(found.label)
            patient = found.patient
        each.append(Known(fold(patient), _only(labels, case)))
    kind = options.task
    classes = tuple(sorted({str(known.label) for known in each})) if kind != "regression" else ()
    task = Task(kind=kind, name=options.task_name, unit=options.task_unit, classes=classes)
    return Knowledge(task, tuple(each))


def known_by_run(cases: Sequence[Case], run: Path, listener: Listener) -> Knowledge:
    """Return what the dataset of a run holds of the images, and where its split has them.

    An image is found by the path of the file that it is or was translated from, below the folder
    that was prepared; a derived series also by its pseudonym, if the dataset's key made that.

    Raises:
        UsageError: The run divides slices, not patients.
        DataError: An image is not in the dataset, or the dataset has changed.
    """
    folder = find_run(run)
    config = read_config(folder)
    dataset = Dataset(Path(config.data.folder))
    tables = open_modalities(dataset, config)
    split = read_split(folder.split, tables)
    if split.policy != "patient":
        raise UsageError(
            f"{folder.path} divides slices, not patients: its parts share patients.",
            "Name a run with the policy `patient`, or leave --run out.",
        )
    part_of: dict[str, Part] = {unit: part for part in PARTS for unit in split.parts[part]}
    finder = _Finder(tables, config.data.target)
    each: list[Known | None] = []
    unused = 0
    for case in cases:
        patient, label = finder.find(case)
        part = part_of.get(patient)
        unused += part is None
        each.append(Known(patient, label, part) if part is not None else None)
    if unused:
        listener(Warned(f"{unused} images are left out: the run does not use their patients."))
    return Knowledge(dataset.info.task, tuple(each))


def folds_of(cases: Sequence[Case], each: Sequence[Known], seed: int) -> dict[str, int]:
    """Return the fold of every patient, 0 to 4, drawn by the seed.

    Patients with a real image are dealt out first, so that every fold has some. There are fewer
    folds where there are fewer patients of that kind; one means that nothing can be validated.
    """
    real = {known.patient for case, known in zip(cases, each, strict=True) if case.origin == "real"}
    patients = list(dict.fromkeys(known.patient for known in each))
    counted = [patient for patient in patients if patient in real] or patients
    others = [patient for patient in patients if patient not in set(counted)]
    count = min(FOLDS, len(counted))
    random = generator_of(seed, "folds", "export")
    order = [counted[i] for i in random.permutation(len(counted))]
    order += [others[i] for i in random.permutation(len(others))]
    return {patient: number % count for number, patient in enumerate(order)}


class _Finder:
    """Finds images in the tables of a dataset."""

    def __init__(self, tables: Mapping[str, Modality], target: str) -> None:
        self._tables = {name: modality.slices for name, modality in tables.items()}
        self._target = target
        self._by_file = {name: _rows_by(frame, "file") for name, frame in self._tables.items()}
        self._by_patient = {
            name: _rows_by(frame, "patient") for name, frame in self._tables.items()
        }

    def find(self, case: Case) -> tuple[str, Label]:
        """Return pseudonym and label.

        Raises:
            DataError: The dataset does not hold the image, or holds several labels for it.
        """
        first = case.folder.source or self._target
        for name in sorted(self._tables, key=lambda name: name != first):
            by_file = self._by_file[name]
            rows = [row for file in case.files for row in by_file.get(file, ())]
            if not rows and case.origin == "synthetic":
                rows = self._by_patient[name].get(case.patient, [])
            if rows:
                found: pd.DataFrame = self._tables[name].iloc[rows]
                return str(found["patient"].iloc[0]), _only(set(found["label"]), case)
        raise DataError(
            f"The dataset of the run does not hold {case.name}.",
            "Translate, and name, the folders that were prepared; DICOM with --key, the dataset's "
            "pseudonym.key.",
        )


def _rows_by(frame: pd.DataFrame, column: str) -> dict[str, list[int]]:
    """Return the rows of each value of a column."""
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(frame[column].tolist()):
        rows.setdefault(value, []).append(row)
    return rows


def _only(labels: set[Label], case: Case) -> Label:
    if len(labels) > 1:
        raise DataError(
            f"The slices of {case.name} have different labels.",
            "Hand them over as single pictures, without --volume-from.",
        )
    return labels.pop()
