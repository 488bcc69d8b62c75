"""The charts of a study: errors, curves over patients, and translations side by side.

The page and the PNG files show the same values; `medxlate.report.comparison_charts` draws both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from medxlate.base.grey_levels import from_stored
from medxlate.dataset.arrays import open_array
from medxlate.dataset.splits import MEANING
from medxlate.report.comparison_charts import Curve, Errors, Panel, dose_plot, error_plot
from medxlate.report.image_rows import ImageRow, image_rows
from medxlate.study.comparison import CONSTANT, OWN, REPEATS, TARGET_ONLY, Level, system_name
from medxlate.study.measured import judged, level_of, patient_losses
from medxlate.study.statistics import mean_interval
from medxlate.study.study import Cell, OpenStudy
from medxlate.study.tables import main_comparison

PICTURES = 6


def write_figures(
    work: OpenStudy,
    finished: Sequence[Cell],
    results: pd.DataFrame,
    predictions: pd.DataFrame,
) -> Iterator[Path]:
    """Write the figures for which there are values; yield the files.

    Args:
        work: The study.
        finished: Its finished cells.
        results: A row a cell.
        predictions: A row a test image and cell.
    """
    place = work.folder.path / "figures"
    label = f"{measure(work.dataset.info.task.unit or '', results)} (lower is better)"
    systems = systems_of(results, predictions)
    error_plot(
        place / "errors.png", systems, label=label, references=references(results), note=_note(work)
    )
    yield place / "errors.png"
    if panels := patient_panels(results):
        dose_plot(place / "dose.png", panels, label=label, note=_note(work))
        yield place / "dose.png"
    yield from _translations(work, finished, place)


def measure(unit: str, results: pd.DataFrame) -> str:
    """Return what the loss is, with its unit.

    Args:
        unit: Of the label; "" for none.
        results: A row a cell.
    """
    if "mse" not in results:
        return "Error rate"
    return f"Mean squared error ({unit}²)" if unit else "Mean squared error"


def references(results: pd.DataFrame) -> dict[str, float]:
    """Return the mean losses that are drawn as lines across a chart of errors."""
    means = main_comparison(judged(results)).groupby("method")["loss"].mean()
    return {each: float(means[each]) for each in (CONSTANT, TARGET_ONLY) if each in means}


def systems_of(results: pd.DataFrame, predictions: pd.DataFrame) -> list[Errors]:
    """Return the systems at the largest fractions with their intervals, the lowest mean first."""
    ends = intervals(main_comparison(predictions), level_of(results))
    return errors_of(main_comparison(judged(results)), intervals=ends)


def errors_of(
    results: pd.DataFrame,
    intervals: Mapping[tuple[str, str], tuple[float, float]] | None = None,
) -> list[Errors]:
    """Return the systems of a comparison, the lowest mean first; last those without one.

    Args:
        results: A row a cell, of one target fraction and one source fraction.
        intervals: Of each method's and sources' mean, where there are any.
    """
    groups = results.groupby(["method", "sources"], sort=False)["loss"]
    found = [
        Errors(
            system_name(str(method), str(sources)),
            losses.to_list(),
            (intervals or {}).get((str(method), str(sources))),
            ours=_is_ours(str(method)),
        )
        for (method, sources), losses in groups
    ]
    return sorted(found, key=lambda system: (math.isnan(system.mean), system.mean))


def intervals(
    predictions: pd.DataFrame, level: Level
) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the bootstrap interval over patients of each system's mean loss.

    Args:
        predictions: A row a test image and cell, of one target fraction and one source fraction.
        level: What the losses are of.
    """
    found = {}
    regression = not any(str(name).startswith("p(") for name in predictions)
    for (method, sources), rows in predictions.groupby(["method", "sources"], sort=False):
        losses = rows if level == "image" else patient_losses(rows, regression=regression)
        if losses is None:
            continue
        interval = mean_interval(losses["loss"].to_list(), losses["patient"].to_list())
        if interval is not None:
            found[str(method), str(sources)] = (interval.low, interval.high)
    return found


