from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from pathlib import Path

import openpyxl
import pytest

from medxlate.base.errors import DataError, UsageError
from medxlate.dataset.annotate import Annotator
from medxlate.dataset.fields import parse_field
from medxlate.dataset.index import COLUMNS
from medxlate.dataset.labels import parse_label
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.rows import RowFinder, SessionTables
from medxlate.dataset.table import Table, read_table
from medxlate.images.pseudonym import pseudonym
from medxlate.images.scan import Format, FoundImage, Scan


def scan(format_: Format, *names: str) -> Scan:
    """A scan of these files."""
    files = tuple(FoundImage(Path(name), name, format_, False) for name in names)
    return Scan(names[0], format_, files)


PNG = scan("png", "a.png")
DICOM = scan("dicom", "a.dcm", "b.dcm")
NIFTI = scan("nifti", "a.nii.gz")


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


# --- tables ----------------------------------------------------------------------------------


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


def test_quoted_separators_and_na_like_texts_stay_text(tmp_path):
    table = read_table(write(tmp_path / "a.csv", 'id,name\n007,"Doe, J; x; y"\nNA,null\n'))
    assert table.rows == ({"id": "007", "name": "Doe, J; x; y"}, {"id": "NA", "name": "null"})


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", None, "does not exist"),
        ("a.csv", "", "cannot be read"),
        ("a.csv", "file,age\n", "has no rows"),
        ("a.csv", "file,age,age\nx,1,2\n", "names the column 'age' twice"),
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


# --- rows ------------------------------------------------------------------------------------


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
    with pytest.raises(DataError, match=r"contradict each other: 2 rows for 'b\.png'"):
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
    with pytest.raises(DataError, match="sessions of the image's patient") as caught:
        sessions.complete(f"{subject}/ses-a/anat/x.nii", {})
    assert "sub-" not in str(caught.value)


# --- labels ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("60", 60),
        (" 60.5 ", 60.5),
        ("-1e1", -10),
        ("060Y", 60),
        ("018M", 1.5),
        ("012W", 12 * 7 / 365.25),
        ("100D", 100 / 365.25),
    ],
)
def test_numbers_and_dicom_ages_become_years(text, value):
    assert parse_label(text, kind="regression") == pytest.approx(value, rel=1e-12)


def test_a_decimal_comma_is_read_only_where_semicolons_separate():
    assert parse_label("67,5", kind="regression", decimal_comma=True) == 67.5
    with pytest.raises(DataError, match="is not a number: '67,5'"):
        parse_label("67,5", kind="regression")


@pytest.mark.parametrize("text", ["1.234", "-12.345.678"])
def test_points_that_may_group_thousands_are_refused(text):
    with pytest.raises(DataError, match="a point or thousands"):
        parse_label(text, kind="regression", decimal_comma=True)
    assert parse_label("1.25", kind="regression", decimal_comma=True) == 1.25


@pytest.mark.parametrize("text", [None, "", "  ", "NA", "n/a", "NaN", "null", "#N/A", "<NA>"])
@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_missing_label_is_called_missing(text, kind):
    with pytest.raises(DataError, match="missing"):
        parse_label(text, kind=kind)


@pytest.mark.parametrize("text", ["old", "60 years", "060X", "inf", "-inf"])
def test_what_is_no_number_is_named(text):
    with pytest.raises(DataError, match=f"is not a number: '{text}'"):
        parse_label(text, kind="regression")


def test_a_class_is_its_trimmed_text():
    assert parse_label(" 060Y ", kind="classification") == "060Y"


# --- fields ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("folder:1", "site"),
        ("folder:2", "P1"),
        ("folder:-1", "P1"),
        ("folder:-2", "site"),
        ("folder:3", None),
        ("folder:-3", None),
        (r"regex:P\d", "P1"),
        (r"regex:_(\d+)\.png$", "07"),
        ("regex:Q", None),
        ("file", "site/P1/x_07.png"),
        ("column:sex", "F"),
        ("sex", "F"),
        ("column:none", None),
        ("tag:PatientID", "T1"),
    ],
)
def test_a_field_takes_its_value_from_path_row_or_tag(text, value):
    field = parse_field(text, has_table=True, option="--patient")
    found = field.value("site/P1/x_07.png", {"sex": "F", "none": ""}, {"PatientID": "T1"})
    assert found == value


