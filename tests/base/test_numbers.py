"""Numbers that are none, labels that cannot be, and columns that would hide one another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import tiny
from medxlate import Predictor, Translator
from medxlate.base.errors import DataError, ImageError, ModelError, UsageError
from medxlate.base.events import Event, Warned
from medxlate.cli.app import app
from medxlate.dataset.index import COLUMNS, Dataset
from medxlate.dataset.labels import Task, count_labels, label_notes, parse_label
from medxlate.dataset.options import PrepareOptions
from medxlate.inference import prediction_table
from medxlate.inference.predict import predict
from medxlate.method.generator import Generator
from medxlate.method.label_transform import fit_label_transform
from medxlate.method.predictor import PredictorNetwork
from medxlate.study.prediction_rows import COLUMNS as STUDY_COLUMNS
from medxlate.study.prediction_rows import add_predictions, image_rows
from preparing import ROWS, run, save_nifti, slices, write_raw, write_table

BRIGHT = 200  # the network is broken for images that are as bright, and only for them


def write_images(folder: Path) -> list[str]:
    """Write three dark images and two bright ones, which are returned."""
    for number in range(5):
        level = 255 if number in (1, 4) else 60
        pixels = np.clip(tiny.noise(32, 32, seed=number).astype(int) // 8 + level - 20, 0, 255)
        tiny.save(folder / f"{number}.png", pixels.astype(np.uint8))
    return ["1.png", "4.png"]


@pytest.fixture(params=[float("nan"), float("inf")])
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let both networks give NaN, or infinity, for bright images."""
    for kind in (PredictorNetwork, Generator):
        whole = kind.forward

        def forward(self: Any, images: Tensor, *, whole: Any = whole) -> Tensor:
            outputs = whole(self, images)
            lost = (images.mean(dim=(1, 2, 3)) * 127.5 + 127.5 > BRIGHT).nonzero()[:, 0]
            outputs[lost, ..., -1:] = request.param
            return outputs

        monkeypatch.setattr(kind, "forward", forward)


