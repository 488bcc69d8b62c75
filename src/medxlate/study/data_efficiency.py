"""Dose and response: what a translated source patient is worth, and where more stops helping.

The error of the reference (a predictor on real target images alone) over its number of patients is
made monotone and read backwards (`medxlate.study.learning_curves`). Nothing is read beyond the
patients there were.

Intervals treat repeats as Nadeau and Bengio (Machine Learning 52, 2003) do: overlapping splits
make means vary by ``1 / repeats + test / training`` of the variance, and few repeats make a wide t.
The variance components of `medxlate.study.ttests` do not fit here. They are of the differences of
two systems at one share of the patients, and the weight of what trainings do to single patients
was chosen by simulation for that. A curve is drawn anew as a whole, for which the components'
covariances between shares would be needed; nobody has simulated those. Where few patients train,
Nadeau and Bengio's variance is too large rather than too small (``docs/benchmarks.md``), so these
readings claim too little rather than too much.

Draws of the training patients are independent; their intervals are for the test patients at hand.
On a given split nothing is read: its repeats are seeds, which say nothing of other patients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import t as student

from medxlate.base.errors import percent
from medxlate.study.comparison import system_name
from medxlate.study.learning_curves import FloatArray, draws, last_helpful, needed, too_coarse
from medxlate.study.measured import design_of, level_of, pool

Bound = Literal["at", "more", "fewer"]

CANNOT = "cannot be determined from these repeats"
DRAWS = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Equivalent:
    """How many real target patients the reference would need for a method's error.

    Attributes:
        method: The method.
        sources: Its sources, ``mri+pet``.
        target_fraction: Share of the target's training patients.
        patients: Mean number of target patients in training.
        source_patients: Mean number of source patients in training.
        error: The method's mean loss.
        reference_error: The reference's mean loss with the same target patients.
        equivalent: Target patients that the reference would need; None where it cannot be read.
        bound: ``more`` (fewer) where ``equivalent`` is the largest (smallest) number there was and
            the reference would need more (fewer).
        interval: Of ``equivalent``, 95 %; an end is 0 or infinite where it lies beyond the
            smallest or the largest number there was.
        worth: Real target patients that one translated source patient is worth; None where its
            interval has an end beyond the numbers of patients there were.
        worth_interval: Of ``worth``, 95 %.
        sentence: The reading in words.
    """

    method: str
    sources: str
    target_fraction: float
    patients: float
    source_patients: float
    error: float
    reference_error: float
    equivalent: float | None
    bound: Bound
    interval: tuple[float, float] | None
    worth: float | None
    worth_interval: tuple[float, float] | None
    sentence: str


@dataclass(frozen=True)
class Saturation:
    """Where more source patients stop helping.

    Attributes:
        method: The method.
        sources: Its sources.
        target_fraction: Share of the target's training patients.
        source_fraction: The smallest share after which no larger one lowers the mean loss by more
            than the standard error of the paired differences; 0 is the reference, without source;
            None where it cannot be read.
        source_patients: How many source patients that is.
        gain: The largest mean gain beyond it (negative: a loss); None at the largest share.
        standard_error: Of that gain.
        sentence: The reading in words.
    """

    method: str
    sources: str
    target_fraction: float
    source_fraction: float | None
    source_patients: float | None
    gain: float | None
    standard_error: float | None
    sentence: str


def equivalents(
    results: pd.DataFrame,
    method: str = "joint",
    *,
    sources: str,
    reference: str = "target-only",
    seed: int = 0,
) -> tuple[Equivalent, ...] | None:
    """Read, at each target fraction, how many target patients the reference would need.

    The method's largest source fraction is read.

    Args:
        results: A row a finished cell.
        method: The method.
        sources: Its sources, ``mri+pet``.
        reference: The method without source.
        seed: Of the draws behind the intervals.

    Returns:
        A reading a target fraction, smallest first; None where a side was not run, or the
        reference with one number of patients alone, or where slices were divided, not patients,
        or the split was given.
    """
    if not _readable(results):
        return None
    own = _cells(results, method, sources)
    own = own[own["source_fraction"] == own["source_fraction"].max()]
    real = _cells(results, reference, "")
    patients = real.groupby("target_fraction")["train_patients"].mean()
    shares = [share for share in sorted(own["target_fraction"].unique()) if share in patients]
    if not shares or patients.nunique() < 2:
        return None
    return tuple(
        _equivalent(own[own["target_fraction"] == share], real, patients, seed) for share in shares
    )


def saturation(
    results: pd.DataFrame,
    method: str = "joint",
    *,
    sources: str,
    reference: str = "target-only",
) -> Saturation | None:
    """Read where more source patients stop lowering the error, at the largest target fraction.

    Args:
        results: A row a finished cell.
        method: The method.
        sources: Its sources.
        reference: The method without source; where it was run it counts as share 0.

    Returns:
        The reading; None where there is one source fraction alone, or where slices were divided,
        not patients, or the split was given.
    """
    if not _readable(results):
        return None
    own = _cells(results, method, sources)
    own = own[own["target_fraction"] == own["target_fraction"].max()]
    if own["source_fraction"].nunique() < 2:
        return None
    share = float(own["target_fraction"].iloc[0])
    none = _cells(results, reference, "")
    none = none[none["target_fraction"] == share].assign(source_fraction=0.0, source_patients=0.0)
    cells = pd.concat([none, own]) if len(none) else own
    patients = cells.groupby("source_fraction")["source_patients"].mean()
    losses = _by_repeat(cells, "source_fraction").dropna()
    values = losses.to_numpy()
    why, place, gain, error = _few(len(losses)), 0, 0.0, 0.0
    if len(losses) > 1:
        place, gain, error = last_helpful(values, _spread(own, len(values)))
        why = _coarse(gain, error) if too_coarse(values, place, gain, error) else ""
    if why:
        sentence = f"The number of source patients beyond which more do not help {CANNOT}: {why}"
        return Saturation(method, sources, share, None, None, None, None, sentence)
    sentence = _saturated(patients.to_numpy(), place, gain, error)
    last = place == len(patients) - 1
    return Saturation(
        method, sources, share, float(patients.index[place]), float(patients.iloc[place]),
        None if last else gain, None if last else error, sentence,
    )  # fmt: skip


def _equivalent(
    own: pd.DataFrame, real: pd.DataFrame, patients: pd.Series, seed: int
) -> Equivalent:
    """Read one target fraction."""
    share = float(own["target_fraction"].iloc[0])
    losses = _by_repeat(real, "target_fraction")
    here, source = float(patients[share]), float(own["source_patients"].mean())
    together = losses.assign(own=own.set_index("repeat")["loss"]).dropna()
    both = together if len(together) else losses.assign(own=own["loss"].mean())
    system = (str(own["method"].iloc[0]), str(own["sources"].iloc[0]), share, here, source)
    errors = (float(both["own"].mean()), float(both[share].mean()))
    curve = together[patients.index].T.groupby(patients).mean().T
    numbers = curve.columns.to_numpy(dtype=float)
    values = np.column_stack([curve.to_numpy(), together["own"].to_numpy()])
    name, spread = str(real["method"].iloc[0]), _spread(real, len(values))
    interval = _interval(values, numbers, spread, here, seed)
    why = _unreadable(values, numbers, spread, name)
    if not why and not interval[0] and math.isinf(interval[1]):
        why = f"every number from {_short(numbers[0])} to {_short(numbers[-1])} is compatible."
    if why:
        sentence = (
            f"The number of target patients that {name} needs to reach the error of "
            f"{system_name(*system[:2])} with {_short(here)} {CANNOT}: {why}"
        )
        return Equivalent(*system, *errors, None, "at", None, None, None, sentence)
    means = values.mean(axis=0)
    reached = float(needed(numbers, means[None, :-1], means[-1:], here)[0])
    bound: Bound = "more" if reached == math.inf else "at" if reached else "fewer"
    number = float(np.clip(reached, numbers[0], numbers[-1]))
    worth, between = None, None
    if source and interval[0] > 0 and math.isfinite(interval[1]):
        worth = (number - here) / source
        between = ((interval[0] - here) / source, (interval[1] - here) / source)
    sentence = _needs(system, errors, name, number, bound, interval, numbers)
    if design_of(real) == "redrawn":
        sentence += " The interval applies to these test patients only."
    sentence += _worth(source, worth, between)
    if interval[0] <= here <= interval[1]:
        sentence += " The interval includes the actual number: no gain is shown."
    return Equivalent(*system, *errors, number, bound, interval, worth, between, sentence)


def _interval(
    values: FloatArray, numbers: FloatArray, spread: float, here: float, seed: int
) -> tuple[float, float]:
    """Return between which numbers of patients the reference reaches the last column [R, N + 1]."""
    if len(values) < 2:
        return 0, math.inf
    drawn = draws(values, spread, count=DRAWS, seed=seed)
    found = needed(numbers, drawn[:, :-1], drawn[:, -1], here)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(found, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


def _unreadable(values: FloatArray, numbers: FloatArray, spread: float, reference: str) -> str:
    """Return why the reference's curve [R, N + 1] cannot be read; "" where it can."""
    if len(values) < 2:
        return _few(len(values))
    falls = values[:, 0] - values[:, -2]
    half = student.ppf((1 + LEVEL) / 2, len(falls) - 1) * spread * falls.std(ddof=1)
    if falls.mean() > half:
        return ""
    return (
        f"the error of {reference} does not clearly fall with more target patients (from "
        f"{_short(values[:, 0].mean())} with {_short(numbers[0])} to "
        f"{_short(values[:, -2].mean())} with {_short(numbers[-1])}, a decrease of "
        f"{_short(falls.mean())} ± {_short(half)}, {percent(LEVEL)} CI)."
    )


