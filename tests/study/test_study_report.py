from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt

import medxlate.study.compare as comparing
from medxlate.base.errors import DataError
from medxlate.base.events import Warned
from medxlate.cli.report import is_study
from medxlate.report.page import Verdict
from medxlate.study.begin import Grid
from medxlate.study.study_report import write_study_page
from medxlate.study.verdicts import headline, headline_record
from medxlate.study.wording import answer
from studies import BRIEF, Heard, dataset
from tiny import PREFIX, debug_config


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of a constant and a short training, two splits each, with a failed cell's record."""
    root = tmp_path_factory.mktemp("page")
    config = debug_config(dataset(tmp_path_factory), optimizer=BRIEF)
    grid = Grid(methods=("constant", "target-only"), sources=("mri",), repeats=2)
    return comparing.compare(config, grid, out=root / "study").folder


@pytest.fixture
def copy(study: Path, tmp_path: Path) -> Path:
    for path in study.iterdir():
        if path.suffix in (".json", ".parquet", ".csv"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def words(path: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", path.read_text(encoding="utf-8")))


def test_compare_leaves_a_page_with_its_verdicts_and_numbers(study: Path) -> None:
    page = (study / "report.html").read_text(encoding="utf-8")
    said = words(study / "report.html")
    statistics = json.loads((study / "statistics.json").read_text())
    sentences = [each["sentence"] for each in statistics["against_target_only"]]
    assert sentences
    assert all(sentence in said for sentence in sentences)
    results = pd.read_parquet(study / "results.parquet")
    for mean in results.groupby("method")["loss"].mean():
        assert f"{mean:.2f}" in said
    assert page.count("<svg") == 1
    assert "4 of 4" in said
    assert "Cells that failed" not in said


def test_the_name_of_a_table_is_text_in_every_report(study: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(study, tmp_path / "study")
    own = pd.read_parquet(study / "predictions.parquet").query("method == 'target-only'")
    table = tmp_path / "a*b <img src=x> [c](d) $e$.csv"
    own[["repeat", "slice_id", "prediction"]].to_csv(table, index=False)
    comparing.compare(out=folder, predictions=[table])
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert table.stem in words(folder / "report.html")
    assert "<img src=x" not in page
    shown = MarkdownIt("commonmark", {"html": True}).render((folder / "report.md").read_text())
    assert "<img src=x" not in shown
    assert shown.count(html.escape(table.stem)) >= 2  # in a sentence, and in tables
    assert (folder / "figures" / "errors.png").is_file()


def test_no_patient_and_no_place_is_named(study: Path, copy: Path) -> None:
    cells = copy / "cells"
    cells.mkdir()
    name = "0000-constant-r00-t1-s1"
    (cells / f"{name}.failed.json").write_text(json.dumps({"error": f"/secret/{PREFIX}01.dcm"}))
    page = write_study_page(copy).read_text(encoding="utf-8")
    assert name in page
    assert "secret" not in page
    assert PREFIX not in page
    predictions = pd.read_parquet(study / "predictions.parquet")
    for pseudonym in {*predictions["patient"], *predictions["slice_id"].astype(str)}:
        assert not re.search(rf"\b{re.escape(str(pseudonym))}\b", page) or str(pseudonym).isdigit()
    for place in (study, copy, json.loads((study / "study.json").read_text())["config"]["data"]):
        assert str(place["folder"] if isinstance(place, dict) else place) not in page


def test_subgroups_of_a_few_patients_are_not_shown(copy: Path) -> None:
    row = {
        "method": "target-only", "sources": "", "target_fraction": 1.0, "source_fraction": 1.0,
        "repeats": 2, "images": 40, "loss": 7.125, "std": 1.25,
    }  # fmt: skip
    groups = [("sex", "F", 9), ("sex", "M", 8), ("site", "North", 12), ("site", "Hidden", 4)]
    frame = pd.DataFrame(
        [{**row, "subgroup": kind, "value": v, "patients": n} for kind, v, n in groups]
    )
    frame.to_csv(copy / "subgroups.csv", index=False)
    said = words(write_study_page(copy))
    assert "by sex" in said
    assert " ".join(said.split()).count("F (9 patients) M (8 patients)") == 1
    assert "7.1 ± 1.2" in said
    assert "Hidden" not in said
    assert "North" not in said
    assert "fewer than 5 patients: site" in said


@pytest.mark.parametrize(
    ("verdict", "beats", "tone"),
    [
        ("helps", True, "good"),
        ("helps", False, "unsure"),
        ("hurts", True, "bad"),
        ("no difference shown", True, "unsure"),
    ],
)
def test_the_tone_is_that_of_joint(
    copy: Path, monkeypatch: pytest.MonkeyPatch, verdict: str, beats: bool, tone: str
) -> None:
    path = copy / "statistics.json"
    statistics = json.loads(path.read_text())
    entry = {"system": {"method": "joint"}, "verdict": verdict, "beats_constant": beats}
    statistics["against_target_only"].append({**entry, "sentence": "<b>joint</b> was compared."})
    path.write_text(json.dumps(statistics))
    seen: dict[str, object] = {}
    monkeypatch.setattr(
        "medxlate.study.study_report.write_page", lambda _, **given: seen.update(given)
    )
    write_study_page(copy)
    badge = {"hurts": "Harm shown", "no difference shown": "No benefit shown"}.get(verdict)
    badge = badge or ("Benefit shown" if beats else "No benefit")
    assert seen["verdict"] == Verdict(("<b>joint</b> was compared.",), tone, badge)
    monkeypatch.undo()
    page = write_study_page(copy).read_text(encoding="utf-8")
    assert page.count("&lt;b&gt;joint") == 1
    assert "<b>joint" not in page


def test_a_study_is_known_and_an_unfinished_one_says_what_to_do(copy: Path, tmp_path: Path) -> None:
    assert is_study(copy)
    assert not is_study(tmp_path / "elsewhere")
    (copy / "statistics.json").unlink()
    with pytest.raises(DataError, match="not finished"):
        write_study_page(copy)


def test_a_page_that_cannot_be_written_is_a_warning(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Path) -> Path:
        raise OSError("no room")

    monkeypatch.setattr(comparing, "write_study_page", broken)
    heard = Heard()
    assert comparing.compare(out=study, listener=heard).findings is not None
    assert any("no room" in each.text for each in heard.of(Warned))


ENTRY = {
    "system": {"method": "joint", "sources": "mri"},
    "reference": {"method": "target-only", "sources": ""},
    "design": "resampled",
    "repeats": 10,
    "test_patients": 24.0,
    "reference_mean": 200.0,
    "difference": -26.0,
    "interval": {"low": -60.0, "high": 24.0, "level": 0.95},
    "beats_constant": False,
    "reference_beats_constant": False,
    "verdict": "no difference shown",
    "sentence": "All the numbers.",
}
M = "\N{MINUS SIGN}"


def test_the_answer_is_a_share_of_the_reference() -> None:
    said = answer(ENTRY, label="age", target="ct")
    assert said == (
        f"Adding translated MRI changed the error per patient of age by {M}13 % against CT alone "
        f"(95 % CI {M}30 to +12 %, 10 repeats, 24 test patients). "
        "Neither has a lower error than the constant prediction of age."
    )
    other = {**ENTRY, "system": {"method": "raw-mix", "sources": "mri"}, "interval": None}
    said = answer(other)
    assert said.startswith("Training by raw-mix (mri) changed the error per patient by ")
    assert "against target-only (no interval, 10 repeats" in said
    assert answer({**ENTRY, "reference_mean": 0.0}) == ""
    assert answer({"sentence": "of an older study"}) == ""


def test_a_study_keeps_its_answer_for_the_reports_of_runs() -> None:
    statistics = {"primary": [ENTRY], "against_target_only": [ENTRY]}
    found = headline_record(statistics, label="age", target="ct", unit="patient")
    assert found is not None
    assert (found["method"], found["sources"]) == ("joint", "mri")
    assert (found["badge"], found["tone"]) == ("No benefit shown", "unsure")
    assert found["sentence"].startswith("Adding translated MRI")
    verdict = headline(statistics)
    assert verdict.sentences[-1] == "All the numbers."
    two = {
        "against_target_only": [ENTRY, {**ENTRY, "system": {"method": "joint", "sources": "pet"}}]
    }
    assert headline_record(two, label="", target="", unit="patient") is None
    constant = {"against_target_only": [{**ENTRY, "reference": {"method": "constant"}}]}
    assert headline_record(constant, label="", target="", unit="patient") is None
