"""``medxlate export nnunet``: a raw data set of nnU-Net v2, of translated and real images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medxlate._version import __version__
from medxlate.base.errors import DataError, OutputError, UsageError
from medxlate.base.events import Listener, Warned, silent
from medxlate.base.files import check_free, whole_folder, write_json
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

MARKER = "medxlate.json"
SPLITS = "splits_final.json"
NAME = re.compile(r"Dataset\d{3}_[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class NnunetResult:
    """What was written.

    Attributes:
        out: The data set's folder.
        training: Cases in ``imagesTr``, by origin.
        testing: Cases in ``imagesTs``.
        classes: The number of each class, by its name.
        folds: How many folds ``splits_final.json`` holds; 0: it is not there.
        left_out: Translated images of patients who validate or test.
    """

    out: Path
    training: dict[str, int]
    testing: int
    classes: dict[str, int]
    folds: int
    left_out: int


def export_nnunet(
    folders: Sequence[Path | str],
    *,
    out: Path | str,
    masks: Sequence[Path | str],
    test: Sequence[Path | str] = (),
    modality: str = "",
    classes: Mapping[str, float] | None = None,
    skip_unmasked: bool = False,
    run: Path | str | None = None,
    patient: str | None = None,
    key: Path | None = None,
    volume_from: str | None = None,
    channel: int | None = None,
    volume: int | None = None,
    exclude: Sequence[str] = (),
    seed: int = 0,
    overwrite: bool = False,
    listener: Listener = silent,
) -> NnunetResult:
    """Write translated and real images with their masks as a raw data set of nnU-Net v2.

    Every image becomes ``imagesTr/CASE_0000.nii.gz`` on its own grid, in physical values, and its
    mask ``labelsTr/CASE.nii.gz`` on the same grid. The mask of a translated image is that of the
    image it was made from. Cases are numbered; neither names nor headers say anything of a patient.
    ``splits_final.json`` keeps the images of a patient together and validates with real images
    alone, where there are any.

    Args:
        folders: What ``translate`` wrote, and folders of real images of the same modality: DICOM
            series, NIfTI, NRRD, MetaImage or pictures.
        out: The folder to write, named as nnU-Net requires: ``Dataset501_FakeCT``.
        masks: A folder of segmentations for all of them, or one for each.
        test: Folders of further images, for ``imagesTs``, without masks.
        modality: The channel's name; ``CT`` makes nnU-Net normalise as for CT. Default: what the
            images were translated to.
        classes: The value in the masks of each class but background, which is 0. Default: every
            value is a class.
        skip_unmasked: Whether images without a mask are left out; else they are an error.
        run: A run of ``train``; patients whom it tests with go to ``imagesTs``, and those it
            validates with are the only fold.
        patient: Tells patients apart: ``folder:N``, ``regex:PATTERN``, ``tag:KEYWORD`` or ``file``;
            default: the header of DICOM, ``sub-`` of BIDS, else every image is a patient.
        key: A dataset's ``pseudonym.key``, where derived DICOM has its pseudonyms.
        volume_from: Which pictures are slices of one volume: ``folder``, ``folder:N`` or
            ``regex:PATTERN``. Default: none; each is a volume of one slice.
        channel: Channel of colour pictures, from 0; default: luma.
        volume: Which volume of 4-D files, from 0.
        exclude: Glob patterns of files to leave out.
        seed: Draws the folds.
        overwrite: Whether an older data set of medxlate's in ``out`` is replaced.
        listener: Receives progress, and what is doubtful.

    Raises:
        UsageError: ``out`` has another name, or options contradict each other.
        DataError: A mask is missing or ambiguous, or a patient is in training and in test.
        ImageError: A file cannot be read, or the grids of an image and its mask differ.
        OutputError: ``out`` exists, or its number is taken.
    """
    out = Path(out)
    _check_name(out)
    check_free(out, marker=MARKER, overwrite=overwrite)
    if not masks:
        raise UsageError("nnU-Net learns from masks.", "Name their folder with --masks.")
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
    items, _ = find_items([Path(each) for each in folders], selection, None, listener)
    channel_name = _channel_name(items, modality)
    further = _further([Path(each) for each in test], selection, listener)
    training, testing, left_out = _divided(items, further)
    found = find_classes([*training, *testing], classes or {}, listener)
    if found.moved:
        told = ", ".join(
            f"{value:g} becomes {number}" for number, value in enumerate(found.values) if number
        )
        listener(Warned(f"nnU-Net counts classes without gaps: in the masks, {told}."))
    splits = _splits(training, seed, listener)
    with whole_folder(out, marker=MARKER, overwrite=overwrite) as partial:
        places = _places(partial, training, "Tr") | _places(partial, testing, "Ts")
        (partial / "imagesTr").mkdir()
        (partial / "labelsTr").mkdir()
        write_items([*training, *testing], places, selection, found, listener)
        write_json(partial / "dataset.json", _description(out, channel_name, found, training))
        write_json(partial / MARKER, _record([*training, *testing]))
        if splits:
            write_json(partial / SPLITS, splits)
    real = sum(item.real for item in training)
    return NnunetResult(
        out,
        {"real": real, "synthetic": len(training) - real},
        len(testing),
        {name: number for number, name in enumerate(found.names)},
        len(splits),
        left_out,
    )


def _check_name(out: Path) -> None:
    """Raise where nnU-Net would not take the folder's name, or finds its number twice."""
    if NAME.fullmatch(out.name) is None:
        raise UsageError(
            f"'{out.name}' is not a name that nnU-Net accepts for a data set.",
            "Use Dataset, three digits, _ and a name, as in --out nnUNet_raw/Dataset501_FakeCT.",
        )
    number = out.name[:10]
    others = [each.name for each in out.parent.glob(f"{number}_*") if each.name != out.name]
    if others:
        raise OutputError(
            f"{out.parent} already holds {sorted(others)[0]}, and nnU-Net accepts each number only "
            "once.",
            "Give this data set another number.",
        )