def _spread(real: pd.DataFrame, repeats: int) -> float:
    """Return what turns the standard deviation over repeats into that of their mean."""
    overlap = 0.0
    if design_of(real) == "resampled":
        overlap = float(real["test_patients"].mean() / pool(real).mean())
    return math.sqrt(1 / max(repeats, 1) + overlap)


def _readable(results: pd.DataFrame) -> bool:
    return level_of(results) == "patient" and design_of(results) != "given"


def _needs(
    system: tuple[str, str, float, float, float],
    errors: tuple[float, float],
    reference: str,
    number: float,
    bound: Bound,
    interval: tuple[float, float],
    numbers: FloatArray,
) -> str:
    """Return the reading in words."""
    method, sources, _, here, _ = system
    few, many = _short(numbers[0]), _short(numbers[-1])
    beyond = {0.0: f"fewer than {few}", math.inf: f"more than {many}"}
    low, high = (beyond.get(end, _short(end)) for end in interval)
    between = low if low == high else f"{low} to {high}"
    count = {"at": f"about {_short(number)}", "more": beyond[math.inf], "fewer": beyond[0.0]}[bound]
    return (
        f"With {_short(here)} target patients, {system_name(method, sources)} has an error of "
        f"{_short(errors[0])} ({reference}: {_short(errors[1])}). {reference} would need {count} "
        f"target patients to reach it ({percent(LEVEL)} CI: {between})."
    )


