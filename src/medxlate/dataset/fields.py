"""Where a label or a patient comes from: a table's column, a DICOM tag or the file's path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from medxlate.base.errors import UsageError

FieldKind = Literal["column", "tag", "folder", "regex", "file"]


@dataclass(frozen=True)
class Field:
    """A source of values.

    Attributes:
        kind: ``column`` of the label table, ``tag`` (a DICOM attribute or a key of the JSON file
            beside a volume), ``folder`` level (1: the first below the root; -1: the one that
            holds the file), ``regex`` on the relative path (its first group, or the whole
            match), or ``file``: the relative path itself.
        name: Column, keyword, level or pattern.
    """

    kind: FieldKind
    name: str

    def from_path(self, relative: str) -> str | None:
        """Return the value that a relative path holds, or None; only for path kinds."""
        if self.kind == "file":
            return relative
        if self.kind == "folder":
            folders = PurePosixPath(relative).parts[:-1]
            level = int(self.name)
            index = level - 1 if level > 0 else level
            return folders[index] if -len(folders) <= index < len(folders) else None
        match = re.search(self.name, relative)
        if match is None:
            return None
        return match.group(1) if match.re.groups else match.group(0)

    def value(self, relative: str, row: Mapping[str, str], tags: Mapping[str, str]) -> str | None:
        """Return the value for one image from its path, its table row or its tags; None: absent."""
        if self.kind == "column":
            return row.get(self.name) or None
        if self.kind == "tag":
            return tags.get(self.name) or None
        return self.from_path(relative)

    def of_file(self, relative: str, tags: Mapping[str, str]) -> str | None:
        """Return the value that a file's path or tags hold before it is put into a scan.

        Columns have none yet: their rows are found when the scans are known. Nor has ``file``,
        for then the slices of a series would be scans of their own.
        """
        return None if self.kind == "file" else self.value(relative, {}, tags)


def parse_field(text: str, *, has_table: bool, option: str, sidecars: bool = False) -> Field:
    """Read ``column:X``, ``tag:X``, ``folder:N``, ``regex:X`` or ``file``.

    A bare name is a column where there is a table, else a DICOM tag.

    Args:
        text: As the user gave it.
        has_table: Whether there is a label table.
        option: The option that gave it, for messages.
        sidecars: Whether ``tag:X`` may name a key of the JSON files beside volumes; else it
            must be a DICOM attribute.

    Raises:
        UsageError: A column without a table, a tag that does not exist, a bad level or pattern.
    """
    if text == "file":
        return Field("file", "")
    kind, colon, name = text.partition(":")
    if not colon or kind not in ("column", "tag", "folder", "regex"):
        kind, name, sidecars = ("column" if has_table else "tag"), text, False
    if kind == "column":
        if not has_table:
            raise UsageError(f"{option} {text} needs a table.", "Give the table with --labels.")
        return Field("column", name)
    if kind == "tag":
        if not sidecars:
            from medxlate.images.dicom.tags import check_keyword

            check_keyword(name)
        return Field("tag", name)
    if kind == "folder":
        if not re.fullmatch(r"-?[1-9]\d*", name):
            raise UsageError(
                f"{option} {text}: the level must be a whole number other than 0.",
                "Use folder:1 for the first folder below the root, folder:-1 for the one with the "
                "file.",
            )
        return Field("folder", name)
    try:
        re.compile(name)
    except re.error as problem:
        raise UsageError(f"{option} {text} is not a valid regular expression: {problem}.") from None
    return Field("regex", name)
