"""A split of named patients: who is where, and what cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

import tiny
from medxlate.base.errors import DataError
from medxlate.dataset import given_split as module
from medxlate.dataset.given_split import given_split
from medxlate.dataset.index import Dataset, load_key
from medxlate.dataset.links import Link
from medxlate.dataset.splits import Part, Split
from medxlate.images.pseudonym import pseudonym

NAMES = [tiny.patient_name(number) for number in range(22)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_dataset(tmp_path_factory.mktemp("tiny"))


def draw(
    data: Path, train: Sequence[str] = NAMES[:16], val: Sequence[str] = NAMES[16:18],
    test: Sequence[str] = NAMES[18:],
) -> Split:  # fmt: skip
    parts: dict[Part, Sequence[str]] = {"train": train, "val": val, "test": test}
    return given_split(data, ("mri", "ct"), parts)


def test_patients_are_where_they_are_named(data: Path):
    split, key = draw(data), load_key(data)
    assert set(split.parts["val"]) == {pseudonym(name, key) for name in NAMES[16:18]}
    slices = Dataset(data).modality("ct").slices
    assert len(split.rows("ct", slices, "test")) == 4 * 2  # two slices of each


def test_who_shares_an_image_goes_to_the_latest_part(data: Path, monkeypatch: pytest.MonkeyPatch):
    key = load_key(data)
    one, two, three = (pseudonym(NAMES[n], key) for n in (3, 16, 20))
    links = [Link(one, two, "near"), Link(two, three, "exact")]
    monkeypatch.setattr(module, "find_links", lambda *_: links)
    assert {one, two, three} <= set(draw(data).parts["test"])
    monkeypatch.setattr(module, "find_links", lambda *_: links[:1])
    split = draw(data)
    assert {one, two} <= set(split.parts["val"])
    assert three in split.parts["test"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"val": [*NAMES[16:18], NAMES[0]]},
            r"lists a patient twice: positions \[1, 19\] of train",
        ),
        (
            {"val": [*NAMES[16:18], "Nobody"]},
            "1 patient of the split could not be found in .* position 19 of",
        ),
        ({"test": NAMES[19:]}, "1 of 22 patients"),
    ],
)
def test_what_cannot_be_is_refused(data: Path, change: dict[str, Sequence[str]], said: str):
    with pytest.raises(DataError, match=said) as caught:
        draw(data, **change)
    assert tiny.PREFIX not in str(caught.value)
