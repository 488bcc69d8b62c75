"""The table of a study's predictions: a row a test image and cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medxlate.dataset.index import kept_columns
from medxlate.dataset.labels import Task
from medxlate.evaluation.prediction_metrics import Cases, score_slices

# Its own columns, beside kept ones and the p(CLASS) of classes; the last is added for subgroups.
COLUMNS = (
    *("method", "sources", "repeat", "target_fraction", "source_fraction"),
    *("slice_id", "patient", "label", "prediction", "loss", "age decade"),
)

Values = npt.NDArray[Any]


def image_rows(slices: pd.DataFrame, keys: Mapping[str, str | int | float]) -> pd.DataFrame:
    """Return a table of test images, to which predictions can be added.

    Args:
        slices: Their rows of the index.
        keys: What tells this table's rows from others'; see ``Cell.keys``.
    """
    own = slices[["slice_id", "patient", "label"]].reset_index(drop=True)
    kept = kept_columns(slices, COLUMNS).reset_index(drop=True)
    return pd.concat([pd.DataFrame(dict(keys), index=own.index), own, kept], axis=1)


def add_predictions(
    frame: pd.DataFrame, values: Values, labels: Values, task: Task
) -> dict[str, float | None]:
    """Add the predictions and their errors to a table of test images and return the scores.

    Args:
        frame: A row an image, with the column ``patient``; gets ``prediction`` and ``loss``, and
            the columns ``p(class)`` for a classification.
        values: Labels [N] for a regression, class probabilities [N, K] for a classification.
        labels: The truth [N]: values, or class numbers.
        task: Which of the two.

    Returns:
        The metrics per image and, with the prefix ``patient_``, per patient; ``loss`` is the
        squared error (mse), or the share of wrong images.
    """
    if task.kind == "regression":
        values = values.astype(np.float64)
        labels = frame["label"].to_numpy(dtype=np.float64, copy=True)
        frame["prediction"] = values
        frame["loss"] = (values - labels) ** 2
    else:
        chosen = values.argmax(axis=1)
        frame["prediction"] = [task.classes[number] for number in chosen]
        frame["loss"] = (chosen != labels).astype(np.float64)
        for number, name in enumerate(task.classes):
            frame[f"p({name})"] = values[:, number]
    cases = Cases(np.asarray(values, dtype=np.float64), labels, tuple(frame["patient"]))
    per_image, per_patient = score_slices(cases, task)
    each = {**per_image, **{f"patient_{name}": value for name, value in per_patient.items()}}
    for prefix, scores in (("", per_image), ("patient_", per_patient)):
        accuracy = scores.get("accuracy")
        each[f"{prefix}loss"] = scores["mse"] if accuracy is None else 1 - accuracy
    return each