def test_a_bare_name_is_a_tag_where_there_is_no_table():
    field = parse_field("PatientAge", has_table=False, option="--label")
    assert field.value("a.dcm", {}, {"PatientAge": "060Y"}) == "060Y"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("folder:0", "whole number other than 0"),
        ("folder:x", "whole number other than 0"),
        ("regex:(", "not a regular expression"),
        ("tag:PatientAgee", "'PatientAgee' is no DICOM attribute"),
        ("age", "'age' is no DICOM attribute.*--labels"),
        ("column:age", "--patient column:age names a column.*--labels"),
    ],
)
def test_a_field_that_cannot_be_is_wrong_use(text, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        parse_field(text, has_table=False, option="--patient")
    assert caught.value.exit_code == 2


def test_a_tag_may_be_a_json_key_only_where_there_are_volumes():
    field = parse_field("tag:Manufacturer2", has_table=False, option="--label", sidecars=True)
    assert field.value("a.nii", {}, {"Manufacturer2": "X"}) == "X"
    with pytest.raises(UsageError, match=r"'age' is no DICOM attribute.*--labels"):
        parse_field("age", has_table=False, option="--label", sidecars=True)


# --- annotations -----------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    text = "file,age,who,sex\nsub/a.png,60,Ann,F\nsub/b.png,,Bob,M\nsub/c.png,62,,M\n"
    return write(tmp_path / "t.csv", text)


def test_label_patient_and_kept_values_come_from_the_table(table):
    options = PrepareOptions(
        label="age", labels=table, file="file", patient="who", keep=("sex", "tag:Modality")
    )
    annotator = Annotator(options, [PNG])
    assert annotator.tags == ("Modality",)
    found = annotator.annotate("sub/a.png", {"Modality": "CT"})
    assert (found.label, found.patient, found.kept) == (60, "Ann", {"sex": "F", "Modality": "CT"})
    with pytest.raises(DataError, match="label is missing"):
        annotator.annotate("sub/b.png", {})
    with pytest.raises(DataError, match="patient is unknown"):
        annotator.annotate("sub/c.png", {})


@pytest.mark.parametrize("who", ["NA", "nan", "N/A", "null", "#N/A"])
def test_a_missing_value_is_nobody(tmp_path, who):
    table = write(tmp_path / "t.csv", f"file,age,who\na.png,60,{who}\n")
    options = PrepareOptions(label="age", labels=table, file="file", patient="who")
    with pytest.raises(DataError, match="patient is unknown"):
        Annotator(options, [PNG]).annotate("a.png", {})


def test_dicom_patients_default_to_the_tag_patient_id():
    annotator = Annotator(PrepareOptions(label="PatientAge"), [DICOM])
    assert set(annotator.tags) == {"PatientAge", "PatientID"}
    found = annotator.annotate("a.dcm", {"PatientAge": "018M", "PatientID": "X"})
    assert (found.label, found.patient) == (1.5, "X")
    with pytest.raises(DataError, match="patient is unknown"):
        annotator.annotate("a.dcm", {"PatientAge": "018M"})


def test_a_json_key_can_be_label_and_kept_of_volumes_but_of_nothing_else():
    options = PrepareOptions(label="tag:ScanAge", patient="file", keep=("tag:Coil",))
    annotator = Annotator(options, [PNG, NIFTI])
    assert annotator.tags == ("ScanAge", "Coil")
    found = annotator.annotate("a.nii.gz", {"ScanAge": "61.5", "Coil": "head"})
    assert (found.label, found.patient, found.kept) == (61.5, "a.nii.gz", {"Coil": "head"})
    with pytest.raises(DataError, match="label is missing"):
        annotator.annotate("a.png", {})
    with pytest.raises(UsageError, match="'ScanAge' is no DICOM attribute"):
        Annotator(options, [PNG, DICOM])


def test_a_name_that_fits_two_files_of_a_series_finds_no_row(tmp_path):
    table = write(tmp_path / "t.csv", "file,age,who\nx.dcm,60,Ann\none/y.dcm,61,Bob\n")
    options = PrepareOptions(label="age", labels=table, file="file", patient="who")
    annotator = Annotator(options, [scan("dicom", "one/x.dcm", "two/x.dcm", "one/y.dcm")])
    assert annotator.annotate("one/y.dcm", {}).label == 61
    with pytest.raises(DataError, match="2 images are called"):
        annotator.annotate("one/x.dcm", {})


@pytest.mark.parametrize("only_in_sessions", [True, False])
def test_the_age_of_a_session_is_the_age_of_its_images(tmp_path, only_in_sessions):
    participants = "participant_id\tsex\nsub-1\tF\nsub-2\tM\n"
    if not only_in_sessions:
        participants = "participant_id\tage\tsex\nsub-1\t40\tF\nsub-2\t41\tM\n"
    (tmp_path / "sub-1").mkdir()
    write(tmp_path / "sub-1" / "sub-1_sessions.tsv", "session_id\tage\nses-2\t44.5\n")
    options = PrepareOptions(
        label="age",
        labels=write(tmp_path / "participants.tsv", participants),
        patient="regex:(sub-[^/]+)/",
        patient_column="participant_id",
        sessions=tmp_path,
        keep=("sex",),
    )
    annotator = Annotator(options, [NIFTI])
    found = annotator.annotate("sub-1/ses-2/anat/x.nii.gz", {})
    assert (found.label, found.patient, found.kept) == (44.5, "sub-1", {"sex": "F"})
    if only_in_sessions:
        with pytest.raises(DataError, match="label is missing"):
            annotator.annotate("sub-2/anat/x.nii.gz", {})
    else:
        assert annotator.annotate("sub-2/anat/x.nii.gz", {}).label == 41
    with pytest.raises(UsageError, match=r"no column 'agee' \(--label\)"):
        Annotator(replace(options, label="agee"), [NIFTI])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"label": None}, "A label is needed"),
        ({"label": "agee"}, r"no column 'agee' \(--label\).*'age'"),
        ({"patient": "whoo"}, r"no column 'whoo' \(--patient\).*'who'"),
        ({"keep": ("sexx",)}, r"no column 'sexx' \(--keep\).*'sex'"),
        ({"file": "fil"}, r"no column 'fil' \(--file\).*'file'"),
        ({"keep": ("age", "sexx")}, r"no column 'sexx' \(--keep\).*'sex'"),
        ({"patient": None}, "which images belong to one patient.*--patient"),
        ({"file": None}, "which row of the table.*--file"),
        ({"file": None, "patient": "folder:1"}, "cannot be matched.*--file.*--patient-column"),
        (
            {"file": None, "patient": "folder:1", "patient_column": "wh"},
            r"no column 'wh' \(--patient-column\).*'who'",
        ),
    ],
)
def test_options_that_do_not_say_enough_are_wrong_use_with_a_way_out(table, changes, reason):
    options = {"label": "age", "labels": table, "file": "file", "patient": "who", **changes}
    with pytest.raises(UsageError, match=reason):
        Annotator(PrepareOptions(**options), [PNG])


