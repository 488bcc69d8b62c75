"""How far predictions may be off, learned from patients that no weight was fitted to.

Regression: split conformal intervals (Vovk et al. 2005; Lei et al. 2018, "Distribution-free
predictive inference for regression", section 2.2). What is exchangeable are patients, not slices,
so each patient gives one score a level: the absolute error of the mean over the patient's slices;
of one volume drawn from the patient's; of one slice drawn from the patient's (subsampling once,
of Dunn, Wasserman and Ramdas 2022, "Distribution-free prediction sets for two-layer hierarchical
models"). Classification: temperature scaling (Guo et al. 2017, section 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from medxlate.method.label_transform import LabelTransform

Level = Literal["slice", "volume", "patient"]
LEVELS: tuple[Level, ...] = ("slice", "volume", "patient")
FEWEST_PATIENTS = 10  # from which a temperature is fitted: one number from fewer is mostly chance
TEMPERATURES = (0.05, 20.0)
SEED = 0  # of the slice and the volume that are drawn from a patient's

FloatArray = npt.NDArray[np.float64]


class Calibration(BaseModel):
    """What validation patients tell about a predictor's uncertainty.

    Attributes:
        kind: conformal for a regression, temperature for a classification.
        patients: Number of patients it was made from.
        slices: Their slices.
        scores: Conformal: absolute errors for slice, volume and patient, one per patient, in
            ascending order and in the label's unit.
        temperature: What logits are divided by; 1 leaves them unchanged.
        reason: Why there is no calibration; "" if there is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["conformal", "temperature"]
    patients: int = Field(ge=0)
    slices: int = Field(ge=0)
    scores: dict[Level, tuple[float, ...]] = {}
    temperature: float = Field(1.0, gt=0)
    reason: str = ""

    def half_width(self, level: Level, coverage: float) -> float:
        """Return how far the truth of a new patient may be from the prediction.

        Args:
            level: Of the prediction.
            coverage: The share of new patients whose truth is within, at least: in (0, 1).

        Returns:
            In the label's unit; infinite where there are too few patients for this coverage.
        """
        return conformal_quantile(self.scores.get(level, ()), coverage)


def conformal_quantile(scores: Sequence[float], coverage: float) -> float:
    """Return the ceil((n + 1) coverage)-th smallest of n scores; infinite where n is smaller.

    A score that is exchangeable with these n is at most that, with a probability of ``coverage``
    or more.
    """
    rank = math.ceil(round((len(scores) + 1) * coverage, 9))  # 10 * 0.9 is 9, whatever floats say
    return sorted(scores)[rank - 1] if rank <= len(scores) else math.inf


def fewest_patients(coverage: float) -> int:
    """Return from how many patients on an interval of this coverage is finite."""
    return math.ceil(round(coverage / (1 - coverage), 9))


def calibrate(
    outputs: Tensor,
    labels: Tensor,
    *,
    patients: Sequence[str],
    volumes: Sequence[str],
    head: LabelTransform,
) -> Calibration:
    """Calibrate a predictor by its outputs for slices of patients it was not fitted to.

    Args:
        outputs: The network's, [N, outputs].
        labels: Their labels [N]: values in the label's unit, or classes.
        patients: The patient of each slice.
        volumes: The volume of each slice.
        head: What outputs mean.
    """
    rows: dict[str, list[int]] = {}
    for row, patient in enumerate(patients):
        rows.setdefault(patient, []).append(row)
    counts = {"patients": len(rows), "slices": len(labels)}
    if head.task.kind == "classification":
        weights = np.empty(len(labels))
        for own in rows.values():
            weights[own] = 1 / len(own)
        logits = outputs.detach().double().numpy()
        temperature, reason = _temperature(logits, labels.numpy(), weights, len(rows))
        return Calibration(kind="temperature", temperature=temperature, reason=reason, **counts)
    predicted = head.predictions(outputs).detach().double().numpy()
    scores = patient_scores(predicted, labels.double().numpy(), rows, volumes)
    return Calibration(kind="conformal", scores=scores, **counts)


def patient_scores(
    predicted: FloatArray,
    truth: FloatArray,
    rows: Mapping[str, Sequence[int]],
    volumes: Sequence[str],
) -> dict[Level, tuple[float, ...]]:
    """Return one absolute error a patient for each level, rising.

    Args:
        predicted: [N], of slices.
        truth: [N].
        rows: Which slices are a patient's.
        volumes: The volume of each slice.
    """
    found: dict[Level, list[float]] = {level: [] for level in LEVELS}
    random = np.random.default_rng(SEED)

    def error(chosen: Sequence[int]) -> float:
        return abs(float(predicted[chosen].mean() - truth[chosen].mean()))

    for own in rows.values():
        names = sorted({volumes[row] for row in own})
        name = names[random.integers(len(names))]
        found["slice"].append(error([own[int(random.integers(len(own)))]]))
        found["volume"].append(error([row for row in own if volumes[row] == name]))
        found["patient"].append(error(own))
    return {level: tuple(sorted(errors)) for level, errors in found.items()}


def _temperature(
    logits: FloatArray, labels: npt.NDArray[Any], weights: FloatArray, patients: int
) -> tuple[float, str]:
    """Return the temperature with the lowest cross-entropy, each patient counting once; or why not.

    The cross-entropy is convex in 1 / T, so that there is one lowest.
    """
    if patients < FEWEST_PATIENTS:
        return (
            1.0,
            f"there are only {patients} validation patients, and {FEWEST_PATIENTS} are needed",
        )

    from scipy.optimize import minimize_scalar  # loads slowly, and only a training needs it

    def cross_entropy(log_temperature: float) -> float:
        scaled = torch.from_numpy(logits / math.exp(log_temperature))
        chosen = scaled.log_softmax(1).numpy()[np.arange(len(labels)), labels]
        return float(-(weights * chosen).sum() / weights.sum())

    low, high = (math.log(limit) for limit in TEMPERATURES)
    best = minimize_scalar(cross_entropy, bounds=(low, high), method="bounded")
    if min(best.x - low, high - best.x) < 0.01:
        return 1.0, "the validation slices are all classified correctly, or carry no information"
    return float(math.exp(best.x)), ""


def no_calibration(head: LabelTransform, reason: str) -> Calibration:
    """Return the record of a predictor that could not be calibrated."""
    kind = "temperature" if head.task.kind == "classification" else "conformal"
    return Calibration(kind=kind, patients=0, slices=0, reason=reason)
