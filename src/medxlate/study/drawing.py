"""The pictures of a study: errors, dose-response, and translations side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medxlate.report.figures import Row, image_rows
from medxlate.report.study_figures import (
    dose_plot,
    error_plot,
    errors_of,
    source_curves,
    target_curves,
)
from medxlate.study.opened import Opened
from medxlate.study.study import Cell
from medxlate.study.tables import main_comparison, system_name
from medxlate.study.verdict import Comparison

PICTURES = 6
REFERENCES = ("constant", "target-only")


def draw(
    work: Opened,
    finished: Sequence[Cell],
    results: pd.DataFrame,
    comparisons: Sequence[Comparison],
) -> Iterator[Path]:
    """Draw what there is something for; yield the files.

    Args:
        work: The study.
        finished: Its finished cells.
        results: A row a cell.
        comparisons: They hold the intervals.
    """
    place = work.folder.path / "figures"
    task = work.dataset.info.task
    measure = "Error rate"
    if task.kind == "regression":
        measure = f"Mean squared error ({task.unit}\u00b2)" if task.unit else "Mean squared error"

    def name(method: str, sources: str) -> str:
        return system_name(method, sources, work.target)

    main = main_comparison(results)
    intervals = {
        (each.system.method, each.system.sources): (each.loss_interval.low, each.loss_interval.high)
        for each in comparisons
        if each.loss_interval is not None
    }
    means = main.groupby("method")["loss"].mean()
    error_plot(
        place / "errors.png",
        errors_of(main, name, intervals),
        measure=measure,
        references=[(each, float(means[each])) for each in REFERENCES if each in means],
        note=_note(work),
    )
    yield place / "errors.png"
    target, source = target_curves(results, name), source_curves(results, name)
    if target or source:
        dose_plot(
            place / "dose.png", measure=measure, target=target, source=source, note=_note(work)
        )
        yield place / "dose.png"
    yield from _translations(work, finished, place)


def _note(work: Opened) -> str:
    seen = {
        "patient": "no patient is in training and in test",
        "image": "slices of one patient can be in training and in test: this is not how well new "
        "patients are predicted",
    }
    repeats = work.study.repeats
    return f"{repeats} split{'s' * (repeats > 1)}; {seen[work.study.config.split.policy]}"


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
                images = np.load(file, mmap_mode="r", allow_pickle=False)[some]
                rows.append(Row(cell.method, list(images.astype(np.float32) / 127.5 - 1), blank))
        if len(rows) > 1:
            path = place / f"translations-{source}.png"
            image_rows(path, rows, note=f"test patients' {source} translated to {work.target}")
            yield path
