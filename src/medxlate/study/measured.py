"""The results and predictions of a study, by system and repeat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from medxlate.base.errors import DataError
from medxlate.study.comparison import CONSTANT, Level, System
from medxlate.study.power import Design
from medxlate.study.statistics import Interval, mean_interval
from medxlate.study.ttests import (
    LEAST_REPEATS,
    Tested,
    corrected_resampled_t,
    crossed_t,
    overlap_of,
    splits_t,
)

KEYS = ["method", "sources", "target_fraction", "source_fraction"]
COLUMN: dict[Level, str] = {"patient": "patient_loss", "image": "loss"}


def level_of(results: pd.DataFrame) -> Level:
    """Return whether losses are taken over patients or, where splits divide images, over images."""
    return "image" if "image" in set(results["policy"]) else "patient"


def judged(results: pd.DataFrame) -> pd.DataFrame:
    """Return the results with what verdicts are by as their ``loss``."""
    return results.assign(loss=results[COLUMN[level_of(results)]])


def design_of(results: pd.DataFrame) -> Design:
    """Return the design of a study's results; studies from before there was one are resampled.

    Raises:
        DataError: There is more than one, or one that is not known.
    """
    known = results["design"].dropna() if "design" in results else pd.Series(dtype=str)
    found = sorted(set(known) or {"resampled"})
    if len(found) > 1:
        raise DataError(f"The results mix the designs {' and '.join(found)}.")
    if found[0] not in get_args(Design):
        raise DataError(
            f"The results have an unknown design, {found[0]!r}.",
            "Use the version of medxlate that started the study.",
        )
    return cast(Design, found[0])


def pool(results: pd.DataFrame, unit: str = "patients") -> pd.Series:
    """Return how many patients (or images) each cell's split has to train on, before a fraction.

    Results from before ``pool_patients`` know the number after the fraction, and the fraction.
    """
    before = results[f"train_{unit}"] / results["target_fraction"]
    if f"pool_{unit}" not in results:
        return before
    return results[f"pool_{unit}"].astype(float).fillna(before)


class Measured:
    """The finished cells of a study and their predictions, by system.

    A cell whose loss is not finite counts as missing.

    Args:
        results: A row a finished cell.
        predictions: A row a test image and cell, or None.
        level: Whether losses are taken over patients or over images; None: over patients, unless
            the splits divide images.

    Attributes:
        by_image: Whether the splits divide images.
        design: What the repeats are.
        level: As given or chosen.
        metric: What the loss is called.
        repeats: Repeats in the study.
        cells: Finished cells of each system, by repeat; ``judged`` is the loss.
        main: The systems at the largest fractions, by method and sources.

    Raises:
        DataError: The results were measured under more than one policy or design.
    """

    def __init__(
        self, results: pd.DataFrame, predictions: pd.DataFrame | None, level: Level | None = None
    ) -> None:
        policies = sorted(results["policy"].unique())
        if len(policies) > 1:
            raise DataError(f"The results mix the policies {' and '.join(policies)}.")
        self.by_image = policies == ["image"]
        self.design = design_of(results)
        self.level: Level = level or level_of(results)
        self._regression = "mse" in results and bool(results["mse"].notna().any())
        self.metric = "MSE" if self._regression else "error rate"
        self.metric += " per patient" if self.level == "patient" else ""
        self.repeats = int(results["repeat"].nunique())
        column = COLUMN[self.level]
        finite = results[np.isfinite(results[column].astype(float))]
        self.cells = {
            system: rows.set_index("repeat").assign(judged=rows[column].to_numpy(float))
            for system, rows in _by_system(finite)
        }
        self.main = _main(self.cells)
        self._predictions = dict(_by_system(predictions)) if predictions is not None else {}
        self._rows: dict[System, pd.DataFrame | None] = {}

    def at(self, target_fraction: float, source_fraction: float) -> list[System]:
        """Return the systems of these fractions, those without sources whatever the second is."""
        return [
            system
            for system in sorted(self.cells)
            if system.target_fraction == target_fraction
            and (not system.sources or system.source_fraction == source_fraction)
        ]

    def constant(self, system: System) -> System | None:
        """Return the one that ignores the image, with as many target patients; None without it."""
        found = self.at(system.target_fraction, system.source_fraction)
        return next((other for other in found if other.method == CONSTANT), None)

    def rows(self, system: System) -> pd.DataFrame | None:
        """Return the system's losses: repeat, patient, what they are of, loss.

        None where there are no predictions, or they do not say how patients are averaged.
        """
        if system not in self._rows and system in self._predictions:
            losses = patient_losses if self.level == "patient" else _image_losses
            self._rows[system] = losses(self._predictions[system], regression=self._regression)
        return self._rows.get(system)

    def shared(self, one: System, other: System) -> list[int]:
        """Return the repeats that both finished, in order."""
        return sorted(set(self.cells[one].index) & set(self.cells[other].index))

    def losses(self, system: System, repeats: list[int]) -> npt.NDArray[np.float64]:
        """Return the losses of the system in these repeats, [J]."""
        losses: npt.NDArray[np.float64] = self.cells[system].loc[repeats, "judged"].to_numpy(float)
        return losses

    def tested(self, one: System, other: System) -> Tested | None:
        """Test the difference of two systems over their shared repeats, as the design asks.

        Raises:
            DataError: The test patients should be the same in every repeat, and are not.
        """
        repeats = self.shared(one, other)
        both, sizes = self.paired(one, other, repeats), self.sizes(one, other, repeats)
        alone = both is None or both["repeat"].nunique() < len(repeats)
        if self.design == "resampled":
            if both is None or alone or self.by_image or len(repeats) < LEAST_REPEATS:
                difference = self.losses(one, repeats) - self.losses(other, repeats)
                return corrected_resampled_t(difference, **sizes)
            rows, total = _by_patient(both), sizes["train"] + sizes["test"]
            columns = (rows[name].to_numpy() for name in ("difference", "repeat", "patient"))
            return splits_t(*columns, fraction=one.target_fraction, total=total)
        if both is None or (self.design == "redrawn" and len(repeats) < 2):
            return None
        drawn = one.target_fraction * sizes["train"]
        overlap = overlap_of(drawn, sizes["train"]) if self.design == "redrawn" else 0.0
        return crossed_t(_crossed(both), overlap=overlap)

    def sizes(self, one: System, other: System, repeats: list[int]) -> dict[str, float]:
        """Return the mean number of units in the training and test parts of the splits.

        Target only, and before any fraction. A system that was trained elsewhere may not know its
        numbers (NaN); the other's, of the same splits, then stand for it.
        """
        unit = "images" if self.by_image else "patients"
        rows = pd.concat([self.cells[system].loc[repeats] for system in (one, other)])
        return {"train": float(pool(rows, unit).mean()), "test": float(rows[f"test_{unit}"].mean())}

    def paired(self, one: System, other: System, repeats: list[int]) -> pd.DataFrame | None:
        """Return the losses of both on the same patients (or images), side by side."""
        first, second = self.rows(one), self.rows(other)
        if first is None or second is None:
            return None
        keys = [column for column in first.columns if column != "loss"]
        first, second = (rows[rows["repeat"].isin(repeats)] for rows in (first, second))
        return first.merge(second, on=keys, suffixes=("", "_reference"))

    def own(self, system: System, repeats: list[int]) -> Interval | None:
        """Return the system's mean loss with its interval over patients."""
        rows = self.rows(system)
        if rows is None:
            return None
        rows = rows[rows["repeat"].isin(repeats)]
        return mean_interval(rows["loss"].to_numpy(float), rows["patient"].to_numpy())

    def seconds(self, system: System, repeats: list[int]) -> float | None:
        """Return the mean seconds of a training, with what was trained first; None: not known."""
        known = self.cells[system].reindex(columns=["seconds", "shared_seconds"]).loc[repeats]
        spent = float(known.astype(float).sum(axis=1, skipna=False).mean())
        return spent if np.isfinite(spent) else None