def call(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


# Outputs that are not finite


@pytest.mark.parametrize("task", [tiny.AGE, tiny.GROUP])
def test_what_cannot_be_predicted_is_named_and_nobodys_class(
    tmp_path: Path, broken: None, task: Task
):
    lost = write_images(tmp_path / "in")
    model = tiny.write_tiny_model(tmp_path, task=task)
    out = tmp_path / "p.csv"
    done = call("predict", tmp_path / "in", "--model", model, "--out", out, "--json")
    assert done.exit_code == 1, done.output
    failed = json.loads(done.stdout)["failed"]
    assert sorted(failed) == lost
    assert all("is not finite" in reason for reason in failed.values())
    assert all(name in done.stderr for name in lost)
    table = pd.read_csv(out)
    assert sorted(table["file"]) == ["0.png", "2.png", "3.png"]
    assert not table[task.name].isna().any()


def test_a_folder_of_which_nothing_can_be_predicted_leaves_no_table(tmp_path: Path, broken: None):
    for name in write_images(tmp_path / "all"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "all" / name).rename(tmp_path / "in" / name)
    model = tiny.write_tiny_model(tmp_path)
    with pytest.raises(
        ImageError, match=r"2 files, such as 1\.png: the output of the predictor is not finite"
    ):
        predict(tmp_path / "in", model=model, out=tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


def test_what_cannot_be_translated_is_named_and_not_written(tmp_path: Path, broken: None):
    lost = write_images(tmp_path / "in")
    voxels = np.full((32, 32, 4), 80, np.uint8)
    voxels[::2] = 90
    save_nifti(tmp_path / "in" / "good.nii.gz", voxels)
    voxels[:, :, 2] = 250
    voxels[0, 0, 2] = 60
    save_nifti(tmp_path / "in" / "bad.nii.gz", voxels)
    model = tiny.write_tiny_model(tmp_path, source_recipe=tiny.AS_IS)
    done = call("translate", tmp_path / "in", "--model", model, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 1, done.output
    failed = json.loads(done.stdout)["failed"]
    assert sorted(failed) == [*lost, "bad.nii.gz"]
    assert "slice 3" in failed["bad.nii.gz"]
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert there == {"0.png", "2.png", "3.png", "good.nii.gz", "translation.json"}
    record = json.loads((tmp_path / "out" / "translation.json").read_text())
    assert len(record["failed"]) == 3


def test_arrays_that_give_no_number_are_an_error(tmp_path: Path, broken: None):
    volume = np.full((2, 32, 32), 60.0)
    volume[1] = 255
    volume[:, 0, 0] = 0
    for task in (tiny.AGE, tiny.GROUP):
        model = tiny.write_tiny_model(tmp_path / task.name, task=task, target_recipe=tiny.AS_IS)
        with pytest.raises(ModelError, match=r"predictor .* for 1 of 2 slices\.") as caught:
            Predictor.load(model)(volume)
        assert "fp32" in caught.value.hint
    with pytest.raises(ModelError, match=r"translator .* for 1 of 2 slices"):
        Translator.load(model)(volume)
    assert np.isfinite(Translator.load(model)(volume[:1])).all()


# The range of the training labels


def test_the_head_knows_lowest_and_highest_training_label():
    labels = [torch.tensor([20.1, 44.0]), torch.tensor([83.4, 50.0])]
    assert fit_label_transform(tiny.AGE, labels).span == (20.1, 83.4)
    assert fit_label_transform(tiny.GROUP, [torch.tensor([0, 2])]).span is None


def with_span(model: Path, span: Any) -> Path:
    """Return the model with another range; None: as models were written before there was one."""
    values = json.loads((model / "model.json").read_text())
    values["predictor"]["head"]["span"] = span
    if span is None:
        del values["predictor"]["head"]["span"]
    (model / "model.json").write_text(json.dumps(values))
    return model


def test_predictions_outside_the_training_labels_are_flagged(tmp_path: Path):
    write_images(tmp_path / "in")
    model = tiny.write_tiny_model(tmp_path)
    words = ("predict", tmp_path / "in", "--model", model, "--overwrite", "--json")
    ages = predict(tmp_path / "in", model=model, out=tmp_path / "p.csv").table["age"].to_numpy()
    low, high = np.sort(ages)[[1, 3]]  # one is below, and one above
    with_span(model, [float(low) - 1e-3, float(high) + 1e-3])
    done = call(*words, "--patient", "regex:([01234])", "--out", tmp_path / "p.csv")
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "p.csv")
    truth = (table["age"] < low - 1e-3) | (table["age"] > high + 1e-3)
    assert list(table["outside"]) == list(truth)
    (note,) = [note for note in json.loads(done.stdout)["notes"] if "range" in note]
    assert "2 of 5 slices, 2 of 5 patients" in note
    assert note in " ".join(done.stderr.split())
    assert "years" in note


def test_a_far_prediction_says_so_of_an_array_too(tmp_path: Path):
    model = with_span(tiny.write_tiny_model(tmp_path), [60.0, 90.0])
    found = Predictor.load(model)(tiny.noise(32, 32, seed=1))
    assert found.value < 60
    assert any("outside the range" in note for note in found.notes)
    with_span(model, [0.0, 90.0])
    notes = Predictor.load(model)(tiny.noise(32, 32, seed=1)).notes
    assert not any("outside" in note for note in notes)


def test_models_from_before_the_range_was_kept_still_predict_and_say_so(tmp_path: Path):
    write_images(tmp_path / "in")
    model = with_span(tiny.write_tiny_model(tmp_path), None)
    heard: list[Event] = []
    result = predict(tmp_path / "in", model=model, out=tmp_path / "p.csv", listener=heard.append)
    assert set(pd.read_csv(tmp_path / "p.csv", keep_default_na=False)["outside"]) == {""}
    assert any("did not record the range" in note for note in result.notes)
    assert any(
        isinstance(each, Warned) and "did not record the range" in each.text for each in heard
    )


def test_of_several_models_the_widest_range_counts(tmp_path: Path):
    write_images(tmp_path / "in")
    one = tiny.write_tiny_model(tmp_path / "one")
    other = tiny.write_tiny_model(tmp_path / "other")
    value = predict(tmp_path / "in", model=one, out=tmp_path / "p.csv").table["age"].iloc[0]
    for first, second, outside in (
        ([value - 9, value - 5], [value + 5, value + 9], False),
        ([value + 1, value + 5], [value + 5, value + 9], True),
    ):
        models = [with_span(one, first), with_span(other, second)]
        result = predict(tmp_path / "in", model=models, out=tmp_path / "p.csv", overwrite=True)
        assert bool(result.table["outside"].iloc[0]) is outside


# Labels


@pytest.mark.parametrize(
    "text",
    [
        "4_5",
        "1_000",
        "inf",
        "-Infinity",
        "1e999",
        "\u0664\u0665",
        "\uff14\uff15",
        "0x1F",
        "4 5",
        "1e",
        "+",
        ".",
    ],
)
def test_what_only_python_takes_for_a_number_is_refused(text: str):
    with pytest.raises(DataError, match="is not a number: "):
        parse_label(text, kind="regression")


@pytest.mark.parametrize(
    ("text", "value"), [("1e3", 1000), ("-3.2", -3.2), (".5", 0.5), ("5.", 5), ("+07", 7)]
)
def test_what_spreadsheets_write_is_a_number(text: str, value: float):
    assert parse_label(text, kind="regression") == value


@pytest.mark.parametrize(
    ("text", "unit", "fault"),
    [
        ("-1", "years", "negative age"),
        ("-1", "months", "negative age"),
        ("121", "years", "over 120 years"),
        ("999Y", "years", "over 120 years"),
        ("121", "months", ""),
        ("130Y", "months", "over 120 years"),
        ("1500", "months", "over 120 years"),
        ("060Y", "rings", "is not a unit of age"),
        ("121", None, ""),
        ("-1", None, ""),
        ("0", "years", ""),
        ("120", "years", ""),
    ],
)
def test_ages_that_nobody_has_are_refused(text: str, unit: str | None, fault: str):
    if not fault:
        assert parse_label(text, kind="regression", age_in=unit) == float(text)
        return
    with pytest.raises(DataError, match=fault):
        parse_label(text, kind="regression", age_in=unit)


@pytest.mark.parametrize(
    ("options", "unit"),
    [
        ({"label": "age"}, "years"),
        ({"label": "bone_age", "unit": "months"}, "months"),
        ({"label": "column:PatientAge"}, "years"),
        ({"label": "age", "label_name": "since"}, ""),
        ({"label": "dosage"}, None),
        ({"label": "age_months"}, "months"),
        ({"label": "gestational_age_weeks"}, "weeks"),
        ({"label": "tag:PatientAge", "unit": "Yrs"}, "years"),
        ({"label": "age", "task": "classification"}, None),
    ],
)
def test_which_labels_are_ages(options: dict[str, Any], unit: str | None):
    assert PrepareOptions(**options).age_in == unit


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("018M", "months", 18),
        ("012", "months", 12),
        ("002Y", "months", 24),
        ("030D", "days", 30),
        ("002W", "days", 14),
        ("018M", "years", 1.5),
        ("018M", None, 1.5),
    ],
)
def test_age_strings_come_in_the_unit_of_the_label(text: str, unit: str | None, value: float):
    assert parse_label(text, kind="regression", age_in=unit) == pytest.approx(value, rel=1e-12)


