"""Label and patient of each image, by the options."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from pathlib import Path

import pytest

from medxlate.base.errors import DataError, UsageError
from medxlate.dataset.annotate import Annotator
from medxlate.dataset.index import COLUMNS
from medxlate.dataset.options import PrepareOptions
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
    with pytest.raises(UsageError, match="'ScanAge' is not a DICOM attribute"):
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
        ({"label": None}, "No label is given"),
        ({"label": "agee"}, r"no column 'agee' \(--label\).*'age'"),
        ({"patient": "whoo"}, r"no column 'whoo' \(--patient\).*'who'"),
        ({"keep": ("sexx",)}, r"no column 'sexx' \(--keep\).*'sex'"),
        ({"file": "fil"}, r"no column 'fil' \(--file\).*'file'"),
        ({"keep": ("age", "sexx")}, r"no column 'sexx' \(--keep\).*'sex'"),
        ({"patient": None}, "which images belong to the same patient.*--patient"),
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
    with pytest.raises(UsageError, match=f"already has its own column '{column}'"):
        Annotator(options, [PNG])


def test_a_pseudonym_is_the_keyed_hash_of_the_id():
    truth = hmac.new(b"key", b"P1", hashlib.sha256).hexdigest()
    assert pseudonym("P1", b"key") == "p" + truth[:16]
    assert pseudonym("P1", b"key") != pseudonym("P2", b"key")
    assert pseudonym("P1", b"key") != pseudonym("P1", b"other")


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