@pytest.mark.parametrize("name", [*COLUMNS, "column:patient"])
def test_a_kept_column_cannot_take_the_place_of_the_pseudonym_or_any_other(tmp_path, name):
    column = name.removeprefix("column:")
    path = write(tmp_path / "t.csv", f"age,who,img,{column}\n60,Ann,a.png,Ann\n")
    options = PrepareOptions(label="age", labels=path, file="img", patient="who", keep=(name,))
    with pytest.raises(UsageError, match=f"the index has a column '{column}' of its own"):
        Annotator(options, [PNG])


def test_a_pseudonym_is_the_keyed_hash_of_the_id():
    truth = hmac.new(b"key", b"P1", hashlib.sha256).hexdigest()
    assert pseudonym("P1", b"key") == "p" + truth[:16]
    assert pseudonym("P1", b"key") != pseudonym("P2", b"key")
    assert pseudonym("P1", b"key") != pseudonym("P1", b"other")


# --- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "task", "name", "unit"),
    [
        ("PatientAge", "regression", "age", "years"),
        ("tag:PatientAge", "regression", "age", "years"),
        ("age_at_initial_pathologic", "regression", "age", "years"),
        ("column:Age", "regression", "age", "years"),
        ("stage", "regression", "stage", ""),
        ("dosage", "regression", "dosage", ""),
        ("finding", "classification", "finding", ""),
    ],
)
def test_ages_are_recognised_by_their_name(label, task, name, unit):
    options = PrepareOptions(label=label, task=task)
    assert (options.task_name, options.task_unit) == (name, unit)


def test_a_name_and_unit_given_win():
    options = PrepareOptions(label="PatientAge", label_name="a", unit="months")
    assert (options.task_name, options.task_unit) == ("a", "months")


# --- what other programs write ---------------------------------------------------------------


def test_names_of_files_are_found_in_either_unicode_form(tmp_path):
    one, two = "Jos\u00e9.png", "Jose\u0301.png"
    (tmp_path / "t.csv").write_text(f"file,age\n{one},60\n", encoding="utf-8")
    table = read_table(tmp_path / "t.csv")
    rows = RowFinder(table, "file", by_patient=False, relevant=["age"], images=[two])
    assert rows.find(two, None)["age"] == "60"


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_named(tmp_path, encoding):
    (tmp_path / "t.csv").write_text("file,who\na.png,Jos\u00e9\n", encoding=encoding)
    with pytest.raises(DataError, match="is not in UTF-8") as caught:
        read_table(tmp_path / "t.csv")
    assert "Save it" in caught.value.hint


def test_a_row_with_too_many_cells_is_named_by_its_line(tmp_path):
    (tmp_path / "t.csv").write_text("file,age,who\na.png,60,Ann\nb.png,67,5,Ann\n")
    with pytest.raises(DataError, match="line 3 has more cells than there are columns"):
        read_table(tmp_path / "t.csv")
