"""People whose ids are written in several ways: through the command line, with known truth."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import tiny
from medxlate.artifacts.runs import RunFolder
from medxlate.base.errors import DataError
from medxlate.cli.app import app
from medxlate.dataset.division import draw_split
from medxlate.dataset.given_split import given_split
from medxlate.dataset.index import Dataset
from medxlate.dataset.leaks import check_no_leak
from medxlate.dataset.links import Link, find_links, patient_groups
from medxlate.dataset.spellings import fold, how_ids_count
from medxlate.dataset.splits import PARTS, Split
from medxlate.report.split_section import division_of

PEOPLE = range(1, 41)
WAYS = ("Pé-{:03d}", "Pé_{:03d}", "pé {}", "PÉ{:02d}", "pÉ.{}")
ONE = ["P-001", "P_001", "p 1", "P1", "p.01", " P-1 ", "\uff30\uff0d\uff11"]


def spelled(person: int, way: int) -> str:
    """One of five spellings, in NFC or NFD."""
    return unicodedata.normalize(("NFC", "NFD")[person % 2], WAYS[way % 5].format(person))


def picture(path: Path, seed: int) -> None:
    tiny.save(path, tiny.noise(32, 32, seed=seed))


def prepare(root: Path, name: str, table: str, *more: str, code: int = 0):
    command = [
        "prepare", root / name, "--modality", name, "--data", root / "data", "--labels",
        root / table, "--label", "age", "--size", 32, "--workers", 1, *more,
    ]  # fmt: skip
    result = CliRunner().invoke(app, list(map(str, command)))
    assert result.exit_code == code, result.output
    return result


def by_file(root: Path, name: str, ids: dict[str, str], *more: str, code: int = 0):
    """Prepare images with these ids, a row an image, in a table."""
    for number, file in enumerate(ids):
        picture(root / name / file, hash_of(name) + number)
    pd.DataFrame(
        [(file, number % 60 + 20, who) for number, (file, who) in enumerate(ids.items())],
        columns=["file", "age", "who"],
    ).to_csv(root / f"{name}.csv", index=False)
    return prepare(
        root, name, f"{name}.csv", "--file", "file", "--patient", "who", *more, code=code
    )


def hash_of(name: str) -> int:
    return 1000 * sum(map(ord, name))


def opened(root: Path):
    dataset = Dataset(root / "data")
    return {name: dataset.modality(name) for name in dataset.info.modalities}


def sides(root: Path, target: str = "ct", seed: int = 0) -> dict[str, set[str]]:
    """Draw a split, check it, and return the parts of each person, whom the files name."""
    tables = opened(root)
    slices = {name: each.slices for name, each in tables.items()}
    config = tiny.debug_config(root / "data", split={"seed": seed}).split
    links = find_links(tables, "patient")
    split = draw_split(slices, target=target, config=config, links=links)
    check_no_leak(split, slices, links)
    found: dict[str, set[str]] = {}
    for table in slices.values():
        for file, patient in zip(table["file"], table["patient"], strict=True):
            person = re.search(r"person(\d+)", file)[1]
            found.setdefault(person, set()).update(p for p in PARTS if patient in split.parts[p])
    return found


def on_two_sides(root: Path, **options) -> int:
    return sum(len(parts) > 1 for parts in sides(root, **options).values())


def write_forty(root: Path, *more: str) -> list:
    """Two images of each person in CT and in MRI, whose ids take turns in five spellings."""
    results = []
    for shift, name in enumerate(("ct", "mri")):
        ids = {
            f"person{person:02d}_{image}.png": spelled(person, person // 2 + image + shift)
            for person in PEOPLE
            for image in range(2)
        }
        results.append(by_file(root, name, ids, *more))
    return results


def test_forty_people_in_five_spellings_are_forty_patients(tmp_path: Path) -> None:
    results = write_forty(tmp_path)
    info = Dataset(tmp_path / "data").info.modalities
    assert [info[name].patients for name in ("ct", "mri")] == [40, 40]
    for seed in range(5):
        assert on_two_sides(tmp_path, seed=seed) == 0
    assert "40 patients are spelled in several ways (40 in these files)" in flat(results[0].output)
    assert "40 in these files, " in flat(results[1].output)
    assert "differently in ct" in flat(results[1].output)
    assert "--distinct-ids" in results[0].output
    record = json.loads((tmp_path / "data" / "mri" / "prepare.json").read_text())
    assert len(record["respelled"]) == 40
    assert {len(each["files"]) for each in record["respelled"]} == {2}
    tables = opened(tmp_path)
    counted = how_ids_count({name: each.slices for name, each in tables.items()})
    assert counted.startswith("Patient IDs of ct and mri that differ only in case")


def flat(text: str) -> str:
    return " ".join(text.split())


def test_distinct_ids_put_them_on_two_sides(tmp_path: Path) -> None:
    """The test's own check of ``on_two_sides``: as it was before spellings counted as one."""
    write_forty(tmp_path, "--distinct-ids")
    assert Dataset(tmp_path / "data").info.modalities["ct"].patients == 80
    assert on_two_sides(tmp_path) > 10
    counted = how_ids_count({name: each.slices for name, each in opened(tmp_path).items()})
    assert counted == "Patient IDs of ct and mri were taken literally."


