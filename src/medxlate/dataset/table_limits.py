"""What of a label table is refused before memory is taken for it."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

from medxlate.base.errors import DataError

MAX_TEXT_BYTES = 64 << 20  # of a CSV or TSV file
MAX_SHEET_BYTES = 64 << 20  # of a spreadsheet, unpacked
MAX_CELLS = 5_000_000  # columns of the first row times rows
MAX_CELL = 4096  # characters
_BLOCK = 1 << 20


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


def check_rows(path: Path, separator: str) -> None:
    """Raise DataError where a row has more cells than the first, which names the columns.

    Pandas takes further cells for an index of as many levels, and time with them.
    """
    with path.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.reader(text, delimiter=separator)
        columns = len(next(rows, ()))
        for row in rows:
            if len(row) > columns:
                raise DataError(f"line {rows.line_num} has more cells than there are columns")


def check_spreadsheet(path: Path) -> None:
    """Raise DataError where an XLSX file unpacks to too much, or names a cell too far away.

    All cells up to the last one are made, also those that are not there; here they are counted
    row by row, and none is kept.
    """
    import openpyxl  # slow to load

    with zipfile.ZipFile(path) as archive:
        _check_bytes(sum(member.file_size for member in archive.infolist()), MAX_SHEET_BYTES)
    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
        sheet = book.worksheets[0]
        sheet.reset_dimensions()
        rows = columns = 0
        for row in sheet.iter_rows(values_only=True):
            rows, columns = rows + 1, max(columns, len(row))
            _check_cells(rows, columns)
    finally:
        book.close()


def check_cells(texts: list[str]) -> None:
    """Raise DataError where a cell is longer than any label or name."""
    if any(len(text) > MAX_CELL for text in texts):
        raise DataError(f"a cell has more than {MAX_CELL} characters")


def _check_bytes(there: int, most: int) -> None:
    if there > most:
        raise DataError(f"it holds {there >> 20} MiB; at most {most >> 20} MiB are read")


def _check_cells(rows: int, columns: int) -> None:
    if rows * columns > MAX_CELLS:
        raise DataError(f"it has {rows} rows of {columns} cells; at most {MAX_CELLS} are read")
