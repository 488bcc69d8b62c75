"""Figures of predictions against other libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics.functional import classification as theirs
from torchmetrics.functional import regression as their_regression

from medxlate.dataset.labels import Task
from medxlate.evaluation.prediction_metrics import (
    Cases,
    classification,
    errors_by_group,
    pictures,
    prediction_metrics,
    regression,
    score_slices,
)

AGE = Task(kind="regression", name="age", unit="years")
CLASSES = Task(kind="classification", name="group", classes=("a", "b", "c"))


def ages(count: int = 60, seed: int = 0) -> Cases:
    random = np.random.default_rng(seed)
    labels = random.uniform(20, 90, count)
    return Cases(
        0.6 * labels + 20 + random.normal(0, 5, count),
        labels,
        tuple(f"p{i // 3}" for i in range(count)),
    )


def groups(count: int = 80, seed: int = 0) -> Cases:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    scores = random.normal(0, 1, (count, 3)).round(1) + 1.2 * np.eye(3)[labels]
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return Cases(shares, labels, tuple(f"p{i // 4}" for i in range(count)))


def test_regression_figures_are_those_of_other_libraries() -> None:
    cases = ages()
    found = regression(cases.values, cases.labels, np.ones((1, len(cases))), 50.0)
    p, t = torch.tensor(cases.values), torch.tensor(cases.labels)
    line = stats.linregress(cases.labels, cases.values)
    wanted = {
        "mse": float(their_regression.mean_squared_error(p, t)),
        "mae": float(their_regression.mean_absolute_error(p, t)),
        "r2": float(their_regression.r2_score(p, t)),
        "pearson": float(their_regression.pearson_corrcoef(p, t)),
        "slope": float(line.slope),
        "bias": float((p - t).mean()),
        "skill": float(1 - ((p - t) ** 2).mean() / ((50 - t) ** 2).mean()),
    }
    assert {name: float(value[0]) for name, value in found.items()} == pytest.approx(wanted)


def test_classification_figures_are_those_of_other_libraries() -> None:
    cases = groups()
    found = classification(cases.values, cases.labels, np.ones((1, len(cases))), 1)
    p, t = torch.tensor(cases.values), torch.tensor(cases.labels)
    wanted = {
        "accuracy": theirs.multiclass_accuracy(p, t, 3, average="micro"),
        "balanced_accuracy": theirs.multiclass_accuracy(p, t, 3, average="macro"),
        "auroc": theirs.multiclass_auroc(p, t, 3, average="macro"),
        "f1": theirs.multiclass_f1_score(p, t, 3, average="macro"),
        "brier": (p - torch.nn.functional.one_hot(t, 3)).square().sum(dim=1).mean(),
        "ece": theirs.multiclass_calibration_error(p, t, 3, n_bins=15),
        "skill": theirs.multiclass_accuracy(p, t, 3, average="micro") - (t == 1).double().mean(),
    }
    assert {n: float(v[0]) for n, v in found.items()} == pytest.approx(
        {n: float(v) for n, v in wanted.items()}, rel=1e-5
    )


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_weight_is_as_many_copies(kind: str) -> None:
    weights = np.random.default_rng(1).integers(0, 4, 60).astype(float)
    copies = np.repeat(np.arange(60), weights.astype(int))
    cases = ages() if kind == "regression" else groups(60)
    ones = np.ones((1, len(copies)))
    values, labels = cases.values, cases.labels
    if kind == "regression":
        one = regression(values, labels, weights[None], 50.0)
        other = regression(values[copies], labels[copies], ones, 50.0)
    else:
        one = classification(values, labels, weights[None], 1)
        other = classification(values[copies], labels[copies], ones, 1)
    assert {n: float(v[0]) for n, v in one.items()} == pytest.approx(
        {n: float(v[0]) for n, v in other.items()}
    )


def test_figures_of_volumes_and_patients_are_of_means() -> None:
    cases = ages(12)
    volumes = [f"v{i // 2}" for i in range(12)]
    found = prediction_metrics(cases, np.array([40.0, 60.0]), AGE, volumes, ["mae", "skill"])
    by = {(m.level, m.of, m.name): m for m in found}
    assert {m.level for m in found} == {"image", "volume", "patient"}
    same = Cases(cases.values, np.repeat(cases.labels[::3], 3), cases.patients)
    patient = prediction_metrics(same, np.array([40.0, 60.0]), AGE, volumes, ["mae"])
    mean = same.values.reshape(4, 3).mean(axis=1)
    wanted = np.abs(mean - same.labels[::3]).mean()
    found_patient = next(m for m in patient if (m.level, m.of) == ("patient", "model"))
    assert found_patient.value == pytest.approx(wanted, rel=1e-5)
    assert found_patient.n == 4
    assert found_patient.unit == "years"
    constant = by["image", "constant", "mae"].value
    assert constant == pytest.approx(np.abs(50 - cases.labels).mean(), rel=1e-5)


def test_what_is_not_defined_has_a_reason() -> None:
    one_class = Cases(groups().values, np.zeros(80, dtype=int), groups().patients)
    found = prediction_metrics(
        one_class, np.array([0, 1]), CLASSES, groups().patients, ["auroc", "accuracy"]
    )
    auroc = next(m for m in found if m.name == "auroc")
    assert auroc.value is None
    assert "same class" in auroc.reason
    assert "another class" in auroc.remedy
    assert all(m.value is not None for m in found if m.name == "accuracy")
    # Of six patients, one of whom has the other class, a third of the resamples have one class.
    values = np.array([[0.2, 0.7, 0.1]] + [[0.7, 0.2, 0.1]] * 5)
    rare = Cases(values, np.array([1, 0, 0, 0, 0, 0]), tuple("pqrstu"))
    found = prediction_metrics(rare, np.array([0, 1]), CLASSES, list("pqrstu"), ["auroc"])
    assert (found[0].value, found[0].low) == (1.0, None)
    assert "too few bootstrap resamples" in found[0].notes[0]
    single = Cases(np.array([50.0]), np.array([40.0]), ("p",))
    every = prediction_metrics(single, np.array([45.0]), AGE, ["v"], ["mse", "r2"])
    by = {m.name: m for m in every if (m.level, m.of) == ("image", "model")}
    assert by["mse"].value == pytest.approx(100)
    assert by["mse"].low is None
    assert "fewer than 5 patients" in by["mse"].notes[0]
    assert by["r2"].value is None


def test_errors_by_decade() -> None:
    cases = Cases(np.array([41.0, 50.0, 63.0]), np.array([43.0, 49.0, 60.0]), ("p", "q", "q"))
    first, second = errors_by_group(cases, AGE)
    assert (first.name, first.images, first.patients) == ("40 to 49", 2, 2)
    assert (first.error, first.bias) == (pytest.approx(1.5), pytest.approx(-0.5))
    assert (second.name, second.error, second.low) == ("60 to 69", pytest.approx(3.0), None)


def test_pictures_show_every_case() -> None:
    found = pictures(ages(30), AGE)
    assert len(found["errors"].lines[0].x) == 30
    assert found["errors"].lines[0].x[0] == pytest.approx(ages(30).labels[0], rel=1e-5)
    reliable = pictures(groups(), CLASSES)["calibration"].lines[0]
    assert all(0 <= value <= 1 for value in (*reliable.x, *reliable.y))


def test_a_patient_whose_slices_have_labels_of_their_own_is_one_patient() -> None:
    random = np.random.default_rng(4)
    labels = random.uniform(0, 100, 24)
    values = labels + random.normal(0, 8, 24)
    patients = tuple("aaaaaaaaaabbbbccccccddee")  # of 10, 4, 6, 2 and 2 slices
    found = prediction_metrics(
        Cases(values, labels, patients), labels, AGE, list(patients), ["mse", "r2"]
    )
    by = {(m.level, m.of, m.name): m for m in found}
    mse = by["patient", "model", "mse"]
    assert mse.n == 5
    assert "over 5 patients" in mse.interval
    errors = (values - labels) ** 2
    each = [errors[[p == name for p in patients]].mean() for name in "abcde"]
    assert mse.value == pytest.approx(np.mean(each), rel=1e-5)
    constant = by["patient", "constant", "mse"]
    apart = (labels - labels.mean()) ** 2
    each = [apart[[p == name for p in patients]].mean() for name in "abcde"]
    assert (constant.n, constant.value) == (5, pytest.approx(np.mean(each), rel=1e-5))
    assert by["image", "model", "mse"].n == 24


def test_a_patient_of_two_visits_has_a_mean_for_each() -> None:
    cases = Cases(np.array([10.0, 14, 30, 50]), np.array([12.0, 12, 20, 50]), ("p", "p", "p", "q"))
    found = prediction_metrics(cases, np.array([0.0]), AGE, list("uuvw"), ["mae"])
    patient = next(m for m in found if (m.level, m.of) == ("patient", "model"))
    # p: mean 12 of label 12, and 30 of label 20: (0 + 10) / 2; q: 0.
    assert (patient.n, patient.value) == (2, pytest.approx(2.5))


def test_plain_figures_are_over_images_and_over_patients() -> None:
    cases = Cases(np.array([25.0, 35, 50]), np.array([20.0, 20, 50]), ("p", "p", "q"))
    images, patients = score_slices(cases, AGE)
    assert images["mae"] == pytest.approx(20 / 3)
    assert patients["mae"] == pytest.approx(5)  # the mean of p's is 30 of 20


def test_plain_figures_that_are_not_defined_are_none() -> None:
    equal = Cases(np.array([1.0, 2.0]), np.array([3.0, 3.0]), ("p", "q"))
    assert score_slices(equal, AGE)[0]["r2"] is None
    shares = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
    one_class = Cases(shares, np.array([1, 1]), ("p", "q"))
    assert score_slices(one_class, CLASSES)[0]["auroc"] is None
