"""A study's ``report.html``: what ``report.md`` says, with charts, and nothing of single patients.

It is made of the study folder alone; the dataset, where it is still there, adds the label's unit.
Reasons of failures are left out, for they may name files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from medxlate.base.errors import DataError, MedxlateError, plural
from medxlate.base.records import read_json
from medxlate.dataset.index import Dataset
from medxlate.dataset.labels import Task
from medxlate.report.comparison_charts import (
    curves_chart,
    curves_values,
    errors_values,
    interval_chart,
)
from medxlate.report.page import (
    Chapter,
    bullets,
    figure,
    folded,
    joined,
    paragraph,
    printed,
    table,
    tag,
    with_code,
    write_page,
)
from medxlate.report.printing import mean_and_spread
from medxlate.study.comparison import REPEATS, system_name
from medxlate.study.measured import level_of
from medxlate.study.study import Study, StudyFolder, cells, read_study
from medxlate.study.study_charts import measure, patient_panels, references, systems_of
from medxlate.study.summary import design_paragraphs, settings
from medxlate.study.tables import main_comparison, tables
from medxlate.study.verdicts import headline
from medxlate.study.wording import answer_tables, answers, in_order, sentences

PAGE = "report.html"
NOTE = (
    "Differences are a method's error minus that of what it is compared with: below 0 is better. "
    "Percentages are relative to the other's error. Metrics are over {unit}s."
)
FEW = 5  # patients of a subgroup; with fewer in any, the subgroups are not shown


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
    predictions = _frame(study_folder / "predictions.parquet")
    task, level = task_of(study), level_of(results)
    unit = task.unit or "" if task else ""
    loss = measure(unit, results)
    target = study.config.data.target
    label = task.name if task else ""
    verdict = headline(statistics, label=label, target=target, unit=level)
    bodies = {
        "Does it help?": _answers(statistics, level, said=verdict.sentences),
        "Errors by method": _errors(results, predictions, loss),
        "joint against the others": _baselines(statistics, level),
        "Dose and response": _dose(statistics, results, loss),
        "Tables": _tables(study, results, unit),
        "Subgroups": _subgroups(study_folder / "subgroups.csv", loss),
        "Settings": _settings(study, results),
        "Costs": _costs(results),
        "Cells that failed": _failures(_failed(study, folder)),
    }
    path = study_folder / PAGE
    write_page(
        path,
        title=f"Comparison of methods: {label + ' from ' if label else ''}{target.upper()}",
        verdict=verdict,
        chapters=[Chapter(title, body) for title, body in bodies.items() if body],
        facts={
            "Label": f"{label}{f' ({unit})' if unit else ''}" if label else "unknown",
            "Data set": Path(study.config.data.folder).resolve().name,
            "Target": target,
            "Sources": ", ".join("+".join(each) for each in study.source_sets) or "none",
            f"{REPEATS[study.design].capitalize()}s": study.repeats,
            "Cells": f"{len(results)} of {len(cells(study))}",
            "Metrics per": level,
            **({"Collected": day} if (day := statistics.get("collected")) else {}),
            "medxlate": study.medxlate,
        },
        note=NOTE.format(unit=level),
    )
    return path


def _statistics(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise DataError(
            f"{path} is not there: the study is not finished.",
            "Continue it with `medxlate compare --out` and the folder.",
        )
    value = read_json(path, error=DataError)
    if not isinstance(value, dict):
        raise DataError(
            f"{path} does not hold the statistics of a study.", "Run `medxlate compare` again."
        )
    return value


def _frame(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except Exception as problem:  # arrow has many kinds of its own
        raise DataError(
            f"{path} cannot be read: {problem}.", "Run `medxlate compare` again."
        ) from None
    return frame.assign(sources=frame["sources"].fillna(""))


def task_of(study: Study) -> Task | None:
    """Return what is predicted; None where the dataset is not there any more."""
    try:
        return Dataset(Path(study.config.data.folder)).info.task
    except MedxlateError:
        return None


def _failed(study: Study, folder: StudyFolder) -> list[str]:
    return [each.name for each in cells(study) if folder.failure(each).is_file()]


def _answers(statistics: Mapping[str, Any], unit: str, *, said: Sequence[str]) -> Markup:
    """Return what a reader asks first as tables; folded, the sentences that were not ``said``."""
    body = Markup("")
    for title, found in answer_tables(statistics, unit=unit):
        body += tag("h3", title) + printed(found)
    others = [each for each in sentences(in_order(statistics)) if each not in said]
    if others:
        body += folded("The others in sentences", bullets(others))
    return body


def _baselines(statistics: Mapping[str, Any], unit: str) -> Markup:
    """Return the paper's method against each other one; nothing where there is none."""
    entries = statistics.get("joint_against_baselines") or ()
    if not (found := answers(entries, unit=unit)):
        return bullets(sentences(entries))
    return printed(found) + folded("In sentences", bullets(sentences(entries)))


