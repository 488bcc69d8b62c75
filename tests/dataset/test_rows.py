"""Which row of a table is an image's."""

from __future__ import annotations

from pathlib import Path

import pytest

from medxlate.base.errors import DataError
from medxlate.dataset.label_table import Table, read_table
from medxlate.dataset.rows import RowFinder, SessionTables


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def finder(
    *rows: tuple[str, str], by_patient: bool = False, relevant: tuple[str, ...] = ("age",)
) -> RowFinder:
    """A finder in a table of columns name and age."""
    content = tuple({"name": name, "age": age} for name, age in rows)
    table = Table(Path("t.csv"), ("name", "age"), content, False)
    return RowFinder(table, "name", by_patient=by_patient, relevant=relevant, images=())


@pytest.mark.parametrize("name", ["sub/img.1.png", "img.1.png", "sub/img.1", "img.1"])
def test_a_row_is_found_by_path_name_or_stem(name):
    assert finder((name, "60")).find("sub/img.1.png", None)["age"] == "60"


@pytest.mark.parametrize("name", ["./sub/a.png", "sub\\a.png", ".\\sub\\a.png"])
def test_a_path_in_the_table_may_be_written_the_windows_way(name):
    assert finder((name, "60")).find("sub/a.png", None)["age"] == "60"


def test_the_full_path_wins_over_the_mere_name():
    rows = finder(("a.png", "1"), ("two/a.png", "2"))
    assert rows.find("two/a.png", None)["age"] == "2"
    assert rows.find("one/a.png", None)["age"] == "1"


@pytest.mark.parametrize("name", ["sub/v.1.nii.gz", "v.1.nii.gz", "sub/v.1", "v.1"])
def test_nii_gz_is_one_suffix(name):
    assert finder((name, "60")).find("sub/v.1.nii.gz", None)["age"] == "60"


def test_a_row_is_found_by_patient():
    rows = finder(("P1", "60"), ("P2", "61"), by_patient=True)
    assert rows.find("P1/a.png", "P2")["age"] == "61"
    with pytest.raises(DataError, match="has no row in column 'name': the image's patient"):
        rows.find("P1/a.png", "P3")


def test_an_image_without_a_row_is_named():
    with pytest.raises(DataError, match=r"t\.csv has no row in column 'name': 'sub/b\.png'"):
        finder(("a.png", "60"), ("", "61")).find("sub/b.png", None)


def test_rows_that_agree_count_once_and_contradicting_ones_are_an_error():
    rows = finder(("a.png", "60"), ("a.png", "60"), ("b.png", "60"), ("b.png", "61"))
    assert rows.find("a.png", None)["age"] == "60"
    with pytest.raises(DataError, match=r"contradictory rows: 2 rows for 'b\.png'"):
        rows.find("b.png", None)
    indifferent = finder(("b.png", "60"), ("b.png", "61"), relevant=("name",))
    assert indifferent.find("b.png", None)["name"] == "b.png"


@pytest.fixture
def sessions(tmp_path):
    texts = {
        "sub-1": "session_id\tage\tscanner\nses-a\t60\tX\nses-b\t62\tn/a\n",
        "sub-2": "session_id\tage\na\t70\n",
        "sub-3": "session_id\tage\nses-a\t50\nses-a\t51\n",
        "sub-4": "visit\tage\nses-a\t50\n",
    }
    for subject, text in texts.items():
        (tmp_path / subject).mkdir()
        write(tmp_path / subject / f"{subject}_sessions.tsv", text)
    return SessionTables(tmp_path)


def test_a_session_completes_the_row_and_wins_where_it_knows_a_value(sessions):
    row = {"age": "59", "scanner": "Y", "sex": "F"}
    assert sessions.columns == {"session_id", "age", "scanner"}
    first = sessions.complete("sub-1/ses-a/anat/x.nii", row)
    assert first == {"session_id": "ses-a", "age": "60", "scanner": "X", "sex": "F"}
    second = sessions.complete("sub-1/ses-b/anat/x.nii", row)
    assert (second["age"], second["scanner"]) == ("62", "Y")
    assert sessions.complete("sub-2/ses-a/anat/x.nii", row)["age"] == "70"
    assert row == {"age": "59", "scanner": "Y", "sex": "F"}


@pytest.mark.parametrize(
    "relative", ["sub-1/ses-c/anat/x.nii", "sub-1/anat/x.nii", "sub-9/ses-a/anat/x.nii", "x.nii"]
)
def test_an_image_of_no_known_session_keeps_its_row(sessions, relative):
    assert sessions.complete(relative, {"age": "59"}) == {"age": "59"}


@pytest.mark.parametrize("subject", ["sub-3", "sub-4"])
def test_a_sessions_table_that_contradicts_itself_concerns_its_subject_alone(sessions, subject):
    with pytest.raises(DataError, match="sessions table of the image's patient") as caught:
        sessions.complete(f"{subject}/ses-a/anat/x.nii", {})
    assert "sub-" not in str(caught.value)


def test_names_of_files_are_found_in_either_unicode_form(tmp_path):
    one, two = "Jos\u00e9.png", "Jose\u0301.png"
    (tmp_path / "t.csv").write_text(f"file,age\n{one},60\n", encoding="utf-8")
    table = read_table(tmp_path / "t.csv")
    rows = RowFinder(table, "file", by_patient=False, relevant=["age"], images=[two])
    assert rows.find(two, None)["age"] == "60"
