"""From finished cells to the study's results: tables, figures, statistics and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medxlate.dataset.index import COLUMNS
from medxlate.errors import DataError
from medxlate.records import read_json
from medxlate.report.table import Table
from medxlate.study.cell import PREDICTIONS, RESULT
from medxlate.study.dose import Equivalent, Saturation, equivalents, saturation
from medxlate.study.drawing import draw
from medxlate.study.opened import Opened
from medxlate.study.outside import score_outsiders
from medxlate.study.quality import measure_quality
from medxlate.study.study import Cell, Study, StudyFolder, cells
from medxlate.study.subgroups import subgroups
from medxlate.study.tables import tables
from medxlate.study.verdict import Comparison, against_baselines, compare_to

OWN = "joint"


@dataclass(frozen=True)
class Findings:
    """What a study came to.

    Attributes:
        results: A row a finished cell, and a row a repeat of each other tool.
        predictions: A row a test image and cell.
        tables: As the paper's 2 to 5, and the overview.
        comparisons: Every system against `target-only`.
        patient_comparisons: The same by errors per patient.
        baselines: `joint` with each set of sources against every other method.
        subgroups: By sex, site and decade of age, where the index has them.
        equivalents: How many real target patients the translated ones are worth.
        saturation: Where more source patients stop helping.
        figures: The pictures that were drawn.
    """

    results: pd.DataFrame
    predictions: pd.DataFrame
    tables: tuple[Table, ...]
    comparisons: tuple[Comparison, ...]
    patient_comparisons: tuple[Comparison, ...]
    baselines: tuple[Comparison, ...]
    subgroups: pd.DataFrame
    equivalents: tuple[Equivalent, ...]
    saturation: tuple[Saturation, ...]
    figures: tuple[Path, ...]


def finished_cells(study: Study, folder: StudyFolder) -> list[Cell]:
    """Return the cells that are there."""
    return [cell for cell in cells(study) if (folder.cell(cell) / RESULT).is_file()]


def collect(
    study: Study,
    folder: StudyFolder,
    *,
    predictions: Sequence[Path] = (),
    inception: Path | None = None,
    device: str = "auto",
) -> Findings:
    """Read the finished cells, score other tools' predictions, compare, and draw.

    Args:
        study: The study.
        folder: Where it lies.
        predictions: Tables of other tools' predictions.
        inception: Inception's weights for FID and IS.
        device: Where their features are taken.

    Raises:
        DataError: No cell is finished, or a table of predictions cannot be scored.
    """
    finished = finished_cells(study, folder)
    if not finished:
        raise DataError(f"No cell of the study {folder.path} is finished.")
    work = Opened(study, folder)
    others = score_outsiders(predictions, work)
    quality = measure_quality(
        study,
        folder,
        finished,
        [test[work.target] for test in work.tests],
        task=work.dataset.info.task,
        inception=inception,
        device=device,
    )
    rows = [
        {"index": cell.index, **read_json(folder.cell(cell) / RESULT, error=DataError)}
        for cell in finished
    ]
    own = pd.DataFrame(rows).merge(quality, on="index", how="left").drop(columns="index")
    results = pd.concat([own, *(each.results for each in others)], ignore_index=True)
    results["sources"] = results["sources"].fillna("")
    every = [_predictions(folder.cell(cell) / PREDICTIONS) for cell in finished]
    images = pd.concat([*every, *(each.predictions for each in others)], ignore_index=True)
    comparisons = tuple(compare_to(results, images))
    sets = ["+".join(each) for each in study.source_sets]
    task = work.dataset.info.task
    slices = work.tables[work.target].slices
    kept = [name for name in slices.columns if name not in COLUMNS]
    return Findings(
        results,
        images,
        tuple(tables(results, target=work.target, unit=f"{task.unit}²" if task.unit else "")),
        comparisons,
        tuple(compare_to(results, images, level="patient")),
        tuple(against_baselines(results, images, OWN)),
        subgroups(images, kept, label_name=task.name, regression=task.kind == "regression"),
        tuple(each for s in sets for each in equivalents(results, OWN, sources=s) or ()),
        tuple(each for s in sets if (each := saturation(results, OWN, sources=s))),
        tuple(draw(work, finished, results, images)),
    )


def _predictions(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except Exception as problem:  # arrow has many kinds of its own
        raise DataError(
            f"{path} cannot be read: {problem}.",
            "Remove its folder; the same command trains the cell again.",
        ) from None
