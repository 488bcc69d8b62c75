"""Intervals of figures of predictions against simulation, and the jackknife against its formula."""

from __future__ import annotations

import numpy as np
import pytest

from medxlate.evaluation.intervals import bootstrap, jackknife


def test_intervals_over_patients_hold_the_truth_as_often_as_they_say() -> None:
    """Slices of a patient err together; an interval over slices would hold far too seldom."""
    random, held, naive = np.random.default_rng(0), 0, 0
    for _ in range(200):
        errors = np.repeat(random.normal(0, 1, 40), 8) + random.normal(0, 0.3, 320)
        patients = [f"p{i // 8}" for i in range(320)]
        for names in (patients, [str(i) for i in range(320)]):
            low, high = bootstrap(
                lambda w, e=errors: {"mean": w @ e / w.sum(axis=1)},  # type: ignore[misc]
                names,
            )["mean"] or (0, 0)
            if names is patients:
                held += low <= 0 <= high
            else:
                naive += low <= 0 <= high
    assert 180 <= held <= 199
    assert naive < 140


def test_intervals_over_few_patients_are_not_too_narrow() -> None:
    """Plain percentiles hold the mean of seven in 88 of 100 cases."""
    random, held = np.random.default_rng(0), 0
    people = list("abcdefg")
    for _ in range(400):
        values = random.normal(size=7)
        low, high = bootstrap(lambda w, v=values: {"mean": w @ v / 7}, people)["mean"] or (0, 0)  # type: ignore[misc]
        held += low <= 0 <= high
    assert 0.92 < held / 400 < 0.98
    assert bootstrap(lambda w: {"mean": w @ np.arange(4.0)}, people[:4]) == {"mean": None}


def test_jackknife_of_means_is_the_standard_error() -> None:
    """With one case a patient it is s / sqrt(n); those of two samples add as variances."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=15), random.normal(size=18)
    patients = [[f"p{i}" for i in range(len(each))] for each in (a, b)]

    def apart(p: np.ndarray, q: np.ndarray) -> dict[str, float]:
        return {"apart": float(a[p].mean() - b[q].mean()), "same": 1.0}

    found = jackknife(apart, patients, fewest=2)
    variance = a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)
    assert found == {"apart": pytest.approx(np.sqrt(variance)), "same": None}
    assert jackknife(apart, patients, fewest=15) == {"apart": None, "same": None}
    assert jackknife(apart, [["p"] * 15, patients[1]], fewest=2) == {"apart": None, "same": None}