def _errors(results: pd.DataFrame, predictions: pd.DataFrame, loss: str) -> Markup:
    systems, label = systems_of(results, predictions), f"{loss} per {level_of(results)}"
    svg = interval_chart(
        systems,
        title="Test error of each method",
        label=f"{label}, lower is better",
        references=references(results),
    )
    caption = (
        "Small dots are repeats, the large symbol is their mean, the line its 95 % interval from a "
        "bootstrap over patients. The lowest mean is on top."
    )
    return figure(svg, caption=caption, csv=errors_values(systems, label), name="errors")


def _dose(statistics: Mapping[str, Any], results: pd.DataFrame, loss: str) -> Markup:
    readings = [statistics.get(key) or [] for key in ("equivalents", "saturation")]
    body = bullets(sentences(chain(*readings)))
    caption = "Means over repeats, in bands of one standard deviation; lower is better."
    for panel in patient_panels(results):
        title = f"Error over {panel.label[0].lower()}{panel.label[1:]}"
        svg, csv = curves_chart(panel, title=title, label=loss), curves_values(panel, loss)
        body += figure(svg, caption=caption, csv=csv, name=title)
    return body


def _tables(study: Study, results: pd.DataFrame, unit: str) -> Markup:
    found = tables(results, target=study.config.data.target, unit=f"{unit}²" if unit else "")
    return joined(printed(each) for each in found)


def _subgroups(path: Path, loss: str) -> Markup:
    """Return a table a kind of subgroup, without those in which a group is a few patients."""
    if not path.is_file():
        return Markup("")
    frame = pd.read_csv(path, dtype={"value": str, "sources": str, "method": str}).fillna(
        {"sources": ""}
    )
    body, hidden = Markup(""), []
    for kind, groups in frame.groupby("subgroup", sort=False):
        if (groups["patients"] < FEW).any():
            hidden.append(str(kind))
            continue
        body += _by_group(main_comparison(groups), f"{loss} by {kind}: mean ± standard deviation")
    if hidden:
        words = f"Not shown, because a group has fewer than {FEW} patients: {', '.join(hidden)}."
        body += paragraph(words)
    return body


def _by_group(groups: pd.DataFrame, caption: str) -> Markup:
    """Return a row a method, a column a group."""
    patients = {
        str(each): int(n)
        for each, n in groups.groupby("value", sort=False)["patients"].max().items()
    }

    def cell(found: pd.DataFrame, group: str) -> str:
        rows = found[found["value"] == group]
        return mean_and_spread(*rows[["loss", "std"]].iloc[0]) if len(rows) else "-"

    rows = [
        (system_name(str(method), str(sources)), *(cell(found, each) for each in patients))
        for (method, sources), found in groups.groupby(["method", "sources"], sort=False)
    ]
    columns = ("Method", *(f"{each} ({plural(n, 'patient')})" for each, n in patients.items()))
    return table(columns, rows, caption=caption)


def _settings(study: Study, results: pd.DataFrame) -> Markup:
    body = joined(paragraph(with_code(each)) for each in design_paragraphs(study, results))
    rows = [
        (methods, key, _value(study, key))
        for methods, names in settings(study).items()
        for key in names
        if attrgetter(key)(study.config) != {}  # nothing of plug-ins
    ]
    return body + folded("All settings", table(("Methods", "Setting", "Value"), rows))


def _value(study: Study, key: str) -> str:
    """Return a setting; of a path only the file's name."""
    return re.split(r"[/\\]", str(attrgetter(key)(study.config)))[-1]


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

    columns = ("Method", "Cells", "Seconds per cell", "Total hours")
    caption = "Training time, without the stages that several cells share"
    return table(columns, list(rows()), caption=caption)


def _failures(failed: list[str]) -> Markup:
    if not failed:
        return Markup("")
    words = "The same command tries them again. `report.md` in the study folder has the reasons."
    return bullets(failed) + paragraph(with_code(words))
