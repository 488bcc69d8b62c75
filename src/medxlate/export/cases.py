"""The images that are handed over: translated and real ones, each a volume on its own grid.

A folder that ``translate`` wrote is known by its ``translation.json``, which also says what each
image was made from; every other image is real, unless its header says that it is synthetic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medxlate._version import __version__
from medxlate.base.errors import DataError, ImageError, UsageError
from medxlate.base.events import Listener, Warned
from medxlate.base.records import read_object
from medxlate.dataset.fields import Field
from medxlate.dataset.picture_volumes import (
    OPTION,
    natural_order,
    parse_volume_from,
    volume_of,
)
from medxlate.export.masks import folder_of, is_named_as_mask
from medxlate.images.find import Search, find_images
from medxlate.images.grouping import find_scans
from medxlate.images.open import open_stack
from medxlate.images.orientation import Geometry, cut_along, plane_of
from medxlate.images.pseudonym import normal_id
from medxlate.images.recipes import Recipe
from medxlate.images.scan import RASTER_FORMATS, Scan
from medxlate.images.write import read_facts
from medxlate.inference.request import MARKER

Origin = Literal["synthetic", "real"]
TAGS = ("PatientID", "SeriesDescription")
NAMELESS = "SYNTHETIC"  # the PatientID of everybody, under --phi remove
SUBJECT = Field("regex", r"(?:^|/)(sub-[^/_]+)(?:/|_)")  # BIDS
SYNTHETIC = "SYNTHETIC "  # how medxlate's descriptions of volumes and series begin


@dataclass(frozen=True)
class Folder:
    """A folder of images.

    Attributes:
        path: The folder.
        source: What its images were translated from; "" for real ones.
        target: What they were translated to; "" for real ones.
        unit: Of its values, where it was translated.
        made_from: What each of its files was translated from, by relative paths.
    """

    path: Path
    source: str = ""
    target: str = ""
    unit: str = ""
    made_from: Mapping[str, str] | None = None

    @classmethod
    def open(cls, path: Path) -> Folder:
        """Read what a folder says of itself.

        Raises:
            DataError: Its ``translation.json`` is damaged.
        """
        if not (path / MARKER).is_file():
            return cls(path)
        record = read_object(path / MARKER, error=DataError, needs=("source", "target", "files"))
        try:
            made_from = {each["output"]: each["input"] for each in record["files"]}
            words = [str(record.get(key, "")) for key in ("source", "target", "unit")]
        except (KeyError, TypeError) as problem:
            raise DataError(f"{path / MARKER} is damaged: {problem!r}.") from None
        return cls(path, words[0], words[1], words[2], made_from)


@dataclass(frozen=True)
class Case:
    """One image: a volume, or a picture.

    Attributes:
        folder: Where it was found.
        scans: One scan, or the pictures that are the slices of one volume, in order.
        origin: Whether it was measured.
        files: For each scan the relative path of the (first) file that it was made from; of a
            real one its own.
        place: What a mask is matched with: the first of these, or the folder of a series.
        tags: What its header says, by DICOM keyword, or by key of its JSON file.
        patient: The patient's id, or "" where it is not known.
    """

    folder: Folder
    scans: tuple[Scan, ...]
    origin: Origin
    files: tuple[str, ...]
    place: str
    tags: Mapping[str, str]
    patient: str = ""

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.folder.path / self.scans[0].name)

    @property
    def is_real_dicom(self) -> bool:
        """Whether it is DICOM that was measured, whose ids are the patients' own."""
        return self.scans[0].format == "dicom" and self.origin == "real"


@dataclass(frozen=True)
class VoxelGrid:
    """Voxels and where they lie.

    Attributes:
        voxels: [k, j, i], physical values.
        geometry: Their grid; pictures without one have pixels of 1 mm.
        placed: Whether the place in space is known.
        xform: NIfTI's code of what the coordinates mean.
    """

    voxels: npt.NDArray[Any]
    geometry: Geometry
    placed: bool
    xform: int = 1


def find_cases(
    folders: Sequence[Path],
    *,
    exclude: Sequence[str],
    volume: int | None,
    volume_from: str | None,
    patient: Field | None,
    tags: Sequence[str] = (),
    listener: Listener,
) -> list[Case]:
    """Return the images below some folders, in the order of folders and names.

    Args:
        folders: What ``translate`` wrote, or real images; one image is taken, too.
        exclude: Glob patterns of files to leave out.
        volume: Which volume of 4-D files is meant.
        volume_from: Which pictures are slices of one volume; see ``dataset.picture_volumes``.
        patient: What names the patient; None: the DICOM header, or BIDS's ``sub-``.
        tags: DICOM attributes to read as well.
        listener: Receives what is doubtful.

    Raises:
        ImageError: A folder holds no image, or one that cannot be read.
        UsageError: ``volume_from`` fits no picture.
    """
    cases: list[Case] = []
    for path in folders:
        folder = Folder.open(path)
        found = _without_masks(find_images(path, exclude=exclude), path, listener)
        scans = find_scans(found, tags=(*TAGS, *tags), volume=volume, force=True)
        if scans.skipped:
            name, why = next(iter(scans.skipped.items()))
            more = f" (and {len(scans.skipped) - 1} more)" if len(scans.skipped) > 1 else ""
            raise ImageError(
                f"{path / name} cannot be handed over: {why}{more}.",
                "Repair it, or leave it out with --exclude.",
            )
        cases += _cases(folder, scans.scans, volume_from, patient)
    if volume_from and not any(len(case.scans) > 1 for case in cases):
        raise UsageError(
            f"{OPTION} {volume_from} finds no volume: it fits the path of no PNG, JPEG, WebP or "
            "TIFF."
        )
    return cases


