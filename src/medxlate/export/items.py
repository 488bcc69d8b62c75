"""Images with their patients, labels and masks, written as NIfTI without any patient's data.

The writers of nnU-Net's and MONAI's data sets share this: what is taken, and what is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medxlate.base.errors import DataError, ImageError, UsageError
from medxlate.base.events import Listener, Warned, counted
from medxlate.dataset.fields import parse_field
from medxlate.dataset.options import PrepareOptions
from medxlate.export.cases import (
    Case,
    VoxelGrid,
    facts_of,
    find_cases,
    joined,
    read_grid,
    read_scan,
    same_grid,
    shown,
)
from medxlate.export.known import Knowledge, Known, known_by_name, known_by_run, known_by_table
from medxlate.export.masks import match_masks
from medxlate.images.find import find_images
from medxlate.images.grouping import find_scans
from medxlate.images.modality import contradicts
from medxlate.images.pseudonym import read_key
from medxlate.images.scan import RASTER_FORMATS, Scan
from medxlate.images.volumes import write_volume

MAX_CLASSES = 255  # a mask is stored in bytes
LOSSY = ("jpeg", "webp")
SUFFIX = ".nii.gz"


@dataclass(frozen=True)
class ExportSelection:
    """Which images are handed over, and how their files are read.

    Attributes:
        masks: Folders of segmentations of the images, or of what they were translated from.
        skip_unmasked: Whether images without a mask are left out; else they are an error.
        exclude: Glob patterns of files to leave out.
        volume: Which volume of 4-D files is meant, from 0.
        volume_from: Which pictures are slices of one volume: ``folder``, ``folder:N`` or
            ``regex:PATTERN``.
        channel: Channel of colour pictures, from 0; None: luma.
        patient: ``tag:X``, ``folder:N``, ``regex:X`` or ``file``; default: the DICOM header, or
            BIDS.
        key: A dataset's ``pseudonym.key``, by which derived DICOM has its pseudonyms.
        run: A run whose split is kept; its dataset also says patients and labels.
    """

    masks: tuple[Path, ...] = ()
    skip_unmasked: bool = False
    exclude: tuple[str, ...] = ()
    volume: int | None = None
    volume_from: str | None = None
    channel: int | None = None
    patient: str | None = None
    key: Path | None = None
    run: Path | None = None


@dataclass(frozen=True)
class ExportItem:
    """An image that is handed over.

    Attributes:
        case: The image.
        known: What is known of its patient.
        mask: Its segmentation: a scan for each of the case's; empty where there is none.
        name: What it is called there: ``real_0001``.
    """

    case: Case
    known: Known
    mask: tuple[Scan, ...] = ()
    name: str = ""

    @property
    def real(self) -> bool:
        """Whether it was measured."""
        return self.case.origin == "real"


@dataclass(frozen=True)
class Classes:
    """What the values of masks mean.

    Attributes:
        names: The name of each class, background first.
        values: The value in the masks of each class.
    """

    names: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def moved(self) -> bool:
        """Whether the numbers written differ from those in the masks."""
        return self.values != tuple(range(len(self.values)))


def find_items(
    folders: Sequence[Path],
    selection: ExportSelection,
    table: PrepareOptions | None,
    listener: Listener,
) -> tuple[list[ExportItem], Knowledge]:
    """Return the images of some folders, with what belongs to them.

    Args:
        folders: What ``translate`` wrote, or real images.
        selection: Which of them.
        table: Where labels come from, if not from a run.
        listener: Receives what is doubtful.

    Raises:
        UsageError: The options contradict each other.
        DataError: An image's mask, label or patient is missing, or ambiguous.
        ImageError: A folder holds no image, or one that cannot be read.
    """
    if selection.run is not None and (table is not None or selection.patient is not None):
        raise UsageError(
            "A run's dataset says patients and labels already.",
            "Leave --run out, or --labels, --label and --patient.",
        )
    patient = selection.patient
    field = parse_field(patient, has_table=False, option="--patient") if patient else None
    cases = find_cases(
        folders,
        exclude=selection.exclude,
        volume=selection.volume,
        volume_from=selection.volume_from,
        patient=field if table is None else None,
        tags=_tags(table, patient),
        listener=listener,
    )
    _check_alike(cases, listener)
    if selection.run is not None:
        knowledge = known_by_run(cases, selection.run, listener)
    elif table is not None:
        knowledge = known_by_table(cases, replace(table, patient=patient))
    else:
        key = None if selection.key is None else read_key(selection.key)
        knowledge = known_by_name(cases, key, listener)
    masks = _masks(cases, selection) if selection.masks else [()] * len(cases)
    items = [
        ExportItem(case, known, mask)
        for case, known, mask in zip(cases, knowledge.each, masks, strict=True)
        if known is not None
    ]
    if selection.masks:
        items = _with_masks(items, selection, listener)
    return items, knowledge


def named(items: Iterable[ExportItem]) -> list[ExportItem]:
    """Return the items with names: ``real_0001``, ``synthetic_0001``, counted in their order."""
    count: Counter[str] = Counter()
    given = []
    for item in items:
        count[item.case.origin] += 1
        given.append(replace(item, name=f"{item.case.origin}_{count[item.case.origin]:04d}"))
    return given


def find_classes(
    items: Sequence[ExportItem], names: Mapping[str, float], listener: Listener
) -> Classes:
    """Return the classes of the masks.

    Args:
        items: Those with masks are read.
        names: The value of each class by its name, without background, which is 0; {}: every
            value is a class, ``mask`` if there is one alone.
        listener: Receives progress.

    Raises:
        ImageError: A mask cannot be read, or holds what is no mask.
        DataError: A mask holds a value without a name, or nothing but background is there.
    """
    found: dict[float, str] = {}
    with_masks = [item for item in items if item.mask]
    for item in counted(with_masks, "masks", len(with_masks), listener):
        for value in np.unique(_mask_grid(item).voxels).tolist():
            found.setdefault(value, _mask_name(item))
    if names:
        known = {0.0, *names.values()}
        for value, mask in found.items():
            if value not in known:
                raise DataError(
                    f"{mask} holds the value {value:g}, which has no name.",
                    f"Name it: --class NAME={value:g}.",
                )
        return Classes(("background", *names), (0.0, *names.values()))
    values = sorted(value for value in found if value != 0)
    if not values:
        raise DataError("The masks hold nothing but background.", "Check the folders.")
    if len(values) > MAX_CLASSES:
        value, mask = next((value, mask) for value, mask in found.items() if value == values[-1])
        raise ImageError(f"{mask} is no mask: the masks hold {len(values)} values.")
    words = ("mask",) if len(values) == 1 else tuple(f"class {value:g}" for value in values)
    return Classes(("background", *words), (0.0, *values))


def write_items(
    items: Sequence[ExportItem],
    places: Mapping[str, tuple[Path, Path | None]],
    selection: ExportSelection,
    classes: Classes | None,
    listener: Listener,
) -> None:
    """Write images and masks.

    Args:
        items: The images.
        places: By an item's name: the files of its image and of its mask.
        selection: How files are read.
        classes: Those of the masks.
        listener: Receives progress.

    Raises:
        ImageError: A file cannot be read, or the grids of an image and its mask differ.
        OutputError: A file cannot be written.
    """
    for item in counted(items, "images", len(items), listener):
        grid = read_grid(item.case, channel=selection.channel, volume=selection.volume)
        image, mask = places[item.name]
        facts = facts_of(item.case)
        write_volume(image, grid.voxels, grid.geometry, facts=facts, xform=grid.xform)
        if item.mask and mask is not None and classes is not None:
            voxels = _classified(_on_grid(item, grid), classes)
            write_volume(mask, voxels, grid.geometry, facts={}, xform=grid.xform)


def _tags(table: PrepareOptions | None, patient: str | None) -> list[str]:
    """Return the DICOM attributes that say label or patient."""
    texts = [] if table is None else [(table.label, "--label")]
    has_table = table is not None and table.labels is not None
    fields = [
        parse_field(text, has_table=has_table, option=option, sidecars=True)
        for text, option in [*texts, (patient, "--patient")]
        if text
    ]
    return [field.name for field in fields if field.kind == "tag"]


def _check_alike(cases: Sequence[Case], listener: Listener) -> None:
    """Raise UsageError where images are of several modalities; say where values do not compare."""
    targets = {case.folder.target for case in cases if case.folder.target}
    if len(targets) > 1:
        raise UsageError(
            f"The folders were translated to several modalities: {', '.join(sorted(targets))}.",
            "Hand each over by itself.",
        )
    for case in cases:
        scanned = case.scans[0].modality
        if case.origin == "real" and any(contradicts(scanned, target) for target in targets):
            raise UsageError(
                f"{case.name} is of the DICOM modality {scanned}, the translated images are "
                f"{', '.join(targets)}.",
                "Name real images of the modality that the others were translated to.",
            )
    units = {case.folder.unit for case in cases if case.folder.unit}
    pictures = [
        case for case in cases if case.origin == "real" and case.scans[0].format in RASTER_FORMATS
    ]
    if units and pictures:
        listener(
            Warned(
                f"Translated images are in {', '.join(units)}, real pictures in grey levels: "
                f"{pictures[0].name} and {len(pictures) - 1} more. Their values do not compare."
            )
        )


def _masks(cases: Sequence[Case], selection: ExportSelection) -> list[tuple[Scan, ...]]:
    """Return the masks of each case.

    One folder of masks serves all folders of images; several belong to them in their order.
    """
    folders = list(dict.fromkeys(case.folder.path for case in cases))
    given = selection.masks
    if len(given) not in (1, len(folders)):
        raise UsageError(
            f"There are {len(folders)} folders of images and {len(given)} of masks.",
            "Name one folder of masks for all, or one for each, in the same order.",
        )
    found: dict[Path, list[tuple[Scan, ...]]] = {}
    for number, folder in enumerate(folders):
        own = [case for case in cases if case.folder.path == folder]
        where = given[number % len(given)]
        found[folder] = _masks_below(own, where, selection.volume)
    return [found[case.folder.path].pop(0) for case in cases]


def _masks_below(cases: Sequence[Case], where: Path, volume: int | None) -> list[tuple[Scan, ...]]:
    scans = find_scans(find_images(where), volume=volume, force=True).scans
    images = {file.path for case in cases for scan in case.scans for file in scan.files}
    masks = [scan for scan in scans if scan.format != "dicom" and scan.files[0].path not in images]
    by_name = {scan.name: scan for scan in masks}
    if not by_name:
        raise DataError(
            f"{where} holds no mask that can be read.",
            "Masks are NIfTI, NRRD, MetaImage, PNG or TIFF; convert DICOM SEG first.",
        )
    single = [case.place for case in cases if len(case.scans) == 1]
    pieces = [file for case in cases if len(case.scans) > 1 for file in case.files]
    mask_of = match_masks(single + pieces, list(by_name), str(where))
    of_each = []
    for case in cases:
        places = case.files if len(case.scans) > 1 else (case.place,)
        mask = tuple(by_name[mask_of[place]] for place in places if place in mask_of)
        of_each.append(mask if len(mask) == len(places) else ())
    return of_each


def _with_masks(
    items: list[ExportItem], selection: ExportSelection, listener: Listener
) -> list[ExportItem]:
    """Return the items that have a mask; others are an error, or left out and said."""
    bare = [item for item in items if not item.mask]
    if not bare:
        return items
    first = ", ".join(item.case.name for item in bare[:3])
    more = f" and {len(bare) - 3} more" if len(bare) > 3 else ""
    if not selection.skip_unmasked or len(bare) == len(items):
        where = ", ".join(map(str, selection.masks))
        raise DataError(
            f"{len(bare)} of {len(items)} images have no mask in {where}: {first}{more}.",
            "Call a mask like its image, with _seg or _mask behind it if you like; or leave the "
            "others out with --skip-unmasked.",
        )
    listener(Warned(f"{len(bare)} images have no mask and are left out: {first}{more}."))
    return [item for item in items if item.mask]


def _mask_name(item: ExportItem) -> str:
    return str(item.mask[0].files[0].path)


def _mask_grid(item: ExportItem) -> VoxelGrid:
    """Return a mask as it is stored.

    Raises:
        ImageError: It cannot be read, or holds other values than whole numbers from 0 to 65535.
    """
    grids = []
    for scan in item.mask:
        path = scan.files[0].path
        try:
            grid = read_scan(scan, channel=None, volume=None, flat=True)
        except ImageError as problem:
            raise ImageError(f"The mask {path} cannot be read: {problem.message}.") from None
        if scan.format in LOSSY:  # around the edges lie values that nobody drew
            grid = replace(grid, voxels=np.where(grid.voxels > 127, 255.0, 0.0))
        low, high = grid.voxels.min(), grid.voxels.max()
        if low < 0 or high > 65535 or not np.array_equal(grid.voxels, np.rint(grid.voxels)):
            raise ImageError(
                f"{path} is no mask: it holds values from {low:g} to {high:g}.",
                "A mask holds whole numbers, 0 for background.",
            )
        grids.append(grid)
    return joined(grids, _mask_name(item))


def _on_grid(item: ExportItem, image: VoxelGrid) -> npt.NDArray[Any]:
    mask = _mask_grid(item)
    voxels = same_grid(image, mask)
    if voxels is None:
        raise ImageError(
            f"The grids of {item.case.name} and of its mask {_mask_name(item)} differ: "
            f"{shown(image)} against {shown(mask)}.",
            "Resample the mask to its image with nearest neighbours, or correct its header.",
        )
    return voxels


def _classified(voxels: npt.NDArray[Any], classes: Classes) -> npt.NDArray[np.uint8]:
    """Return the numbers of classes in the place of the values of the mask."""
    values = np.array(classes.values)
    order = np.argsort(values)
    numbers = order[np.searchsorted(values[order], voxels)]
    return np.ascontiguousarray(numbers, dtype=np.uint8)
