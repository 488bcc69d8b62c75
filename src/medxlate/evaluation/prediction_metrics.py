"""What predictions are worth: figures with intervals, errors by group, diagrams.

Figures are functions of weights of the cases, so that a bootstrap is one product: ``regression``
and ``classification`` take weights [R, N], how often each of N cases counts in each of R
resamples, and return a figure for each resample, [R]; NaN where it is not defined there. Ones give
the plain figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medxlate.dataset.labels import Task
from medxlate.evaluation.batches import evenly_spaced
from medxlate.evaluation.intervals import FEWEST, REPLICATES, bootstrap
from medxlate.evaluation.results import GroupError, Metric, Picture, Points
from medxlate.inference.inputs import patients_mean

Array = npt.NDArray[Any]
Level = Literal["image", "volume", "patient"]

REGRESSION = ("mse", "mae", "bias", "r2", "pearson", "slope", "skill")
CLASSIFICATION = ("accuracy", "balanced_accuracy", "auroc", "f1", "ece", "skill")
LOWER = {"mse", "mae", "ece"}
NEITHER = {"bias", "slope"}  # best at 0 and 1
DIGITS = 6  # significant, of what is kept
MOST_POINTS = 2000  # of a diagram
BINS = 15  # of the calibration error, as in Guo et al. 2017
REASONS = {
    "r2": ("all labels are equal, or there is only one", "test patients with different labels"),
    "pearson": ("all labels or all predictions are equal", "test patients with different labels"),
    "slope": ("all labels are equal, or there is only one", "test patients with different labels"),
    "skill": ("a constant prediction has no error here", "test patients with different labels"),
    "auroc": ("all test images have the same class", "test patients of another class"),
}


@dataclass(frozen=True)
class Cases:
    """Predictions and truth of N images, volumes or patients.

    Attributes:
        values: Labels [N], or class probabilities [N, K].
        labels: The truth [N]: values, or class numbers.
        patients: The patient of each.
        units: The image, volume or patient of each case [N], each of which counts once; None: each
            case counts once.
    """

    values: Array
    labels: Array
    patients: tuple[str, ...]
    units: tuple[str, ...] | None = None

    @property
    def count(self) -> int:
        """The number of images, volumes or patients."""
        return len(self) if self.units is None else len(set(self.units))

    @property
    def weights(self) -> Array:
        """The weight of each case [N]; those of a volume or patient add up to 1."""
        if self.units is None:
            return np.ones(len(self))
        _, which, counts = np.unique(self.units, return_inverse=True, return_counts=True)
        weights: Array = 1 / counts[which]
        return weights

    def __len__(self) -> int:
        return len(self.labels)

    def grouped(self, names: Sequence[str]) -> Cases:
        """Return the means over the cases of the same name and label, in order of appearance.

        A patient with several labels (at two ages, or of slices at several levels) has a case for
        each, and they share the weight of one.

        Args:
            names: The volume or patient of each case.
        """
        keys = [f"{name} {label}" for name, label in zip(names, self.labels, strict=True)]
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        means = patients_mean(self.values, keys)
        rows = [first[key] for key in means]
        return Cases(
            np.stack(list(means.values())),
            self.labels[rows],
            tuple(self.patients[i] for i in rows),
            tuple(names[i] for i in rows),
        )


def metric_names(task: Task) -> tuple[str, ...]:
    """Return the figures that fit the task."""
    return REGRESSION if task.kind == "regression" else CLASSIFICATION


def score_slices(cases: Cases, task: Task) -> tuple[dict[str, float | None], ...]:
    """Return plain figures over images, and over patients by the mean of their images.

    Args:
        cases: The images.
        task: Regression or classification.

    Returns:
        mse, mae, r2, or accuracy, auroc, f1, brier, for images and for patients; None where one is
        not defined.
    """
    regression = ("mse", "mae", "r2")
    names = regression if task.kind == "regression" else ("accuracy", "auroc", "f1", "brier")
    both = (cases, cases.grouped(cases.patients))
    plain = [_statistics(each, task, None)(np.ones((1, len(each)))) for each in both]
    return tuple(
        {k: float(found[k][0]) if np.isfinite(found[k][0]) else None for k in names}
        for found in plain
    )


def constant_predictions(labels: Array, count: int, task: Task) -> Array:
    """Return ``count`` predictions that ignore the image.

    Args:
        labels: The training labels: values, or class numbers.
        count: The number of predictions.
        task: Mean label [count] for a regression; the classes' frequencies [count, K] for a
            classification, so that the majority class is chosen.
    """
    if task.kind == "regression":
        return np.full(count, float(np.mean(labels, dtype=np.float64)))
    shares = np.bincount(labels, minlength=len(task.classes)) / len(labels)
    return np.tile(shares, (count, 1))


def prediction_metrics(
    cases: Cases, train_labels: Array, task: Task, volumes: Sequence[str], names: Sequence[str]
) -> tuple[Metric, ...]:
    """Return figures over images, volumes and patients, of the model and a constant prediction.

    Args:
        cases: The test images.
        train_labels: The constant is their mean, or their most frequent class.
        task: Regression or classification.
        volumes: The series of each image; where no series has two images, that level is left out.
        names: Which figures.
    """
    levels: dict[Level, Cases] = {"image": cases}
    if len(set(volumes)) < len(cases):
        levels["volume"] = cases.grouped(volumes)
    levels["patient"] = cases.grouped(cases.patients)
    found = []
    for level, each in levels.items():
        values = constant_predictions(train_labels, len(each), task)
        found += figures(each, task, values, names, level, "model")
        same = replace(each, values=values)
        found += figures(same, task, values, names, level, "constant")
    return tuple(found)


def errors_by_group(cases: Cases, task: Task) -> tuple[GroupError, ...]:
    """Return the errors of images by decade of the label, or by class."""
    if task.kind == "regression":
        places = np.floor(cases.labels / 10).astype(int)
        titles = {int(p): f"{10 * p} to {10 * p + 9}" for p in np.unique(places)}
        difference = cases.values - cases.labels
    else:
        places = cases.labels.astype(int)
        titles = {int(p): task.classes[p] for p in np.unique(places)}
        difference = (cases.values.argmax(axis=1) != cases.labels).astype(np.float64)
    found = []
    for place, title in sorted(titles.items()):
        chosen = np.flatnonzero(places == place)
        error = np.abs(difference[chosen])
        owners = [cases.patients[i] for i in chosen]
        interval = _interval_of_mean(error, owners)
        low, high = interval or (None, None)
        bias = float(difference[chosen].mean()) if task.kind == "regression" else None
        found.append(
            GroupError(
                name=title,
                images=len(chosen),
                patients=len(set(owners)),
                error=float(error.mean()),
                low=low,
                high=high,
                bias=bias,
            )
        )
    return tuple(found)


def pictures(cases: Cases, task: Task) -> dict[str, Picture]:
    """Return diagrams of the test images' predictions; nothing in them names a patient."""
    unit = f" ({task.unit})" if task.unit else ""
    if task.kind == "classification":
        confidence = cases.values.max(axis=1)
        right = (cases.values.argmax(axis=1) == cases.labels).astype(np.float64)
        bins = _bins(confidence)
        points = [(confidence[bins == b].mean(), right[bins == b].mean()) for b in np.unique(bins)]
        return {
            "calibration": Picture(
                kind="lines",
                title="Calibration of the predicted probabilities",
                x_label="predicted probability",
                y_label="fraction correct",
                lines=(_points("test images", points),),
                diagonal=True,
            )
        }
    some = evenly_spaced(len(cases), MOST_POINTS)
    label, value = cases.labels[some].astype(np.float64), cases.values[some].astype(np.float64)
    name = task.name
    order = np.array_split(np.argsort(cases.values, kind="stable"), min(10, len(cases)))
    means = [(cases.values[rows].mean(), cases.labels[rows].mean()) for rows in order]
    return {
        "errors": Picture(
            kind="scatter",
            title="Predicted against true value",
            x_label=f"{name}{unit}",
            y_label=f"predicted {name}{unit}",
            lines=(_points("test images", list(zip(label, value, strict=True))),),
            diagonal=True,
        ),
        "calibration": Picture(
            kind="lines",
            title="Calibration: mean true value by prediction",
            x_label=f"predicted {name}{unit}",
            y_label=f"mean {name}{unit}",
            lines=(_points("deciles of the test images", means),),
            diagonal=True,
        ),
        "regression": Picture(
            kind="scatter",
            title="Regression to the mean: error against truth",
            x_label=f"{name}{unit}",
            y_label=f"predicted - true{unit}",
            lines=(_points("test images", list(zip(label, value - label, strict=True))),),
            thresholds={"no error": 0.0},
        ),
    }