def _worth(source: float, worth: float | None, between: tuple[float, float] | None) -> str:
    """Return the rate of exchange in words, with its interval or not at all."""
    if not source:
        return ""
    if worth is None or between is None:
        return (
            " The value of a translated source patient is not estimated: the interval extends "
            "beyond the numbers of patients in the study."
        )
    if worth <= 0:
        return " That is no more than it had: translated source patients gained nothing here."
    low, high = (_short(end, 2) for end in between)
    return (
        f" Each of its {_short(source)} translated source patients is worth about "
        f"{_short(worth, 2)} real target patients ({percent(LEVEL)} CI: {low} to {high})."
    )


def _saturated(patients: FloatArray, place: int, gain: float, error: float) -> str:
    """Return the reading in words."""
    most = f"{_short(patients[-1])} source patients"
    if place == len(patients) - 1:
        return f"The error still falls at {most}, the largest number: more may help further."
    found = (
        f"the largest further mean gain is {_short(gain)}, with a standard error of {_short(error)}"
    )
    if patients[place] == 0:
        return f"No number of source patients up to {most} is shown to help: {found}."
    return (
        f"Beyond {_short(patients[place])} source patients, more (up to {most}) do not help "
        f"further: {found}. Gains smaller than that error could not be detected."
    )


def _coarse(gain: float, error: float) -> str:
    return (
        f"the largest further gain is {_short(gain)} with a standard error of {_short(error)}, too "
        "large to distinguish a flat curve from a falling one."
    )


def _cells(results: pd.DataFrame, method: str, sources: str) -> pd.DataFrame:
    return results[(results["method"] == method) & (results["sources"].fillna("") == sources)]


def _by_repeat(cells: pd.DataFrame, column: str) -> pd.DataFrame:
    return cells.pivot_table(index="repeat", columns=column, values="loss")


def _few(repeats: int) -> str:
    return f"{repeats or 'no'} repeat has every fraction, but at least 2 are needed."


def _short(number: float, significant: int = 3) -> str:
    """Return a number with so many significant digits, without an exponent."""
    if not number or not math.isfinite(number):
        return f"{number:.0f}"
    digits = significant - 1 - math.floor(math.log10(abs(number)))
    text = f"{number:.{min(max(digits, 0), 9)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
