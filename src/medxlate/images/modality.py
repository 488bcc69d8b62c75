"""What a modality's free name means, and which DICOM files belong to it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from medxlate.base.errors import UsageError

NAMES = {  # parts of a free modality name, and the Modality (PS3.3 C.7.3.1.1.1)
    "CT": r"(cb|ce|nc|ld|sd|p|s)?ct\d*",
    "MR": r"[fs]?mri?\d*|t[12](?!dm)\w*|flair\w*|dwi|adc|swi|pd|pdw",
    "PT": r"pet|pt|fdg|suv\w*",
    "CR": r"cr",
    "DX": r"xray|dx|dr|cxr|radiographs?",
    "MG": r"mg|mammo\w*",
    "US": r"us|ultrasound",
    "NM": r"nm|spect",
    "XA": r"xa|dsa",
}
# Radiographs: one kind of image, whatever machine made it.
PROJECTIONS = frozenset({"CR", "DX", "RF", "XA", "MG", "RG", "PX", "IO"})
SILENT = frozenset({"", "OT"})  # Modalities that do not say what an image is


def check_name(modality: str) -> None:
    """Raise UsageError where a name cannot name a modality: it becomes part of file names."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", modality):
        raise UsageError(
            f"'{modality}' is not a valid modality name.",
            "Use up to 32 lower-case letters, digits, - and _, such as ct, mri, pet or xray.",
        )


def dicom_modality(name: str) -> str:
    """Return the DICOM Modality of a free name such as ``ct``, ``mri-t1`` or ``xray``; else OT."""
    return next(_spoken(name), "OT")


def contradicts(modality: str, name: str) -> bool:
    """Whether a DICOM Modality cannot be what a free name says.

    A name such as ``pet-ct`` may stand for any of those that it contains; one without any, such
    as ``site-a``, may be anything. Radiographs are one kind.
    """
    said = set(_spoken(name))
    if said & PROJECTIONS:
        said |= PROJECTIONS
    return bool(said) and modality not in said | SILENT


def _spoken(name: str) -> Iterator[str]:
    """Yield the DICOM Modalities that the words of a free name stand for, in their order."""
    for word in re.findall(r"[a-z0-9]+", name.lower().replace("x-ray", "xray")):
        for modality, pattern in NAMES.items():
            if re.fullmatch(pattern, word):
                yield modality
                break


def choose_modalities(present: Collection[str], *, wanted: str | None, name: str) -> frozenset[str]:
    """Return the DICOM Modalities that belong to a medxlate modality.

    A single one is taken, together with files that do not state theirs; of several, those that
    the name contains.

    Args:
        present: The Modalities of the files.
        wanted: What the user asked for; "" or None: what ``name`` says.
        name: The medxlate modality's free name.

    Raises:
        UsageError: There are several, and the name contains none of them.
    """
    if wanted:
        return frozenset({wanted.upper()})
    named = set(present) - {""}
    if len(named) <= 1:
        return frozenset(present)
    said = dicom_modality(name)
    family = (PROJECTIONS if said in PROJECTIONS else {said}) & named
    if not family:
        kinds = ", ".join(sorted(named))
        raise UsageError(
            f"The DICOM files have several modalities ({kinds}), and none of them obviously "
            f"matches '{name}'.",
            "Choose one with --dicom-modality.",
        )
    return frozenset(family)
