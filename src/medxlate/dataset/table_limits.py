"""What of a label table is refused before memory is taken for it."""

from __future__ import annotations

import csv
import re
import zipfile
from pathlib import Path

from medxlate.errors import DataError

MAX_TEXT_BYTES = 64 << 20  # of a CSV or TSV file
MAX_SHEET_BYTES = 64 << 20  # of a spreadsheet, unpacked
MAX_CELLS = 5_000_000  # columns of the first row times rows
MAX_CELL = 4096  # characters
_BLOCK = 1 << 20
_PLACE = re.compile(rb'\br="([A-Z]{0,3})(\d+)"|\bref="[A-Z]+\d+:([A-Z]+)(\d+)"')


def check_text(path: Path, separator: str) -> None:
    """Raise DataError where a text file is too large, or its rows would be made too long.

    A row shorter than the first is filled up, so that a small file may claim any number of cells.
    """
    _check_bytes(path.stat().st_size, MAX_TEXT_BYTES)
    lines = 1
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            lines += max(block.count(b"\n"), block.count(b"\r"))
    with path.open(encoding="utf-8-sig", newline="") as text:
        columns = len(next(csv.reader(text, delimiter=separator), ()))
    _check_cells(lines, columns)


def check_spreadsheet(path: Path) -> None:
    """Raise DataError where an XLSX file unpacks to too much, or names a cell too far away.

    All cells up to the last one are read, also those that are not there.
    """
    with zipfile.ZipFile(path) as archive:
        _check_bytes(sum(member.file_size for member in archive.infolist()), MAX_SHEET_BYTES)
        for member in archive.infolist():
            if not member.filename.startswith("xl/worksheets/"):
                continue
            rows = columns = 0
            for found in _PLACE.finditer(archive.read(member)):
                column, row, last, end = found.groups()
                rows = max(rows, int((row or end)[:8]))
                columns = max(columns, _number(column or last or b""))
            _check_cells(rows, columns)


def check_cells(texts: list[str]) -> None:
    """Raise DataError where a cell is longer than any label or name."""
    if any(len(text) > MAX_CELL for text in texts):
        raise DataError(f"a cell has more than {MAX_CELL} characters")


def _number(column: bytes) -> int:
    """Return the number of a column from its letters: AB is 28."""
    number = 0
    for letter in column:
        number = 26 * number + letter - 64
    return number


def _check_bytes(there: int, most: int) -> None:
    if there > most:
        raise DataError(f"it holds {there >> 20} MiB; at most {most >> 20} MiB are read")


def _check_cells(rows: int, columns: int) -> None:
    if rows * columns > MAX_CELLS:
        raise DataError(f"it has {rows} rows of {columns} cells; at most {MAX_CELLS} are read")
