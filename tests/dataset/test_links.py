"""The links that prepare keeps, against a search over all slices; starts that need none."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tiny
from medxlate.base.errors import DataError
from medxlate.dataset import links
from medxlate.dataset.division import draw_split
from medxlate.dataset.duplicates import Duplicate
from medxlate.dataset.index import Dataset
from medxlate.dataset.leaks import check_no_leak
from medxlate.dataset.links import FILE, Link, find_links, linked_patients, links_of
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.dataset.splits import PARTS
from medxlate.dataset.training_data import make_data, open_modalities

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "scaling.py"
NAMES = ("ct", "mri", "pet")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three modalities of six patients each, with scans filed under two ids.

    The same picture is in ct of patient 0, mri of 11 and pet of 22; another in pet of 23 and 24;
    a third, once noisy, in ct of 1 and mri of 12.
    """
    pictures = {
        (name, 10 * which + number): tiny.noise(32, 32, seed=100 * which + number)
        for which, name in enumerate(NAMES)
        for number in range(6)
    }
    pictures["mri", 11] = pictures["pet", 22] = pictures["ct", 0]
    pictures["pet", 24] = pictures["pet", 23]
    pictures["mri", 12] = np.clip(pictures["ct", 1].astype(int) + 1, 0, 255).astype(np.uint8)
    for (name, patient), pixels in pictures.items():
        tiny.save(tmp_path / "raw" / name / f"p{patient:02d}.png", pixels)
    ages = "\n".join(f"p{number:02d},{20 + number}" for number in range(30))
    (tmp_path / "ages.csv").write_text(f"patient,age\n{ages}\n")
    for name in NAMES:
        prepared(tmp_path, name)
    return tmp_path / "data"


def prepared(root: Path, name: str, **options) -> None:
    given = PrepareOptions(
        labels=root / "ages.csv", label="age", patient=r"regex:(p\d\d)", patient_column="patient"
    )
    prepare(
        root / "raw" / name, modality=name, data=root / "data", options=given, size=32, **options
    )


def opened(data: Path, *names: str):
    return {name: Dataset(data).modality(name) for name in names}


def joined(links) -> set[frozenset[str]]:
    """The groups of patients that links join."""
    groups: list[set[str]] = []
    for link in links:
        new = {link.patient, link.other}
        touched = [group for group in groups if group & new]
        groups = [group for group in groups if not group & new] + [new.union(*touched)]
    return {frozenset(group) for group in groups}


@pytest.mark.parametrize(
    "names", [("ct",), ("pet",), ("ct", "mri"), ("mri", "pet"), ("ct", "pet"), NAMES]
)
def test_kept_links_join_whom_a_search_joins(data: Path, names, monkeypatch) -> None:
    tables = opened(data, *names)
    truth = linked_patients(modality.slices for modality in tables.values())
    assert len(joined(truth)) == {1: 0, 2: 1, 3: 2}[len(names)] + ("pet" in names) + (
        names == ("ct", "mri")
    )
    monkeypatch.setattr(links, "shared_images", lambda rows: pytest.fail("searched"))
    assert joined(find_links(tables, "patient")) == joined(truth)
    assert find_links(tables, "image") == ()


def test_a_split_is_the_same_with_kept_links(data: Path) -> None:
    tables = opened(data, *NAMES)
    slices = {name: modality.slices for name, modality in tables.items()}
    config = tiny.debug_config(data).split
    kept = find_links(tables, "patient")
    split = draw_split(slices, target="ct", config=config, links=kept)
    assert split == draw_split(slices, target="ct", config=config)
    check_no_leak(split, slices, kept)
    one = tables["pet"].slices["patient"][3], tables["pet"].slices["patient"][4]
    parts = {part: set(split.parts[part]) - set(one) for part in PARTS}
    apart = {**parts, "train": parts["train"] | {one[0]}, "test": parts["test"] | {one[1]}}
    leaking = type(split)({part: tuple(sorted(apart[part])) for part in PARTS}, 0)
    with pytest.raises(DataError, match="An identical image is in both train and test"):
        check_no_leak(leaking, slices, kept)


def test_a_modality_that_was_prepared_anew_is_looked_at_anew(data: Path, tmp_path: Path) -> None:
    for patient in (22, 25):
        tiny.save(tmp_path / "raw" / "pet" / f"p{patient}.png", tiny.noise(32, 32, seed=999))
    prepared(tmp_path, "pet", overwrite=True)
    tables = opened(data, *NAMES)
    truth = linked_patients(modality.slices for modality in tables.values())
    assert joined(find_links(tables, "patient")) == joined(truth)
    assert len(joined(truth)) == 4


@pytest.mark.parametrize("case", ["changed", "missing"])
def test_links_that_do_not_hold_any_more_are_searched(data: Path, case: str, monkeypatch) -> None:
    if case == "missing":  # as an older medxlate left it
        (data / "ct" / FILE).unlink()
    else:
        path = data / "ct" / "slices.parquet"
        table = pd.read_parquet(path)
        table.loc[4, "pixel_hash"] = table.loc[5, "pixel_hash"]
        table.to_parquet(path, index=False)
    tables = opened(data, "ct")
    truth = linked_patients([tables["ct"].slices])
    assert len(truth) == (case == "changed")
    assert find_links(tables, "patient") == truth


def test_a_damaged_file_is_a_clear_error(data: Path) -> None:
    (data / "ct" / FILE).write_text(json.dumps({"with": {"ct": 3}}))
    with pytest.raises(DataError, match=r"links\.json is damaged"):
        find_links(opened(data, "ct"), "patient")


def test_an_exact_duplicate_outweighs_a_near_one() -> None:
    def pair(kind, one: str, other: str) -> Duplicate:
        return Duplicate(kind, 0, "ct", "a.png", one, "ct", "b.png", other)

    found = links_of([pair("exact", "b", "a"), pair("near", "a", "b"), pair("near", "c", "b")])
    assert found == (Link("a", "b", "exact"), Link("b", "c", "near"))


# --- starts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["patient", "image"])
def test_a_start_with_100_000_slices_takes_no_second(tmp_path: Path, policy: str) -> None:
    """About 0.2 s of one core, imports aside; a search over all pairs would take minutes."""
    spec = importlib.util.spec_from_file_location("scaling", BENCHMARK)
    scaling = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scaling)
    data = scaling.write_scaled(tmp_path / "data", slices=100_000, size=64, sparse=True)
    config = tiny.debug_config(data, split={"policy": policy}, data={"source_fraction": 0.5})
    began = time.process_time()
    dataset = Dataset(data)
    tables = open_modalities(dataset, config)
    links = find_links(tables, config.split.policy)
    slices = {name: modality.slices for name, modality in tables.items()}
    split = draw_split(slices, target="ct", config=config.split, links=links)
    made = make_data(dataset, tables, split, config)
    assert time.process_time() - began < 1
    assert len(made.train["ct"]) + len(made.train["mri"]) > 50_000