def _statistics(
    cases: Cases, task: Task, constant: Array | None
) -> Callable[[Array], dict[str, Array]]:
    """Return the figures as a function of the cases' weights; ``skill`` is over a constant."""
    each = cases.weights
    if task.kind == "regression":
        baseline = np.nan if constant is None else float(constant[0])
        return lambda w: regression(cases.values, cases.labels, w * each, baseline)
    majority = -1 if constant is None else int(constant[0].argmax())
    return lambda w: classification(cases.values, cases.labels, w * each, majority)


def figures(
    cases: Cases,
    task: Task,
    constant: Array,
    names: Sequence[str],
    level: Level,
    of: Literal["model", "constant"],
) -> list[Metric]:
    """Return figures of predictions at one level.

    Args:
        cases: What was predicted.
        task: Regression or classification.
        constant: The constant prediction for each case, which ``skill`` compares with.
        names: Which figures.
        level: What the cases are.
        of: Who made the predictions; figures that mean nothing for a constant are left out.
    """
    statistics = _statistics(cases, task, constant)
    plain = statistics(np.ones((1, len(cases))))
    spread = bootstrap(statistics, cases.patients)
    people = len(set(cases.patients))
    found = []
    for name in names:
        if of == "constant" and name in ("skill", "slope", "pearson"):
            continue
        value, interval = float(plain[name][0]), spread[name]
        unit = task.unit if name in ("mae", "bias") else ""
        if name == "mse" and task.unit:
            unit = f"{task.unit}²"
        metric = Metric(
            group="prediction",
            name=name,
            unit=unit,
            better="" if name in NEITHER else "lower" if name in LOWER else "higher",
            level=level,
            of=of,
            n=cases.count,
        )
        if not math.isfinite(value):
            why, remedy = REASONS.get(name, ("it is not defined here", "more test patients"))
            update: dict[str, Any] = {
                "reason": f"{name} cannot be computed: {why}.",
                "remedy": f"It needs {remedy}.",
            }
        else:
            update = {"value": _rounded(value)}
            if interval is not None:
                update |= {"low": _rounded(interval[0]), "high": _rounded(interval[1])}
                update["interval"] = f"bootstrap over {people} patients, {REPLICATES:,} resamples"
            elif people < FEWEST:
                update["notes"] = (f"No confidence interval: fewer than {FEWEST} patients.",)
            else:
                update["notes"] = (
                    "No confidence interval: too few bootstrap resamples define this metric.",
                )
        found.append(metric.model_copy(update=update))
    return found