def patient_panels(results: pd.DataFrame) -> list[Panel]:
    """Return the errors over patients and ratios; none where slices are divided, not patients."""
    if level_of(results) == "image":
        return []
    results = judged(results)
    found = [
        Panel("Real target patients in training", target_curves(results), logarithmic=True),
        Panel("Source patients in training", source_curves(results)),
        Panel("Source images per real target image", source_curves(results, over="ratio")),
    ]
    return [panel for panel in found if panel.curves]


def target_curves(results: pd.DataFrame) -> list[Curve]:
    """Return each system's error over target patients, at its largest source fraction.

    Args:
        results: A row a finished cell.
    """
    results = results[results["method"] != CONSTANT]
    curves = []
    for (method, sources), cells in results.groupby(["method", "sources"], sort=False):
        whole = cells[cells["source_fraction"] == cells["source_fraction"].max()]
        if whole["target_fraction"].nunique() > 1:
            name, ours = system_name(str(method), str(sources)), _is_ours(str(method))
            curves.append(_curve(name, whole, "target_fraction", "train_patients", ours))
    return curves


def source_curves(
    results: pd.DataFrame, *, over: Literal["source_patients", "ratio"] = "source_patients"
) -> list[Curve]:
    """Return each system's error over what it had of sources, at the largest target fraction.

    At 0 stands the error of target-only.

    Args:
        results: A row a finished cell.
        over: Source patients, or source images to one real target image.
    """
    whole = results[results["target_fraction"] == results["target_fraction"].max()]
    if over == "ratio":
        whole = whole.assign(ratio=whole["source_images"] / whole["train_images"])
    none = whole[whole["method"] == TARGET_ONLY].assign(**{"source_fraction": 0.0, over: 0})
    curves = []
    for (method, sources), cells in whole.groupby(["method", "sources"], sort=False):
        if cells["source_fraction"].nunique() > 1:
            together = pd.concat([none, cells]) if len(none) else cells
            name, ours = system_name(str(method), str(sources)), _is_ours(str(method))
            curves.append(_curve(name, together, "source_fraction", over, ours))
    return curves


def _is_ours(method: str) -> bool:
    return method.partition("+")[0] == OWN


def _curve(name: str, cells: pd.DataFrame, fraction: str, patients: str, ours: bool) -> Curve:
    groups = cells.groupby(fraction)
    losses = groups["loss"]
    numbers, means = groups[patients].mean().to_list(), losses.mean().to_list()
    return Curve(name, numbers, means, losses.std(ddof=1).to_list(), ours)


def _note(work: OpenStudy) -> str:
    repeats = work.study.repeats
    what = REPEATS[work.study.design]
    return f"{repeats} {what}{'s' * (repeats > 1)}. {MEANING[work.study.config.split.policy]}"


def _translations(work: OpenStudy, finished: Sequence[Cell], place: Path) -> Iterator[Path]:
    """Draw the same test slices of each source, as each method translates them (figures 2, 3)."""
    main = [
        cell
        for cell in finished
        if cell.repeat == 0
        and cell.target_fraction == max(work.study.target_fractions)
        and cell.source_fraction == max(work.study.source_fractions)
    ]
    for source in work.study.config.data.sources:
        slices = work.tests[0][source]
        if not len(slices):
            continue
        some = [round(i * (len(slices) - 1) / (PICTURES - 1)) for i in range(PICTURES)]
        blank = [""] * PICTURES
        rows = [ImageRow(source.upper(), list(slices.batch(some).images[:, 0].numpy()), blank)]
        for cell in main:
            file = work.folder.cell(cell) / f"translated-{source}.npy"
            if file.is_file() and cell.sources == (source,):
                images = open_array(file)[some]
                rows.append(ImageRow(cell.method, list(from_stored(images)), blank))
        if len(rows) > 1:
            path = place / f"translations-{source}.png"
            image_rows(path, rows, note=f"test patients' {source} translated to {work.target}")
            yield path
