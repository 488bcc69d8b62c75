"""The designs of a study: who is drawn anew in a repeat, who stays, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chisquare

import tiny
from medxlate.base.errors import DataError, MedxlateError, UsageError
from medxlate.dataset.index import Dataset, load_key
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.dataset.splits import PARTS, training_share
from medxlate.dataset.training_data import open_modalities
from medxlate.images.pseudonym import pseudonym
from medxlate.study.begin import Grid, plan_study
from medxlate.study.compare import Where, compare
from medxlate.study.designs import draw_splits
from medxlate.study.plan import plan
from medxlate.study.study import cells, read_study
from studies import BRIEF, Heard, Run, assert_same, call, carry_out, dataset, demo_dataset, flat

POOL, VALIDATED, TESTED = 7, 2, 3  # of the demo's 12 CT patients
NUMBERS = (4, 2)
FEW = {"test_patients": TESTED, "val_patients": VALIDATED, "sources": "all"}
METHODS = ("constant", "target-only", "raw-mix", "cyclegan", "transfer")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_dataset(tmp_path_factory)


@pytest.fixture(scope="module")
def redrawn(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = tiny.debug_config(data, optimizer=BRIEF, split=FEW)
    wanted = Grid(METHODS, ("mri",), repeats=3, target_patients=NUMBERS)
    return carry_out(config, wanted, tmp_path_factory.mktemp("redrawn") / "compare")


# ----- Redrawn -----


def test_patients_who_test_and_validate_stay_and_training_patients_are_drawn(redrawn: Run) -> None:
    tested = redrawn.predictions.groupby(["repeat", "method"])["patient"].agg(frozenset)
    assert len(set(tested)) == 1
    assert len(tested.iloc[0]) == TESTED
    validated = {frozenset(t.data.val["ct"].patients) for t in redrawn.trainings}
    assert len(validated) == 1
    assert len(next(iter(validated))) == VALIDATED
    drawn: dict[tuple[int, int], set[frozenset[str]]] = {}
    for training in redrawn.trainings:
        number = round(training.config.data.target_fraction * POOL)
        patients = frozenset(training.patients("ct"))
        if training.config.method != "source-only":
            drawn.setdefault((training.config.runtime.seed, number), set()).add(patients)
            assert not patients & (set(tested.iloc[0]) | set(next(iter(validated))))
    assert {key: len(found) for key, found in drawn.items()} == {
        (draw, number): 1 for draw in range(3) for number in NUMBERS
    }
    one = {key: next(iter(found)) for key, found in drawn.items()}
    assert {len(found) for (_, number), found in one.items() if number == 2} == {2}
    assert all(one[draw, 2] < one[draw, 4] for draw in range(3))
    assert len({one[draw, 4] for draw in range(3)}) == 3


def test_every_source_patient_trains_but_those_held_out(redrawn: Run, data: Path) -> None:
    mri = Dataset(data).modality("mri").slices
    split = json.loads((redrawn.folder / "splits" / "r00.json").read_text())["patients"]
    held = set(split["val"]) | set(split["test"])
    everyone = set(mri["patient"])
    assert len(everyone & held) == 2  # of 12, 5 % and 10 %: one each
    for training in redrawn.trainings:
        if "mri" in training.data.train:
            assert training.patients("mri") == everyone - held
    counted = redrawn.results[redrawn.results["method"] == "raw-mix"]["source_patients"]
    assert set(counted) == {10}


def test_the_results_say_design_and_pool(redrawn: Run) -> None:
    results = pd.read_csv(redrawn.folder / "results.csv")
    assert set(results["design"]) == {"redrawn"}
    assert set(results["pool_patients"]) == {POOL}
    assert set(results["test_patients"]) == {TESTED}
    assert set(results["repeat"]) == {0, 1, 2}
    np.testing.assert_allclose(results["target_fraction"] * POOL, results["train_patients"])
    assert set(results["train_patients"]) == set(NUMBERS)
    assert read_study(redrawn.folder).design == "redrawn"


def test_console_and_plan_speak_of_patients_and_draws(redrawn: Run, data: Path) -> None:
    shown = call("compare", "--out", redrawn.folder).stdout
    (heads,) = (line for line in shown.splitlines() if "method" in line and "std" in line)
    assert heads.replace("┃", " ").split()[:3] == ["method", "patients", "error"]
    assert "cells: 3" in shown  # in each row
    rows = [line.replace("│", " ").split() for line in shown.splitlines()]
    assert {row[1] for row in rows if row[:1] == ["target-only"]} == {"2", "4"}
    words = ["plan", "--target", "ct", "--source", "mri", "--data", data, "--preset", "debug"]
    words += ["--method", "target-only", "--method", "raw-mix", "--device", "cpu", "--json"]
    words += ["--target-patients", "2,4", "--draws", 5, "--test-patients", 3, "--val-patients", 2]
    outlook = json.loads(call(*words, "--spread-from", redrawn.folder).stdout)["outlook"]
    assert (outlook["test_patients"], outlook["pool_patients"]) == (TESTED, POOL)
    assert outlook["source"].endswith("with 4 target patients, 3 draws")
    assert outlook["sentences"][0].startswith(
        "With 3 test patients and 5 draws, the study finds only differences"
    )
    assert "more draws" in outlook["sentences"][2]


def test_what_cells_of_a_draw_share_is_trained_once(redrawn: Run) -> None:
    counted = Counter(each.config.method for each in redrawn.trainings)
    assert counted["translator"] == 3 * len(NUMBERS)
    assert counted["source-only"] == 3  # it knows nothing of the target, but begins with the seed
    assert counted["cyclegan"] == counted["target-only"] == 3 * len(NUMBERS)


def test_other_tools_learn_whom_to_train_on(redrawn: Run) -> None:
    for draw in range(3):
        table = pd.read_csv(redrawn.folder / "splits" / f"r{draw:02d}.csv", dtype=str)
        who = table.groupby("part")["patient"].nunique().to_dict()
        assert who == {"train": 4, "unused": POOL - 4, "val": VALIDATED, "test": TESTED}
        largest = next(
            t for t in redrawn.trainings
            if t.config.runtime.seed == draw and t.config.data.target_fraction == 4 / POOL
        )  # fmt: skip
        assert set(table["patient"][table["part"] == "train"]) == largest.patients("ct")


def test_each_patient_of_the_pool_is_drawn_equally_often(data: Path) -> None:
    """Over 700 draws of 2 of 7, against the uniform distribution; and all pairs come up."""
    config = tiny.debug_config(data, split=FEW)
    study = plan_study(config, Grid(("constant",), repeats=700, target_patients=(2,)))
    folder = Dataset(data)
    tables = open_modalities(folder, study.config)
    slices = tables["ct"].slices
    pairs: Counter[frozenset[str]] = Counter()
    splits = draw_splits(study, folder, tables)
    assert len({split.parts["train"] for split in splits}) == 1
    for split in splits:
        rows = split.rows("ct", slices, "train")
        kept = training_share(split, "ct", slices, rows, study.target_fractions[0])
        pairs[frozenset(slices["patient"].iloc[kept])] += 1
    assert len(pairs) == POOL * (POOL - 1) // 2
    assert chisquare(list(pairs.values())).pvalue > 0.001


def test_a_draw_for_classes_has_every_class(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = dataset(tmp_path_factory, "classification")
    split = {"test_patients": 5, "val_patients": 1, "seed": 0}
    for seed in range(20):  # a seed whose test part has every class
        config = tiny.debug_config(data, split={**split, "seed": seed})
        study = plan_study(config, Grid(("constant",), repeats=20, target_patients=(3,)))
        folder = Dataset(data)
        tables = open_modalities(folder, study.config)
        slices, splits = tables["ct"].slices, draw_splits(study, folder, tables)
        rows = splits[0].rows("ct", slices, "test")
        if set(slices["label"].iloc[rows]) == set(tiny.GROUP.classes):
            break
    assert len({each.seed for each in splits}) == 20
    for each in splits:
        rows = training_share(each, "ct", slices, each.rows("ct", slices, "train"), 0.5)
        assert set(slices["label"].iloc[rows]) == set(tiny.GROUP.classes)


def test_killed_cell_by_cell_and_in_processes_the_numbers_are_the_same(
    redrawn: Run, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "compare"
    sets = ["split.sources=all", "optimizer.epochs=1", "optimizer.steps_per_epoch=1"]
    words = [
        *("compare", "--target", "ct", "--source", "mri", "--method", "constant", "--data", data),
        *("--method", "target-only", "--preset", "debug", "--device", "cpu", "--out", out),
        *(word for each in sets for word in ("--set", each)),
        *("--target-patients", "2,4", "--draws", 3, "--test-patients", 3, "--val-patients", 2),
    ]
    assert call(*words, "--cell", 1).exit_code == 0
    assert [path.name for path in (out / "cells").iterdir() if path.name[0] != "."] == [
        cells(read_study(out))[1].name
    ]
    heard = Heard()
    found = compare(out=out, where=Where(jobs=2), listener=heard)
    assert len(heard.cells) == len(cells(read_study(out))) - 1 == 11
    assert_same(found.findings, redrawn.result.findings, quality=False)
    again = call(*words, "--json")
    assert json.loads(again.stdout)["training_seconds"] == 0
    other = call(*[4 if word == 3 else word for word in words])
    assert other.exit_code == 1
    assert "was started with another configuration" in flat(other.stderr)


def test_many_of_the_pool_are_drawn_with_a_warning(data: Path, tmp_path: Path) -> None:
    heard = Heard()
    config = tiny.debug_config(data, split=FEW)
    wanted = Grid(("constant",), repeats=1, target_patients=(4,))
    compare(config, wanted, out=tmp_path / "many", listener=heard)
    assert any("More than half of the available ct patients" in str(each) for each in heard)
    few = Heard()
    wanted = Grid(("constant",), repeats=1, target_patients=(3,))
    compare(config, wanted, out=tmp_path / "few", listener=few)
    assert not any("more than half" in str(each) for each in few)


# ----- A given split -----


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny's dataset, of which ct has a column ``fold``; 10 and 11 have both modalities."""
    root = tmp_path_factory.mktemp("kept")
    tiny.write_raw(root / "raw")
    table = pd.read_csv(root / "raw" / "labels.csv")
    numbers = table["patient"].str[-2:].astype(int)
    parts = np.select([numbers % 4 == 0, numbers % 4 == 1], ["test", "val"], "train")
    table.assign(fold=parts).to_csv(root / "raw" / "labels.csv", index=False)
    for modality in ("mri", "ct"):
        options = PrepareOptions(
            labels=root / "raw" / "labels.csv",
            label="age",
            patient=rf"regex:({tiny.PREFIX}\d\d)",
            patient_column="patient",
            keep=("fold",) if modality == "ct" else (),
        )
        raw = root / "raw" / modality
        prepare(raw, modality=modality, data=root / "data", options=options, size=tiny.SIZE)
    return root / "data"


