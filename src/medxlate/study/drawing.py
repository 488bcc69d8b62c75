"""The pictures of a study: errors, dose-response, and translations side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from medxlate.base.grey_levels import from_stored
from medxlate.dataset.arrays import open_array
from medxlate.dataset.splits import MEANING
from medxlate.report.figures import Row, image_rows
from medxlate.report.study_figures import (
    dose_plot,
    error_plot,
    errors_of,
    source_curves,
    target_curves,
)
from medxlate.study.comparison import REPEATS, Level, system_name
from medxlate.study.measured import judged, level_of, patient_losses
from medxlate.study.opened import Opened
from medxlate.study.statistics import mean_interval
from medxlate.study.study import Cell
from medxlate.study.tables import main_comparison

PICTURES = 6
REFERENCES = ("constant", "target-only")


def draw(
    work: Opened,
    finished: Sequence[Cell],
    results: pd.DataFrame,
    predictions: pd.DataFrame,
) -> Iterator[Path]:
    """Draw what there is something for; yield the files.

    Args:
        work: The study.
        finished: Its finished cells.
        results: A row a cell.
        predictions: A row a test image and cell.
    """
    place = work.folder.path / "figures"
    task = work.dataset.info.task
    measure = "Error rate"
    if task.kind == "regression":
        measure = f"Mean squared error ({task.unit}\u00b2)" if task.unit else "Mean squared error"

    results = judged(results)
    main = main_comparison(results)
    means = main.groupby("method")["loss"].mean()
    error_plot(
        place / "errors.png",
        errors_of(main, system_name, intervals(main_comparison(predictions), level_of(results))),
        measure=measure,
        references=[(each, float(means[each])) for each in REFERENCES if each in means],
        note=_note(work),
    )
    yield place / "errors.png"
    target, source = target_curves(results, system_name), source_curves(results, system_name)
    if (target or source) and level_of(results) == "patient":
        ratio = source_curves(results, system_name, over="ratio")
        dose_plot(
            place / "dose.png",
            measure=measure,
            target=target,
            source=source,
            ratio=ratio,
            note=_note(work),
        )
        yield place / "dose.png"
    yield from _translations(work, finished, place)


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


def _note(work: Opened) -> str:
    repeats = work.study.repeats
    what = REPEATS[work.study.design]
    return f"{repeats} {what}{'s' * (repeats > 1)}. {MEANING[work.study.config.split.policy]}"


def _translations(work: Opened, finished: Sequence[Cell], place: Path) -> Iterator[Path]:
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
        rows = [Row(source.upper(), list(slices.batch(some).images[:, 0].numpy()), blank)]
        for cell in main:
            file = work.folder.cell(cell) / f"translated-{source}.npy"
            if file.is_file() and cell.sources == (source,):
                images = open_array(file)[some]
                rows.append(Row(cell.method, list(from_stored(images)), blank))
        if len(rows) > 1:
            path = place / f"translations-{source}.png"
            image_rows(path, rows, note=f"test patients' {source} translated to {work.target}")
            yield path
