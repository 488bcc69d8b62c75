"""Label tables: CSV, TSV, semicolons or XLSX.

Tables come from others: what a file would take of memory and time is checked before it is read.
"""

from __future__ import annotations

import csv
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medxlate.base.errors import DataError, UsageError, nearest

Row = dict[str, str]
MAX_TEXT_BYTES = 64 << 20  # of a CSV or TSV file
MAX_SHEET_BYTES = 64 << 20  # of a spreadsheet, unpacked
MAX_CELLS = 5_000_000  # columns of the first row times rows
MAX_CELL = 4096  # characters
_BLOCK = 1 << 20
HEAD = 1 << 14  # characters in which the separator is looked for


@dataclass(frozen=True)
class Table:
    """A label table.

    Attributes:
        path: Where it came from.
        columns: Column names, trimmed.
        rows: A mapping a row, values as trimmed text; empty where missing.
        decimal_comma: Whether semicolons separate the columns, so that 67,5 is a number.
        sheet: Which sheet of a workbook this is; "" for a text file.
        other_sheets: The workbook's other sheets.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    decimal_comma: bool
    sheet: str = ""
    other_sheets: tuple[str, ...] = ()

    def check_column(self, column: str, *, option: str) -> None:
        """Raise UsageError, naming the nearest column, unless the table has it."""
        if column in self.columns:
            return
        hint, where = nearest(column, self.columns), str(self.path)
        if self.other_sheets:
            where += f", sheet '{self.sheet}',"
            hint += f" To use another sheet, add --sheet: {', '.join(self.other_sheets)}."
        raise UsageError(f"{where} has no column '{column}' ({option}).", hint)


def read_table(path: Path, kind: str = "label table", *, sheet: str = "") -> Table:
    """Read a table; the separator of a text file is found from its first lines.

    Args:
        path: CSV, TSV, semicolons or XLSX.
        kind: Its name in messages.
        sheet: Which sheet of a workbook; "": the first.

    Raises:
        UsageError: There is no such sheet.
        DataError: The file is missing or not a table, is too large, or names a column twice.
    """
    others: tuple[str, ...] = ()
    try:
        if path.suffix.lower() in (".xlsx", ".xlsm"):
            sheet, others = check_spreadsheet(path, sheet)
            frame = pd.read_excel(path, sheet, header=None, dtype=str, keep_default_na=False)
            separator = ""
        elif sheet:
            raise UsageError(
                f"{path} is not a workbook, so it has no sheet '{sheet}'.",
                "Leave out --sheet, or give an XLSX file.",
            )
        else:
            separator = _separator(path)
            check_text(path, separator)
            check_rows(path, separator)
            frame = pd.read_csv(
                path,
                sep=separator,
                header=None,
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                skipinitialspace=True,
                index_col=False,
            )
        lines = _lines(frame)
    except FileNotFoundError:
        raise DataError(f"The {kind} {path} does not exist.") from None
    except UnicodeError:
        raise DataError(f"The {kind} {path} is not in UTF-8.", "Save it as CSV UTF-8.") from None
    except UsageError:
        raise
    except DataError as problem:
        raise DataError(f"The {kind} {path} was not read: {problem.message}.") from None
    except Exception as problem:  # pandas, openpyxl and zipfile each raise kinds of their own
        raise DataError(f"The {kind} {path} cannot be read: {problem}.") from None
    columns = lines[0] if lines else ()
    twice = sorted(column for column, times in Counter(columns).items() if column and times > 1)
    if twice:
        raise DataError(f"The {kind} {path} has two columns '{twice[0]}'.")
    rows = tuple(dict(zip(columns, values, strict=True)) for values in lines[1:])
    if not rows:
        raise DataError(f"The {kind} {path} has no rows.")
    return Table(path, columns, rows, separator == ";", sheet, others)


def _lines(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return the rows as trimmed text; equal cells are one string."""
    trimmed: dict[str, str] = {}
    rows = []
    for values in frame.itertuples(index=False, name=None):
        texts = [str(value) for value in values]
        check_cells(texts)
        rows.append(tuple(trimmed.setdefault(text, text.strip()) for text in texts))
    return rows


def _separator(path: Path) -> str:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        head = "".join(stream.read(HEAD).splitlines(keepends=True)[:20])
    if path.suffix.lower() == ".tsv":
        return "\t"
    try:
        return csv.Sniffer().sniff(head, delimiters=",;\t|").delimiter
    except csv.Error:
        return ","  # a single column


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
                raise DataError(f"line {rows.line_num} has more cells than the table has columns")


def check_spreadsheet(path: Path, sheet: str = "") -> tuple[str, tuple[str, ...]]:
    """Check that a sheet can be read, and return its name and those of the others.

    All cells up to the last one are made, also those that are not there; here they are counted
    row by row, and none is kept.

    Args:
        path: A workbook (XLSX).
        sheet: A sheet's name; "": the first.

    Raises:
        UsageError: There is no such sheet.
        DataError: The file unpacks to too much, or names a cell too far away.
    """
    import openpyxl  # slow to load

    with zipfile.ZipFile(path) as archive:
        _check_bytes(sum(member.file_size for member in archive.infolist()), MAX_SHEET_BYTES)
    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
        names = [each.title for each in book.worksheets]
        chosen = sheet or names[0]
        if chosen not in names:
            raise UsageError(f"{path} has no sheet '{sheet}' (--sheet).", nearest(sheet, names))
        cells = book[chosen]
        cells.reset_dimensions()
        rows = columns = 0
        for row in cells.iter_rows(values_only=True):
            rows, columns = rows + 1, max(columns, len(row))
            _check_cells(rows, columns)
    finally:
        book.close()
    return chosen, tuple(name for name in names if name != chosen)


def check_cells(texts: list[str]) -> None:
    """Raise DataError where a cell is longer than any label or name."""
    if any(len(text) > MAX_CELL for text in texts):
        raise DataError(f"a cell has more than {MAX_CELL} characters")


def _check_bytes(there: int, most: int) -> None:
    if there > most:
        raise DataError(f"it has {there >> 20} MiB; at most {most >> 20} MiB are read")


def _check_cells(rows: int, columns: int) -> None:
    if rows * columns > MAX_CELLS:
        raise DataError(f"it has {rows} rows of {columns} cells; at most {MAX_CELLS} are read")
