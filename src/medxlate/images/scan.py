"""What belongs together: one radiograph, one series, one volume file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medxlate.images.orientation import Geometry

Format = Literal["png", "jpeg", "webp", "tiff", "dicom", "nifti", "nrrd", "meta"]
VOLUME_FORMATS: frozenset[Format] = frozenset({"nifti", "nrrd", "meta"})
# How the reasons begin for which sound files are left out.
HARMLESS = ("a copy of", "a localizer", "at the position of", "near-empty")
NO_IMAGE = "it contains no image (DICOM without pixel data)"
RASTER_FORMATS: frozenset[Format] = frozenset({"png", "jpeg", "webp", "tiff"})


def add_note(notes: dict[str, str], name: str, text: str) -> None:
    """Note something about a file that is used, beside what is noted already."""
    notes[name] = f"{notes[name]}; {text}" if name in notes else text


@dataclass(frozen=True, slots=True)
class FoundImage:
    r"""A file that begins like an image.

    Attributes:
        path: Where it lies.
        relative: Its path below the folder that was searched, with forward slashes; bytes of a
            name that are not UTF-8 are written as \xNN.
        format: What its first bytes say it is.
        suffix_lies: Whether its suffix names another format.
    """

    path: Path
    relative: str
    format: Format
    suffix_lies: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """One slice of a DICOM series, as its header describes it.

    Attributes:
        file: The file that holds it.
        number: Which frame of that file, from 0.
        rows: Height, pixels.
        columns: Width, pixels.
        orientation: ImageOrientationPatient, the directions along a row and down a column.
        position: ImagePositionPatient, the centre of the first pixel, mm.
        spacing: PixelSpacing: distance between rows and between columns, mm.
        instance: SOPInstanceUID.
        order: InstanceNumber and frame number, the order of acquisition.
        offset: Where in the file the frame's pixels begin, where they are stored plainly (native,
            16 bits or 8 allocated); -1: they must be decoded.
        stored: How they are stored: NumPy type such as ``<i2``.
        bits: How many of the lowest bits count (BitsStored).
        slope: From stored to physical values.
        intercept: From stored to physical values.
        inverted: Whether MONOCHROME1 is to be turned, so that a large value is bright.
        suv: Factor from the physical value (Bq/ml...) to SUVbw; None where it is not known.
        tags: The attributes that were asked for.
        padding: The lowest and the highest stored value that stand for pixels outside of what was
            measured (PixelPaddingValue, PixelPaddingRangeLimit); None where there are none.
    """

    file: FoundImage
    number: int
    rows: int
    columns: int
    orientation: tuple[float, ...] | None
    position: tuple[float, float, float] | None
    spacing: tuple[float, float] | None
    instance: str
    order: tuple[int, int]
    offset: int
    stored: str
    bits: int
    slope: float
    intercept: float
    inverted: bool
    suv: float | None
    tags: Mapping[str, str]
    padding: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Scan:
    """A radiograph, a DICOM series or a volume file: what is read and translated as one.

    Attributes:
        name: What messages and tables call it: the relative path of its file, or, for a series
            of several files, of their folder (of the first file where a folder holds several).
        format: PNG, JPEG, WebP, TIFF; DICOM; or a volume file's format.
        files: Its files; of a DICOM series in the order of its slices.
        unit: "HU" or "", of the physical values.
        full_range: Lowest and highest physical value that the stored type can hold.
        modality: The DICOM Modality (CT, MR, PT, CR...), "" for other formats.
        geometry: Where its voxels lie; None for an image without a place in space.
        frames: The slices of a DICOM series, in order along their normal; of others empty.
        not_a_volume: Why the slices of a series cannot be stacked to a volume (a missing slice,
            uneven distances...); "" where they can.
        no_suv: The missing or unusable attribute because of which SUV cannot be computed.
        tags: For volume files: the keys of the JSON file beside it, as text.
        xform: NIfTI's code of what the coordinates mean (1 scanner, 2 aligned, ...).
        identifiers: The identifying values of its DICOM headers, but those of single instances.
    """

    name: str
    format: Format
    files: tuple[FoundImage, ...]
    unit: str = ""
    full_range: tuple[float, float] = (0.0, 0.0)
    modality: str = ""
    geometry: Geometry | None = None
    frames: tuple[Frame, ...] = ()
    not_a_volume: str = ""
    no_suv: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    xform: int = 1
    identifiers: frozenset[str] = frozenset()