def _interval_of_mean(values: Array, patients: Sequence[str]) -> tuple[float, float] | None:
    found = bootstrap(lambda weights: {"mean": weights @ values / weights.sum(axis=1)}, patients)
    return found["mean"]


def _bins(confidence: Array) -> Array:
    """Return the bin of each confidence [N] in (0, 1], 0 to BINS - 1."""
    bins: Array = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return bins


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _points(name: str, points: Sequence[tuple[float, float]]) -> Points:
    x, y = zip(*points, strict=True) if points else ((), ())
    return Points(
        name=name, x=tuple(_rounded(float(v)) for v in x), y=tuple(_rounded(float(v)) for v in y)
    )


def regression(predicted: Array, truth: Array, weights: Array, baseline: float) -> dict[str, Array]:
    """Return mse, mae, bias, r2, pearson, slope, skill of predictions.

    Args:
        predicted: [N], in the label's unit.
        truth: [N], likewise.
        weights: [R, N].
        baseline: The prediction that ignores the image.

    Returns:
        ``bias`` is the mean of prediction less label; ``slope`` that of predictions on labels by
        least squares, below 1 where predictions regress to the mean; ``skill`` 1 - mse / mse of
        the baseline.
    """
    # Centred, for the sums of squares would lose digits otherwise.
    center = float(truth.mean())
    p, t = predicted.astype(np.float64) - center, truth.astype(np.float64) - center
    error, apart = p - t, baseline - center - t
    columns = [np.ones_like(t), p, t, p * p, t * t, p * t, error**2, np.abs(error), apart**2]
    sums = weights @ np.stack(columns, axis=1)
    count, means = sums[:, 0], (sums[:, 1:] / sums[:, :1]).T
    mp, mt, pp, tt, pt, mse, mae, base = means
    spread_t, spread_p, common = tt - mt**2, pp - mp**2, pt - mp * mt
    tiny = 1e-12 * (1 + np.abs(tt))  # rounding; equal labels have no spread
    some = np.where((spread_t > tiny) & (count > 1 + 1e-9), spread_t, np.nan)
    both = np.where(spread_p > 1e-12 * (1 + np.abs(pp)), some * spread_p, np.nan)
    return {
        "mse": mse,
        "mae": mae,
        "bias": mp - mt,
        "r2": 1 - mse / some,
        "pearson": common / np.sqrt(both),
        "slope": common / some,
        "skill": 1 - mse / np.where(base > 0, base, np.nan),
    }


