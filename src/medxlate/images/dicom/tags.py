"""DICOM keywords and UIDs."""

from __future__ import annotations

from functools import lru_cache

from pydicom.datadict import tag_for_keyword
from pydicom.uid import generate_uid

from medxlate.base.errors import UsageError


def check_keyword(keyword: str) -> None:
    """Raise UsageError unless ``keyword`` is a DICOM attribute's keyword."""
    if tag_for_keyword(keyword) is None:
        raise UsageError(
            f"'{keyword}' is not a DICOM attribute.",
            "Use a keyword of the DICOM dictionary, such as PatientAge or PatientID. For a column "
            "of a table, add --labels TABLE.",
        )


def new_uid(*entropy: str) -> str:
    """Return a DICOM UID: the same for the same strings; without strings, a random one."""
    return str(generate_uid(entropy_srcs=list(entropy) or None))


@lru_cache(maxsize=1024)
def tag_of(keyword: str) -> int:
    """Return the tag of a keyword of the dictionary.

    Raises:
        UsageError: There is no such keyword.
    """
    check_keyword(keyword)
    return int(tag_for_keyword(keyword) or 0)
