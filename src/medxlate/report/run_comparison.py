"""A run against another on the same test patients, and finding the one to compare it with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medxlate.artifacts.info import read_model, weights_hashes
from medxlate.artifacts.runs import RunFolder, read_config
from medxlate.base.errors import MedxlateError, ModelError, UsageError
from medxlate.config import flat
from medxlate.dataset.labels import Task
from medxlate.evaluation.intervals import bootstrap
from medxlate.evaluation.prediction_metrics import Cases
from medxlate.evaluation.results import PREDICTIONS, Metric, Results, read_results
from medxlate.method.registry import find_method
from medxlate.method.settings import concerns

Array = npt.NDArray[Any]
# Settings that are not counted: the answer names the methods, and the others are no cause.
NOT_COUNTED = ("method", "data.folder", "runtime.")
BASELINE = "target-only"


@dataclass(frozen=True)
class Against:
    """How a run's error differs from another's, over the same test patients.

    Attributes:
        run: The other run's name.
        method: Its method.
        sources: The source modalities of the run that is judged.
        change: (own error - other's) / other's; below 0 is better.
        low: Lower end of its 95 % interval; None for fewer than five patients.
        high: Its upper end.
        patients: How many test patients.
        skill: The other's gain over a constant prediction.
        differing: Settings by which the added images are not the only difference.
    """

    run: str
    method: str
    sources: tuple[str, ...]
    change: float
    low: float | None
    high: float | None
    patients: int
    skill: Metric | None
    differing: tuple[str, ...]


def find_baseline(run: RunFolder) -> RunFolder | None:
    """Return the run beside this one that it can be compared with: target-only, same split.

    The newest one that was evaluated as it is now; None where there is none.
    """
    try:
        own = read_results(run.evaluation)
    except MedxlateError:
        return None
    if own.method == BASELINE:
        return None
    found = [each for each in _beside(run) if _fits(each, own)]
    return max(found, key=lambda each: each.config.stat().st_mtime, default=None)


def _beside(run: RunFolder) -> Iterator[RunFolder]:
    for path in sorted(run.path.absolute().parent.glob("*/config.json")):
        if path.parent != run.path.absolute():
            yield RunFolder(path.parent)


def _fits(other: RunFolder, own: Results) -> bool:
    try:
        if not other.evaluation.exists() or read_config(other).method != BASELINE:
            return False
        found = read_results(other.evaluation)
        hashes = weights_hashes(read_model(other.model))
    except (MedxlateError, OSError):
        return False
    return (found.split, found.target, found.task) == (own.split, own.target, own.task) and (
        found.model == hashes
    )


def compare_runs(run: RunFolder, baseline: RunFolder) -> Against:
    """Compare a run's error with another's on the same test patients, each counting once.

    Paired: both errors are resampled over patients together.

    Raises:
        ModelError: One was not evaluated since it was trained, or its predictions are missing.
        UsageError: They were not tested on the same patients.
    """
    own, other = (read_results(each.evaluation) for each in (run, baseline))
    if own.split != other.split or own.target != other.target:
        raise UsageError(
            f"{run.path} and {baseline.path} were not tested on the same patients.",
            "Train both on one dataset with one split.seed.",
        )
    if other.model != weights_hashes(read_model(baseline.model)):
        raise ModelError(
            f"The evaluation of {baseline.path} is of other weights than it has now.",
            f"Evaluate it again: `medxlate evaluate --run {baseline.path}`.",
        )
    tables = [_predictions(each) for each in (run, baseline)]
    if set(tables[0]["slice_id"]) != set(tables[1]["slice_id"]):
        raise ModelError(
            f"{PREDICTIONS} of {run.path} and of {baseline.path} hold different images.",
            "Evaluate both runs again.",
        )
    tables = [each.sort_values("slice_id", kind="stable") for each in tables]
    cases = [_cases(table, own.task) for table in tables]
    loss, base = _losses(cases[0], own.task), _losses(cases[1], own.task)
    weights = cases[0].weights

    def change(drawn: Array) -> dict[str, Array]:
        with np.errstate(divide="ignore", invalid="ignore"):  # a resample without any error
            each = drawn * weights
            return {"change": each @ loss / (each @ base) - 1}

    interval = bootstrap(change, cases[0].patients)["change"] if base.any() else None
    low, high = interval or (None, None)
    value = float(change(np.ones((1, len(base))))["change"][0]) if base.any() else 0.0
    skill = {m.level: m for m in other.metrics if m.name == "skill" and m.of == "model"}
    return Against(
        run=baseline.path.name,
        method=other.method,
        sources=read_config(run).data.sources,
        change=value,
        low=low,
        high=high,
        patients=len(set(cases[0].patients)),
        skill=skill.get("patient") or skill.get("image"),
        differing=tuple(_differing(run, baseline)),
    )


def _differing(run: RunFolder, baseline: RunFolder) -> list[str]:
    """Return what differs of all that the baseline's method depends on, and the augmentation.

    Of `target-only`, these are the settings by which translated images are not the only cause.
    """
    own, other = (flat(read_config(each)) for each in (run, baseline))
    added = [find_method(each["method"]).augmentation for each in (own, other)]
    return ["augmentation"] * (added[0] != added[1]) + [
        key
        for key, value in own.items()
        if value != other[key]
        and not key.startswith(NOT_COUNTED)
        and concerns(key, other["method"])
    ]


def _predictions(run: RunFolder) -> pd.DataFrame:
    path = run.evaluation / PREDICTIONS
    try:
        table = pd.read_parquet(path)
        table[["slice_id", "patient", "label", "prediction"]]
        return table
    except (OSError, ValueError, KeyError) as problem:
        raise ModelError(
            f"{path} is missing or damaged: {problem}.", "Evaluate the run again."
        ) from None


def _cases(table: pd.DataFrame, task: Task | None) -> Cases:
    """Return the patients' predictions and labels, of their images together.

    Of classes, the probabilities; a patient's labels share its weight.
    """
    patients = table["patient"].astype(str).tolist()
    try:
        if task is None or task.kind == "regression":
            values: Array = table["prediction"].to_numpy(np.float64)
            labels: Array = table["label"].to_numpy(np.float64)
        else:
            values = table[[f"p({name})" for name in task.classes]].to_numpy(np.float64)
            labels = table["label"].map(list(task.classes).index).to_numpy()
    except (KeyError, ValueError, TypeError) as problem:
        raise ModelError(f"{PREDICTIONS} is damaged: {problem}.", "Evaluate again.") from None
    return Cases(values, labels, tuple(patients)).grouped(patients)


def _losses(cases: Cases, task: Task | None) -> Array:
    """Return the loss of each case: squared error, or whether the class is wrong."""
    if task is None or task.kind == "regression":
        return np.asarray((cases.values - cases.labels) ** 2)
    return np.asarray(cases.values.argmax(axis=1) != cases.labels, dtype=np.float64)