def read_grid(case: Case, *, channel: int | None, volume: int | None) -> VoxelGrid:
    """Return the voxels of a case, int16 where they are such integers, else float32.

    Args:
        case: The case.
        channel: Channel of colour pictures, from 0; None: luma.
        volume: Which volume of 4-D files.

    Raises:
        ImageError: It cannot be read, or is no volume on one grid.
    """
    try:
        grids = [read_scan(scan, channel=channel, volume=volume) for scan in case.scans]
    except ImageError as problem:
        raise ImageError(
            f"{case.name} cannot be handed over: {problem.message}.", problem.hint
        ) from None
    grid = joined(grids, case.name)
    return replace(grid, voxels=_compact(grid.voxels))


def read_scan(
    scan: Scan, *, channel: int | None, volume: int | None, flat: bool = False
) -> VoxelGrid:
    """Return the voxels of a scan in physical values, as stored.

    Args:
        scan: The scan.
        channel: Channel of colour pictures, from 0; None: luma.
        volume: Which volume of 4-D files.
        flat: Whether a picture of one grey value is taken: an empty mask.

    Raises:
        ImageError: It cannot be read, or its slices are no volume.
    """
    recipe = Recipe(kind="as-is", channel=channel, volume=volume)
    if scan.format in RASTER_FORMATS:
        from medxlate.images.raster import read_raster

        stack = read_raster(scan.files[0].path, channel=channel, flat=flat)
        facts = read_facts(scan.files[0].path)
        values = stack.read(0) * np.float32(facts.get("slope", 1)) + np.float32(
            facts.get("intercept", 0)
        )
        return VoxelGrid(values[np.newaxis], _flat(values.shape, stack.spacing), placed=False)
    if scan.not_a_volume:
        raise ImageError(f"its slices are no volume: {scan.not_a_volume}")
    if scan.geometry is None:
        stack = open_stack(scan, recipe)
        slices = _measured(np.stack(list(stack.slices())))
        return VoxelGrid(slices, _flat(slices.shape[1:], stack.spacing), placed=False)
    recipe = recipe.model_copy(update={"plane": plane_of(scan.geometry)})
    stack = open_stack(scan, recipe)
    assert stack.cut is not None
    voxels = _measured(stack.cut.undo(np.stack(list(stack.slices()))))
    return VoxelGrid(voxels, scan.geometry, placed=True, xform=scan.xform)


def joined(grids: Sequence[VoxelGrid], name: str) -> VoxelGrid:
    """Return pictures as the slices of one volume.

    Raises:
        ImageError: They are of different sizes.
    """
    if len(grids) == 1:
        return grids[0]
    shapes = {grid.voxels.shape[1:] for grid in grids}
    if len(shapes) > 1:
        sizes = " and ".join(f"{width} x {height}" for height, width in sorted(shapes)[:2])
        raise ImageError(
            f"The slices of the volume of {name} are of different sizes: {sizes}.",
            f"Check {OPTION}.",
        )
    voxels = np.concatenate([grid.voxels for grid in grids])
    geometry = replace(grids[0].geometry, size=voxels.shape[::-1])
    return replace(grids[0], voxels=voxels, geometry=geometry)


def same_grid(image: VoxelGrid, mask: VoxelGrid) -> npt.NDArray[Any] | None:
    """Return the mask's voxels in the order of the image's, or None where the grids differ.

    Axes may be swapped or turned round, as between DICOM and dcm2niix; voxels must lie on voxels,
    up to a tenth of their size.
    """
    if not (image.placed and mask.placed):
        return mask.voxels if image.voxels.shape == mask.voxels.shape else None
    ours, theirs = (cut_along(grid.geometry, "axial") for grid in (image, mask))
    if ours.shape != theirs.shape:
        return None
    apart = np.abs(_corners(image.geometry) - _corners(mask.geometry)).max()
    if apart > 0.1 * min(image.geometry.spacing):
        return None
    return np.ascontiguousarray(ours.undo(theirs.apply(mask.voxels)))


def shown(grid: VoxelGrid) -> str:
    """Return size, spacing and origin of a grid for a message."""
    size = " x ".join(map(str, grid.geometry.size))
    if not grid.placed:
        return size
    spacing = " x ".join(f"{side:.4g}" for side in grid.geometry.spacing)
    origin = ", ".join(f"{side:.4g}" for side in grid.geometry.origin)
    return f"{size} voxels of {spacing} mm from ({origin})"


