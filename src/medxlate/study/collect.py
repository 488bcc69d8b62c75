"""From finished cells to the study's results: tables, figures, statistics and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medxlate.base.errors import DataError
from medxlate.base.records import read_json
from medxlate.dataset.index import kept_columns
from medxlate.report.printing import PrintedTable
from medxlate.study.cell import PREDICTIONS, RESULT
from medxlate.study.comparison import OWN, Comparison, find_contrast
from medxlate.study.data_efficiency import Equivalent, Saturation, equivalents, saturation
from medxlate.study.designs import pool_size
from medxlate.study.external_predictions import score_tables
from medxlate.study.measured import judged
from medxlate.study.prediction_rows import COLUMNS
from medxlate.study.quality import measure_quality
from medxlate.study.study import Cell, OpenStudy, Study, StudyFolder, cells
from medxlate.study.study_charts import write_figures
from medxlate.study.subgroups import subgroups
from medxlate.study.tables import tables
from medxlate.study.verdicts import (
    against_baselines,
    compare_primary,
    compare_to,
    with_fewer_patients,
)


@dataclass(frozen=True)
class Findings:
    """What a study came to.

    Attributes:
        results: A row a finished cell, and a row a repeat of each other tool.
        predictions: A row a test image and cell.
        tables: As the paper's 2 to 5, the ratios, and the overview.
        primary: The contrast that was named before; None where none was.
        comparisons: Every system against `target-only`, by patients (policy image: by images).
        image_comparisons: The same by errors per image.
        baselines: `joint` with each set of sources against every other method.
        fewer_patients: `joint` against `target-only` at the smaller target fractions.
        subgroups: By sex, site and decade of age, where the index has them.
        equivalents: How many real target patients the translated ones are worth.
        saturation: Where more source patients stop helping.
        figures: The pictures that were drawn.
    """

    results: pd.DataFrame
    predictions: pd.DataFrame
    tables: tuple[PrintedTable, ...]
    primary: Comparison | None
    comparisons: tuple[Comparison, ...]
    image_comparisons: tuple[Comparison, ...]
    baselines: tuple[Comparison, ...]
    fewer_patients: tuple[Comparison, ...]
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
    work = OpenStudy(study, folder)
    others = score_tables(predictions, work)
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
    results["design"] = study.design
    pools = [pool_size(split, work.tables[work.target]) for split in work.splits]
    results["pool_patients"] = [pools[repeat] for repeat in results["repeat"]]
    own_images = [_predictions(folder.cell(cell) / PREDICTIONS) for cell in finished]
    images = pd.concat([*own_images, *(each.predictions for each in others)], ignore_index=True)
    primary = find_contrast(study.primary, study.methods, study.source_sets)
    sets = ["+".join(each) for each in study.source_sets]
    task, by_level = work.dataset.info.task, judged(results)
    slices = work.tables[work.target].slices
    kept = list(kept_columns(slices, COLUMNS).columns)
    return Findings(
        results,
        images,
        tuple(tables(results, target=work.target, unit=f"{task.unit}²" if task.unit else "")),
        compare_primary(results, images, primary) if primary else None,
        tuple(compare_to(results, images, primary=primary)),
        tuple(compare_to(results, images, level="image", primary=primary)),
        tuple(against_baselines(results, images, OWN, primary=primary)),
        tuple(with_fewer_patients(results, images, OWN)),
        subgroups(images, kept, label_name=task.name, regression=task.kind == "regression"),
        tuple(each for s in sets for each in equivalents(by_level, OWN, sources=s) or ()),
        tuple(each for s in sets if (each := saturation(by_level, OWN, sources=s))),
        tuple(write_figures(work, finished, results, images)),
    )


def _predictions(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except Exception as problem:  # arrow has many kinds of its own
        raise DataError(
            f"{path} cannot be read: {problem}.",
            "Delete its folder; the same command trains the cell again.",
        ) from None
