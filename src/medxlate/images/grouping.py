"""From the files below a folder to scans: radiographs, DICOM series, volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from medxlate.base.errors import ImageError, UsageError
from medxlate.base.pool import Mapper, in_this_process
from medxlate.images.find import Search
from medxlate.images.modality import choose_modalities, contradicts
from medxlate.images.scan import NO_IMAGE, VOLUME_FORMATS, FoundImage, Scan, add_note

if TYPE_CHECKING:
    from medxlate.images.dicom.header import Header

T = TypeVar("T")
PatientOf = Callable[[str, Mapping[str, str]], str | None]
CHUNK = 16  # files whose headers are read at once


@dataclass
class FoundScans:
    """What was found, and what was not taken.

    Attributes:
        scans: Sorted by name.
        skipped: Files that cannot be used, and why.
        notes: Files that are used although something about them is odd, and what.
        left_out: How many files the user's choices left out, by reason.
        files: How many files looked like images.
        others: How many other files there are.
        identifiers: The identifying values that headers held.
    """

    scans: list[Scan] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    files: int = 0
    others: int = 0
    identifiers: set[str] = field(default_factory=set)


def by_header(relative: str, tags: Mapping[str, str]) -> None:
    """Leave the patient to the header of a DICOM file: the usual ``patient_of``."""


def find_scans(
    search: Search,
    *,
    name: str = "",
    dicom_modality: str = "",
    tags: Iterable[str] = (),
    volume: int | None = None,
    patient_of: PatientOf = by_header,
    force: bool = False,
    mapper: Mapper = in_this_process,
    done: Callable[[int, int], None] = lambda done, total: None,
) -> FoundScans:
    """Read the headers of the files found and put together what belongs together.

    Args:
        search: What ``find_images`` found.
        name: The medxlate modality's name: where the DICOM files are of several Modalities, it
            says which of them belong to it.
        dicom_modality: Take only DICOM files of this Modality (CT, MR, PT...).
        tags: DICOM attributes to read as well, by keyword.
        volume: Which volume of 4-D files is meant, from 0.
        patient_of: Gives the patient of a DICOM file from its relative path and tags, or None:
            the one that its header names. Files of different patients are never one scan.
        force: Whether DICOM files are taken although their Modality is not what ``name`` says.
        mapper: Reads headers in several processes.
        done: Receives how many of how many headers were read.

    Raises:
        UsageError: It is not known which of several DICOM Modalities are meant, or the only one
            is not what ``name`` says.
    """
    found = FoundScans(
        files=len(search.images) + len(search.not_images),
        others=search.others,
        skipped=dict(search.not_images),
    )
    found.notes = {
        image.relative: f"is {image.format}" for image in search.images if image.suffix_lies
    }
    dicom = [image for image in search.images if image.format == "dicom"]
    headers = list(_headers(dicom, tuple(tags), found, mapper, done))
    present = {header.modality for header in headers}
    wanted = choose_modalities(present, wanted=dicom_modality, name=name)
    for modality in present - wanted:
        count = sum(header.modality == modality for header in headers)
        found.left_out[f"DICOM modality {modality or 'unknown'}"] = count
    taken = [header for header in headers if header.modality in wanted]
    if not (dicom_modality or force):
        _check_modality(taken, name)
    _add_series(found, taken, patient_of)
    for image in search.images:
        if image.format != "dicom":
            try:
                found.scans.append(_single(image, volume, found))
            except ImageError as problem:
                found.skipped[image.relative] = str(problem)
    found.scans.sort(key=lambda scan: scan.name)
    return found


def _headers(
    files: Sequence[FoundImage],
    tags: tuple[str, ...],
    found: FoundScans,
    mapper: Mapper,
    done: Callable[[int, int], None],
) -> Iterator[Header]:
    """Yield headers; equal values are kept once, since there may be a million headers."""
    held: dict[Any, Any] = {}
    read = 0
    for headers, failed in mapper(partial(_read_headers, tags), _chunks(files, CHUNK), _crashed):
        read += len(headers) + len(failed)
        done(read, len(files))
        for name, refusal in failed.items():
            found.identifiers |= refusal.identifiers
            if refusal.reason == NO_IMAGE:  # plans, structures, reports: not meant to be images
                found.left_out[NO_IMAGE] = found.left_out.get(NO_IMAGE, 0) + 1
            else:
                found.skipped[name] = refusal.reason
        for header in headers:
            found.identifiers |= header.identifiers
            yield _shared(header, held)


def _shared(header: Header, held: dict[Any, Any]) -> Header:
    def same(value: Any) -> Any:
        return held.setdefault(value, value)

    def same_tags(tags: Mapping[str, str]) -> Mapping[str, str]:
        mapping: Mapping[str, str] = held.setdefault(tuple(sorted(tags.items())), tags)
        return mapping

    instances = {frame.instance for frame in header.frames}
    return replace(
        header,
        identifiers=same(header.identifiers - instances),
        frames=tuple(
            replace(
                frame,
                orientation=same(frame.orientation),
                spacing=same(frame.spacing),
                stored=same(frame.stored),
                tags=same_tags(frame.tags),
            )
            for frame in header.frames
        ),
    )


@dataclass(frozen=True)
class _Refusal:
    """Why a file is refused, and the identifying values that its header holds."""

    reason: str
    identifiers: frozenset[str] = frozenset()


def _read_headers(
    tags: tuple[str, ...], files: Sequence[FoundImage]
) -> tuple[list[Header], dict[str, _Refusal]]:
    from medxlate.images.dicom.header import RefusedError, read_header  # pydicom only here

    headers: list[Header] = []
    failed: dict[str, _Refusal] = {}
    for file in files:
        try:
            headers.append(read_header(file, tags))
        except RefusedError as problem:
            failed[file.relative] = _Refusal(str(problem), problem.identifiers)
        except ImageError as problem:
            failed[file.relative] = _Refusal(str(problem))
    return headers, failed


def _crashed(files: Sequence[FoundImage]) -> tuple[list[Header], dict[str, _Refusal]]:
    reason = "this file, or one read together with it, crashed the reader"
    return [], {file.relative: _Refusal(reason) for file in files}


def _check_modality(headers: Sequence[Header], name: str) -> None:
    """Raise UsageError where a header's Modality is not what the name of the modality says."""
    wrong = [header for header in headers if contradicts(header.modality, name)]
    if wrong:
        first = min(wrong, key=lambda header: header.file.relative)
        others = f" and {len(wrong) - 1} other files have" if len(wrong) > 1 else " has"
        raise UsageError(
            f"{first.file.relative}{others} the DICOM modality {first.modality}, not '{name}'.",
            "Check the folder and --modality, or use --force to take the files anyway.",
        )


def _add_series(found: FoundScans, headers: Sequence[Header], patient_of: PatientOf) -> None:
    if not headers:
        return
    from medxlate.images.dicom.series import group_series

    headers = [
        replace(header, patient=patient)
        if (patient := patient_of(header.file.relative, header.frames[0].tags))
        else header
        for header in headers
    ]
    values = {header.file.relative: header.identifiers for header in headers}
    grouped = group_series(headers)
    for scan in grouped.scans:
        own = {values[file.relative] for file in scan.files}
        found.scans.append(replace(scan, identifiers=frozenset().union(*own)))
    found.skipped |= grouped.skipped
    for name, note in grouped.notes.items():
        add_note(found.notes, name, note)


def _single(image: FoundImage, volume: int | None, found: FoundScans) -> Scan:
    """Return the scan of a file that stands for itself."""
    if image.format not in VOLUME_FORMATS:
        return Scan(image.relative, image.format, (image,))
    from medxlate.images.texts import identifying_texts, read_sidecar
    from medxlate.images.volumes import read_volume_header

    found.identifiers |= identifying_texts(image.path)
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
