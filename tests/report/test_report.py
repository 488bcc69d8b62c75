"""The report of a run: what it says, and how it behaves in a browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from medxlate.base.errors import ModelError, UsageError
from medxlate.cli.app import app
from medxlate.dataset.links import Link
from medxlate.dataset.splits import Split
from medxlate.evaluation.evaluate import evaluate
from medxlate.evaluation.results import Metric, Results
from medxlate.report.run_report import write_report
from medxlate.report.run_verdict import of_run
from medxlate.training.train import train
from tiny import KEY, PREFIX, debug_config, write_dataset

CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    config = debug_config(write_dataset(root))
    train(config, runs=root / "runs", name="joint")
    train(config.model_copy(update={"method": "target-only"}), runs=root / "runs", name="alone")
    for name in ("joint", "alone"):
        evaluate(root / "runs" / name, device="cpu")
    return root


@pytest.fixture(scope="module")
def page(project: Path) -> Path:
    return write_report(project / "runs" / "joint", baseline=project / "runs" / "alone").path


def skill(value: float, low: float | None, high: float | None) -> Results:
    metric = Metric(
        group="prediction", name="skill", level="patient", n=20, value=value, low=low, high=high
    )
    return Results(versions={"medxlate": "0"}, method="joint", target="ct", metrics=(metric,))


@pytest.mark.parametrize(
    ("results", "tone", "said"),
    [
        (skill(0.4, 0.1, 0.6), "good", "40 % lower .* 10 to 60 %.* learned something"),
        (skill(0.4, -0.1, 0.6), "unsure", "may be chance"),
        (skill(-0.4, -0.6, -0.1), "bad", "40 % higher .* worse than no predictor"),
        (skill(0.4, None, None), "unsure", "too few patients"),
        (Results(versions={}, method="joint", target="ct"), "unsure", "without --metric"),
        (None, "unsure", "medxlate evaluate"),
    ],
)
def test_the_verdict_follows_the_interval(results: Results | None, tone: str, said: str) -> None:
    verdict = of_run(results, "patient")
    assert verdict.tone == tone
    assert re.search(said, verdict.sentences[0])


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
    assert "leaks" not in " ".join(whole.verdict)
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
    assert "1 pair of patients with a shared image" in write_report(run).path.read_text()
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
    assert "not where it was" in content
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
    assert "Not evaluated yet" in write_report(run).verdict[0]
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
    for run, error in ((better, 1.0), (worse, 9.0)):
        path = run / "evaluation" / "predictions.parquet"
        # Of so small a test part's patients there is no interval: it is shown to more of them.
        table = pd.concat([pd.read_parquet(path)] * 5, ignore_index=True)
        table["slice_id"] = table["patient"] = [f"p{i:02d}" for i in range(len(table))]
        table["prediction"] = table["label"] + error
        table.to_parquet(path)
    said = write_report(better, baseline=worse).verdict[1]
    assert "99 % lower" in said
    assert "translated images helped" in said
    config = json.loads((better / "config.json").read_text())
    config["model"] |= {"upsample": "bilinear", "skip": "unet", "batch_norm": "separate"}
    config["model"] |= {"discriminator_layers": 1, "discriminator_norm": "none"}
    config["optimizer"] |= {"translator_share": 0.5}
    (better / "config.json").write_text(json.dumps(config))
    assert "translated images helped" in write_report(better, baseline=worse).verdict[1]
    augmented = {**config, "method": "joint+autoaugment"}
    (better / "config.json").write_text(json.dumps(augmented))
    said = write_report(better, baseline=worse).verdict[1]
    assert "it predicts better here; they differ in augmentation too" in said
    (better / "config.json").write_text(json.dumps(config))
    config = json.loads((worse / "config.json").read_text())
    config["optimizer"]["epochs"] += 1
    (worse / "config.json").write_text(json.dumps(config))
    said = write_report(better, baseline=worse).verdict[1]
    assert "it predicts better here; they differ in optimizer.epochs too" in said
    said = write_report(worse, baseline=better).verdict[1]
    assert "8000 % higher" in said
    assert "it predicts worse here" in said
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


def test_the_gain_over_a_baseline_is_that_of_the_predictions(project: Path, page: Path) -> None:
    losses = {}
    for name in ("joint", "alone"):
        table = pd.read_parquet(project / "runs" / name / "evaluation" / "predictions.parquet")
        losses[name] = float(((table["prediction"] - table["label"]) ** 2).mean())
    share = abs(100 * (1 - losses["joint"] / losses["alone"]))
    way = "lower" if losses["joint"] < losses["alone"] else "higher"
    assert f"Against target-only (alone), its error per image is {share:.0f} % {way}" in (
        page.read_text(encoding="utf-8")
    )


def test_the_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    result = CliRunner().invoke(app, ["report", "runs/joint", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["report"] == "runs/joint/report.html"
    assert CliRunner().invoke(app, ["report", "runs/nothing"]).exit_code == 1


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    with api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Any]:
    """The page as it is opened, and a check that nothing went wrong in it."""
    wrong: list[str] = []
    context = browser.new_context(viewport={"width": 1100, "height": 900}, color_scheme="light")
    tab = context.new_page()
    # The browser advises the tests themselves, which read canvases back.
    tab.on("console", lambda m: "readback" in m.text or wrong.append(m.text))
    tab.on("pageerror", lambda problem: wrong.append(str(problem)))
    tab.on(
        "request",
        lambda asked: (
            None if asked.url.startswith(("data:", page.as_uri())) else wrong.append(asked.url)
        ),
    )
    tab.goto(page.as_uri())
    tab.wait_for_selector(".viewer[data-current='0']")
    yield tab
    context.close()
    assert wrong == []


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
