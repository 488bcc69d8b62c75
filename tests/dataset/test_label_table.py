"""Label tables as people save them, and what is refused of them."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest

from medxlate.base.errors import DataError, UsageError
from medxlate.dataset.label_table import read_table


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "file,age,note\nx.png,60,\ny.png,61,b c\n"),
        ("a.csv", "\ufefffile,age,note\r\nx.png,60,\r\ny.png,61,b c\r\n"),
        ("a.csv", " file , age , note \n x.png , 60 ,\n\n y.png , 61 , b c \n"),
        ("a.csv", '"file","age","note"\n"x.png","60",""\n"y.png","61","b c"\n'),
        ("a.csv", "file;age;note\nx.png;60;\ny.png;61;b c\n"),
        ("a.tsv", "file\tage\tnote\nx.png\t60\t\ny.png\t61\tb c\n"),
        ("a.txt", "file\tage\tnote\nx.png\t60\t\ny.png\t61\tb c\n"),
    ],
)
def test_every_form_of_text_table_gives_the_same_rows(tmp_path, name, text):
    table = read_table(write(tmp_path / name, text))
    assert table.columns == ("file", "age", "note")
    assert table.rows == (
        {"file": "x.png", "age": "60", "note": ""},
        {"file": "y.png", "age": "61", "note": "b c"},
    )
    assert table.decimal_comma == (";" in text)


def test_xlsx_gives_the_same_rows_and_keeps_leading_zeros(tmp_path):
    book = openpyxl.Workbook()
    for row in (["file", "age", "id"], ["x.png", 60, "007"], ["y.png", 61.5, None]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    table = read_table(tmp_path / "a.xlsx")
    assert table.columns == ("file", "age", "id")
    assert table.rows == (
        {"file": "x.png", "age": "60", "id": "007"},
        {"file": "y.png", "age": "61.5", "id": ""},
    )


def test_a_workbook_of_several_sheets(tmp_path):
    book = openpyxl.Workbook()
    book.active.title = "Read me"
    book.active.append(["written by"])
    book.active.append(["the archive"])
    for name, age in (("Patients", 60), ("Scans", 70)):
        sheet = book.create_sheet(name)
        sheet.append(["file", "age"])
        sheet.append(["x.png", age])
    path = tmp_path / "a.xlsx"
    book.save(path)
    assert read_table(path, sheet="Scans").rows == ({"file": "x.png", "age": "70"},)
    first = read_table(path)
    assert first.columns == ("written by",)
    with pytest.raises(UsageError) as caught:
        first.check_column("age", option="--label")
    assert "sheet 'Read me', has no column 'age' (--label)" in caught.value.message
    assert "add --sheet: Patients, Scans." in caught.value.hint
    with pytest.raises(UsageError, match="no sheet 'patients'") as caught:
        read_table(path, sheet="patients")
    assert "Patients" in caught.value.hint
    with pytest.raises(UsageError, match="not a workbook"):
        read_table(write(tmp_path / "a.csv", "file,age\nx.png,60\n"), sheet="Scans")


def test_quoted_separators_and_na_like_texts_stay_text(tmp_path):
    table = read_table(write(tmp_path / "a.csv", 'id,name\n007,"Doe, J; x; y"\nNA,null\n'))
    assert table.rows == ({"id": "007", "name": "Doe, J; x; y"}, {"id": "NA", "name": "null"})


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", None, "does not exist"),
        ("a.csv", "", "cannot be read"),
        ("a.csv", "file,age\n", "has no rows"),
        ("a.csv", "file,age,age\nx,1,2\n", "has two columns 'age'"),
        ("a.csv", "file,age\nx,1\ny,2,3\n", "line 3"),
        ("a.xlsx", "no workbook", "cannot be read"),
    ],
)
def test_a_bad_table_is_named(tmp_path, name, text, reason):
    path = tmp_path / name
    if text is not None:
        write(path, text)
    with pytest.raises(DataError, match=reason) as caught:
        read_table(path)
    assert str(path) in caught.value.message


def test_a_column_that_does_not_exist_names_the_nearest(tmp_path):
    table = read_table(write(tmp_path / "a.csv", "file,patient_age\nx,1\n"))
    with pytest.raises(UsageError, match=r"no column 'patient_agee'.*'patient_age'") as caught:
        table.check_column("patient_agee", option="--label")
    assert "--label" in caught.value.message


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_named(tmp_path, encoding):
    (tmp_path / "t.csv").write_text("file,who\na.png,Jos\u00e9\n", encoding=encoding)
    with pytest.raises(DataError, match="is not in UTF-8") as caught:
        read_table(tmp_path / "t.csv")
    assert "Save it" in caught.value.hint


def test_a_row_with_too_many_cells_is_named_by_its_line(tmp_path):
    (tmp_path / "t.csv").write_text("file,age,who\na.png,60,Ann\nb.png,67,5,Ann\n")
    with pytest.raises(DataError, match="line 3 has more cells than the table has columns"):
        read_table(tmp_path / "t.csv")
