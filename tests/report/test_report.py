"""The report of a run: what it says, and how it behaves in a browser."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from medxlate.artifacts.runs import RunFolder
from medxlate.base.errors import ModelError, UsageError
from medxlate.cli.app import app
from medxlate.dataset.labels import Task
from medxlate.dataset.links import Link
from medxlate.dataset.splits import Split
from medxlate.evaluation.evaluate import evaluate
from medxlate.evaluation.results import Audit, Metric, Results
from medxlate.report.run_comparison import Against, compare_runs, find_baseline
from medxlate.report.run_report import write_report
from medxlate.report.run_verdict import of_run
from medxlate.training.train import train
from tiny import KEY, PREFIX, debug_config

M = "\N{MINUS SIGN}"


def skill(value: float, low: float | None, high: float | None) -> Results:
    metric = Metric(
        group="prediction", name="skill", level="patient", n=20, value=value, low=low, high=high
    )
    return Results(versions={"medxlate": "0"}, method="target-only", target="ct", metrics=(metric,))


@pytest.mark.parametrize(
    ("results", "tone", "said"),
    [
        (
            skill(0.4, 0.1, 0.6),
            "good",
            f"{M}40 % .*CI {M}60 to {M}10 %.* learned something",
        ),
        (skill(0.4, -0.1, 0.6), "unsure", "may be chance"),
        (skill(-0.4, -0.6, -0.1), "bad", r"\+40 % .*\+10 to \+60 %.* worse than no model"),
        (skill(0.4, None, None), "unsure", "too few"),
        (Results(versions={}, method="target-only", target="ct"), "unsure", "without --metric"),
        (None, "unsure", "medxlate evaluate"),
    ],
)
def test_the_verdict_follows_the_interval(results: Results | None, tone: str, said: str) -> None:
    verdict = of_run(results, "patient")
    assert verdict.tone == tone
    assert re.search(said, verdict.sentences[0])


def age_results(low: float, method: str = "joint", fires: str = "") -> Results:
    """An evaluation of age from CT whose gain over a constant has a lower end."""
    audit = Audit(kind=fires or "jitter", source="mri", status="fires", rule="r", sentence="s")
    return skill(0.4, low, 0.6).model_copy(
        update={
            "method": method,
            "sources": ("mri",),
            "task": Task(kind="regression", name="age", unit="years"),
            "audits": (audit,) if fires else (),
        }
    )


def against(change: float, low: float | None, high: float | None, **others: Any) -> Against:
    given = {"run": "alone", "method": "target-only", "sources": ("mri",), "patients": 7}
    skill_ = age_results(-0.1).metrics[0]
    return Against(
        **{**given, "skill": skill_, "differing": (), **others}, change=change, low=low, high=high
    )


LEAD = "Adding translated MRI changed the mean squared error of age by "


@pytest.mark.parametrize(
    ("own", "other", "tone", "badge", "said"),
    [
        (
            age_results(-0.1), against(-0.13, -0.3, 0.12), "unsure", "No benefit shown",
            f"{LEAD}{M}13 % against CT alone (95 % CI {M}30 to +12 %, 7 patients, one split). "
            "Neither model is shown to beat predicting the mean age.",
        ),
        (
            age_results(0.1), against(-0.31, -0.5, -0.1), "good", "Benefit on this split",
            f"{LEAD}{M}31 % against CT alone (95 % CI {M}50 to {M}10 %, 7 patients, one split). "
            "Only joint is shown to beat predicting the mean age.",
        ),
        (
            age_results(0.1), against(0.31, 0.1, 0.5), "bad", "Harm on this split",
            f"{LEAD}+31 % against CT alone (95 % CI +10 to +50 %, 7 patients, one split). "
            "Only joint is shown to beat predicting the mean age.",
        ),
        (
            age_results(-0.1), against(-0.2, None, None, patients=3), "unsure", "No benefit shown",
            f"{LEAD}{M}20 % against CT alone (too few patients for an interval, 3 patients, one "
            "split). Neither model is shown to beat predicting the mean age.",
        ),
    ],
)  # fmt: skip
def test_the_answer_is_the_comparison_with_the_target_alone(
    own: Results, other: Against, tone: str, badge: str, said: str
) -> None:
    verdict = of_run(own, "patient", against=other)
    assert (verdict.sentences[0], verdict.tone, verdict.badge) == (said, tone, badge)


def test_a_benefit_is_not_overclaimed() -> None:
    better = against(-0.31, -0.5, -0.1)
    lost = of_run(age_results(0.1, fires="label-preservation"), "patient", against=better)
    assert lost.tone == "unsure"
    assert "label is lost" in lost.badge
    longer = against(-0.31, -0.5, -0.1, differing=("optimizer.epochs",))
    other = of_run(age_results(0.1), "patient", against=longer)
    assert other.tone == "unsure"
    assert "Adding translated" not in other.sentences[0]
    assert "optimizer.epochs" in other.sentences[0]
    negative = skill(-0.4, -0.6, 0.1).metrics
    useless = age_results(0.1).model_copy(update={"metrics": negative})
    assert of_run(useless, "patient", against=better).badge == "No benefit"


def test_without_a_comparison_the_page_says_which_command_makes_it(
    project: Path, tmp_path: Path
) -> None:
    made = write_report(copy_of(project, tmp_path))
    assert made.badge == "Benefit not measured"
    assert "--method target-only" in made.verdict[0]
    assert "medxlate compare --target ct" in made.verdict[0]
    report = json.loads((tmp_path / "joint" / "report.json").read_text())
    assert report["tone"] != "good"


def test_the_run_beside_it_is_found(project: Path, tmp_path: Path) -> None:
    found = write_report(project / "runs" / "joint", out=tmp_path / "page.html")
    assert "against CT alone" in found.verdict[0]
    assert found.badge
    copy_of(project, tmp_path, "alone")
    run = copy_of(project, tmp_path)
    assert find_baseline(RunFolder(run)) == RunFolder(tmp_path / "alone")
    change(tmp_path / "alone" / "evaluation" / "evaluation.json", split="other")
    assert find_baseline(RunFolder(run)) is None


def test_a_study_of_the_same_images_answers(project: Path, tmp_path: Path) -> None:
    run = copy_of(project, tmp_path / "runs")
    slices = json.loads((run / "split.json").read_text())["slices"]
    study = tmp_path / "compare"
    study.mkdir()
    (study / "study.json").write_text(json.dumps({"fingerprints": slices}))
    said = {"method": "joint", "sources": "mri", "badge": "Benefit shown", "tone": "good"}
    headline = {**said, "sentence": "It is 20 % lower over 10 splits."}
    (study / "statistics.json").write_text(json.dumps({"headline": headline}))
    made = write_report(run)
    assert made.badge == "Benefit shown"
    assert "study compare" in made.verdict[0]
    assert "10 splits" in made.verdict[0]
    assert "Benefit not measured" not in made.path.read_text()
    (study / "study.json").write_text(json.dumps({"fingerprints": {**slices, "ct": "0"}}))
    assert write_report(run).badge == "Benefit not measured"


def test_a_division_by_image_is_reported_at_once() -> None:
    assert "slices" in " ".join(of_run(None, "image").sentences)


def test_the_page_is_one_file_that_loads_nothing_and_names_nobody(
    project: Path, page: Path
) -> None:
    content = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 15e6
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", content)
    assert "default-src 'none'" in content
    slices = pd.concat(
        pd.read_parquet(project / "data" / name / "slices.parquet") for name in ("ct", "mri")
    )
    for secret in (PREFIX, KEY, str(project), *slices["patient"], *slices["slice_id"]):
        assert secret not in content
    written = json.loads(page.with_suffix(".json").read_text())
    assert written["evaluation"]["method"] == "joint"
    assert PREFIX not in json.dumps(written)


def copy_of(project: Path, tmp_path: Path, name: str = "joint") -> Path:
    return Path(shutil.copytree(project / "runs" / name, tmp_path / name))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_leak_is_the_verdict(project: Path, tmp_path: Path) -> None:
    run = copy_of(project, tmp_path)
    split = Split.from_json(json.loads((run / "split.json").read_text()))
    whole = write_report(run)
    assert "No patient is in two parts" in whole.path.read_text()
    assert not any("The split leaks" in each for each in whole.verdict)
    twice = {**split.parts, "val": (*split.parts["val"], split.parts["test"][0])}
    change(run / "split.json", **Split(twice, split.seed).to_json())
    leaking = write_report(run)
    assert "leaks: 1 patient in two parts at once" in leaking.verdict[0]
    assert "No patient is in two parts" not in leaking.path.read_text()
    assert json.loads((run / "report.json").read_text())["tone"] == "bad"
    change(run / "split.json", hash="0")
    with pytest.raises(ModelError, match=r"split\.json"):
        write_report(run)


def test_shared_images_in_two_parts_are_a_leak(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(project, tmp_path)
    parts = json.loads((run / "split.json").read_text())["patients"]
    pairs = [Link(*parts["test"][:2], "exact"), Link(parts["test"][0], parts["train"][0], "near")]
    monkeypatch.setattr("medxlate.report.split_section.find_links", lambda *_: pairs[:1])
    assert "1 pair of patients with a (nearly) identical" in write_report(run).path.read_text()
    monkeypatch.setattr("medxlate.report.split_section.find_links", lambda *_: pairs)
    assert "leaks: 1 pair" in write_report(run).verdict[0]


def test_figures_of_other_weights_are_no_verdict(project: Path, tmp_path: Path) -> None:
    run = copy_of(project, tmp_path)
    results = run / "evaluation" / "evaluation.json"
    old = dict.fromkeys(json.loads(results.read_text())["model"], "0" * 64)
    change(results, model=old)
    assert "earlier state" in write_report(run).verdict[0]
    shutil.rmtree(run / "model")
    with pytest.raises(ModelError, match=r"model\.json"):
        write_report(run)


def test_a_dataset_elsewhere_is_reported(project: Path, tmp_path: Path) -> None:
    run = copy_of(project, tmp_path)
    config = json.loads((run / "config.json").read_text())
    config["data"]["folder"] = str(tmp_path / "gone")
    change(run / "config.json", **config)
    content = write_report(run).path.read_text()
    assert "has moved or changed" in content
    assert str(tmp_path) not in content


class Outline(HTMLParser):
    """Headings, ids, and controls without a name."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.ids: list[str] = []
        self.language = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if re.fullmatch(r"h\d", tag):
            self.levels.append(int(tag[1]))
        if "id" in values:
            self.ids.append(str(values["id"]))
        if tag == "html":
            self.language = str(values["lang"])