def test_no_id_is_kept_or_exported(tmp_path: Path) -> None:
    write_forty(tmp_path)
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file() and path.name != "identifiers.json":
            text = unicodedata.normalize("NFC", path.read_bytes().decode("utf-8", "replace"))
            assert not re.search("(?i)pé[-_ .]?0?1", text), path
            assert "\\u00e9" not in text, path


def test_tables_from_which_a_spreadsheet_dropped_zeros(tmp_path: Path) -> None:
    """Folders 001 to 040; the table of ages has 1 to 40, and MRI takes its ids from it."""
    for person in PEOPLE:
        picture(tmp_path / "ct" / f"{person:03d}" / f"person{person}.png", person)
    pd.DataFrame({"id": list(PEOPLE), "age": [20 + person for person in PEOPLE]}).to_excel(
        tmp_path / "ages.xlsx", index=False
    )
    result = prepare(
        tmp_path, "ct", "ages.xlsx", "--patient", "folder:1", "--patient-column", "id", "--json"
    )
    assert json.loads(result.stdout)["images"] == 40
    assert len(json.loads(result.stdout)["notes"]) == 40
    table = opened(tmp_path)["ct"].slices
    ages = dict(zip(table["file"], table["label"], strict=True))
    assert ages == {f"{p:03d}/person{p}.png": 20 + p for p in PEOPLE}
    by_file(tmp_path, "mri", {f"person{person}.png": str(person) for person in PEOPLE})
    assert on_two_sides(tmp_path) == 0
    together = set(table["patient"]) & set(opened(tmp_path)["mri"].slices["patient"])
    assert len(together) == 40


def test_rows_of_one_patient_in_two_spellings_may_not_contradict(tmp_path: Path) -> None:
    for person in (1, 2, 3):
        picture(tmp_path / "ct" / f"{person:02d}" / "a.png", person)
    rows = [("1", 30), ("001", 31), ("2", 40), ("002", 40), ("3", 50)]
    pd.DataFrame(rows, columns=["id", "age"]).to_csv(tmp_path / "t.csv", index=False)
    more = ("--patient", "folder:1", "--patient-column", "id")
    found = json.loads(prepare(tmp_path, "ct", "t.csv", *more, "--json").stdout)
    assert "several spellings of one ID" in found["skipped"]["01/a.png"]
    assert found["images"] == 2


def test_distinct_ids_keep_two_patients_apart(tmp_path: Path) -> None:
    ids = {f"person{n}.png": who for n, who in enumerate(["P-1", "P_1", "\u00e9", "y", "z"])}
    by_file(tmp_path, "ct", ids, "--distinct-ids")
    by_file(tmp_path, "mri", {"a.png": "P-1", "b.png": "e\u0301"}, "--distinct-ids")  # NFD
    tables = opened(tmp_path)
    ct, mri = (tables[name].slices["patient"].tolist() for name in ("ct", "mri"))
    assert len(set(ct)) == 5
    assert mri == [ct[0], ct[2]]
    assert find_links(tables, "patient") == ()


