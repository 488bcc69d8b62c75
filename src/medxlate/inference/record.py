"""``translation.json``: what came from what, in names that say nothing of a patient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medxlate._version import __version__
from medxlate.base.distributed import ranks
from medxlate.base.files import write_json
from medxlate.base.journal import Entry
from medxlate.images.find import SUFFIXES, image_suffix
from medxlate.images.grouping import FoundScans
from medxlate.images.pseudonym import Phi, clean_path, pseudonym
from medxlate.images.scan import Scan
from medxlate.inference.inputs import refuse_if_nothing, sort_out
from medxlate.inference.names import clean_names
from medxlate.inference.outputs import Made
from medxlate.inference.work import Work

SCHEMA_VERSION = 2
MARKER = "translation.json"
PATIENT_TAGS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


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


def finish(
    work: Work,
    entries: Sequence[Entry],
    found: FoundScans,
    inputs: Path,
    made: Made,
    patients: Mapping[str, str],
) -> tuple[int, dict[str, str], dict[str, str]]:
    """Put a translation whose units are all done into its place, with its record.

    Args:
        work: The translation.
        entries: Those of its units.
        found: The inputs.
        inputs: Where they were searched.
        made: How the images were made.
        patients: See ``patients_of``.

    Returns:
        How many files there are; what failed, and what sound data leaves out, too, with reasons.

    Raises:
        ImageError: There are none.
    """
    failed, left_out = sort_out(found.skipped)
    failed |= {name: why for entry in entries for name, why in entry["failed"].items()}
    written = [tuple(item) for entry in entries for item in entry["written"]]
    refuse_if_nothing(failed, found, len(written), inputs)
    if ranks().is_first and not work.placed:
        write_json(work.out / MARKER, record(made, written, failed, found.scans, patients))
        work.put()
    return len(written), failed, left_out


def record(
    made: Made,
    written: Iterable[tuple[str, int, str]],
    failed: Mapping[str, str],
    scans: Sequence[Scan],
    patients: Mapping[str, str],
) -> dict[str, Any]:
    """Return the content of translation.json; names follow the policy, as those of files do.

    Args:
        made: How the images were made.
        written: Input file, frame (from 0) and output of each file.
        failed: What could not be translated, and why.
        scans: The inputs.
        patients: See ``patients_of``.
    """
    clean: dict[str, str] = {}
    for scan in scans:
        for file, _, relative in clean_names(scan, patients[scan.name], made.phi):
            clean[file.relative] = relative
        folder = clean_path(scan.name, scan.identifiers, patients[scan.name], made.phi)
        clean.setdefault(scan.name, folder)
    others = {scan.name for scan in scans if not scan.frames}
    listed: dict[str, str] = {}
    for number, (name, reason) in enumerate(failed.items(), start=1):
        if made.phi == "keep" or name in others or _is_no_dicom(name):
            listed[name] = reason
        else:  # nothing is known of a DICOM file that failed: neither name nor details get out
            listed[f"file {number}"] = reason.partition(":")[0]
    return {
        "schema_version": SCHEMA_VERSION,
        "synthetic": True,
        "note": "Images made by a neural network. Not for diagnosis.",
        "medxlate": __version__,
        "source": made.source,
        "target": made.target,
        "unit": made.recipe.unit,
        "phi": made.phi,
        "generator_sha256": made.generator,
        "files": [
            {"input": clean[file], "frame": frame + 1, "output": name}
            for file, frame, name in written
        ],
        "failed": listed,
    }


def _is_no_dicom(name: str) -> bool:
    return SUFFIXES.get(image_suffix(name).lower(), "dicom") != "dicom"
