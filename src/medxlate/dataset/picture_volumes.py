"""Pictures that are the slices of one volume: ``prepare --volume-from``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from medxlate.base.errors import UsageError
from medxlate.dataset.annotate import Annotation
from medxlate.dataset.fields import Field, parse_field
from medxlate.images.find import SUFFIXES, image_suffix
from medxlate.images.grouping import FoundScans
from medxlate.images.scan import RASTER_FORMATS, add_note

OPTION = "--volume-from"
UNLIKE = "the file names of its volume differ in more than numbers: check the order of the slices"
_NUMBER = re.compile("([0-9]+)")


@dataclass(frozen=True)
class VolumePosition:
    """Which slice of which volume a picture is.

    Attributes:
        volume: A name of the volume, unique within the modality.
        position: Which of its slices the picture is, from 0.
    """

    volume: str
    position: int


def picture_volumes(
    text: str | None,
    found: FoundScans,
    annotations: Mapping[str, Annotation],
    same: Callable[[str], str],
) -> dict[str, VolumePosition]:
    """Return the position of each picture by its relative path, but for those without a volume.

    Slices follow each other in the natural order of their paths (2 before 10). Pictures that
    cannot be used keep their positions, so that a gap stays a gap. Where the paths of a volume
    differ in more than whole numbers, their order may not be that of the slices: it is noted.

    Args:
        text: ``folder`` (the one that holds the file), ``folder:N`` or ``regex:PATTERN`` on the
            relative path; None: every picture stands for itself.
        found: The scans, and the files that cannot be used; its notes grow.
        annotations: Of the files, by relative path.
        same: Returns the same text for ids that mean one patient.

    Raises:
        UsageError: ``text`` has another form, matches no picture, or puts pictures of two patients
            into one volume.
    """
    if text is None:
        return {}
    field = parse_volume_from(text)
    pictures = [scan.name for scan in found.scans if scan.format in RASTER_FORMATS]
    broken = [name for name in found.skipped if _is_picture(name)]
    members: dict[str, list[str]] = {}
    for name in dict.fromkeys([*pictures, *broken]):
        if (volume := volume_of(field, name)) is not None:
            members.setdefault(volume, []).append(name)
    if not members:
        raise UsageError(
            f"{OPTION} {text} matches no path of a PNG, JPEG, WebP or TIFF file.",
            "Match paths below the given folder, such as patient1/slice_01.png.",
        )
    for files in members.values():
        known = [name for name in files if name in annotations]
        if len({same(annotations[name].patient) for name in known}) > 1:
            raise UsageError(
                f"{OPTION} {text} puts images of several patients into one volume, for example "
                f"that of {known[0]}.",
                "Choose a folder, folder:N or regex:PATTERN that differs between volumes.",
            )
        if len(files) > 1 and len({_NUMBER.sub("0", name) for name in known}) > 1:
            add_note(found.notes, min(known, key=natural_order), UNLIKE)
    return {
        file: VolumePosition(volume, position)
        for volume, files in members.items()
        for position, file in enumerate(sorted(files, key=natural_order))
    }


def _is_picture(name: str) -> bool:
    """Return whether a file name is that of a picture."""
    return SUFFIXES.get(image_suffix(name).lower()) in RASTER_FORMATS


def parse_volume_from(text: str) -> Field:
    """Read the value of ``--volume-from``.

    Raises:
        UsageError: It is not ``folder``, ``folder:N`` or ``regex:PATTERN``.
    """
    whole = "folder:-1" if text == "folder" else text
    if not whole.startswith(("folder:", "regex:")):
        raise UsageError(f"{OPTION} {text} must be folder, folder:N or regex:PATTERN.")
    return parse_field(whole, has_table=False, option=OPTION)


def volume_of(field: Field, relative: str) -> str | None:
    """Return the volume of a picture; folders by their whole path, for names come again."""
    if field.kind == "regex":
        return field.from_path(relative)
    folders = PurePosixPath(relative).parts[:-1]
    level = int(field.name)
    depth = level if level > 0 else len(folders) + level + 1
    return "/".join(folders[:depth]) if 1 <= depth <= len(folders) else None


def natural_order(path: str) -> tuple[list[tuple[int, str]], str]:
    """Return a sorting key that puts 2 before 10."""
    pieces = _NUMBER.split(path)
    numbered = [
        (int(piece), "") if _NUMBER.fullmatch(piece) else (-1, piece) for piece in pieces if piece
    ]
    return numbered, path
