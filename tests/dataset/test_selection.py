"""Choosing rows: as pandas' own query does, and nothing that pandas would run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tiny
from medxlate.base.errors import UsageError
from medxlate.base.records import read_object
from medxlate.dataset import links as links_module
from medxlate.dataset.index import Dataset, load_key
from medxlate.dataset.links import Link, find_links
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.dataset.selection import by_modality, parse_selection, selected
from medxlate.dataset.training_data import open_modalities
from medxlate.images.pseudonym import pseudonym
from studies import call, flat


def people(count: int = 300) -> pd.DataFrame:
    """Text columns as the index keeps them, and a label."""
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "sex": random.choice(["F", "M"], count),
            "site of scan": random.choice(["A", "B", "it's c"], count),
            "weight": [f"{value:.1f}" for value in random.uniform(40, 120, count)],
            "age": random.uniform(0, 100, count),
        }
    )


@pytest.mark.parametrize(
    "text",
    [
        "age >= 18",
        "18 <= age < 65",
        "age > -1 and weight > 60.5",
        'sex == "F" or `site of scan` in ["A", "it\'s c"]',
        "not (sex == 'F' and age < 40) and `site of scan` not in ('B',)",
        "age < weight",
        "not age > 50 or not sex != 'M'",
    ],
)
def test_the_rows_are_those_of_pandas_query(text: str) -> None:
    frame = people()
    mask = parse_selection(text).mask(frame)
    truth = frame.assign(weight=frame["weight"].astype(float)).query(text)
    assert 0 < len(truth) < len(frame)
    assert list(frame.index[mask]) == list(truth.index)


@pytest.mark.parametrize("text", ["`", "@age", "a & b", "#", "'", '"', "\\", "c0", "{}", "a`b`c"])
def test_a_text_is_a_text_whatever_stands_in_it(text: str) -> None:
    frame = pd.DataFrame({"sex": ["F", text, "M"], "age": [10.0, 20.0, 30.0]})
    assert list(parse_selection(f"sex == {text!r}").mask(frame)) == [False, True, False]
    assert list(parse_selection(f"sex in [{text!r}, 'M']").mask(frame)) == [False, True, True]


@pytest.mark.parametrize("kept", ["", "NA", "n/a", " nan "])
def test_a_row_without_a_value_is_never_selected(kept: str) -> None:
    frame = pd.DataFrame({"sex": ["F", kept, "M"], "age": [10.0, 20.0, 30.0]})
    assert list(parse_selection("sex != 'F'").mask(frame)) == [False, False, True]
    assert list(parse_selection("not sex == 'F'").mask(frame)) == [False, False, True]
    assert list(parse_selection("age > 0").mask(frame)) == [True, True, True]


@pytest.mark.parametrize(
    "text",
    [
        "age",
        "True",
        "1 == 1",
        "age >",
        "@limit < age",
        "age.max() > 3",
        "age.values > 3",
        "abs(age) > 3",
        "__import__('os').system('true')",
        "age > 3 & sex == 'F'",
        "age[0] > 3",
        "age + 1 > 3",
        "(age := 3) > 2",
        "age in sex",
        "age in [[1]]",
        "age in [1] in [True]",
        "age in [not 1]",
        "age == True",
        "age == None",
        "age == -'x'",
        "age is 3",
        "sex == f'{age}'",
        "lambda: age",
        "age > 3; age > 4",
        "age > 1e999",
        "age > " + "9" * 400,
        "age in []",
        "`age > 3",
        "",
        "(" * 400 + "age > 1" + ")" * 400,
        "age > 1" + " and age > 1" * 200,
    ],
)
def test_nothing_but_comparisons_of_columns_is_let_through(text: str) -> None:
    with pytest.raises(UsageError, match=r"expression|only comparisons"):
        parse_selection(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agee > 3", "no column 'agee'"),
        ("`site` == 'A'", "no column 'site'"),
        ("slice_id == 'A'", "no column 'slice_id'"),
        ("sex == 1", "compares text with a number: sex is text, 1 is a number"),
        ("weight == '70'", "compares text with a number"),
        ("sex in ['F', 1]", "compares text with a number"),
        ("sex < 'M'", "text has no order"),
        ("none == 'A'", "'none' is empty"),
    ],
)
def test_what_would_be_quietly_wrong_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_selection(text).mask(people().assign(none=""))


def test_the_nearest_column_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        parse_selection("wight > 60").mask(people())
    assert "'weight'" in caught.value.hint


def test_an_expression_holds_for_every_modality_or_for_the_one_that_it_names() -> None:
    found = by_modality(["age > 3", "ct: sex == 'a:b'", " mri :age < 9"], ["ct", "mri", "pet"])
    texts = {name: [each.text for each in some] for name, some in found.items()}
    assert texts == {
        "ct": ["age > 3", "sex == 'a:b'"],
        "mri": ["age > 3", "age < 9"],
        "pet": ["age > 3"],
    }
    with pytest.raises(UsageError, match="no modality 'mr'") as caught:
        by_modality(["mr: age > 3"], ["ct", "mri"])
    assert "'mri'" in caught.value.hint


# ----- A dataset -----


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny's dataset, of which ct alone knows the group."""
    root = tmp_path_factory.mktemp("tiny")
    data = tiny.write_dataset(root)
    prepare(root / "raw" / "ct", modality="ct", data=data, options=options(root, keep=("group",)),
            size=tiny.SIZE, overwrite=True)  # fmt: skip
    return data


