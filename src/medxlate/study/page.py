"""A study's ``report.html``: what ``report.md`` says, with charts, and nothing of a patient.

It is made of the study folder alone; the dataset, where it is still there, adds the label's unit.
Reasons of failures are left out, for they may name files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from markupsafe import Markup, escape

from medxlate.base.errors import DataError, MedxlateError
from medxlate.base.records import read_json
from medxlate.dataset.index import Dataset
from medxlate.evaluation.results import Picture, Points
from medxlate.report.blocks import bullets, figure, paragraph, printed, table
from medxlate.report.charts import draw
from medxlate.report.interval_chart import interval_chart
from medxlate.report.page import Section, write_page
from medxlate.report.study_figures import Curve, errors_of, source_curves, target_curves
from medxlate.study.answers import answers, in_order
from medxlate.study.comparison import REPEATS, system_name
from medxlate.study.drawing import REFERENCES, intervals
from medxlate.study.measured import judged, level_of
from medxlate.study.study import Study, StudyFolder, cells, read_study
from medxlate.study.summary import setting, settings
from medxlate.study.tables import main_comparison, tables

PAGE = "report.html"
FEW = 5  # patients of a subgroup; with fewer in any, the subgroups are not shown
OWN = "joint"
SHOWN = ("value", "patients", "images", "loss", "std")  # of a subgroup


def write_study_page(study_folder: Path) -> Path:
    """Write ``report.html`` into a study folder and return its path.

    Args:
        study_folder: Of a study that ``compare`` has collected.

    Raises:
        DataError: The study has no statistics or results yet, or they cannot be read.
    """
    folder = StudyFolder(study_folder)
    study = read_study(study_folder)
    statistics = _statistics(study_folder / "statistics.json")
    results = _frame(study_folder / "results.parquet")
    unit = _unit(study)
    measure = f"Mean squared error ({unit}²)" if unit else "Mean squared error"
    if "mse" not in results:
        measure = "Error rate"
    failed = _failed(study, folder)
    parts = {
        "Does it help?": _answers(statistics, level_of(results)),
        "Errors by method": _errors(study_folder, results, measure),
        "joint against the others": bullets(_sentences(statistics, "joint_against_baselines")),
        "Dose and response": _dose(study, statistics, results, measure),
        "Tables": _tables(study, results, unit),
        "Subgroups": _subgroups(study_folder / "subgroups.csv", measure),
        "Settings": _settings(study, results),
        "Costs": _costs(results),
        "Cells that failed": _failures(failed),
    }
    path = study_folder / PAGE
    verdict, tone = _verdict(statistics)
    write_page(
        path,
        title=f"Comparison of methods: {study.config.data.target.upper()}",
        verdict=verdict,
        tone=tone,
        sections=[Section(_key(name), name, body) for name, body in parts.items() if body],
        facts={
            "Target": study.config.data.target,
            "Sources": ", ".join("+".join(each) for each in study.source_sets) or "none",
            f"{REPEATS[study.design].capitalize()}s": study.repeats,
            "Cells": f"{len(results)} of {len(cells(study))}",
            "medxlate": study.medxlate,
        },
    )
    return path


def _key(title: str) -> str:
    return re.sub(r"[^a-z]+", "-", title.lower()).strip("-")


def _statistics(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise DataError(
            f"{path} is not there: the study is not finished.",
            "Go on with `medxlate compare --out` and the folder.",
        )
    value = read_json(path, error=DataError)
    if not isinstance(value, dict):
        raise DataError(f"{path} is no study's statistics.", "Run `medxlate compare` again.")
    return value


def _frame(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except Exception as problem:  # arrow has many kinds of its own
        raise DataError(
            f"{path} cannot be read: {problem}.", "Run `medxlate compare` again."
        ) from None
    return frame.assign(sources=frame["sources"].fillna(""))


def _unit(study: Study) -> str:
    """Return the label's unit; "" where the dataset is not there any more."""
    try:
        return Dataset(Path(study.config.data.folder)).info.task.unit or ""
    except MedxlateError:
        return ""


def _failed(study: Study, folder: StudyFolder) -> list[str]:
    return [each.name for each in cells(study) if folder.failure(each).is_file()]


def _sentences(statistics: Mapping[str, Any], *keys: str) -> list[str]:
    entries = [each for key in keys for each in statistics.get(key) or ()]
    return [str(each["sentence"]) for each in entries if each.get("sentence")]


def _is_own(entry: Mapping[str, Any]) -> bool:
    return str(entry.get("system", {}).get("method", "")).partition("+")[0] == OWN


def _verdict(statistics: Mapping[str, Any]) -> tuple[list[str], Literal["good", "bad", "unsure"]]:
    """Return what is said first, of the primary contrast or else of joint, and its tone."""
    every = in_order(statistics)
    own = statistics.get("primary") or [each for each in every if _is_own(each)] or every
    said = {str(each.get("verdict")) for each in own}
    sentences = [str(each["sentence"]) for each in own if each.get("sentence")]
    sentences = sentences or ["There is nothing to compare: target-only is not in the study."]
    if said == {"helps"} and all(each.get("beats_constant") is not False for each in own):
        return sentences, "good"
    return sentences, "bad" if "hurts" in said and "helps" not in said else "unsure"


