"""From the text of a label to its value."""

from __future__ import annotations

import pytest

from medxlate.base.errors import DataError
from medxlate.dataset.labels import parse_label


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
    with pytest.raises(DataError, match="a decimal point or a thousands"):
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
