"""Intervals and probabilities: closed forms, coverage over simulated patients, temperature."""

from __future__ import annotations

import math
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import beta

import tiny
from medxlate.artifacts.calibration import (
    Calibration,
    calibrate,
    conformal_quantile,
    fewest_patients,
    no_calibration,
)
from medxlate.base.errors import UsageError
from medxlate.inference.uncertainty import Uncertainty
from medxlate.method.label_transform import LabelTransform

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import coverage

REGRESSION = LabelTransform(task=tiny.AGE, mean=50.0, std=10.0)
CLASSES = LabelTransform(task=tiny.GROUP)


def conformal(*scores: float) -> Calibration:
    levels = dict.fromkeys(("slice", "volume", "patient"), scores)
    return Calibration(kind="conformal", patients=len(scores), slices=9, scores=levels)


# Quantiles


def test_the_quantile_is_the_finite_samples():
    scores = [5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 8.0, 7.0, 6.0]
    assert conformal_quantile(scores, 0.9) == 9.0  # ceil(10 * 0.9) = 9 of 9
    assert conformal_quantile(scores, 0.5) == 5.0
    assert conformal_quantile(scores, 0.51) == 6.0
    assert conformal_quantile(scores, 0.91) == math.inf
    assert conformal_quantile([], 0.1) == math.inf


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_from_so_many_patients_on_an_interval_is_finite(level: float):
    few = fewest_patients(level)
    assert conformal_quantile([1.0] * few, level) == 1.0
    assert conformal_quantile([1.0] * (few - 1), level) == math.inf


# Scores


def test_each_patient_gives_one_score_a_level():
    """Patient a has two volumes, of two slices and of one; b one slice; labels 60 and 40."""
    outputs = torch.tensor([[1.0], [2.0], [3.0], [-1.5]])  # 60, 70, 80, 35
    found = calibrate(
        outputs,
        torch.tensor([60.0, 60.0, 60.0, 40.0]),
        patients=["a", "a", "a", "b"],
        volumes=["1", "1", "2", "3"],
        head=REGRESSION,
    )
    assert (found.kind, found.patients, found.slices, found.reason) == ("conformal", 2, 4, "")
    assert found.scores["patient"] == (5.0, 10.0)
    assert all(len(scores) == 2 for scores in found.scores.values())
    assert set(found.scores["volume"]) <= {5.0, 20.0}  # mean(60, 70) - 60 is 5 as well
    assert set(found.scores["slice"]) <= {0.0, 5.0, 10.0, 20.0}
    assert 5.0 in found.scores["slice"]


@cache
def simulated(nominal: float) -> dict[str, list[float]]:
    return coverage.simulate(nominal, patients=40, seed=3, new=100)


# Coverage: with n scores, that of a new one given these is Beta(k, n + 1 - k) distributed.


@pytest.mark.parametrize("level", ["slice", "volume", "patient"])
@pytest.mark.parametrize("nominal", [0.8, 0.9])
def test_coverage_is_nominal_over_200_calibrations_of_correlated_slices(level: str, nominal: float):
    found = simulated(nominal)
    rank = math.ceil(round(41 * nominal, 9))
    expected = beta(rank, 41 - rank)
    mean = np.mean(found[level])
    assert abs(mean - nominal) < 0.03
    assert abs(mean - expected.mean()) < 4 * expected.std() / math.sqrt(200) + 0.002
    # By patients, the calibrations also differ among each other as they must.
    assert np.std(found[level]) == pytest.approx(expected.std(), rel=0.35)


# Several models


def test_the_interval_of_several_models_is_valid_and_wider():
    scores = np.arange(1.0, 41.0)
    one, other = conformal(*scores), conformal(*(2 * scores))
    uncertainty = Uncertainty([one, other], 0.9)
    assert uncertainty.asked == pytest.approx(0.95)
    assert uncertainty.half_width("patient") == pytest.approx((39 + 78) / 2)  # ceil(41 * 0.95) = 39
    assert Uncertainty([one], 0.9).half_width("patient") == 37


