"""``medxlate export monai``: images, labels and masks, with a datalist that MONAI reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medxlate._version import __version__
from medxlate.base.errors import UsageError, one_of
from medxlate.base.events import Listener, Warned, silent
from medxlate.base.files import check_free, whole_folder, write_json
from medxlate.dataset.labels import Task, TaskKind
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.splits import Part
from medxlate.export.items import (
    SUFFIX,
    Classes,
    ExportItem,
    ExportSelection,
    find_classes,
    find_items,
    named,
    write_items,
)
from medxlate.export.known import folds_of

TASKS: tuple[TaskKind, ...] = ("regression", "classification")
DATALIST = "datalist.json"
Section = tuple[str, int | None]  # a list of the file, and the fold
BY_PART: dict[Part, Section] = {
    "train": ("training", 1),
    "val": ("validation", 0),
    "test": ("testing", None),
}


@dataclass(frozen=True)
class DatalistResult:
    """What was written.

    Attributes:
        out: The folder.
        datalist: The file that MONAI reads.
        images: How many images each list holds, by origin.
        label: What ``label`` is: the name of a label, ``mask``, or "" where there is none.
        left_out: Translated images of patients who validate or test.
    """

    out: Path
    datalist: Path
    images: dict[str, dict[str, int]]
    label: str
    left_out: int


def export_monai(
    folders: Sequence[Path | str],
    *,
    out: Path | str,
    masks: Sequence[Path | str] = (),
    classes: Mapping[str, float] | None = None,
    skip_unmasked: bool = False,
    run: Path | str | None = None,
    labels: Path | None = None,
    label: str | None = None,
    file: str | None = None,
    patient: str | None = None,
    patient_column: str | None = None,
    task: str = "regression",
    key: Path | None = None,
    volume_from: str | None = None,
    channel: int | None = None,
    volume: int | None = None,
    exclude: Sequence[str] = (),
    seed: int = 0,
    overwrite: bool = False,
    listener: Listener = silent,
) -> DatalistResult:
    """Write translated and real images as NIfTI, with a datalist that MONAI reads.

    ``datalist.json`` lists them as ``training``, ``validation`` and, with a run, ``testing``; an
    entry holds ``image`` and ``mask`` (paths below the folder), ``label``, ``origin`` (synthetic or
    real), ``patient`` (a number) and ``fold``. ``label`` is the label, else the mask. Patients are
    divided as the run divides them, or else into five folds, of which the first validates. Where
    there are real images, translated ones only train.

    Args:
        folders: What ``translate`` wrote, and folders of real images: DICOM series, NIfTI, NRRD,
            MetaImage or pictures.
        out: The folder to write.
        masks: A folder of segmentations for all of them, or one for each; default: none.
        classes: The value in the masks of each class but background, which is 0. Default: every
            value is a class.
        skip_unmasked: Whether images without a mask are left out; else they are an error.
        run: A run of ``train``: its dataset says labels and patients, its split who trains.
        labels: A label table; with it, or a tag in the headers, ``label``, ``file``, ``patient``,
            ``patient_column`` and ``task`` mean what they mean for ``prepare``.
        label: Column or tag of the label.
        file: The table's column that names images.
        patient: Tells patients apart, as for ``prepare``; default: the header of DICOM, ``sub-``
            of BIDS, else every image is a patient.
        patient_column: The table's column of patients.
        task: ``regression`` or ``classification``.
        key: A dataset's ``pseudonym.key``, where derived DICOM has its pseudonyms.
        volume_from: Which pictures are slices of one volume: ``folder``, ``folder:N`` or
            ``regex:PATTERN``. Default: none; each is a volume of one slice.
        channel: Channel of colour pictures, from 0; default: luma.
        volume: Which volume of 4-D files, from 0.
        exclude: Glob patterns of files to leave out.
        seed: Draws the folds.
        overwrite: Whether an older export in ``out`` is replaced.
        listener: Receives progress, and what is doubtful.

    Raises:
        UsageError: Options contradict each other.
        DataError: A label or mask is missing or ambiguous.
        ImageError: A file cannot be read, or the grids of an image and its mask differ.
        OutputError: ``out`` exists.
    """
    out = Path(out)
    check_free(out, marker=DATALIST, overwrite=overwrite)
    selection = ExportSelection(
        masks=tuple(map(Path, masks)),
        skip_unmasked=skip_unmasked,
        exclude=tuple(exclude),
        volume=volume,
        volume_from=volume_from,
        channel=channel,
        patient=patient,
        key=key,
        run=None if run is None else Path(run),
    )
    table = _table(labels, label, file, patient_column, one_of(task, TASKS, "--task"))
    items, knowledge = find_items([Path(each) for each in folders], selection, table, listener)
    sections = _sections(items, seed, listener)
    kept = named([item for item, section in zip(items, sections, strict=True) if section])
    placed = [section for section in sections if section]
    found = find_classes(kept, classes or {}, listener) if masks else None
    with whole_folder(out, marker=DATALIST, overwrite=overwrite) as partial:
        places = {
            item.name: (partial / _image(item), partial / _mask(item) if item.mask else None)
            for item in kept
        }
        write_items(kept, places, selection, found, listener)
        write_json(partial / DATALIST, _datalist(kept, placed, knowledge.task, found))
    counts = Counter((name, item.case.origin) for item, (name, _) in zip(kept, placed, strict=True))
    images: dict[str, dict[str, int]] = {}
    for (name, origin), count in sorted(counts.items()):
        images.setdefault(name, {})[origin] = count
    named_label = knowledge.task.name if knowledge.task else "mask" if masks else ""
    return DatalistResult(out, out / DATALIST, images, named_label, len(items) - len(kept))


def _table(
    labels: Path | None,
    label: str | None,
    file: str | None,
    patient_column: str | None,
    task: TaskKind,
) -> PrepareOptions | None:
    """Return where labels come from; None where no option names it."""
    if label is None and labels is None:
        if file is not None or patient_column is not None:
            raise UsageError("There is no label table.", "Name it with --labels.")
        return None
    return PrepareOptions(
        labels=labels, label=label, file=file, patient_column=patient_column, task=task
    )


def _sections(items: Sequence[ExportItem], seed: int, listener: Listener) -> list[Section | None]:
    """Return the list and the fold of each image; None for translated ones that would judge."""
    if any(item.known.part for item in items):
        placed = [BY_PART[item.known.part or "train"] for item in items]
    else:
        fold = folds_of([item.case for item in items], [item.known for item in items], seed)
        folds = [fold[item.known.patient] for item in items]
        if not any(folds):
            listener(Warned("There is no validation list: there is one patient to judge by."))
            return [("training", 0) for _ in items]
        placed = [("training", number) if number else ("validation", 0) for number in folds]
    some_are_real = any(item.real for item in items)
    return [
        place if item.real or place[0] == "training" or not some_are_real else None
        for item, place in zip(items, placed, strict=True)
    ]


def _datalist(
    items: Sequence[ExportItem],
    placed: Sequence[Section],
    task: Task | None,
    classes: Classes | None,
) -> dict[str, Any]:
    numbers: dict[str, int] = {}
    lists: dict[str, list[dict[str, Any]]] = {"training": [], "validation": []}
    for item, (name, fold) in zip(items, placed, strict=True):
        entry: dict[str, Any] = {"image": _image(item)}
        if item.mask:
            entry["label"] = entry["mask"] = _mask(item)
        if item.known.label is not None:
            entry["label"] = item.known.label
        patient = numbers.setdefault(item.known.patient, len(numbers) + 1)
        entry |= {"origin": item.case.origin, "patient": patient}
        lists.setdefault(name, []).append(entry if fold is None else {**entry, "fold": fold})
    targets = {item.case.folder.target for item in items if item.case.folder.target}
    description = "Synthetic images were made by a neural network; not for diagnosis."
    about: dict[str, Any] = {"description": description, "medxlate": __version__}
    if targets:
        about["modality"] = {"0": targets.pop()}
    if task is not None:
        about["task"] = task.model_dump(mode="json")
    if classes is not None:
        about["labels"] = {str(number): name for number, name in enumerate(classes.names)}
    return about | lists


def _image(item: ExportItem) -> str:
    return f"images/{item.name}{SUFFIX}"


def _mask(item: ExportItem) -> str:
    return f"masks/{item.name}{SUFFIX}"
