"""Which row of a label table belongs to an image: by its file, its patient or its session."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

from medxlate.base.errors import DataError
from medxlate.dataset.label_table import Row, Table, read_table
from medxlate.dataset.labels import MISSING
from medxlate.images.pseudonym import normal_id

RESPELLED = "the label table spells the patient ID differently"


class RowFinder:
    """Finds the row of an image.

    Args:
        table: The label table.
        column: The column that names images (by file name, stem or relative path) or patients.
        by_patient: Whether ``column`` names patients.
        relevant: The columns that are read from the row.
        images: Relative paths of all images; a name that several share matches no row.
        normal: Returns the same text for ids that mean one patient.

    Rows that agree in the columns ``relevant`` count once; where they contradict each other, the
    image has no row and ``find`` raises.
    """

    def __init__(
        self,
        table: Table,
        column: str,
        *,
        by_patient: bool,
        relevant: Iterable[str],
        images: Iterable[str],
        normal: Callable[[str], str] = normal_id,
    ) -> None:
        self._normal = normal if by_patient else str
        self._by_patient = by_patient
        self._column = column
        self._path = table.path
        self._relevant = tuple(relevant)
        self._rows: dict[str, list[Row]] = {}
        for row in table.rows:
            if row[column]:
                self._rows.setdefault(self._normal(_path(row[column])), []).append(row)
        self._claims = Counter(self._key(_names(image)) for image in images)

    def find(self, relative: str, patient: str | None) -> Row:
        """Return the row for an image.

        Raises:
            DataError: There is none, several contradict each other, or it matches several images.
        """
        names = [self._normal(patient or "")] if self._by_patient else _names(relative)
        key = self._key(names)
        if key is None:
            who = self._who(names[0])
            raise DataError(f"{self._path} has no row in column '{self._column}': {who}.")
        if self._claims[key] > 1:
            raise DataError(
                f"file names in {self._path} are not unique, so relative paths are needed: "
                f"{self._claims[key]} images are called '{key}'"
            )
        rows = self._rows[key]
        if len({tuple(row[column] for column in self._relevant) for row in rows}) > 1:
            who = self._who(key)
            spelled = len({row[self._column] for row in rows}) > 1 and self._by_patient
            ways = (
                ", under several spellings of one ID (use --distinct-ids to keep them apart)"
                * spelled
            )
            raise DataError(
                f"{self._path} has contradictory rows: {len(rows)} rows for {who}{ways}."
            )
        return rows[0]

    def note(self, patient: str) -> str:
        """Return a note where the table spells the patient's id otherwise; else ""."""
        if not self._by_patient:
            return ""
        rows = self._rows.get(self._normal(patient), [])
        written = {normal_id(_path(row[self._column])) for row in rows}
        return "" if normal_id(patient) in written or not rows else RESPELLED

    def _who(self, name: str) -> str:
        """Return words for an image or patient; an id must not get into a message or record."""
        return (
            f"the image's patient in column '{self._column}'" if self._by_patient else f"'{name}'"
        )

    def _key(self, names: Iterable[str]) -> str | None:
        """Return the first of an image's names that the table knows."""
        return next((name for name in names if name in self._rows), None)


def _path(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))


def _names(relative: str) -> list[str]:
    """Return the names a table may use for an image: path and file name, with suffix or without."""
    relative = _path(relative)  # macOS writes é as two signs, tables as one
    path = PurePosixPath(relative)
    suffix = path.name[-7:] if path.name.lower().endswith(".nii.gz") else path.suffix
    return [relative, path.name, relative.removesuffix(suffix), path.name.removesuffix(suffix)]


class SessionTables:
    """The sessions tables of a BIDS data set: ``sub-X/sub-X_sessions.tsv``.

    Each has a column ``session_id`` and a row a session (BIDS, "Data summary files"). A table
    that cannot be read concerns only its own subject: ``complete`` raises for it.

    Args:
        root: The folder that holds the subjects' folders.

    Attributes:
        columns: The columns that at least one of them has.
    """

    def __init__(self, root: Path) -> None:
        self._rows: dict[tuple[str, str], Row] = {}
        self._unusable: set[str] = set()
        for path in sorted(root.glob("sub-*/sub-*_sessions.tsv")):
            subject = path.name.removesuffix("_sessions.tsv")
            try:
                self._add(subject, read_table(path))
            except DataError:
                self._unusable.add(subject)
        self.columns = frozenset(column for row in self._rows.values() for column in row)

    def complete(self, relative: str, row: Row) -> Row:
        """Return the row with the values of the image's session where that has any.

        Raises:
            DataError: The table of the subject's sessions cannot be used.
        """
        found = re.search(r"(?:^|/)(sub-[^/]+)/ses-([^/]+)/", relative)
        if found is None:
            return row
        subject, session = found.groups()
        if subject in self._unusable:
            raise DataError("the sessions table of the image's patient is unusable")
        return row | _known(self._rows.get((subject, session), {}))

    def _add(self, subject: str, table: Table) -> None:
        if "session_id" not in table.columns:
            raise DataError(f"{table.path} has no column 'session_id'.")
        rows: dict[tuple[str, str], Row] = {}
        for row in table.rows:
            key = subject, row["session_id"].removeprefix("ses-")
            if rows.setdefault(key, row) != row:
                raise DataError(f"{table.path} has several rows for one session.")
        self._rows |= rows


def _known(row: Mapping[str, str]) -> Row:
    return {column: text for column, text in row.items() if text.lower() not in MISSING}