def test_months_do_not_join_years(tmp_path: Path):
    raw = write_raw(tmp_path / "raw")
    run(raw, tmp_path / "data")
    write_table(raw / "m.csv", columns=("file", "age_months", "who"))
    with pytest.raises(UsageError, match="Give both ages in years"):
        run(raw, tmp_path / "data", "ct", labels=raw / "m.csv", label="age_months")


def test_prepare_skips_impossible_ages_and_takes_months_where_they_are_said(tmp_path: Path):
    raw = write_raw(tmp_path / "raw")
    write_table(raw / "t.csv", [(name, "170", who) for name, _, who in ROWS])
    with pytest.raises(DataError, match=r"4 files, .* over 120 years: '170'.*--unit"):
        run(raw, tmp_path / "data")
    result = run(raw, tmp_path / "data", unit="months")
    assert result.images == 4
    assert "All 4 images have the same label (age 170)" in result.label_notes[0]


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["ANONYMOUS"] * 4, 4),
        (["0", "Ann", "Bob", "0"], 2),
        (["-", "?", "Unknown", "unknown"], 4),
        (["Ann", "Bob", "anonymous", "Cem"], 0),
        (["10", "01", "A0", "0B"], 0),
    ],
)
def test_placeholders_in_the_place_of_patients_are_said(tmp_path: Path, ids: list[str], said: int):
    raw, heard = write_raw(tmp_path / "raw"), list[Event]()
    write_table(
        raw / "t.csv", [(name, "60", who) for (name, *_), who in zip(ROWS, ids, strict=True)]
    )
    run(raw, tmp_path / "data", listener=heard.append)
    texts = [e.text for e in heard if isinstance(e, Warned) and "placeholder" in e.text]
    assert texts == [t for t in texts if t.startswith(f"{said} files")]
    assert len(texts) == (said > 0)


def test_classes_that_look_alike_are_named():
    names = ["1", "1.0", "01", "Male", "male", "a b", "A  B", "female", "2", "1e0", "\uff11"]
    notes = label_notes(count_labels([*names, "male"]), "classification", "sex")
    named = [{part for part in names if f"'{part}' (" in note} for note in notes]
    assert {"1", "1.0", "01", "1e0", "\uff11"} in named
    assert {"Male", "male"} in named
    assert {"a b", "A  B"} in named
    assert len(notes) == 3
    assert any("'male' (2 images)" in note for note in notes)
    assert label_notes(count_labels(["a", "b"]), "classification", "x") == ()
    assert label_notes(count_labels([1.0, 2.0]), "regression", "x") == ()
    assert label_notes(count_labels([1.0]), "regression", "x") == ()