def facts_of(case: Case) -> dict[str, str]:
    """Return what the NIfTI header says: nothing of a real image."""
    if case.origin == "real":
        return {}
    folder = case.folder
    if not folder.target:
        return {"description": "SYNTHETIC"}
    words = f"SYNTHETIC {folder.target} from {folder.source}, medxlate {__version__}"
    return {"description": words}


def _without_masks(search: Search, folder: Path, listener: Listener) -> Search:
    images = tuple(each for each in search.images if not is_named_as_mask(each.relative))
    masks = len(search.images) - len(images)
    if masks and not images:
        raise ImageError(f"{folder} holds only files that are named as masks.")
    if masks:
        listener(Warned(f"{masks} files in {folder} are named as masks and not taken as images."))
    return replace(search, images=images)


def _cases(
    folder: Folder, scans: Sequence[Scan], volume_from: str | None, patient: Field | None
) -> Iterator[Case]:
    singles = [_case(folder, scan, patient) for scan in scans]
    if volume_from is None:
        yield from singles
        return
    field = parse_volume_from(volume_from)
    volumes: dict[str, list[Case]] = {}
    for case in singles:
        name = None
        if case.scans[0].format in RASTER_FORMATS:
            name = volume_of(field, case.files[0])
        volumes.setdefault(case.scans[0].name if name is None else f"{name}/", []).append(case)
    for members in volumes.values():
        ordered = sorted(members, key=lambda case: natural_order(case.files[0]))
        if len({(case.patient, case.origin) for case in ordered}) > 1:
            raise UsageError(
                f"{OPTION} {volume_from} puts pictures of several patients into one volume: that "
                f"of {ordered[0].name}.",
                "Name what tells volumes apart: folder, folder:N or regex:PATTERN.",
            )
        yield replace(
            ordered[0],
            scans=tuple(case.scans[0] for case in ordered),
            files=tuple(case.files[0] for case in ordered),
        )


def _case(folder: Folder, scan: Scan, patient: Field | None) -> Case:
    tags = scan.frames[0].tags if scan.frames else scan.tags
    own = scan.files[0].relative
    made_from = folder.made_from or {}
    file = made_from.get(own, own)
    whole = len(scan.files) > 1 and scan.name == folder_of(own)
    synthetic = own in made_from or _says_synthetic(scan, tags)
    return Case(
        folder,
        (scan,),
        "synthetic" if synthetic else "real",
        (file,),
        folder_of(file) if whole else file,
        tags,
        _patient(patient, file, tags),
    )


def _patient(field: Field | None, path: str, tags: Mapping[str, str]) -> str:
    if field is not None:
        found = field.value(path, {}, tags)
    else:
        found = tags.get("PatientID") or SUBJECT.from_path(path)
    found = normal_id(found or "")
    return "" if found == NAMELESS else found


def _says_synthetic(scan: Scan, tags: Mapping[str, str]) -> bool:
    """Whether an image's own header says that it was translated."""
    if scan.format == "dicom":
        return tags.get("SeriesDescription", "").startswith(SYNTHETIC)
    path = scan.files[0].path
    if scan.format in RASTER_FORMATS:
        return bool(read_facts(path))
    if scan.format == "nifti":
        from medxlate.images.nifti import read_description

        return read_description(path).startswith(SYNTHETIC.strip())
    with path.open("rb") as stream:  # NRRD and MetaImage: the first lines are text
        head = stream.read(4096)
    return re.search(rb"^synthetic\s*:?=\s*true", head, re.M | re.I) is not None


def _flat(shape: tuple[int, ...], spacing: tuple[float, float]) -> Geometry:
    height, width = shape
    rows, columns = spacing
    return Geometry(
        (width, height, 1),
        (columns, rows, 1.0),
        (0.0, 0.0, 0.0),
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )


def _measured(voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the voxels with padding, which is NaN, as the lowest value that was measured."""
    hidden = np.isnan(voxels)
    if not hidden.any():
        return voxels
    if hidden.all():
        raise ImageError("it holds nothing but padding")
    return np.where(hidden, np.nanmin(voxels), voxels)


def _compact(voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    low, high = voxels.min(), voxels.max()
    if low >= -32768 and high <= 32767 and np.array_equal(voxels, np.rint(voxels)):
        return np.ascontiguousarray(voxels, dtype=np.int16)
    return np.ascontiguousarray(voxels, dtype=np.float32)


def _corners(geometry: Geometry) -> npt.NDArray[np.float64]:
    """Return the centres of the corner voxels [2, 2, 2, 3], mm, in canonical order."""
    i, j, k = ((0, length - 1) for length in geometry.size)
    index = np.stack(np.meshgrid(k, j, i, indexing="ij"), axis=-1)[..., ::-1]
    places = index * geometry.spacing @ geometry.axes().T + geometry.origin
    cut = cut_along(geometry, "axial")
    turned: npt.NDArray[np.float64] = np.stack(
        [cut.apply(places[..., axis]) for axis in range(3)], -1
    )
    return turned