def test_strict_refuses_two_spellings_and_says_which(tmp_path: Path) -> None:
    ids = {"person1.png": "P-1", "person2.png": "p1", "person3.png": "P12"}
    refused = by_file(tmp_path, "ct", ids, "--strict", code=1)
    assert "'P-1' = 'p1'" in flat(refused.output)
    assert not (tmp_path / "data" / "ct").exists()
    dry = prepare(
        tmp_path, "ct", "ct.csv", "--file", "file", "--patient", "who", "--strict", "--dry-run",
        code=1,
    )  # fmt: skip
    assert "'P-1' = 'p1'" in flat(dry.output)
    by_file(tmp_path, "ct", ids)
    again = prepare(
        tmp_path, "ct", "ct.csv", "--file", "file", "--patient", "who", "--strict", code=1
    )  # what is there already
    assert "1 patient are spelled in several ways" in flat(again.output)
    by_file(tmp_path, "mri", {"person1.png": "p 001"}, "--strict", code=1)
    by_file(tmp_path, "mri", {"person1.png": "p 001"}, "--strict", "--distinct-ids")


def test_a_file_a_patient_is_taken_as_it_is_called(tmp_path: Path) -> None:
    names = ["a-1.png", "a_1.png", "A1.png"]
    for number, name in enumerate(names):
        picture(tmp_path / "ct" / name, number)
    pd.DataFrame({"file": names, "age": [30, 40, 50]}).to_csv(tmp_path / "t.csv", index=False)
    prepare(tmp_path, "ct", "t.csv", "--file", "file", "--patient", "file", "--strict")
    assert Dataset(tmp_path / "data").info.modalities["ct"].patients == 3


MIXED = [("--distinct-ids", ""), ("", "--distinct-ids"), ("older", ""), ("older", "--distinct-ids")]


@pytest.mark.parametrize(("first", "second"), MIXED)
def test_modalities_of_two_kinds_leave_nobody_on_two_sides(
    tmp_path: Path, first: str, second: str
) -> None:
    """The same ids in both; only one of them takes two for one patient's, or nobody looked."""
    ids = {
        f"person{person}_{way}.png": WAYS[way].format(person)
        for person in range(1, 9)
        for way in (0, 3)
    }
    by_file(tmp_path, "mri", ids, *filter(str.strip, [first.replace("older", "--distinct-ids")]))
    if first == "older":
        path = tmp_path / "data" / "mri" / "slices.parquet"
        pd.read_parquet(path).drop(columns="folded_id").to_parquet(path, index=False)
    result = by_file(tmp_path, "ct", ids, *filter(None, [second]))
    if first == "older":
        assert "spellings of patient IDs in mri cannot be matched" in flat(result.output)
        said = how_ids_count({name: each.slices for name, each in opened(tmp_path).items()})
        assert "one id: an older version of medxlate prepared it" in said
    merged = "" in (first, second)
    for seed in range(5):
        assert (on_two_sides(tmp_path, seed=seed) == 0) or not merged
    tables = opened(tmp_path)
    files = {
        name: dict(zip(each.slices["file"], each.slices["patient"], strict=True))
        for name, each in tables.items()
    }
    links = find_links(tables, "patient")
    groups = patient_groups([each.slices for each in tables.values()], links)
    group = {patient: number for number, each in enumerate(groups) for patient in each}
    for file in ids:  # the same id, letter by letter, is one patient whatever the modalities are
        assert group[files["ct"][file]] == group[files["mri"][file]]


def test_a_leak_under_two_spellings_is_refused() -> None:
    split = Split({"train": ("a",), "val": (), "test": ("b",)}, 0)
    table = pd.DataFrame({"patient": ["a", "b"]})
    with pytest.raises(DataError, match="under two spellings of the same ID"):
        check_no_leak(split, {"ct": table}, [Link("a", "b", "id")])


