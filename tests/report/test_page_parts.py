"""Parts of a run's page: lights, digits, sheet, methods, saved charts, the printed form."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from medxlate.artifacts.info import read_model
from medxlate.artifacts.runs import RunFolder, read_config
from medxlate.evaluation.contact_sheet import draw_rows, read_drawn
from medxlate.evaluation.results import Audit, Picture, Points, read_results
from medxlate.report.audit_section import lights
from medxlate.report.charts import drawn_values
from medxlate.report.figure_sections import predictions_section
from medxlate.report.methods_text import methods_text
from medxlate.report.printing import with_interval
from medxlate.report.run_report import write_report
from medxlate.training.record import read_events

M = "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (245.549, 172.521, 325.462, ("250", "170 to 330")),  # a width of 150: tens
        (12.8065, 10.5917, 15.0023, ("12.8", "10.6 to 15.0")),
        (0.327639, -0.0214308, 0.539317, ("0.33", f"{M}0.02 to 0.54")),
        (-5.82206, -9.31446, -2.16728, (f"{M}5.8", f"{M}9.3 to {M}2.2")),
        (0.5, 0.45, 0.5496, ("0.50", "0.45 to 0.55")),  # a width of 0.0996: 0.10
        (123456, 100000, 150000, ("123000", "100000 to 150000")),
        (-0.001, -0.4, 0.4, ("0.00", f"{M}0.40 to 0.40")),  # no minus zero
        (3.14159, None, None, ("3.14", "")),
        (2.0, 2.0, 2.0, ("2.00", "2.00 to 2.00")),
    ],
)
def test_digits_follow_the_width_of_the_interval(
    value: float, low: float | None, high: float | None, said: tuple[str, str]
) -> None:
    assert with_interval(value, low, high) == said


def test_a_difference_has_its_sign() -> None:
    assert with_interval(12.3, -3.2, 20.1, signed=True) == ("+12", f"{M}3 to +20")
    assert with_interval(12.34, None, None, signed=True) == ("+12.3", "")


def audit(kind: str, status: Any, source: str = "mri") -> Audit:
    return Audit(kind=kind, source=source, status=status, rule="r", sentence="s")


def test_there_are_eight_lights_and_the_worst_source_counts() -> None:
    found = {each.title: each for each in lights([])}
    assert len(found) == 8
    assert {each.word for each in found.values()} == {"Not measured"}
    shown = lights(
        [
            audit("memorisation", "ok"), audit("memorisation", "fires", "pet"),
            audit("domain-gap", "fires"), audit("jitter", "unknown"), audit("tissue", "ok"),
        ]
    )  # fmt: skip
    levels = {each.title: each.level for each in shown}
    assert levels["No copies"] == "red"
    assert levels["Looks real"] == "amber"
    assert levels["Smooth slices"] == "grey"
    assert levels["Tissue HU"] == "green"
    anchors = {each.title: each.anchor for each in shown}
    assert anchors["No copies"] == "audit-memorisation-pet"
    assert len({each.sign for each in shown}) == 4  # not by colour alone


def test_links_lead_into_the_page(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    ids = set(re.findall(r'id="([^"]+)"', content))
    targets = re.findall(r'href="#([^"]+)"', content)
    assert len([each for each in targets if each.startswith("audit-")]) == 8
    assert set(targets) <= ids


def test_the_head_names_label_unit_data_and_days(page: Path) -> None:
    facts = (
        page.read_text(encoding="utf-8").partition('<dl class="facts">')[2].partition("</dl>")[0]
    )
    assert "age (years)" in facts
    assert re.findall(r"\d{4}-\d\d-\d\d", facts) == [date.today().isoformat()] * 2
    assert "patients" in facts


def test_the_days_are_recorded_and_do_not_follow_a_copy(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "joint"
    shutil.copytree(project / "runs" / "joint", copy)
    for path in copy.rglob("*"):
        os.utime(path, (0, 0))
    content = write_report(copy, out=tmp_path / "page.html").path.read_text(encoding="utf-8")
    facts = content.partition('<dl class="facts">')[2].partition("</dl>")[0]
    assert re.findall(r"\d{4}-\d\d-\d\d", facts) == [date.today().isoformat()] * 2


def test_calibration_needs_twenty_patients(project: Path) -> None:
    results = read_results(project / "runs" / "joint" / "evaluation")
    picture = results.pictures["calibration"].title
    few = results.model_copy(update={"patients": 19})
    assert picture not in predictions_section(few)
    assert "Calibration is not shown" in predictions_section(few)
    many = results.model_copy(update={"patients": 20})
    assert picture in predictions_section(many)
    assert "Calibration is not shown" not in predictions_section(many)


def test_a_sheet_is_drawn_over_patients() -> None:
    patients = [f"p{i // 4:02d}" for i in range(80)]  # 20 patients of 4 slices
    rows = draw_rows(patients, [])
    assert len({patients[row] for row in rows}) == len(rows) == 12
    assert rows == draw_rows(patients, [])
    assert rows != draw_rows(patients, [], seed=1)
    few = draw_rows(patients[:12], [])  # of three patients
    assert sorted(few) == list(range(12))
    assert set(draw_rows(patients, [3, 9])) == {3, 9}


def test_the_sheet_shows_what_the_evaluation_drew(project: Path, page: Path) -> None:
    place = project / "runs" / "joint" / "evaluation" / "sheet" / "mri"
    drawn = read_drawn(place)
    images = np.load(place / "translated.npy")
    assert len(images) == len(drawn.labels) <= 12
    content = page.read_text(encoding="utf-8")
    assert f"{drawn.patients} test patients, drawn at random (seed 0)" in content
    sheet = content.partition('class="sheet"')[2]
    assert sheet.count('alt="to CT') == len(drawn.labels)


def text_of(run: RunFolder, **config: Any) -> tuple[str, list[str]]:
    found = read_config(run).model_copy(update=config)
    results, events = read_results(run.evaluation), read_events(run.metrics)
    return methods_text(found, read_model(run.model), results, events, None)


def test_methods_say_what_the_run_did(project: Path) -> None:
    run = RunFolder(project / "runs" / "joint")
    results = read_results(run.evaluation)
    text, works = text_of(run)
    table = pd.read_parquet(run.evaluation / "predictions.parquet")
    assert f"tested on {len(table)} CT images of {table['patient'].nunique()} patients" in text
    epochs = read_config(run).optimizer.epochs
    assert f"for {epochs} epochs" in text
    assert "CycleGAN [1]" in text
    assert any("Yang Y, Xie P" in each for each in works)
    numbers = {int(n) for group in re.findall(r"\[([\d, ]+)\]", text) for n in group.split(",")}
    assert numbers == set(range(1, len(works) + 1))
    inception = any(m.features == "inception" and m.value is not None for m in results.metrics)
    assert ("torch-fidelity" in text) == inception
    assert "compared with" not in text  # nothing was
    alone, works = text_of(RunFolder(project / "runs" / "alone"))
    assert "real CT images alone" in alone
    assert "CycleGAN" not in alone + " ".join(works)


def test_csv_holds_what_is_drawn_and_no_formula() -> None:
    lines = (Points(name="=cmd()", x=(1.0, 2.0), y=(3.0, 4.0)),)
    points = Picture(kind="scatter", title="t", x_label="+x", y_label="y", lines=lines)
    rows = list(csv.reader(io.StringIO(drawn_values(points))))
    assert rows == [["series", "'+x", "y"], ["'=cmd()", "1.0", "3.0"], ["'=cmd()", "2.0", "4.0"]]
    values = tuple(float(i) for i in range(100))
    histogram = Picture(
        kind="histogram", title="t", x_label="v", lines=(Points(name="a", x=values),)
    )
    _, *bins = csv.reader(io.StringIO(drawn_values(histogram)))
    assert sum(float(row[3]) for row in bins) == 100


def test_charts_can_be_saved(opened: Any) -> None:
    opened.click("#theme")  # saved in light colours even so
    figure = opened.locator("#predictions figure").first
    with opened.expect_download() as waiting:
        figure.locator("button[data-save]").click()
    saved = Path(waiting.value.path()).read_text(encoding="utf-8")
    assert waiting.value.suggested_filename.endswith(".svg")
    assert ElementTree.fromstring(saved).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in saved
    assert "#0b5f8a" in saved
    with opened.expect_download() as waiting:
        figure.locator("a[download]").click()
    assert waiting.value.suggested_filename.endswith(".csv")
    assert Path(waiting.value.path()).read_text(encoding="utf-8").startswith("series,")


def test_the_methods_are_copied_from_a_page_on_disk(opened: Any) -> None:
    opened.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    opened.click("button[data-copy]")
    opened.wait_for_function("window.copied")
    assert "Yang Y, Xie P" in opened.evaluate("window.copied")
    assert opened.inner_text("button[data-copy] + span") == "Copied."


def test_the_navigation_stays_and_marks_the_part_that_is_read(opened: Any) -> None:
    opened.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    opened.evaluate("document.getElementById('training').scrollIntoView()")
    opened.wait_for_selector("nav a[aria-current]")
    assert opened.inner_text("nav a[aria-current]") == "Training"
    assert abs(opened.locator("nav").bounding_box()["y"]) < 1


def test_paper_has_still_images_and_no_controls(opened: Any) -> None:
    opened.emulate_media(media="print")
    for hidden in ("nav", ".viewer", ".save", "button", "details"):
        assert not opened.locator(hidden).first.is_visible(), hidden
    assert opened.locator(".sheet img").first.is_visible()
    breaks = "getComputedStyle(document.querySelector('.audit')).breakInside"
    assert opened.evaluate(breaks) == "avoid"


def test_an_evaluation_without_a_sheet_still_opens(project: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(project / "runs" / "joint", tmp_path / "joint"))
    shutil.rmtree(run / "evaluation" / "sheet")
    path = run / "evaluation" / "evaluation.json"
    values = json.loads(path.read_text())
    for each in (*values["audits"], *({"picture": p} for p in values["pictures"].values())):
        if each.get("picture"):
            del each["picture"]["note"]  # as an older medxlate left it
    path.write_text(json.dumps(values))
    assert 'class="sheet"' not in write_report(run).path.read_text(encoding="utf-8")