def test_headings_are_in_order_and_ids_unique(page: Path) -> None:
    outline = Outline()
    outline.feed(page.read_text(encoding="utf-8"))
    assert outline.language == "en"
    assert outline.levels[0] == 1
    assert all(b - a <= 1 for a, b in zip(outline.levels, outline.levels[1:], strict=False))
    assert len(set(outline.ids)) == len(outline.ids)


def luminance(colour: str) -> float:
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("theme", [":root {", ':root[data-theme="dark"] {'])
def test_text_stands_out_from_its_ground(theme: str) -> None:
    style = (files("medxlate.report") / "assets" / "page.css").read_text()
    block = style[style.index(theme) :].split("}")[0]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
    for ground in ("paper", "surface"):
        for ink in ("ink", "muted", "accent", "good", "bad", "unsure"):
            light, dark = sorted(
                (luminance(colours[ground]), luminance(colours[ink])), reverse=True
            )
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ground, ink)
        for line in ("c1", "c2", "c3", "c4", "c5", "c6"):  # graphics: WCAG 2.1, 1.4.11
            light, dark = sorted(
                (luminance(colours[ground]), luminance(colours[line])), reverse=True
            )
            assert (light + 0.05) / (dark + 0.05) >= 3, (ground, line)


def test_many_large_images_stay_within_the_size(project: Path, tmp_path: Path) -> None:
    run = copy_of(project, tmp_path)
    random = np.random.default_rng(0)  # noise: nothing can be compressed
    images = random.integers(0, 65536, (12, 256, 256), dtype=np.uint16)
    for source in ("mri", "pet", "xray"):
        place = run / "evaluation" / "examples" / source
        place.mkdir(exist_ok=True)
        (place / "examples.json").write_text(json.dumps([{"why": "chosen", "label": "1"}] * 12))
        for role in ("source", "translated", "cycled", "nearest"):
            np.save(place / f"{role}.npy", images)
    results = run / "evaluation" / "evaluation.json"
    audits = json.loads(results.read_text())["audits"]
    audits[0] |= {"worst": [0, 11]}
    change(results, sources=["mri", "pet", "xray"], audits=audits)
    made = write_report(run)
    assert made.bytes < 15e6
    content = made.path.read_text()
    assert content.count("more examples would make the page too large") == 3
    shown = content.count("<template") // 3
    assert 0 < shown < 12
    links = {
        int(each) for each in re.findall(r'data-viewer="viewer-mri" data-example="(\d+)"', content)
    }
    assert 0 in links
    assert max(links) < shown