def classification(
    probabilities: Array, truth: npt.NDArray[np.integer[Any]], weights: Array, baseline: int
) -> dict[str, Array]:
    """Return accuracy, balanced_accuracy, auroc, f1, brier, ece, skill of class probabilities.

    Args:
        probabilities: [N, K].
        truth: [N], class numbers.
        weights: [R, N].
        baseline: The class of a prediction that ignores the image.

    Returns:
        Averages over classes are over those that occur in the resample. ``auroc`` is one against
        the rest, by ranks; ``brier`` the squared distance of the probabilities to the truth,
        summed over classes, 0 to 2 (Brier, Monthly Weather Review 78, 1950); ``ece`` the expected
        calibration error of the predicted class over 15 bins of equal width (Guo et al. 2017,
        equation 3); ``skill`` the accuracy less that of the baseline.
    """
    predicted, classes = probabilities.argmax(axis=1), range(probabilities.shape[1])
    right = (predicted == truth).astype(np.float64)
    total = weights.sum(axis=1)
    distance = ((probabilities - np.eye(probabilities.shape[1])[truth.astype(int)]) ** 2).sum(
        axis=1
    )
    accuracy = weights @ right / total
    recalls, scores, curves = [], [], []
    for k in classes:
        is_k, named_k = (truth == k).astype(np.float64), (predicted == k).astype(np.float64)
        actual, named, hits = (weights @ each for each in (is_k, named_k, is_k * named_k))
        occurs = np.where(actual > 0, actual, np.nan)
        recalls.append(hits / occurs)
        scores.append(2 * hits / (occurs + named))
        curves.append(_auroc(probabilities[:, k], is_k, weights))
    return {
        "accuracy": accuracy,
        "balanced_accuracy": _mean(recalls),
        "auroc": _mean(curves),
        "f1": _mean(scores),
        "brier": weights @ distance / total,
        "ece": _calibration_error(probabilities.max(axis=1), right, weights),
        "skill": accuracy - weights @ (truth == baseline).astype(np.float64) / total,
    }


def _auroc(score: Array, positive: Array, weights: Array) -> Array:
    """Return the share of pairs that are in order; equal scores count half."""
    order = np.argsort(score, kind="stable")
    _, starts = np.unique(score[order], return_index=True)
    w = weights[:, order]
    pos = np.add.reduceat(w * positive[order], starts, axis=1)
    neg = np.add.reduceat(w * (1 - positive[order]), starts, axis=1)
    below = np.cumsum(neg, axis=1) - neg
    pairs = pos.sum(axis=1) * neg.sum(axis=1)
    area: Array = (pos * (below + neg / 2)).sum(axis=1) / np.where(pairs > 0, pairs, np.nan)
    return area


def _calibration_error(confidence: Array, right: Array, weights: Array) -> Array:
    bins = np.eye(BINS)[_bins(confidence)]
    gaps = np.abs((weights * (right - confidence)) @ bins)
    return np.asarray(gaps.sum(axis=1) / weights.sum(axis=1))


def _mean(columns: list[Array]) -> Array:
    """Return the mean over the classes that occur; NaN where none has a figure."""
    stacked = np.stack(columns)
    known = ~np.isnan(stacked)
    count = known.sum(axis=0)
    total = np.where(known, stacked, 0).sum(axis=0)
    mean: Array = total / np.where(count > 0, count, np.nan)
    return mean
