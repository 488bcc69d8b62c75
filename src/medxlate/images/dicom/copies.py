"""Which DICOM files are copies of others, and which only claim to be."""

from __future__ import annotations

import filecmp
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from medxlate.base.errors import ImageError
from medxlate.images.dicom.pixels import read_frame

if TYPE_CHECKING:
    from medxlate.images.dicom.header import Header

OTHER_PIXELS = "has the same SOPInstanceUID as another file but different pixels"


def divide_copies(members: Sequence[Header]) -> tuple[dict[str, str], dict[str, str]]:
    """Find files that hold what another file holds, among those of one patient and series.

    A copy has the SOPInstanceUID, position and number of another file, and its pixels: a UID alone
    proves nothing, for tools that write files anew often leave it as it was.

    Args:
        members: In the order in which one of several equal files is chosen: the first.

    Returns:
        The relative paths of copies with that of the file that they repeat; and those of files
        with a UID, position and number, but not the pixels, of an earlier file, with its path.
    """
    alike: dict[object, list[Header]] = defaultdict(list)
    for header in members:
        frame = header.frames[0]
        if frame.instance:
            alike[frame.instance, frame.position, frame.order].append(header)
    copies: dict[str, str] = {}
    conflicts: dict[str, str] = {}
    for headers in alike.values():
        originals = headers[:1]
        for header in headers[1:]:
            same = next((known for known in originals if _same(known, header)), None)
            if same is not None:
                copies[header.file.relative] = same.file.relative
                continue
            conflicts[header.file.relative] = originals[0].file.relative
            originals.append(header)
    return copies, conflicts


def _same(one: Header, other: Header) -> bool:
    """Whether two files hold the same frames; one that cannot be read equals no other."""
    try:
        if filecmp.cmp(one.file.path, other.file.path, shallow=False):
            return True
        return len(one.frames) == len(other.frames) and all(
            np.array_equal(read_frame(a), read_frame(b), equal_nan=True)
            for a, b in zip(one.frames, other.frames, strict=True)
        )
    except (ImageError, OSError):
        return False