def test_prepare_notes_odd_labels_once_and_again_where_nothing_changed(tmp_path: Path):
    raw = write_raw(tmp_path / "raw")
    labels = ["Male", "male", "female", "female"]
    rows = [(name, label, who) for (name, _, who), label in zip(ROWS, labels, strict=True)]
    write_table(raw / "t.csv", rows)
    heard: list[Event] = []
    first = run(raw, tmp_path / "data", task="classification", listener=heard.append)
    (note,) = first.label_notes
    assert "'Male' (1 images), 'male' (1 images)" in note
    assert [each.text for each in heard if isinstance(each, Warned)] == [note]
    again = run(raw, tmp_path / "data", task="classification")
    assert (again.state, again.label_notes) == ("unchanged", first.label_notes)
    planned = run(raw, tmp_path / "new", task="classification", dry_run=True)
    assert planned.label_notes == first.label_notes
    write_table(raw / "t.csv", [(name, "FEMALE", who) for name, _, who in ROWS])
    other = run(raw, tmp_path / "data", modality="ct", task="classification")
    assert any("'FEMALE' (4 images), 'female' (0 images)" in each for each in other.label_notes)


# Columns


@pytest.mark.parametrize("name", [*prediction_table.OWN, "p(old)"])
@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_label_hides_no_column_of_the_predictions(tmp_path: Path, name: str, kind: Any):
    write_images(tmp_path / "in")
    plain = tiny.AGE if kind == "regression" else tiny.GROUP
    tables = {}
    for label in (plain.name, name):
        task = plain.model_copy(update={"name": label})
        model = tiny.write_tiny_model(tmp_path / label, task=task)
        out = tmp_path / f"{len(tables)}.csv"
        found = predict(tmp_path / "in", model=[model, model], out=out, patient="regex:([0-9])")
        tables[label] = pd.read_csv(out)
        assert found.label in tables[label]
    hidden = tables[name].rename(columns={f"predicted {name}": plain.name})
    pd.testing.assert_frame_equal(hidden, tables[plain.name])


def test_the_list_of_columns_is_that_of_the_tables(tmp_path: Path):
    write_images(tmp_path / "in")
    written: set[str] = set()
    for task in (tiny.AGE, tiny.GROUP):
        model = tiny.write_tiny_model(tmp_path / task.name, task=task)
        table = predict(tmp_path / "in", model=[model, model], out=tmp_path / task.name / "p").table
        written |= {name for name in table if name != task.name and not name.startswith("p(")}
    assert written == set(prediction_table.OWN)


def test_kept_columns_hide_no_column_of_a_study(tmp_path: Path):
    keys = {"method": "m", "sources": "", "repeat": 0, "target_fraction": 1.0, "source_fraction": 1}
    own = {"slice_id": ["1", "2"], "patient": ["a", "b"], "label": ["old", "young"]}
    strange = [name for name in (*STUDY_COLUMNS, "p(old)") if name not in COLUMNS]
    task, values = tiny.GROUP, np.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]])
    tables = []
    for kept in ({}, {name: [f"kept {name}", ""] for name in strange}):
        frame = image_rows(pd.DataFrame({**own, **kept}), keys)
        add_predictions(frame, values, np.array([1, 2]), task)
        tables.append(frame)
    assert set(tables[0]) - {f"p({name})" for name in task.classes} == {
        name for name in STUDY_COLUMNS if name != "age decade"
    }
    pd.testing.assert_frame_equal(tables[1][list(tables[0])], tables[0])
    for name in strange:
        assert tables[1][f"kept {name}"][0] == f"kept {name}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keep": ("patient",)}, "already has its own column"),
        (
            {"keep": ("age",), "label_name": "age", "label": "years"},
            "the same name but comes from another place",
        ),
        ({"keep": ("column:age", "tag:age")}, "is already kept"),
    ],
)
def test_kept_columns_hide_neither_index_nor_label(tmp_path: Path, changes: Any, said: str):
    raw = write_raw(tmp_path / "raw")
    write_table(raw / "t.csv", [(*row, "9") for row in ROWS], ("file", "age", "who", "years"))
    save_nifti(raw / "v.nii.gz", np.ones((8, 8, 2), np.uint8), age=3)
    with pytest.raises(UsageError, match=said):
        run(raw, tmp_path / "data", **changes)


def test_a_column_of_the_label_itself_may_be_kept(tmp_path: Path):
    raw = write_raw(tmp_path / "raw")
    run(raw, tmp_path / "data", keep=("age",))
    assert list(slices(tmp_path / "data")["age"].astype(float)) == list(
        Dataset(tmp_path / "data").modality("mri").slices["label"]
    )