def rows(parts: dict[int, str]) -> list[tuple[str, str]]:
    return [(tiny.patient_name(number), part) for number, part in parts.items()]


def table_of(folder: Path, lines: list[tuple[str, str]]) -> Path:
    path = folder / "split.csv"
    pd.DataFrame(lines, columns=["patient", "part"]).to_csv(path, index=False)
    return path


FOLD = {n: "test" if n % 4 == 0 else "val" if n % 4 == 1 else "train" for n in range(10, 22)}


def given(kept: Path, **split: Any) -> Any:
    return tiny.debug_config(kept, optimizer=BRIEF, split={"sources": "all", **split})


def test_file_and_column_give_the_same_split_in_every_repeat(kept: Path, tmp_path: Path) -> None:
    """A repeat is another seed of the weights; of the sources all but a few train."""
    key = load_key(kept)
    path = table_of(tmp_path, rows(FOLD))
    out = tmp_path / "table"
    wanted = Grid(("constant", "target-only", "raw-mix"), repeats=2)
    run = carry_out(given(kept, file=str(path)), wanted, out)
    truth = {part: {pseudonym(tiny.patient_name(n), key) for n in FOLD if FOLD[n] == part}
             for part in PARTS}  # fmt: skip
    for training in run.trainings:
        assert training.patients("ct") == truth["train"]
        assert set(training.data.val["ct"].patients) == truth["val"]
    assert run.predictions.groupby("repeat")["patient"].agg(set).to_dict() == dict.fromkeys(
        range(2), truth["test"]
    )
    assert {each.config.runtime.seed for each in run.trainings} == {0, 1}
    assert {each.config.split.seed for each in run.trainings} == {0}
    weights = [t.weights for t in run.trainings if t.config.method == "target-only"]
    assert any(not weights[0][name].equal(weights[1][name]) for name in weights[0])
    results = run.results
    assert set(results["design"]) == {"given"}
    assert set(results["pool_patients"]) == set(results["train_patients"]) == {6}
    sources = {n for n in range(10) if pseudonym(tiny.patient_name(n), key)
               in run.trainings[-1].patients("mri")}  # fmt: skip
    assert len(sources) == 8  # of ten alone, one validates and one tests
    assert pseudonym(tiny.patient_name(10), key) in run.trainings[-1].patients("mri")

    column = carry_out(given(kept, column="fold"), wanted, tmp_path / "column")
    assert_same(column.result.findings, run.result.findings)
    again = given(kept, file=str(out / "splits" / "r00.json"))
    assert_same(carry_out(again, wanted, tmp_path / "json").result.findings, run.result.findings)
    pseudonyms = given(kept, file=str(out / "splits" / "r00.csv"))
    study = plan_study(pseudonyms, wanted)
    assert study.given == read_study(out).given

    moved = shutil.copy(path, tmp_path / "moved.csv")
    assert not compare(given(kept, file=str(moved)), wanted, out=out).training_seconds
    table_of(tmp_path, rows({**FOLD, 21: "train"}))
    with pytest.raises(MedxlateError, match="given was"):
        compare(given(kept, file=str(path)), wanted, out=out)
    assert not compare(out=out).training_seconds  # it needs the table no more


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({21: "holdout"}, "the unknown part 'holdout': row 13 of"),
        ({21: ""}, "an empty part: row 13"),
        ({99: "test"}, "1 patient without an image in .*, the first in row 14"),
        (
            {0: "train"},
            "9 of 12 mri patients have no part in the split, for example the patient of slice "
            "000002",
        ),
        (dict.fromkeys((13, 17, 21), "train"), "no ct patient in val"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_row(
    kept: Path, tmp_path: Path, change: dict[int, str], said: str
) -> None:
    path = table_of(tmp_path, rows({**FOLD, **change}))
    refused(kept, path, said)


def test_two_sides_and_absent_patients_are_named_by_row_and_slice(
    kept: Path, tmp_path: Path
) -> None:
    twice = [*rows(FOLD), (tiny.patient_name(12), "train")]
    refused(kept, table_of(tmp_path, twice), "into both test and train: row 4 of .* and row 14 of")
    lacking = {number: part for number, part in FOLD.items() if number not in (14, 15)}
    refused(
        kept, table_of(tmp_path, rows(lacking)), "2 of 12 ct patients have no part.*slice 00000"
    )
    refused(kept, tmp_path / "nowhere.csv", "The split .*nowhere.csv does not exist")


def test_train_takes_the_same_split_and_selection(kept: Path, tmp_path: Path) -> None:
    """And a run's split.json stays given: patients who are not selected are passed over."""
    words = ["train", "--source", "mri", "--target", "ct", "--preset", "debug", "--device", "cpu",
             "--data", kept, "--method", "target-only", "--set", "optimizer.epochs=1"]  # fmt: skip
    where = f"age > {tiny.age_of(10)}"
    first = call(*words, "--runs", tmp_path / "a", "--set", "split.column=fold")
    assert first.exit_code == 0, first.stderr
    written = tmp_path / "a" / "mri-to-ct-001" / "split.json"
    again = ["--set", f'split.file="{written}"', "--where", f"ct: {where}"]
    second = call(*words, "--runs", tmp_path / "b", *again)
    assert second.exit_code == 0, second.stderr
    before, after = (
        json.loads((tmp_path / run / "mri-to-ct-001" / "split.json").read_text()) for run in "ab"
    )
    key = load_key(kept)
    ct = {n: pseudonym(tiny.patient_name(n), key) for n in FOLD}
    for number, patient in ct.items():
        assert patient in before["patients"][FOLD[number]]
    assert before["patients"] == after["patients"]  # 10 has an mri as well
    config = json.loads((tmp_path / "b" / "mri-to-ct-001" / "config.json").read_text())
    assert config["data"]["where"] == [f"ct: {where}"]


def refused(kept: Path, path: Path, said: str) -> None:
    with pytest.raises(MedxlateError, match=said) as caught:
        plan_study(given(kept, file=str(path)), Grid(("constant", "raw-mix")))
    assert tiny.PREFIX not in f"{caught.value.message} {caught.value.hint}"


def test_patients_who_share_an_image_are_refused_on_two_sides(tmp_path: Path) -> None:
    """Patient 12 tests and 14 trains; both have one image in common."""
    data = tiny.write_dataset(tmp_path)
    raw = tmp_path / "raw" / "ct"
    shutil.copy(raw / f"{tiny.patient_name(12)}-0.png", raw / f"{tiny.patient_name(14)}-0.png")
    options = PrepareOptions(
        labels=tmp_path / "raw" / "labels.csv",
        label="age",
        patient=rf"regex:({tiny.PREFIX}\d\d)",
        patient_column="patient",
    )
    prepare(raw, modality="ct", data=data, options=options, size=tiny.SIZE, overwrite=True)
    path = table_of(tmp_path, rows(FOLD))
    with pytest.raises(DataError, match=r"the same image.*row 4 of .*row 6 of|row 6.*row 4"):
        plan_study(given(data, file=str(path)), Grid(("constant",)))


def test_a_column_that_is_not_there_names_the_nearest(kept: Path) -> None:
    with pytest.raises(UsageError, match="ct has no column 'folds'") as caught:
        plan_study(given(kept, column="folds"), Grid(("constant",)))
    assert "'fold'" in caught.value.hint


# ----- What belongs to different designs -----


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--draws", 3], "--draws needs --target-patients"),
        (["--target-patients", "3", "--repeats", 4], "--repeats counts splits"),
        (["--target-patients", "3", "--target-fraction", "0.5"], "cannot be combined"),
        (["--target-patients", "3", "--policy", "image"], "needs --policy patient"),
        (["--target-patients", "3,x"], "3,x is not a list of whole numbers"),
        (["--target-patients", "0"], "0 target patients are not enough"),
        (["--target-patients", "3", "--split", "s.csv"], "combined with a given split"),
        (["--split", "s.csv", "--split-column", "fold"], "each define a split"),
        (["--split", "s.csv", "--test-patients", 3], "apply only to a random split"),
        (["--split", "s.csv", "--draws", 3], "--draws needs --target-patients"),
        (["--test-patients", 3, "--policy", "image"], "need split.policy=patient"),
        (["--where", "age >= 500"], "selects none of the 24 images"),
        (["--where", "agee >= 5"], "Did you mean 'age'?"),
        (["--target-patients", "5,20", "--test-patients", 4],
         "20 ct patients for training, 5 for validation and 4 for test make 29, but there are only "
         "12"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["compare", "plan"])
def test_contradictions_and_too_few_patients_are_refused_before_any_training(
    data: Path, tmp_path: Path, options: list[object], said: str, command: str
) -> None:
    out = ["--out", tmp_path / "out"] if command == "compare" else []
    words = [command, "--target", "ct", "--method", "constant", "--data", data, *out, *options]
    result = call(*words)
    assert result.exit_code in (1, 2)
    assert said in flat(result.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wanted",
    [Grid(("constant",), repeats=1001), Grid(METHODS * 3, repeats=1000, target_patients=range(1, 8),
                                             source_fractions=np.linspace(0.1, 1, 20))],
)  # fmt: skip
def test_a_grid_that_is_too_large_is_refused_in_words(data: Path, wanted: Grid) -> None:
    with pytest.raises(UsageError, match=r"less than or equal to 1000|more than 100000 cells"):
        plan_study(tiny.debug_config(data, split=FEW), wanted)


def test_the_selection_is_part_of_the_study(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "compare"
    label = Dataset(data).modality("ct").slices["label"]
    where = f"age <= {sorted(set(label))[-2]}"  # all but the oldest
    config = tiny.debug_config(data, data={"where": [where]})
    result = compare(config, Grid(("constant",), repeats=2), out=out)
    assert result.findings is not None
    assert result.findings.predictions["label"].max() < label.max()
    assert read_study(out).config.data.where == (where,)
    with pytest.raises(MedxlateError, match=r"config\.data\.where was"):
        compare(tiny.debug_config(data), Grid(("constant",), repeats=2), out=out)


# ----- Forecast, and studies of before -----


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (Grid(("target-only", "cyclegan"), ("mri",), 3, target_patients=(2, 4)), 6),
        (Grid(("target-only", "cyclegan"), ("mri",), 4), 4),
    ],
)
def test_plan_counts_the_trainings_of_a_design(data: Path, wanted: Grid, count: int) -> None:
    forecast = plan(tiny.debug_config(data, optimizer=BRIEF, split=FEW), wanted)
    found = {line.method: line.count for line in forecast.lines}
    assert found == dict.fromkeys(("target-only", "cyclegan", "translator"), count)
    assert forecast.cells == 2 * count


