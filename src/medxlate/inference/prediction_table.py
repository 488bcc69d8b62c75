"""The table of predictions: a row a slice, a volume and a patient."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medxlate.artifacts.calibration import Level
from medxlate.dataset.fields import Field
from medxlate.dataset.index import free_name
from medxlate.inference.inputs import Input, patients_mean
from medxlate.inference.out_of_distribution import Span
from medxlate.inference.uncertainty import Uncertainty
from medxlate.method.label_transform import LabelTransform

# The columns beside the prediction's, and the p(CLASS) of classes.
OWN = ("level", "patient", "file", "slice", "slices", "low", "high", "outside", "spread")


@dataclass(frozen=True)
class Item:
    """Where a predicted slice came from; ``patient`` is "" where that is not known."""

    file: str
    scan: str
    number: int
    patient: str

    @classmethod
    def of(cls, item: Input, field: Field | None) -> Item:
        """Return the item of a slice, its patient found in a field."""
        file = item.slice.file
        known = field.value(file, {}, item.tags) if field is not None else None
        scan = item.scan.name if item.opened.count > 1 else ""
        return cls(file, scan, item.slice.number, known or "")


@dataclass(frozen=True)
class Columns:
    """What a row says of a prediction.

    Attributes:
        head: What is predicted.
        uncertainty: Of the mean over models.
        span: Of the training labels.
    """

    head: LabelTransform
    uncertainty: Uncertainty
    span: Span

    @property
    def label(self) -> str:
        """The column of predictions: the label's name, where no other column is called so."""
        return free_name(self.head.task.name, OWN, "predicted")

    def of(self, values: np.ndarray[Any, Any], level: Level) -> dict[str, Any]:
        """Return the columns of predictions [N, models] or [N, models, classes], with intervals."""
        several = values.shape[1] > 1
        # A single model's own values: not even a mean of one is to round.
        mean = (values.mean(axis=1) if several else values[:, 0]).astype(np.float64)
        spread = values.std(axis=1, dtype=np.float64)
        if self.head.task.kind == "regression":
            width = self.uncertainty.half_width(level)
            width = width if math.isfinite(width) else math.nan
            columns: dict[str, Any] = {
                self.label: np.round(mean, 4),
                "low": np.round(mean - width, 4),
                "high": np.round(mean + width, 4),
                "outside": self.span.outside(mean) if self.span.known else "",
            }
            return columns | ({"spread": np.round(spread, 4)} if several else {})
        classes, chosen = self.head.task.classes, mean.argmax(axis=1)
        columns = {self.label: [classes[i] for i in chosen]}
        for i, name in enumerate(classes):
            columns[f"p({name})"] = np.round(mean[:, i], 6)
        of_chosen = spread[np.arange(len(chosen)), chosen]
        return columns | ({"spread": np.round(of_chosen, 6)} if several else {})


def make_table(values: np.ndarray[Any, Any], items: list[Item], columns: Columns) -> pd.DataFrame:
    """Return the rows of slices, then of volumes, then of patients, numbers in place of ids.

    Args:
        values: Each model's prediction of each slice, finite: labels [N, models], or class
            probabilities [N, models, classes].
        items: Where the slices came from.
        columns: What a row says of a prediction.
    """
    numbers: dict[str, str] = {"": ""}
    for item in items:
        numbers.setdefault(item.patient, f"patient-{len(numbers):04d}")
    patients = [numbers[item.patient] for item in items]
    slices = pd.DataFrame(
        {
            "level": "slice",
            "patient": patients,
            "file": [item.file for item in items],
            "slice": [item.number + 1 for item in items],
            "slices": 1,
            **columns.of(values, "slice"),
        }
    )
    owners = {item.scan: patient for item, patient in zip(items, patients, strict=True)}
    volumes = _means("volume", values, [item.scan for item in items], columns)
    if volumes is not None:
        volumes["patient"] = [owners[name] for name in volumes["file"]]
    people = _means("patient", values, patients, columns)
    if people is not None:
        people["patient"], people["file"] = people["file"], ""
    tables = [table for table in (slices, volumes, people) if table is not None]
    return pd.concat(tables, ignore_index=True)


def _means(
    level: Level, values: np.ndarray[Any, Any], names: list[str], columns: Columns
) -> pd.DataFrame | None:
    """Return a row for each name, the mean of its slices; rows without a name do not count."""
    named = [i for i, name in enumerate(names) if name]
    if not named:
        return None
    means = patients_mean(values[named], [names[i] for i in named])
    counts = Counter(names)
    return pd.DataFrame(
        {
            "level": level,
            "patient": "",
            "file": list(means),
            "slice": "",
            "slices": [counts[name] for name in means],
            **columns.of(np.stack(list(means.values())), level),
        }
    )


def outside(table: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Return how many predictions lie outside the training labels' range, and of how many.

    By level; nothing where the table does not say so.
    """
    if "outside" not in table or table["outside"].dtype != np.bool_:
        return {}
    groups = table.groupby("level", sort=False)["outside"]
    return {str(level): (int(rows.sum()), len(rows)) for level, rows in groups}