def _channel_name(items: Sequence[ExportItem], modality: str) -> str:
    if modality:
        return modality
    targets = {item.case.folder.target for item in items if item.case.folder.target}
    scanned = {scan.modality for item in items if item.real for scan in item.case.scans}
    names = {target.upper() if target.lower() == "ct" else target for target in targets}
    names = names or {name for name in scanned if name}
    if len(names) != 1:
        known = f"several: {', '.join(sorted(names))}" if names else "no file says it"
        raise UsageError(
            f"The modality of the images is not known ({known}).",
            "Name it with --modality; CT makes nnU-Net normalise as for CT.",
        )
    return names.pop()


def _further(
    folders: Sequence[Path], selection: ExportSelection, listener: Listener
) -> list[ExportItem]:
    if not folders:
        return []
    if selection.run is not None:
        raise UsageError("The run's split says who tests.", "Leave --test out, or --run.")
    return find_items(folders, replace(selection, masks=()), None, listener)[0]


def _divided(
    items: Sequence[ExportItem], further: Sequence[ExportItem]
) -> tuple[list[ExportItem], list[ExportItem], int]:
    """Return the cases of training and of test, and how many belong to neither.

    Raises:
        DataError: A patient is on both sides, or nothing is left to learn from.
    """
    testing = [item for item in items if item.known.part == "test"]
    training = [item for item in items if item.known.part != "test"]
    shared = {item.known.patient for item in training} & {item.known.patient for item in further}
    if shared:
        twice = next(item for item in further if item.known.patient in shared)
        raise DataError(
            f"{twice.case.name}, which is to test, is of a patient of the training images.",
            f"{len(shared)} patients are on both sides; leave them out on one with --exclude.",
        )
    judged = [item for item in testing if item.real or not any(each.real for each in items)]
    if not training:
        raise DataError("No image is left to learn from: the run tests with all of them.")
    numbered = named([*training, *judged, *further])
    count = len(training)
    return numbered[:count], numbered[count:], len(testing) - len(judged)


def _splits(
    training: Sequence[ExportItem], seed: int, listener: Listener
) -> list[dict[str, list[str]]]:
    """Return nnU-Net's folds: no patient on two sides, real images alone to validate with."""
    if any(item.known.part for item in training):
        fold = {item.known.patient: int(item.known.part != "val") for item in training}
        count = 1
    else:
        fold = folds_of([item.case for item in training], [item.known for item in training], seed)
        count = max(fold.values()) + 1
        count = count if count > 1 else 0
    judges = [item for item in training if item.real] or list(training)
    splits = []
    for number in range(count):
        val = [item.name for item in judges if fold[item.known.patient] == number]
        train = [item.name for item in training if fold[item.known.patient] != number]
        if val and train:
            splits.append({"train": train, "val": val})
    if not splits:
        listener(Warned(f"{SPLITS} is not written: there are too few patients to divide."))
    return splits


def _places(
    folder: Path, items: Sequence[ExportItem], part: str
) -> dict[str, tuple[Path, Path | None]]:
    return {
        item.name: (
            folder / f"images{part}" / f"{item.name}_0000{SUFFIX}",
            folder / f"labels{part}" / f"{item.name}{SUFFIX}",
        )
        for item in items
    }


def _description(
    out: Path, channel: str, classes: Classes, training: Sequence[ExportItem]
) -> dict[str, Any]:
    real = sum(item.real for item in training)
    return {
        "channel_names": {"0": channel},
        "labels": {name: number for number, name in enumerate(classes.names)},
        "numTraining": len(training),
        "file_ending": SUFFIX,
        "name": out.name.partition("_")[2],
        "description": f"{len(training) - real} synthetic and {real} real images. Synthetic ones "
        "were made by a neural network; not for diagnosis.",
        "converted_by": f"medxlate {__version__}",
    }


def _record(items: Sequence[ExportItem]) -> dict[str, Any]:
    """Return what medxlate keeps of each case: its origin, and a number for its patient."""
    numbers: dict[str, int] = {}
    for item in items:
        numbers.setdefault(item.known.patient, len(numbers) + 1)
    return {
        "medxlate": __version__,
        "cases": {
            item.name: {"origin": item.case.origin, "patient": numbers[item.known.patient]}
            for item in items
        },
    }