def test_models_with_other_errors_keep_the_coverage_of_their_mean():
    random = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        truth = random.normal(0, 10, 340)
        each = truth + random.normal(0, [[4], [6], [5]], (3, 340)) + random.normal(0, 3, 340)
        errors = np.abs(each - truth)
        uncertainty = Uncertainty([conformal(*sorted(row[:40])) for row in errors], 0.9)
        inside = np.abs(each[:, 40:].mean(0) - truth[40:]) <= uncertainty.half_width("patient")
        covered.append(inside.mean())
    assert np.mean(covered) > 0.9


def test_why_there_is_no_interval_is_said():
    (note,) = Uncertainty([conformal(1.0, 2.0)], 0.9).notes()
    assert "needs at least 9 validation patients, and there were 2" in note
    assert Uncertainty([conformal(*range(9))], 0.9).notes() == []
    (note,) = Uncertainty([conformal(*range(9))] * 2, 0.9).notes()
    assert "of 2 models" in note
    assert "at least 19" in note
    assert "older version without calibration" in Uncertainty([None], 0.9).notes()[0]
    assert Uncertainty([None], 0.9).half_width("slice") == math.inf
    (note,) = Uncertainty([no_calibration(REGRESSION, "it rained")], 0.9).notes()
    assert note == "No prediction intervals: it rained."
    for level in (0.0, 1.0, -1.0, 90.0, math.nan):
        with pytest.raises(UsageError, match="between 0 and 1"):
            Uncertainty([None], level)


# Temperature


def draw(count: int, *, patients: int, sharpness: float) -> tuple[torch.Tensor, torch.Tensor, list]:
    """Return logits that are ``sharpness`` times too large, labels drawn from the right ones."""
    random = np.random.default_rng(5)
    logits = random.normal(0, 1.5, (count, 3))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = [random.choice(3, p=share) for share in shares]
    names = [str(i % patients) for i in range(count)]
    return torch.tensor(sharpness * logits, dtype=torch.float32), torch.tensor(labels), names


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 4.0])
def test_the_temperature_is_found_with_which_the_labels_were_drawn(sharpness: float):
    logits, labels, names = draw(6000, patients=100, sharpness=sharpness)
    found = calibrate(logits, labels, patients=names, volumes=names, head=CLASSES)
    assert found.temperature == pytest.approx(sharpness, rel=0.06)
    assert (found.kind, found.patients, found.reason) == ("temperature", 100, "")
    # The derivative of the cross-entropy by 1 / T vanishes there.
    shares = (logits.double() / found.temperature).softmax(1)
    slope = (shares * logits.double()).sum(1) - logits.double()[range(len(labels)), labels]
    assert abs(float(slope.mean())) < 1e-3 * sharpness


def test_patients_count_once_however_many_slices_they_have():
    logits, labels, names = draw(600, patients=60, sharpness=2.0)
    once = calibrate(logits, labels, patients=names, volumes=names, head=CLASSES)
    chosen = [i for i, name in enumerate(names) for _ in range(9 if int(name) < 5 else 1)]
    many = calibrate(
        logits[chosen],
        labels[chosen],
        patients=[names[i] for i in chosen],
        volumes=[names[i] for i in chosen],
        head=CLASSES,
    )
    assert many.temperature == pytest.approx(once.temperature, rel=1e-4)


def test_a_temperature_that_is_not_to_be_had_is_one_and_says_why():
    logits, labels, _ = draw(90, patients=1, sharpness=1.0)
    few = calibrate(logits, labels, patients=["a"] * 90, volumes=["a"] * 90, head=CLASSES)
    assert (few.temperature, "10 are needed" in few.reason) == (1.0, True)
    names = [str(i) for i in range(90)]
    perfect = torch.nn.functional.one_hot(labels, 3).float()
    right = calibrate(perfect, labels, patients=names, volumes=names, head=CLASSES)
    assert (right.temperature, "all classified correctly" in right.reason) == (1.0, True)
