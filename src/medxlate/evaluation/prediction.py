"""How good predictions are (torchmetrics, which is loaded when it is used: it takes 80 MiB)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medxlate.dataset.labels import Task
from medxlate.inference.inputs import patients_mean

REGRESSION = ("mse", "mae", "r2")
CLASSIFICATION = ("accuracy", "auroc", "f1")


def metric_names(task: Task) -> tuple[str, ...]:
    """Return the metrics that fit the task."""
    return REGRESSION if task.kind == "regression" else CLASSIFICATION


def score(
    values: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], task: Task
) -> dict[str, float | None]:
    """Score predictions against the truth.

    Args:
        values: Labels [N] for a regression (mse in its unit squared, mae in its unit), class
            probabilities [N, K] for a classification.
        labels: The truth [N]: values, or class numbers.
        task: Which of the two.

    Returns:
        mse, mae, r2, or accuracy, auroc, f1 (the last two averaged over the classes that occur).
        None where a metric is not defined: r2 of one or equal labels, auroc of a single class.
    """
    predicted = torch.as_tensor(np.asarray(values))
    if task.kind == "regression":
        from torchmetrics.functional import regression

        truth = torch.as_tensor(np.asarray(labels, dtype=np.float64))
        predicted = predicted.double()
        spread = len(truth) > 1 and bool((truth != truth[0]).any())
        return {
            "mse": float(regression.mean_squared_error(predicted, truth)),
            "mae": float(regression.mean_absolute_error(predicted, truth)),
            "r2": float(regression.r2_score(predicted, truth)) if spread else None,
        }
    from torchmetrics.functional import classification

    truth = torch.as_tensor(np.asarray(labels, dtype=np.int64))
    count = len(task.classes)
    present = torch.unique(truth)
    f1 = classification.multiclass_f1_score(predicted, truth, count, average="none")[present].mean()
    return {
        "accuracy": float(
            classification.multiclass_accuracy(predicted, truth, count, average="micro")
        ),
        "auroc": _auroc(predicted, truth, present, count),
        "f1": float(f1),
    }


def score_slices(
    values: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    patients: Sequence[str],
    task: Task,
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Score slices, and patients by the mean prediction of their slices.

    A patient seen at two ages, or with two diagnoses, counts once for each.

    Args:
        values: As for ``score``.
        labels: As for ``score``.
        patients: The patient of each slice.
        task: As for ``score``.

    Returns:
        The metrics per image, and the same per patient.
    """
    cases = [f"{patient} {label}" for patient, label in zip(patients, labels, strict=True)]
    means = patients_mean(values, cases)
    truths = dict(zip(cases, labels, strict=True))
    truth = np.array([truths[case] for case in means])
    return score(values, labels, task), score(np.stack(list(means.values())), truth, task)


def constant_predictions(
    labels: np.ndarray[Any, Any], count: int, task: Task
) -> np.ndarray[Any, Any]:
    """Return ``count`` predictions that ignore the image.

    Args:
        labels: The training labels: values, or class numbers.
        count: How many.
        task: Mean label for a regression; the classes' frequencies for a classification, so that
            the majority class is chosen.
    """
    if task.kind == "regression":
        return np.full(count, float(np.mean(labels, dtype=np.float64)))
    shares = np.bincount(labels, minlength=len(task.classes)) / len(labels)
    return np.tile(shares, (count, 1))


def _auroc(
    predicted: torch.Tensor, truth: torch.Tensor, present: torch.Tensor, count: int
) -> float | None:
    """One against the rest, averaged over the classes that occur in the truth."""
    if len(present) < 2:
        return None
    from torchmetrics.functional import classification

    if count == 2:
        return float(classification.multiclass_auroc(predicted, truth, 2, average="macro"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes without a positive; they are left out below
        each = classification.multiclass_auroc(predicted, truth, count, average="none")
    assert each is not None
    return float(each[present].mean())
