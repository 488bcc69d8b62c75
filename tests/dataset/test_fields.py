"""Where a label or a patient comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from medxlate.base.errors import UsageError
from medxlate.dataset.fields import parse_field
from medxlate.images.scan import Format, FoundImage, Scan


def scan(format_: Format, *names: str) -> Scan:
    """A scan of these files."""
    files = tuple(FoundImage(Path(name), name, format_, False) for name in names)
    return Scan(names[0], format_, files)


PNG = scan("png", "a.png")
DICOM = scan("dicom", "a.dcm", "b.dcm")
NIFTI = scan("nifti", "a.nii.gz")


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
        ("regex:(", "not a valid regular expression"),
        ("tag:PatientAgee", "'PatientAgee' is not a DICOM attribute"),
        ("age", "'age' is not a DICOM attribute.*--labels"),
        ("column:age", "--patient column:age needs a table.*--labels"),
    ],
)
def test_a_field_that_cannot_be_is_wrong_use(text, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        parse_field(text, has_table=False, option="--patient")
    assert caught.value.exit_code == 2


def test_a_tag_may_be_a_json_key_only_where_there_are_volumes():
    field = parse_field("tag:Manufacturer2", has_table=False, option="--label", sidecars=True)
    assert field.value("a.nii", {}, {"Manufacturer2": "X"}) == "X"
    with pytest.raises(UsageError, match=r"'age' is not a DICOM attribute.*--labels"):
        parse_field("age", has_table=False, option="--label", sidecars=True)