@pytest.mark.parametrize("kind", ["folded", "distinct", "older", "leak"])
def test_a_report_claims_what_was_looked_up(tmp_path: Path, kind: str) -> None:
    more = ["--distinct-ids"] * (kind == "distinct")
    by_file(tmp_path, "mri", {f"person{n}.png": f"P-{n}" for n in (1, 2, 3)}, *more)
    later = ["--distinct-ids"] * (kind in ("distinct", "leak"))
    by_file(tmp_path, "ct", {f"person{n}.png": f"P_{n}" for n in (1, 2, 3)}, *later)
    if kind == "older":
        path = tmp_path / "data" / "ct" / "slices.parquet"
        pd.read_parquet(path).drop(columns="folded_id").to_parquet(path, index=False)
    tables = opened(tmp_path)
    ct, mri = (tables[name].slices["patient"].tolist() for name in ("ct", "mri"))
    parts = {part: sorted({ct[n], mri[n - (kind == "leak")]}) for n, part in enumerate(PARTS)}
    split = Split({part: tuple(units) for part, units in parts.items()}, 0)
    run = RunFolder(tmp_path / "run")
    run.split.parent.mkdir(parents=True)
    prints = {name: table.fingerprint() for name, table in tables.items()}
    run.split.write_text(json.dumps({**split.to_json(), "slices": prints}))
    config = tiny.debug_config(tmp_path / "data")
    found = division_of(run, config)
    if kind == "leak":
        assert found.leak == (
            "The split leaks: 3 pairs of patients in two parts with one ID in two spellings."
        )
        return
    claims = {
        "folded": "No patient is in two parts, whatever the modality",
        "distinct": "Patient IDs of ct and mri were taken literally",
        "older": "Patient IDs of ct were not checked for different spellings",
    }
    assert found.leak == ""
    assert claims[kind] in found.body
    assert ("No patient is in two parts" in found.body) == (kind != "older")


def test_a_given_split_finds_patients_by_any_spelling(tmp_path: Path) -> None:
    by_file(tmp_path, "ct", {f"person{n}.png": f"P-{n:03d}" for n in (1, 2, 3)})
    table = opened(tmp_path)["ct"].slices
    parts = {"train": ["p1"], "val": ["P_2"], "test": ["P3"]}
    split = given_split(tmp_path / "data", ["ct"], parts)
    assert [split.parts[part] for part in PARTS] == [(name,) for name in table["patient"]]
    with pytest.raises(DataError, match="lists a patient twice"):
        given_split(tmp_path / "data", ["ct"], {**parts, "test": ["P3", "p-1"]})


def test_a_broken_column_is_a_clear_error(tmp_path: Path) -> None:
    by_file(tmp_path, "ct", {"person1.png": "1"})
    path = tmp_path / "data" / "ct" / "slices.parquet"
    pd.read_parquet(path).assign(folded_id="who").to_parquet(path, index=False)
    with pytest.raises(DataError, match="invalid folded_id"):
        opened(tmp_path)


def test_spellings_of_one_id_fold_alike() -> None:
    assert {fold(text) for text in ONE} == {"p1"}
    assert fold("DOE^JOHN") == fold("Doe, John") == "doejohn"
    assert fold("STRASSE") == fold("Straße")
    assert fold("\u0663") == fold("3") == fold("03")  # an Arabic three
    assert fold("000") == fold("0") == "0"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10", "1"), ("100", "10"), ("P1-2", "P12"), ("P1-2", "P1"), ("P-1", "P-10"),
        ("1.2.3", "1.23"), ("A1", "B1"), ("P1A", "P1B"), ("P1a2", "P12"), ("-", "_"), ("", "0"),
        ("M\udce9", "M\udce8"), ("é", "e"), ("0", "00a"), ("site1/01", "site 11"),
    ],
)  # fmt: skip
def test_different_ids_stay_different(one: str, other: str) -> None:
    assert fold(one) != fold(other)


def test_a_number_that_a_table_wrote_with_a_point_is_the_same_patient() -> None:
    assert fold("12.0") == fold("12") == fold("012.0")
    assert fold("12.1") != fold("12") != fold("120")
    assert fold("P12.0") != fold("P12")  # a version, or a part


def test_numbers_stay_distinct_patients(tmp_path: Path) -> None:
    whose = [str(n) for n in range(1, 31)] + ["P1-2", "P12", "P1", "P2", "P1-20", "P120"]
    by_file(tmp_path, "ct", {f"person{n}.png": who for n, who in enumerate(whose)}, "--strict")
    assert Dataset(tmp_path / "data").info.modalities["ct"].patients == len(whose)
    assert len(np.unique(opened(tmp_path)["ct"].slices["folded_id"])) == len(whose)