def test_parts_that_are_missing_are_left_out_or_named(project: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(project / "runs" / "joint", run)
    (run / "evaluation" / "examples" / "mri" / "cycled.npy").unlink()
    write_report(run)
    (run / "evaluation" / "examples" / "mri" / "translated.npy").unlink()
    with pytest.raises(ModelError, match=r"translated\.npy"):
        write_report(run)
    shutil.rmtree(run / "evaluation" / "examples")
    with pytest.raises(ModelError, match=r"examples\.json"):
        write_report(run)
    (run / "evaluation" / "evaluation.json").unlink()
    with pytest.raises(ModelError, match=r"evaluation\.json"):
        write_report(run)
    shutil.rmtree(run / "evaluation")
    assert write_report(run).badge == "Not evaluated yet"
    (run / "split.json").unlink()
    with pytest.raises(ModelError, match=r"split\.json"):
        write_report(run)


def test_runs_on_other_patients_are_not_compared(project: Path, tmp_path: Path) -> None:
    other = debug_config(project / "data", split={"seed": 1}, optimizer={"epochs": 1})
    train(other, runs=tmp_path, name="other")
    with pytest.raises(ModelError, match=r"evaluation\.json"):
        write_report(project / "runs" / "joint", baseline=tmp_path / "other")
    evaluate(tmp_path / "other", device="cpu", audits=False)
    with pytest.raises(UsageError, match="same patients"):
        write_report(project / "runs" / "joint", baseline=tmp_path / "other")


def test_only_translated_images_are_credited(project: Path, tmp_path: Path) -> None:
    better, worse = copy_of(project, tmp_path), copy_of(project, tmp_path, "alone")
    for run in (better, worse):  # both are better than a constant
        path = run / "evaluation" / "evaluation.json"
        found = json.loads(path.read_text())
        for metric in found["metrics"]:
            if metric["name"] == "skill":
                metric |= {"value": 0.5, "low": 0.2, "high": 0.7}
        change(path, metrics=found["metrics"], audits=[])
    for run, error in ((better, 1.0), (worse, 9.0)):
        path = run / "evaluation" / "predictions.parquet"
        # Of so small a test part's patients there is no interval: it is shown to more of them.
        table = pd.concat([pd.read_parquet(path)] * 5, ignore_index=True)
        table["slice_id"] = table["patient"] = [f"p{i:02d}" for i in range(len(table))]
        table["prediction"] = table["label"] + error
        table.to_parquet(path)
    made = write_report(better, baseline=worse)
    assert f"by {M}98.8 % against CT alone" in made.verdict[0]
    assert made.badge == "Benefit on this split"
    config = json.loads((better / "config.json").read_text())
    config["model"] |= {"upsample": "bilinear", "skip": "unet", "batch_norm": "separate"}
    config["model"] |= {"discriminator_layers": 1, "discriminator_norm": "none"}
    config["optimizer"] |= {"translator_share": 0.5}
    (better / "config.json").write_text(json.dumps(config))
    assert write_report(better, baseline=worse).badge == "Benefit on this split"
    augmented = {**config, "method": "joint+autoaugment"}
    (better / "config.json").write_text(json.dumps(augmented))
    made = write_report(better, baseline=worse)
    assert made.badge == "Lower error on this split"
    assert "also differ in augmentation" in made.verdict[0]
    (better / "config.json").write_text(json.dumps(config))
    config = json.loads((worse / "config.json").read_text())
    config["optimizer"]["epochs"] += 1
    (worse / "config.json").write_text(json.dumps(config))
    made = write_report(better, baseline=worse)
    assert made.badge == "Lower error on this split"
    assert "also differ in optimizer.epochs" in made.verdict[0]
    made = write_report(worse, baseline=better)
    assert "+8000 %" in made.verdict[0]
    assert made.badge == "Harm on this split"
    path = worse / "evaluation" / "predictions.parquet"
    pd.read_parquet(path).iloc[1:].to_parquet(path)
    with pytest.raises(ModelError, match="different images"):
        write_report(better, baseline=worse)


def test_a_baseline_of_other_weights_is_refused(project: Path, tmp_path: Path) -> None:
    baseline = copy_of(project, tmp_path, "alone")
    path = baseline / "evaluation" / "evaluation.json"
    found = json.loads(path.read_text())
    found["model"] = dict.fromkeys(found["model"], "0" * 64)
    path.write_text(json.dumps(found))
    with pytest.raises(ModelError, match="other weights"):
        write_report(project / "runs" / "joint", baseline=baseline)


def test_nothing_but_a_report_is_replaced(project: Path, tmp_path: Path) -> None:
    run = copy_of(project, tmp_path)
    before = (run / "config.json").read_bytes()
    for out in (run / "config.html", tmp_path / "page.json", tmp_path):
        with pytest.raises(UsageError, match=r"--out|not a report's"):
            write_report(run, out=out)
    assert (run / "config.json").read_bytes() == before
    for _ in range(2):
        write_report(run, out=tmp_path / "page.html")
    assert (tmp_path / "page.json").is_file()


def test_alarms_are_listed_without_curves(project: Path, tmp_path: Path) -> None:
    run = copy_of(project, tmp_path)
    alarm = {"event": "alarm", "step": 3, "kind": "identity", "text": "a text", "advice": "advice."}
    (run / "metrics.jsonl").write_text(json.dumps(alarm) + "\n")
    assert "Step 3, identity: a text. advice." in write_report(run).path.read_text()


def test_the_change_is_that_of_the_patients_predictions(project: Path) -> None:
    losses = {}
    for name in ("joint", "alone"):
        table = pd.read_parquet(project / "runs" / name / "evaluation" / "predictions.parquet")
        means = table.groupby("patient")[["prediction", "label"]].mean()  # a label a patient
        losses[name] = float(((means["prediction"] - means["label"]) ** 2).mean())
    found = compare_runs(*(RunFolder(project / "runs" / name) for name in ("joint", "alone")))
    assert found.change == pytest.approx(losses["joint"] / losses["alone"] - 1)
    assert found.patients == len(means)


def test_the_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    result = CliRunner().invoke(app, ["report", "runs/joint", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["report"] == "runs/joint/report.html"
    assert CliRunner().invoke(app, ["report", "runs/nothing"]).exit_code == 1


PIXELS = """role => {
  const canvas = document.querySelector(`canvas[data-role="${role}"]`);
  return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]
}"""


def pixels(tab: Any, role: str) -> np.ndarray[Any, Any]:
    return np.array(tab.evaluate(PIXELS, role)).reshape(-1, 4)[:, 0]


def slide(tab: Any, name: str, value: float) -> None:
    tab.evaluate(
        """([name, value]) => {
          const control = document.querySelector(`.viewer [name="${name}"]`);
          control.value = value; control.dispatchEvent(new Event("input"));
        }""",
        [name, value],
    )


def test_images_are_those_of_the_evaluation(opened: Any, project: Path) -> None:
    place = project / "runs" / "joint" / "evaluation" / "examples" / "mri"
    for role in ("source", "translated", "nearest"):
        wanted = np.load(place / f"{role}.npy")[0].ravel() / 65535 * 255
        assert np.abs(pixels(opened, role) - wanted).max() <= 1


def test_level_window_and_wipe_change_what_is_shown(opened: Any) -> None:
    before = pixels(opened, "translated")
    slide(opened, "level", 0.25)
    slide(opened, "width", 0.5)
    after = pixels(opened, "translated")
    wanted = np.clip(before * 2.0, 0, 255)  # 0 to 0.5 of the range is now all grey values
    assert np.abs(after - wanted).max() <= 2
    opened.click(".viewer .reset")
    assert np.array_equal(pixels(opened, "translated"), before)
    slide(opened, "wipe", 100)
    source = pixels(opened, "source").reshape(32, 32)[:, :-1]
    assert np.array_equal(pixels(opened, "wipe").reshape(32, 32)[:, :-1], source)
    slide(opened, "wipe", 0)
    assert np.array_equal(
        pixels(opened, "wipe").reshape(32, 32)[:, 1:], before.reshape(32, 32)[:, 1:]
    )


def test_the_difference_is_that_of_there_and_back(opened: Any, project: Path) -> None:
    place = project / "runs" / "joint" / "evaluation" / "examples" / "mri"
    cycled, source = (
        np.load(place / f"{role}.npy")[0].astype(int) for role in ("cycled", "source")
    )
    wanted = np.clip(np.abs(cycled - source).ravel() / 65535 * 4 * 255, 0, 255)
    assert np.abs(pixels(opened, "difference") - wanted).max() <= 1
    before = pixels(opened, "difference")
    slide(opened, "width", 0.1)
    assert np.array_equal(pixels(opened, "difference"), before)


def test_presets_set_level_and_window(opened: Any) -> None:
    preset = opened.locator(".viewer [name='preset']")
    before = pixels(opened, "translated")
    preset.select_option("darker half")
    after = pixels(opened, "translated")
    assert np.abs(after - np.clip(before * 2.0, 0, 255)).max() <= 2
    slide(opened, "level", 0.4)
    assert preset.input_value() == "own"
    opened.click(".viewer .reset")
    assert np.array_equal(pixels(opened, "translated"), before)
    assert preset.evaluate("s => s.selectedOptions[0].text") == "whole range"


def test_dragging_wipes_in_the_first_image_and_windows_in_others(opened: Any) -> None:
    def drag(role: str, start: float, end: float) -> None:
        canvas = opened.locator(f"canvas[data-role='{role}']")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        y = box["y"] + box["height"] / 2
        opened.mouse.move(box["x"] + start * box["width"], y)
        opened.mouse.down()
        opened.mouse.move(box["x"] + end * box["width"], y)
        opened.mouse.up()

    def value(name: str) -> float:
        return float(opened.input_value(f".viewer [name='{name}']"))

    drag("wipe", 0.5, 0.2)
    assert abs(value("wipe") - 20) <= 2
    assert (value("level"), value("width")) == (0.5, 1.0)
    drag("translated", 0.8, 0.2)
    assert value("width") < 0.9
    assert abs(value("wipe") - 20) <= 2


def test_the_keyboard_reaches_everything(opened: Any) -> None:
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    opened.focus(".viewer")
    opened.keyboard.press("ArrowRight")
    opened.wait_for_selector(".viewer[data-current='1']")
    assert "Example 2 of" in opened.inner_text(".viewer .said")
    opened.keyboard.press("ArrowLeft")
    opened.wait_for_selector(".viewer[data-current='0']")
    opened.focus(".viewer [name='level']")
    level = opened.input_value(".viewer [name='level']")
    opened.keyboard.press("ArrowRight")
    assert float(opened.input_value(".viewer [name='level']")) > float(level)
    label = opened.get_attribute("canvas[data-role='translated']", "aria-label")
    assert "years" in label


def test_dark_and_narrow(opened: Any, browser: Any, page: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = opened.evaluate(ground)
    opened.click("#theme")
    assert opened.evaluate(ground) != light
    opened.emulate_media(color_scheme="dark")
    assert opened.get_attribute("#theme", "aria-pressed") == "true"
    opened.set_viewport_size({"width": 360, "height": 700})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360


def test_print_is_light_in_any_theme(opened: Any) -> None:
    ink = "getComputedStyle(document.querySelector('.verdict p')).color"
    light = opened.evaluate(ink)
    opened.click("#theme")
    assert opened.evaluate(ink) != light
    opened.emulate_media(media="print")
    assert opened.evaluate(ink) == light
    assert not opened.is_visible(".viewer .controls")
