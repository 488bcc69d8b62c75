"""Predictions of other tools for the study's test images, scored as a row of their own."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medxlate.base.errors import DataError
from medxlate.base.records import in_csv
from medxlate.dataset.index import Dataset, Modality
from medxlate.dataset.label_table import check_rows, check_text
from medxlate.dataset.labels import Task
from medxlate.dataset.splits import Split, training_share
from medxlate.method.registry import METHODS
from medxlate.study.prediction_rows import add_predictions, image_rows
from medxlate.study.study import OpenStudy, Study

ID_DIGITS = 6


@dataclass(frozen=True)
class Scored:
    """What another tool came to.

    Attributes:
        results: A row a repeat, with the columns that a cell has, as far as they are known.
        predictions: A row a test image and repeat.
    """

    results: pd.DataFrame
    predictions: pd.DataFrame


def score_tables(paths: Sequence[Path], work: OpenStudy) -> list[Scored]:
    """Score tables of predictions, each under its file's name; see ``score_table``.

    Raises:
        DataError: One cannot be scored, or is named like another one or like a method.
    """
    for number, path in enumerate(paths):
        if path.stem in (*METHODS, *work.study.methods):
            raise DataError(f"{path} has the name of a method.", "Rename the file.")
        if path.stem in [other.stem for other in paths[:number]]:
            raise DataError(f"Two tables of predictions have the name {path.stem}.", "Rename one.")
    target = work.tables[work.target]
    return [score_table(path, work.study, work.dataset, target, work.splits) for path in paths]


def score_table(
    path: Path, study: Study, dataset: Dataset, target: Modality, splits: Sequence[Split]
) -> Scored:
    """Score a table of predictions on the study's test images.

    The table (CSV) has the columns ``repeat``, ``slice_id`` and ``prediction``: a number, or a
    class name; for a classification ``p(class)`` columns of probabilities may stand in its place.
    ``splits/rNN.csv`` in the study folder lists the test slices of each repeat. It counts as
    trained on the largest share of the target's training patients that the study has.

    Args:
        path: The table; its name without suffix names the row.
        study: The study.
        dataset: Its dataset.
        target: The target modality.
        splits: Of each repeat.

    Raises:
        DataError: A column or a test image is missing, or a value is not a prediction.
    """
    name = path.stem
    table = _read(path)
    results, predictions = [], []
    share = max(study.target_fractions)
    for repeat, split in enumerate(splits):
        rows = split.rows(target.name, target.slices, "test")
        test = target.slices.iloc[rows]
        own = table[table["repeat"] == repeat].set_index("slice_id")
        _check_rows(path, own, list(test["slice_id"]), repeat)
        keys: dict[str, str | int | float] = {
            "method": name,
            "sources": "",
            "repeat": repeat,
            "target_fraction": share,
            "source_fraction": 1.0,
        }
        task = dataset.info.task
        values = _values(path, own.loc[list(test["slice_id"])], task)
        frame = image_rows(test, keys)
        scores = add_predictions(frame, values, _labels(test["label"].tolist(), task), task)
        rows = split.rows(target.name, target.slices, "train")
        train = target.slices.iloc[training_share(split, target.name, target.slices, rows, share)]
        counts = {
            "train_patients": train["patient"].nunique(),
            "train_images": len(train),
            "test_patients": test["patient"].nunique(),
            "test_images": len(test),
        }
        results.append({**keys, "policy": split.policy, **scores, **counts})
        predictions.append(frame)
    return Scored(pd.DataFrame(results), pd.concat(predictions, ignore_index=True))


def _read(path: Path) -> pd.DataFrame:
    try:
        check_text(path, ",")
        check_rows(path, ",")
        table = pd.read_csv(path, dtype={"slice_id": str, "prediction": str})
    except DataError as problem:
        raise DataError(f"{path} was not read: {problem.message}.") from None
    except (OSError, ValueError, csv.Error) as problem:
        raise DataError(f"{path} cannot be read as CSV: {problem}.") from None
    missing = {"repeat", "slice_id"} - set(table.columns)
    if missing:
        raise DataError(
            f"{path} has no column '{min(missing)}'.",
            "It needs repeat, slice_id (as in splits/rNN.csv) and prediction.",
        )
    # Whoever reads splits/rNN.csv with numbers loses the zeros in front.
    table["slice_id"] = table["slice_id"].str.zfill(ID_DIGITS)
    return table


def _check_rows(path: Path, own: pd.DataFrame, wanted: list[str], repeat: int) -> None:
    missing = [name for name in wanted if name not in own.index]
    if missing:
        raise DataError(
            f"{path} has no prediction for {len(missing)} of {len(wanted)} test images of repeat "
            f"{repeat}, such as {missing[0]}.",
            f"splits/r{repeat:02d}.csv lists them.",
        )
    if own.index.has_duplicates:
        twice = own.index[own.index.duplicated()][0]
        raise DataError(f"{path} has two predictions for slice {twice} of repeat {repeat}.")


def _values(path: Path, own: pd.DataFrame, task: Task) -> np.ndarray[Any, Any]:
    """Return labels [N], or class probabilities [N, K]; a class name counts as certain."""
    shares = [f"p({name})" for name in task.classes]
    if shares and set(shares) <= set(own.columns):
        return _finite(path, own[shares])
    if "prediction" not in own.columns:
        raise DataError(f"{path} has no column 'prediction'.")
    if task.kind == "regression":
        return _finite(path, own[["prediction"]])[:, 0]
    # splits/rNN.csv may have a class with a quote in front.
    known = {str(in_csv(name)): name for name in task.classes} | {n: n for n in task.classes}
    unknown = set(own["prediction"]) - set(known)
    if unknown:
        raise DataError(
            f"{path} predicts '{min(map(str, unknown))}', which is not a class.",
            f"Known: {', '.join(task.classes)}.",
        )
    certain: np.ndarray[Any, Any] = np.zeros((len(own), len(task.classes)))
    chosen = [task.classes.index(known[name]) for name in own["prediction"]]
    certain[range(len(own)), chosen] = 1
    return certain


def _finite(path: Path, columns: pd.DataFrame) -> np.ndarray[Any, Any]:
    numbers = columns.apply(pd.to_numeric, errors="coerce")
    values: np.ndarray[Any, Any] = numbers.to_numpy(dtype=np.float64, copy=True)
    if not np.isfinite(values).all():
        raise DataError(f"{path} contains a prediction that is not a number.")
    return values


def _labels(raw: Sequence[Any], task: Task) -> np.ndarray[Any, Any]:
    if task.kind == "regression":
        return np.asarray(raw, dtype=np.float64)
    return np.asarray([task.classes.index(name) for name in raw])