def options(root: Path, **more: object) -> PrepareOptions:
    return PrepareOptions(
        labels=root / "raw" / "labels.csv",
        label="age",
        patient=rf"regex:({tiny.PREFIX}\d\d)",
        patient_column="patient",
        **more,  # type: ignore[arg-type]
    )


def patients(data: Path, numbers: range | list[int]) -> set[str]:
    key = load_key(data)
    return {pseudonym(tiny.patient_name(number), key) for number in numbers}


def test_every_modality_is_selected_and_each_can_be_alone(data: Path) -> None:
    limit = tiny.age_of(8)
    where = [f"age >= {limit}", "ct: group != 'old'"]
    config = tiny.debug_config(data, data={"where": where})
    tables = open_modalities(Dataset(data), config)
    assert set(tables["mri"].slices["patient"]) == patients(data, range(8, 12))
    wanted = [n for n in range(10, 22) if tiny.group_of(n) != "old"]
    assert set(tables["ct"].slices["patient"]) == patients(data, wanted)
    whole = Dataset(data).modality("ct")
    for row, slice_id in enumerate(tables["ct"].slices["slice_id"]):
        (at,) = whole.slices.index[whole.slices["slice_id"] == slice_id]
        np.testing.assert_array_equal(tables["ct"].pixels(row), whole.pixels(at))
    assert tables["ct"].fingerprint() != whole.fingerprint()


@pytest.mark.parametrize(
    ("where", "said", "hint"),
    [
        ("group == 'old'", "Modality mri: 'group == 'old'': there is no column 'group'", "--keep"),
        ("ct: grup == 'old'", "Modality ct: 'grup == 'old'': there is no column", "'group'"),
        ("age > 200", "'age > 200' selects none of the 24 images", "values"),
        ("ct: group == 'Old'", "selects none of the 24", "match exactly"),
        ("xray: age > 3", "no modality 'xray'", "ct"),
    ],
)
def test_a_selection_that_cannot_be_meant_is_refused(
    data: Path, where: str, said: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        open_modalities(Dataset(data), tiny.debug_config(data, data={"where": [where]}))
    assert said in caught.value.message
    assert hint in caught.value.hint


def test_who_is_joined_through_somebody_left_out_stays_joined(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 and 20 share images with 12 only, who is left out; 15 and 16 with each other."""
    names = {n: pseudonym(tiny.patient_name(n), load_key(data)) for n in range(22)}
    links = tuple(Link(names[a], names[b], "exact") for a, b in ((10, 12), (12, 20), (15, 16)))
    monkeypatch.setattr(links_module, "_kept", lambda *_: links)
    ct = Dataset(data).modality("ct")
    assert find_links({"ct": ct}, "patient") == tuple(sorted(links))
    where = by_modality([f"age != {tiny.age_of(12)}"], ["ct"])["ct"]
    found = find_links({"ct": selected(ct, where, label="age")}, "patient")
    pairs = {frozenset((link.patient, link.other)) for link in found}
    assert pairs == {frozenset((names[10], names[20])), frozenset((names[15], names[16]))}


def test_links_of_a_selection_are_read_and_not_searched(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links_module, "linked_patients", lambda *_: pytest.fail("searched"))
    config = tiny.debug_config(data, data={"where": ["age > 50"]})
    assert find_links(open_modalities(Dataset(data), config), "patient") == ()


def test_prepare_takes_what_is_selected_and_remembers_it(data: Path, tmp_path: Path) -> None:
    """By a column of the table that is not kept, and by the label."""
    root, out = data.parent, tmp_path / "data"
    where = ("group in ['old', 'young']", f"age >= {tiny.age_of(13)}")
    result = prepare(root / "raw" / "ct", modality="ct", data=out,
                     options=options(root, where=where), size=tiny.SIZE)  # fmt: skip
    wanted = [n for n in range(13, 22) if tiny.group_of(n) != "middle"]
    modality = Dataset(out).modality("ct")
    assert set(modality.slices["patient"]) == patients(out, wanted)
    assert "group" not in modality.slices
    assert result.left_out == {"not selected (--where)": 2 * (12 - len(wanted))}
    assert modality.info.where == where
    assert read_object(out / "ct" / "prepare.json", error=UsageError)["options"]["where"] == [
        *where
    ]
    again = prepare(root / "raw" / "ct", modality="ct", data=out,
                    options=options(root, where=where), size=tiny.SIZE)  # fmt: skip
    assert again.state == "unchanged"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("grup == 'old'", "no column 'grup' (--where). Did you mean 'group'?"),
        ("age > 200", "--where age > 200 selects none of 24 files"),
        ("group == 1", "compares text with a number"),
        ("group.str.len() > 3", "only comparisons"),
    ],
)
def test_prepare_refuses_what_cannot_be_meant(
    data: Path, tmp_path: Path, where: str, said: str
) -> None:
    root = data.parent
    words = ["prepare", root / "raw/ct", "--modality", "ct", "--labels", root / "raw/labels.csv",
             "--label", "age", "--patient", f"regex:({tiny.PREFIX}\\d\\d)", "--patient-column",
             "patient", "--data", tmp_path / "data", "--where", where]  # fmt: skip
    result = call(*words)
    assert result.exit_code == 2
    assert said in flat(result.stderr)
    assert not (tmp_path / "data" / "ct").exists()


def test_what_was_prepared_before_there_was_a_selection_is_read(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    info = read_object(folder / "dataset.json", error=UsageError)
    for name, each in info["modalities"].items():
        del each["where"]
        (folder / name / "modality.json").write_text(json.dumps(each))
    (folder / "dataset.json").write_text(json.dumps(info))
    assert Dataset(folder).modality("ct").info.where == ()