def _answers(statistics: Mapping[str, Any], unit: str) -> Markup:
    """Return what a reader asks first as a table, then in sentences."""
    body = Markup("")
    for title, entries in (
        ("", in_order(statistics)),
        ("With fewer target patients", statistics.get("with_fewer_target_patients") or []),
    ):
        if found := answers(entries, unit=unit):
            heading = Markup("<h3>") + escape(title) + Markup("</h3>") if title else Markup("")
            body += heading + printed(found)
    said = [str(each["sentence"]) for each in in_order(statistics) if each.get("sentence")]
    return body + bullets(said)


def _errors(folder: Path, results: pd.DataFrame, measure: str) -> Markup:
    level, results = level_of(results), judged(results)
    main = main_comparison(results)
    means = main.groupby("method")["loss"].mean()
    found = intervals(main_comparison(_frame(folder / "predictions.parquet")), level)
    svg = interval_chart(
        errors_of(main, system_name, found),
        title="Test error of each method",
        label=f"{measure} per {level}, lower is better",
        thresholds={each: float(means[each]) for each in REFERENCES if each in means},
    )
    caption = (
        "Small dots are repeats, the large sign their mean, the line its 95 % interval from a "
        "bootstrap over patients. The lowest mean is on top."
    )
    return figure(svg, caption=caption)


def _dose(
    study: Study, statistics: Mapping[str, Any], results: pd.DataFrame, measure: str
) -> Markup:
    body = bullets(_sentences(statistics, "equivalents", "saturation"))
    if study.config.split.policy != "patient":
        return body
    results = judged(results)
    panels = {
        "Real target patients in training": target_curves(results, system_name),
        "Source patients in training": source_curves(results, system_name),
        "Source images to one real target image": source_curves(results, system_name, over="ratio"),
    }
    caption = "Means over repeats; lower is better."
    for label, found in panels.items():
        if found:
            body += figure(draw(_picture(label, found, measure)), caption=caption)
    return body


def _picture(label: str, found: list[Curve], measure: str) -> Picture:
    lines = tuple(
        Points(name=each.name, x=tuple(each.patients), y=tuple(each.means)) for each in found
    )
    title = f"Error over {label[0].lower()}{label[1:]}"
    return Picture(kind="lines", title=title, x_label=label, y_label=measure, lines=lines)


def _tables(study: Study, results: pd.DataFrame, unit: str) -> Markup:
    found = tables(results, target=study.config.data.target, unit=f"{unit}²" if unit else "")
    return Markup("").join(printed(each) for each in found)


def _subgroups(path: Path, measure: str) -> Markup:
    """Return a table a kind of subgroup, without those in which a group is a few patients."""
    if not path.is_file():
        return Markup("")
    frame = pd.read_csv(path, dtype={"value": str, "sources": str, "method": str}).fillna(
        {"sources": ""}
    )
    body, hidden = Markup(""), []
    for kind, every in frame.groupby("subgroup", sort=False):
        if (every["patients"] < FEW).any():
            hidden.append(str(kind))
            continue
        rows = [
            (system_name(row["method"], row["sources"]), *(row[name] for name in SHOWN))
            for row in main_comparison(every).to_dict("records")
        ]
        columns = ("Method", str(kind).capitalize(), "Patients", "Images", measure, "Std")
        body += table(columns, rows, caption=f"Error by {kind}")
    if hidden:
        words = f"Not shown, for a group has fewer than {FEW} patients: {', '.join(hidden)}."
        body += paragraph(words)
    return body


def _settings(study: Study, results: pd.DataFrame) -> Markup:
    body = Markup("").join(paragraph(_code(each)) for each in setting(study, results))
    rows = [
        (methods, key, _value(study, key))
        for methods, names in settings(study).items()
        for key in names
    ]
    return body + table(("Methods", "Setting", "Value"), rows, caption="Settings")


def _code(words: str) -> Markup:
    """Return text with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(words.strip()))))


def _value(study: Study, key: str) -> str:
    """Return a setting; of a path only the file's name."""
    section, _, name = key.partition(".")
    value = str(getattr(getattr(study.config, section), name))
    return re.split(r"[/\\]", value)[-1]


def _costs(results: pd.DataFrame) -> Markup:
    def rows() -> Iterator[tuple[str | int | float, ...]]:
        for (method, sources), found in results.groupby(["method", "sources"], sort=False):
            seconds = found["seconds"].astype(float)
            yield (
                system_name(str(method), str(sources)),
                len(found),
                float(seconds.mean()),
                float(seconds.sum() / 3600),
            )

    columns = ("Method", "Cells", "Seconds a cell", "Hours in all")
    caption = "Time of training; what several cells share is not in it"
    return table(columns, list(rows()), caption=caption)


def _failures(failed: list[str]) -> Markup:
    if not failed:
        return Markup("")
    words = "The same command tries them again. `report.md` in the study folder has the reasons."
    return bullets(failed) + paragraph(_code(words))
