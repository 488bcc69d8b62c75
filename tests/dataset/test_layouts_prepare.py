"""Public layouts through the whole of ``prepare``, as their pages tell people to type it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_layouts import (
    write_bids,
    write_ct_ich_jpeg,
    write_ct_ich_nifti,
    write_head_neck,
    write_lgg,
)

from medxlate.dataset.index import Dataset
from medxlate.dataset.prepare import prepare

Expected = dict[str, tuple[str, float | None]]


def prepared(root: Path, data: Path, modality: str, layout: str) -> tuple[pd.DataFrame, Any]:
    prepare(root, modality=modality, data=data, layout=layout, size=32)
    opened = Dataset(data).modality(modality)
    return opened.slices, opened.info.recipe


def check(slices: pd.DataFrame, expected: Expected) -> None:
    """Every image with an age is there, with it; images of one patient share a pseudonym."""
    wanted = {name: age for name, (_, age) in expected.items() if age is not None}
    found = dict(zip(slices["file"], slices["label"], strict=True))
    assert found == pytest.approx(wanted)
    files = zip(slices["file"], slices["patient"], strict=True)
    people = {(expected[file][0], name) for file, name in files}
    assert len(people) == len({real for real, _ in people}) == len({name for _, name in people})


@pytest.mark.parametrize(
    ("write", "modality", "layout", "kind", "window"),
    [
        (write_lgg, "mri", "lgg-mri", "as-is", None),
        (write_ct_ich_jpeg, "ct", "ct-ich", "as-is", None),
        (write_ct_ich_nifti, "ct", "ct-ich", "ct", (40, 80)),
        (write_bids, "t1", "bids", "mr", None),
    ],
)
def test_a_public_layout(
    tmp_path: Path,
    write: Callable[[Path], Expected],
    modality: str,
    layout: str,
    kind: str,
    window: tuple[float, float] | None,
) -> None:
    expected = write(tmp_path / "raw")
    slices, recipe = prepared(tmp_path / "raw", tmp_path / "data", modality, layout)
    assert (recipe.kind, recipe.window) == (kind, window)
    check(slices, expected)


def test_pet_and_ct_of_one_patient_are_one_patient(tmp_path: Path) -> None:
    expected = write_head_neck(tmp_path / "raw")
    tables = {}
    for modality, kind in (("pet", "pet"), ("ct", "ct")):
        slices, recipe = prepared(tmp_path / "raw", tmp_path / "data", modality, "head-neck-pet-ct")
        assert recipe.kind == kind
        check(slices, expected[modality])
        tables[modality] = set(slices["patient"])
    both = {p for p, age in expected["pet"].values() if age is not None}
    both &= {p for p, age in expected["ct"].values() if age is not None}
    assert len(tables["pet"] & tables["ct"]) == len(both) > 0


def test_the_former_keyword_still_names_a_layout(tmp_path: Path) -> None:
    write_lgg(tmp_path / "raw")
    with pytest.warns(DeprecationWarning, match="layout"):
        prepare(tmp_path / "raw", modality="mri", data=tmp_path / "data", preset="lgg-mri", size=32)
    again = prepare(
        tmp_path / "raw", modality="mri", data=tmp_path / "data", layout="lgg-mri", size=32
    )
    assert again.state == "unchanged"