def test_a_study_without_designs_goes_on_as_it_was_begun(
    data: Path, tmp_path: Path, forget: Callable[[Path], None]
) -> None:
    out, wanted = tmp_path / "compare", Grid(("constant", "target-only"), repeats=2)
    config = tiny.debug_config(data, optimizer=BRIEF)  # its sources are divided, as ever
    compare(config, wanted, out=out, where=Where(cell=0))
    forget(out / "study.json")
    study = read_study(out)
    assert (study.design, study.given, study.config.split.sources) == ("resampled", "", "divided")
    result = compare(config, wanted, out=out)
    assert result.findings is not None
    assert set(result.findings.results["design"]) == {"resampled"}
    newer = tiny.debug_config(data, optimizer=BRIEF, split={"sources": "all"})
    with pytest.raises(
        MedxlateError, match=r"config\.split\.sources was 'divided' and is now 'all'"
    ):
        compare(newer, wanted, out=out)


@pytest.fixture
def forget() -> Callable[[Path], None]:
    """Take the keys out of study.json that older versions did not write."""

    def without(path: Path) -> None:
        values = json.loads(path.read_text())
        del values["design"], values["given"], values["config"]["data"]["where"]
        for key in ("file", "column", "sources", "source_val", "source_test"):
            del values["config"]["split"][key]
        for key in ("val_patients", "test_patients"):
            del values["config"]["split"][key]
        path.write_text(json.dumps(values))

    return without
