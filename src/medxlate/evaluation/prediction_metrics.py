"""What predictions are worth: figures with intervals, errors by group, diagrams."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medxlate.dataset.labels import Task
from medxlate.evaluation.intervals import FEWEST, REPLICATES, bootstrap
from medxlate.evaluation.resampled_metrics import BINS, classification, regression
from medxlate.evaluation.results import GroupError, Line, Metric, Picture
from medxlate.inference.inputs import patients_mean

Array = npt.NDArray[Any]
Level = Literal["image", "volume", "patient"]

REGRESSION = ("mse", "mae", "bias", "r2", "pearson", "slope", "skill")
CLASSIFICATION = ("accuracy", "balanced_accuracy", "auroc", "f1", "ece", "skill")
LOWER = {"mse", "mae", "ece"}
NEITHER = {"bias", "slope"}  # best at 0 and 1
DIGITS = 6  # significant, of what is kept
MOST_POINTS = 2000  # of a diagram
REASONS = {
    "r2": ("all labels are equal, or there is one", "test patients with different labels"),
    "pearson": ("labels or predictions are all equal", "test patients with different labels"),
    "slope": ("all labels are equal, or there is one", "test patients with different labels"),
    "skill": ("a constant prediction has no error here", "test patients with different labels"),
    "auroc": ("the test images are all of one class", "test patients of another class"),
}


@dataclass(frozen=True)
class Cases:
    """Predictions and truth of N images, volumes or patients.

    Attributes:
        values: Labels [N], or class probabilities [N, K].
        labels: The truth [N]: values, or class numbers.
        patients: Whose each is.
        units: Which image, volume or patient each belongs to [N], each of which counts once; None:
            every case is one of its own.
    """

    values: Array
    labels: Array
    patients: tuple[str, ...]
    units: tuple[str, ...] | None = None

    @property
    def count(self) -> int:
        """How many images, volumes or patients these are."""
        return len(self) if self.units is None else len(set(self.units))

    @property
    def weights(self) -> Array:
        """What each case counts, [N]; those of a volume or patient add up to 1."""
        if self.units is None:
            return np.ones(len(self))
        _, which, counts = np.unique(self.units, return_inverse=True, return_counts=True)
        weights: Array = 1 / counts[which]
        return weights

    def __len__(self) -> int:
        return len(self.labels)

    def grouped(self, names: Sequence[str]) -> Cases:
        """Return the means over the cases of a name and label, in the order of their first.

        A patient with several labels (of two ages, or of slices at several levels) has a case for
        each, and they share the weight of one.
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
        mse, mae, r2, or accuracy, auroc, f1, brier, twice; None where one is not defined.
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
        count: How many.
        task: Mean label [count] for a regression; the classes' frequencies [count, K] for a
            classification, so that the majority class is chosen.
    """
    if task.kind == "regression":
        return np.full(count, float(np.mean(labels, dtype=np.float64)))
    shares = np.bincount(labels, minlength=len(task.classes)) / len(labels)
    return np.tile(shares, (count, 1))


def judge(
    cases: Cases, train_labels: Array, task: Task, volumes: Sequence[str], names: Sequence[str]
) -> tuple[Metric, ...]:
    """Return figures over images, volumes and patients, of the model and a constant prediction.

    Args:
        cases: The test images.
        train_labels: By which the constant is chosen: their mean, or their most frequent class.
        task: Regression or classification.
        volumes: The series of each image; where none has two images, that level is left out.
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
        interval = bootstrap(lambda w, e=error: {"error": w @ e / w.sum(axis=1)}, owners)["error"]  # type: ignore[misc]
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
    """Return diagrams of the test images' predictions, without anything that names a patient."""
    unit = f" ({task.unit})" if task.unit else ""
    if task.kind == "classification":
        sure = cases.values.max(axis=1)
        right = (cases.values.argmax(axis=1) == cases.labels).astype(np.float64)
        place = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
        points = [(sure[place == b].mean(), right[place == b].mean()) for b in np.unique(place)]
        return {
            "calibration": Picture(
                kind="lines",
                title="Are probabilities what they say?",
                x_label="probability of the named class",
                y_label="share that was right",
                lines=(_line("test images", points),),
                diagonal=True,
            )
        }
    some = np.unique(np.linspace(0, len(cases) - 1, min(MOST_POINTS, len(cases))).astype(int))
    label, said = cases.labels[some].astype(np.float64), cases.values[some].astype(np.float64)
    name = task.name
    order = np.array_split(np.argsort(cases.values, kind="stable"), min(10, len(cases)))
    means = [(cases.values[rows].mean(), cases.labels[rows].mean()) for rows in order]
    return {
        "errors": Picture(
            kind="scatter",
            title="Prediction against truth",
            x_label=f"{name}{unit}",
            y_label=f"predicted {name}{unit}",
            lines=(_line("test images", list(zip(label, said, strict=True))),),
            diagonal=True,
        ),
        "calibration": Picture(
            kind="lines",
            title="What patients of a prediction have on average",
            x_label=f"predicted {name}{unit}",
            y_label=f"mean {name}{unit}",
            lines=(_line("tenths of the test images", means),),
            diagonal=True,
        ),
        "regression": Picture(
            kind="scatter",
            title="Regression to the mean: error against truth",
            x_label=f"{name}{unit}",
            y_label=f"prediction less truth{unit}",
            lines=(_line("test images", list(zip(label, said - label, strict=True))),),
            thresholds={"no error": 0.0},
        ),
    }


def _statistics(
    cases: Cases, task: Task, constant: Array | None
) -> Callable[[Array], dict[str, Array]]:
    """Return all figures as functions of the cases' weights; ``skill`` is over a constant."""
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
        constant: What a constant prediction says of each case: ``skill`` is over that.
        names: Which figures.
        level: What the cases are.
        of: Whose predictions they are; some figures of a constant mean nothing and are left out.
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
                "reason": f"{name} cannot be taken: {why}.",
                "remedy": f"It needs {remedy}.",
            }
        else:
            update = {"value": _rounded(value)}
            if interval is not None:
                update |= {"low": _rounded(interval[0]), "high": _rounded(interval[1])}
                update["interval"] = f"bootstrap over {people} patients, {REPLICATES} resamples"
            elif people < FEWEST:
                update["notes"] = (f"Fewer than {FEWEST} patients: there is no interval.",)
            else:
                update["notes"] = (
                    "Too few resamples of the patients have this figure: there is no interval.",
                )
        found.append(metric.model_copy(update=update))
    return found


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _line(name: str, points: Sequence[tuple[float, float]]) -> Line:
    x, y = zip(*points, strict=True) if points else ((), ())
    return Line(
        name=name, x=tuple(_rounded(float(v)) for v in x), y=tuple(_rounded(float(v)) for v in y)
    )
