"""What each output is called: the input's tree, its stem, its format; and nothing of a patient."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import count

from medxlate.images.find import image_suffix
from medxlate.images.pseudonym import Phi, clean_path, pseudonym
from medxlate.images.scan import Format, FoundImage, Scan

Key = tuple[str, int]  # a file's relative path and the frame in it, 0 where it has one

PATIENT_TAGS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
MAX_NAME = 255  # bytes of a file's or folder's name, on the usual file systems

# The suffixes that an output of a format may have; the first where the input has another.
SUFFIXES: dict[Format, tuple[str, ...]] = {
    "png": (".png",),
    "jpeg": (".png",),
    "webp": (".png",),
    "tiff": (".tif",),
    "dicom": (".dcm", ".dicom", ".ima", ""),
    "nifti": (".nii.gz", ".nii"),
    "nrrd": (".nrrd",),
    "meta": (".mha",),
}


def patients_of(scans: Sequence[Scan], phi: Phi, key: bytes) -> dict[str, str]:
    """Return what stands in the place of a patient in paths, by the name of the scan."""
    patients: dict[str, str] = {}
    numbers: dict[str, str] = {}
    for scan in scans:
        tags = scan.frames[0].tags if scan.frames else {}
        patient = next((tags[tag] for tag in PATIENT_TAGS if tags.get(tag)), scan.name)
        if phi == "remove":
            patients[scan.name] = numbers.setdefault(patient, f"x{len(numbers) + 1}")
        else:
            patients[scan.name] = pseudonym(patient, key)
    return patients


def output_names(scans: Iterable[Scan], *, phi: Phi, patients: Mapping[str, str]) -> dict[Key, str]:
    """Return the output's relative path for each file, or each frame of a multi-frame file.

    Only an image's suffix is removed. Where two names would be equal, or differ in upper and
    lower case alone (a.png beside a.jpg), both keep the whole of theirs: a.png.png, a.jpg.png. A
    file's or folder's name of more than 255 bytes is shortened; a hash keeps it apart from others.

    Args:
        scans: The inputs.
        phi: The policy by which identifying values of DICOM headers are taken out of paths.
        patients: What stands in their place, by the name of the scan.
    """
    short: dict[Key, str] = {}
    whole: dict[Key, str] = {}
    for scan in scans:
        for file, frame, relative in clean_names(scan, patients[scan.name], phi):
            key = (file.relative, frame)
            short[key], whole[key] = _names(relative, file.format, frame, _frames_each(scan))
    names = dict(short)
    while True:
        counts = Counter(name.lower() for name in names.values())
        twice = [key for key, name in names.items() if counts[name.lower()] > 1]
        longer = [key for key in twice if names[key] != whole[key]]
        if not longer:
            break
        names |= {key: whole[key] for key in longer}
    return _numbered(names, twice)


def clean_names(scan: Scan, patient: str, phi: Phi) -> Iterator[tuple[FoundImage, int, str]]:
    """Yield each file and frame of a scan with its relative path as ``phi`` lets it out.

    Args:
        scan: The scan.
        patient: What stands in the place of identifying values.
        phi: The policy; see ``clean_path``.
    """
    if not scan.frames:
        yield scan.files[0], 0, scan.files[0].relative
    for frame in scan.frames:
        relative = clean_path(frame.file.relative, scan.identifiers, patient, phi)
        if frame.instance and frame.instance in relative:
            relative = clean_path(relative, {frame.instance}, patient, phi)
        yield frame.file, frame.number, relative


def _frames_each(scan: Scan) -> int:
    return max(1, len(scan.frames) // len(scan.files))


def _names(relative: str, format_: Format, frame: int, frames: int) -> tuple[str, str]:
    """Return the output's name without and with the input's suffix."""
    own, allowed = image_suffix(relative), SUFFIXES[format_]
    suffix = own if own.lower() in allowed else allowed[0]
    number = f"_{frame + 1:04d}" if frames > 1 else ""
    stem = relative[: len(relative) - len(own)]
    return _fitting(stem + number + suffix), _fitting(relative + number + suffix)


def _numbered(names: dict[Key, str], twice: list[Key]) -> dict[Key, str]:
    """Number names that are still the same: those of patients who became nameless."""
    taken = {name.lower() for name in names.values()}
    for key in twice:
        suffix = image_suffix(names[key])
        stem = names[key][: len(names[key]) - len(suffix)]
        numbered = (_fitting(f"{stem}_{number}{suffix}") for number in count(1))
        names[key] = next(name for name in numbered if name.lower() not in taken)
        taken.add(names[key].lower())
    return names


def _fitting(relative: str) -> str:
    """Return a path in which no name is longer than file systems take."""
    return "/".join(_shortened(name) for name in relative.split("/"))


def _shortened(name: str) -> str:
    """Return a name of at most 255 bytes: its beginning, 8 digits of its hash and its suffix."""
    encoded = os.fsencode(name)
    if len(encoded) <= MAX_NAME:
        return name
    suffix = image_suffix(name)
    end = f"-{sha256(encoded).hexdigest()[:8]}{suffix}"
    beginning = encoded[: min(MAX_NAME - len(end), len(encoded) - len(suffix))]
    return beginning.decode("utf-8", "ignore") + end
