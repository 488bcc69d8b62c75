"""From the files below a folder to scans: radiographs, DICOM series, volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from medxlate.errors import ImageError
from medxlate.images.find import Search
from medxlate.images.scan import NO_IMAGE, VOLUME_FORMATS, FoundImage, Scan
from medxlate.parallel import Mapper, in_this_process

if TYPE_CHECKING:
    from medxlate.images.dicom.header import Header

T = TypeVar("T")
CHUNK = 64  # files whose headers are read at once


@dataclass
class Scans:
    """What was found, and what was not taken.

    Attributes:
        scans: Sorted by name.
        skipped: Files that cannot be used, and why.
        notes: Files that are used although something about them is odd.
        left_out: How many files the user's choices left out, by reason.
        files: How many files looked like images.
        others: How many other files there are.
        identifiers: The identifying values that DICOM headers held.
    """

    scans: list[Scan] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    files: int = 0
    others: int = 0
    identifiers: set[str] = field(default_factory=set)


def find_scans(
    search: Search,
    *,
    tags: Iterable[str] = (),
    volume: int | None = None,
    dicom_modality: str | None = None,
    mapper: Mapper = in_this_process,
    done: Callable[[int, int], None] = lambda done, total: None,
) -> Scans:
    """Read the headers of the files found and put together what belongs together.

    Args:
        search: What ``find_images`` found.
        tags: DICOM attributes to bring along, by keyword.
        volume: Which volume of 4-D files is meant, from 0.
        dicom_modality: Take only DICOM files of this Modality (CT, MR, PT...).
        mapper: Reads headers in several processes.
        done: Told how many of how many headers are read.
    """
    found = Scans(
        files=len(search.images) + len(search.not_images),
        others=search.others,
        skipped=dict(search.not_images),
    )
    found.notes = {
        image.relative: f"is {image.format}" for image in search.images if image.suffix_lies
    }
    dicom = [image for image in search.images if image.format == "dicom"]
    _add_series(found, _headers(dicom, tuple(tags), found, mapper, done), dicom_modality)
    for image in search.images:
        if image.format != "dicom":
            try:
                found.scans.append(_single(image, volume))
            except ImageError as problem:
                found.skipped[image.relative] = str(problem)
    found.scans.sort(key=lambda scan: scan.name)
    return found


def _headers(
    files: Sequence[FoundImage],
    tags: tuple[str, ...],
    found: Scans,
    mapper: Mapper,
    done: Callable[[int, int], None],
) -> Iterator[Header]:
    read = 0
    for headers, failed in mapper(partial(_read_headers, tags), _chunks(files, CHUNK), _crashed):
        read += len(headers) + len(failed)
        done(read, len(files))
        for name, reason in failed.items():
            if reason == NO_IMAGE:  # plans, structures, reports: not meant to be images
                found.left_out[reason] = found.left_out.get(reason, 0) + 1
            else:
                found.skipped[name] = reason
        for header in headers:
            found.identifiers.update(header.identifiers)
            yield header


def _read_headers(
    tags: tuple[str, ...], files: Sequence[FoundImage]
) -> tuple[list[Header], dict[str, str]]:
    from medxlate.images.dicom.header import read_header  # pydicom only where it is needed

    headers: list[Header] = []
    failed: dict[str, str] = {}
    for file in files:
        try:
            headers.append(read_header(file, tags))
        except ImageError as problem:
            failed[file.relative] = str(problem)
    return headers, failed


def _crashed(files: Sequence[FoundImage]) -> tuple[list[Header], dict[str, str]]:
    reason = "this file, or one read along with it, crashed the reader"
    return [], {file.relative: reason for file in files}


def _add_series(found: Scans, headers: Iterator[Header], dicom_modality: str | None) -> None:
    from medxlate.images.dicom.series import group_series

    held: dict[str, frozenset[str]] = {}
    shared: dict[frozenset[str], frozenset[str]] = {}  # most files of a series hold the same

    def wanted() -> Iterator[Header]:
        for header in headers:
            if dicom_modality is not None and header.modality != dicom_modality:
                reason = f"DICOM modality {header.modality or 'unknown'}"
                found.left_out[reason] = found.left_out.get(reason, 0) + 1
                continue
            values = header.identifiers - {frame.instance for frame in header.frames}
            held[header.file.relative] = shared.setdefault(values, values)
            yield header

    grouped = group_series(wanted())
    for scan in grouped.scans:
        values = {held[file.relative] for file in scan.files}
        found.scans.append(replace(scan, identifiers=frozenset().union(*values)))
    found.skipped |= grouped.skipped
    found.notes |= grouped.notes


def _single(image: FoundImage, volume: int | None) -> Scan:
    """Return the scan of a file that stands for itself."""
    if image.format not in VOLUME_FORMATS:
        return Scan(image.relative, image.format, (image,))
    from medxlate.images.volume_headers import read_volume_header
    from medxlate.images.volumes import read_sidecar  # SimpleITK only where it is needed

    header = read_volume_header(image.path, volume)
    return Scan(
        image.relative,
        image.format,
        (image,),
        full_range=header.full_range,
        geometry=header.geometry,
        xform=header.xform,
        tags=read_sidecar(image.path),
    )


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
