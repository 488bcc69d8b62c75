"""Why nothing, or not all, can be used: the most frequent reasons, and what mends them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conftest import noise, save_raster
from medxlate.base.errors import DataError
from medxlate.dataset.reasons import by_reason, hint_of, in_words
from preparing import run, write_table

ROW = "tables/labels.csv has no row in column 'patient': '13.jpg'."
SEX = "the label is not a number: 'male'"
CLASSES = "For classes, add --task classification."
RECIPE = "the recipe 'ct' needs Hounsfield units, which the image lacks. Use --recipe mr"


def test_reasons_are_counted_whatever_file_and_number_they_name():
    failed = {
        "0.png": ROW,
        "1.png": SEX,
        "2.png": "the label is not a number: 'female'",
        "3.png": "all pixels are 7",
        "4.png": "all pixels are 9.5",
        "5.png": "the label is not a number: 'x'",
    }
    assert by_reason(failed) == [["1.png", "2.png", "5.png"], ["3.png", "4.png"], ["0.png"]]
    assert in_words(failed) == (
        f"3 files, such as 1.png: {SEX}; 2 files, such as 3.png: all pixels are 7; "
        f"1 file, 0.png: {ROW.rstrip('.')}"
    )
    many = {f"{i}.png": "word" * (i + 1) for i in range(5)}
    assert in_words(many).endswith("; 2 more files for 2 other reasons")


@pytest.mark.parametrize(
    ("counts", "hint"),
    [
        ({SEX: 3, ROW: 1}, CLASSES),
        ({ROW: 500, SEX: 3}, CLASSES),  # a table may list fewer files than there are
        ({"PNG is damaged: x": 9, ROW: 500, SEX: 3}, CLASSES),
        ({ROW: 3, "PNG is damaged: x": 9}, "Check --labels, --file and --patient."),
        ({RECIPE: 4, SEX: 3}, "Check --recipe, --window and --percentiles."),
        ({SEX: 4, RECIPE: 3}, CLASSES),
        ({"the label is missing": 2}, "Check --labels, --label and --file."),
        ({"the patient is unknown": 2}, "Check --patient, --labels and --file."),
        ({"PNG is damaged: x": 9}, ""),
    ],
)
def test_the_hint_is_that_of_the_most_frequent_reason_that_can_be_mended(
    counts: dict[str, int], hint: str
):
    reasons = [reason for reason, count in counts.items() for _ in range(count)]
    assert hint_of({f"{i}.png": reason for i, reason in enumerate(reasons)}) == hint


@pytest.mark.parametrize("listed", [5, 2])
def test_prepare_names_what_keeps_most_images_out(tmp_path: Path, listed: int):
    """As it was found: the first file has no row, on purpose; the others' label is a word."""
    raw = tmp_path / "raw"
    for number in range(6):
        save_raster(raw / f"{number}.png", noise(40, 40, seed=number))
    rows = [(f"{n}.png", "male" if n % 2 else "female", "Ann") for n in range(1, listed + 1)]
    write_table(raw / "t.csv", rows)
    with pytest.raises(DataError) as caught:
        run(raw, tmp_path / "data")
    said = caught.value.message
    assert re.search(rf"{listed} files, such as 1\.png: the label is not a number: 'male'", said)
    assert f"{6 - listed} file" in said
    assert "has no row" in said
    assert (said.index("not a number") < said.index("no row")) == (listed > 3)
    assert caught.value.hint == CLASSES
