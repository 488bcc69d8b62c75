"""The results and predictions of a study, by system and repeat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medxlate.errors import DataError
from medxlate.study.comparison import CONSTANT, Level, System
from medxlate.study.statistics import Interval, mean_interval

KEYS = ["method", "sources", "target_fraction", "source_fraction"]


class Measured:
    """The finished cells of a study and their predictions, by system.

    A cell whose loss is not finite counts as missing.

    Args:
        results: A row a finished cell.
        predictions: A row a test image and cell, or None.
        level: Whether losses are taken over images or over patients.

    Attributes:
        by_image: Whether the splits divide images.
        metric: What the loss is called.
        repeats: Repeats in the study.
        cells: Finished cells of each system, by repeat; ``judged`` is the loss.
        main: The systems at the largest fractions, by method and sources.
        constant: The one that ignores the image; None where it is not among them.
        rows: Losses of the main systems: repeat, patient, what they are of, loss. None per
            patient for a classification, whose predictions do not say how patients are averaged.

    Raises:
        DataError: The results were measured under more than one policy.
    """

    def __init__(
        self, results: pd.DataFrame, predictions: pd.DataFrame | None, level: Level
    ) -> None:
        policies = sorted(results["policy"].unique())
        if len(policies) > 1:
            raise DataError(f"The results mix the policies {' and '.join(policies)}.")
        self.by_image = policies == ["image"]
        self.level = level
        self.regression = "mse" in results and bool(results["mse"].notna().any())
        self.metric = "MSE" if self.regression else "error rate"
        self.metric += " per patient" if level == "patient" else ""
        self.repeats = int(results["repeat"].nunique())
        column = "loss" if level == "image" else "patient_loss"
        finite = results[np.isfinite(results[column].astype(float))]
        self.cells = {
            system: rows.set_index("repeat").assign(judged=rows[column].to_numpy(float))
            for system, rows in _by_system(finite)
        }
        self.main = _main(self.cells)
        self.constant = next((s for s in self.main if s.method == CONSTANT), None)
        wanted = set(self.main)
        rows_by = _by_system(predictions) if predictions is not None else []
        self.rows = {s: self._judged(rows) for s, rows in rows_by if s in wanted}

    def _judged(self, rows: pd.DataFrame) -> pd.DataFrame | None:
        """Return repeat, patient, unit and loss of what is averaged; None where not known."""
        if self.level == "image":
            return rows[["repeat", "patient", "slice_id", "loss"]]
        if not self.regression:
            return None
        key = ["repeat", "patient", "label"]  # of several labels too, a patient counts once
        means = rows.groupby(key)["prediction"].mean().reset_index()
        means["loss"] = (means["prediction"] - means["label"]) ** 2
        return means.groupby(["repeat", "patient"])["loss"].mean().reset_index()

    def shared(self, one: System, other: System) -> list[int]:
        """Return the repeats that both finished, in order."""
        return sorted(set(self.cells[one].index) & set(self.cells[other].index))

    def losses(self, system: System, repeats: list[int]) -> npt.NDArray[np.float64]:
        """Return the losses of the system in these repeats, [J]."""
        losses: npt.NDArray[np.float64] = self.cells[system].loc[repeats, "judged"].to_numpy(float)
        return losses

    def sizes(self, one: System, other: System, repeats: list[int]) -> dict[str, float]:
        """Return the mean number of units in training and in test that the splits divide.

        Target only, and after the fraction. A system that was trained elsewhere may not know its
        numbers (NaN); the other's, of the same splits, then stand for it.
        """
        unit = "images" if self.by_image else "patients"
        rows = pd.concat([self.cells[system].loc[repeats] for system in (one, other)])
        return {part: float(rows[f"{part}_{unit}"].mean()) for part in ("train", "test")}

    def paired(self, one: System, other: System, repeats: list[int]) -> pd.DataFrame | None:
        """Return the losses of both on the same images (or patients), side by side."""
        first, second = self.rows.get(one), self.rows.get(other)
        if first is None or second is None:
            return None
        keys = [column for column in first.columns if column != "loss"]
        first, second = (rows[rows["repeat"].isin(repeats)] for rows in (first, second))
        return first.merge(second, on=keys, suffixes=("", "_reference"))

    def own(self, system: System, repeats: list[int]) -> Interval | None:
        """Return the system's mean loss with its interval over patients."""
        rows = self.rows.get(system)
        if rows is None:
            return None
        rows = rows[rows["repeat"].isin(repeats)]
        return mean_interval(rows["loss"].to_numpy(float), rows["patient"].to_numpy())


def _by_system(table: pd.DataFrame) -> Iterator[tuple[System, pd.DataFrame]]:
    table = table.assign(sources=table["sources"].fillna(""))
    groups: Any = table.groupby(KEYS)
    for (method, sources, target, source), rows in groups:
        yield System(str(method), str(sources), float(target), float(source)), rows


def _main(systems: Iterable[System]) -> list[System]:
    """Return those at the largest target fraction and there, with sources, source fraction."""
    known = sorted(systems)
    target = max((s.target_fraction for s in known), default=1.0)
    known = [s for s in known if s.target_fraction == target]
    source = max((s.source_fraction for s in known if s.sources), default=1.0)
    return [s for s in known if not s.sources or s.source_fraction == source]