def patient_losses(rows: pd.DataFrame, *, regression: bool) -> pd.DataFrame | None:
    """Return the loss of each patient in each repeat: ``repeat``, ``patient``, ``loss``.

    A patient's predictions are averaged over the images of a label, and then judged; a patient with
    several labels has the mean loss.

    Args:
        rows: Predictions of one system, a row an image and repeat.
        regression: Whether the label is a number; the loss is then the squared error, else 0 or 1.

    Returns:
        None for classes whose probabilities are not known.
    """
    key = ["repeat", "patient", "label"]
    if regression:
        means = rows.groupby(key)["prediction"].mean().reset_index()
        means["loss"] = (means["prediction"] - means["label"]) ** 2
    else:
        columns = [str(name) for name in rows if str(name).startswith("p(")]
        shares = [name for name in columns if rows[name].notna().all()]
        if not shares:
            return None
        means = rows.groupby(key)[shares].mean().reset_index()
        named = means[shares].to_numpy(float).argmax(axis=1)
        said = np.array([name[2:-1] for name in shares])[named]
        means["loss"] = (said != means["label"].astype(str)).astype(float)
    return means.groupby(["repeat", "patient"])["loss"].mean().reset_index()


def _image_losses(rows: pd.DataFrame, *, regression: bool) -> pd.DataFrame | None:
    return rows[["repeat", "patient", "slice_id", "loss"]]


def _by_patient(both: pd.DataFrame) -> pd.DataFrame:
    """Return paired differences of patients: ``repeat``, ``patient``, ``difference``, ``count``.

    Their mean over a repeat is the mean over its rows. Where losses are per image, a patient with
    more images weighs more: the patient's distance from the mean counts so often, which is the
    mean's to first order (Cochran 1977, section 6.4).
    """
    both = both.assign(difference=both["loss"] - both["loss_reference"])
    groups = both.groupby(["patient", "repeat"])["difference"]
    rows = groups.agg(["mean", "size"]).reset_index()
    of_repeat = rows["repeat"].map(both.groupby("repeat")["difference"].mean())
    weight = rows["size"] / rows.groupby("repeat")["size"].transform("mean")
    difference = of_repeat + (rows["mean"] - of_repeat) * weight
    return rows.assign(difference=difference, count=rows["size"])


def _crossed(both: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return paired differences of patients as a table [P, J]."""
    rows = _by_patient(both)
    table, counts = (
        rows.pivot(index="patient", columns="repeat", values=name)
        for name in ("difference", "count")
    )
    if table.isna().any(axis=None) or (counts.nunique(axis=1) > 1).any():
        raise DataError(
            "The test patients differ between repeats, although the study's design keeps them.",
            "Start the study again in another folder with `medxlate compare --out`.",
        )
    crossed: npt.NDArray[np.float64] = table.to_numpy(float)
    return crossed


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
