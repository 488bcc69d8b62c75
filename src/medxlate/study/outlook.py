"""What a study could show, before anything is trained: ``plan``'s other half.

The spread of differences is that of an earlier study, or is guessed from the label: then a method's
differences from target-only vary between patients as much as the constant's errors do, and between
trainings by a fifth of the constant's mean error. The guess says so wherever it is printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medxlate.base.errors import DataError, percent
from medxlate.dataset.index import Modality
from medxlate.dataset.labels import Task
from medxlate.dataset.splits import Part, Split
from medxlate.study.comparison import CONSTANT, OWN, REPEATS, TARGET_ONLY, System, find_contrast
from medxlate.study.measured import Measured
from medxlate.study.power import ALPHA, POWER, Spread, chance, detectable, spread_of
from medxlate.study.study import Study, StudyFolder, cells, read_study

GUESSED_REPEATS = 0.2  # of the constant's mean error: what trainings differ by, where unknown


@dataclass(frozen=True)
class Guess:
    """What the differences of a study will be like.

    Attributes:
        spread: Of a method's differences from target-only.
        perfect: Of the differences that a predictor without error would have.
        error: The mean loss of target-only, which is the most that can be gained.
        source: Where this is from, in words.
    """

    spread: Spread
    perfect: Spread
    error: float
    source: str


@dataclass(frozen=True)
class Outlook:
    """What a study could show.

    Attributes:
        test_patients: Target patients who are tested on, mean over splits.
        pool_patients: Target patients to train on, before any fraction.
        alpha: The level that a p-value has to reach: of the primary contrast, or the first of
            Holm's family.
        detectable: The smallest difference that is found with a power of 80 %; None: no test.
        reference_error: The expected error of target-only.
        perfect_chance: The chance, 0..1, that a predictor without error is found.
        underpowered: Whether that chance is below 80 %.
        source: Where the spread is from, in words.
        sentences: All that in words.
    """

    test_patients: float
    pool_patients: float
    alpha: float
    detectable: float | None
    reference_error: float
    perfect_chance: float
    underpowered: bool
    source: str
    sentences: tuple[str, ...]


def outlook_of(
    study: Study, target: Modality, splits: Sequence[Split], task: Task, earlier: Path | None = None
) -> Outlook | None:
    """Return what a study could show.

    Args:
        study: As planned.
        target: The target modality.
        splits: Of each repeat.
        task: What is predicted.
        earlier: A finished study from which the spread is taken; None: guessed from the label.

    Returns:
        None where slices are divided, for they are no patients, and where nothing is compared.

    Raises:
        DataError: The earlier study is not finished, has no target-only, or measured another kind
            of error.
    """
    systems = {
        (cell.method, cell.sources) for cell in cells(study) if cell.method != TARGET_ONLY
    } - {(CONSTANT, ())}
    if study.config.split.policy != "patient" or TARGET_ONLY not in study.methods or not systems:
        return None
    guess = _from_labels(target, task) if earlier is None else _from_study(earlier, study, task)
    test, pool = _patients(target, splits, "test"), _patients(target, splits, "train")
    alpha = ALPHA if study.primary else ALPHA / len(systems)
    sizes = {"patients": test, "pool": pool, "train": pool * max(study.target_fractions)}
    tests = [
        spread.expected(study.design, repeats=study.repeats, **sizes)
        for spread in (guess.spread, guess.perfect)
    ]
    found = [each and detectable(*each, alpha=alpha) for each in tests]
    seen = chance(guess.error, *tests[1], alpha=alpha) if tests[1] and found[1] else 0.0
    return Outlook(
        test,
        pool,
        alpha,
        found[0],
        guess.error,
        seen,
        seen < POWER,
        guess.source,
        tuple(_words(study, test, found[0], guess, seen)),
    )


def _patients(target: Modality, splits: Sequence[Split], part: Part) -> float:
    """Return the mean number of target patients in a part."""
    own = set(target.slices["patient"])
    return float(np.mean([len(own.intersection(split.parts[part])) for split in splits]))


def _from_labels(target: Modality, task: Task) -> Guess:
    """Guess from the errors that a constant prediction makes, a patient each."""
    labels = target.slices.groupby("patient")["label"]
    if task.kind == "regression":
        values = labels.mean().to_numpy(float)
        errors = (values - values.mean()) ** 2
    else:
        named = labels.agg(lambda each: each.mode().iloc[0])
        errors = (named != named.mode().iloc[0]).to_numpy(float)
    error = float(errors.mean())
    spread = Spread(float(errors.std(ddof=1)), GUESSED_REPEATS * error)
    source = (
        "guessed from the labels, assuming that differences vary between patients as much as the "
        f"errors of a constant prediction, between trainings by {percent(GUESSED_REPEATS)} of its "
        "mean error, and that target-only is no better than a constant"
    )
    return Guess(spread, spread, error, source)


def _from_study(folder: Path, study: Study, task: Task) -> Guess:
    """Take the spread from what an earlier study measured at its largest fractions."""
    earlier, place = read_study(folder), StudyFolder(folder)
    try:
        results = pd.read_parquet(place.path / "results.parquet")
        predictions = pd.read_parquet(place.path / "predictions.parquet")
    except (OSError, ValueError):
        raise DataError(
            f"The study {folder} has no results yet.",
            f"Finish it with `medxlate compare --out {folder}`, or drop --spread-from.",
        ) from None
    if ("mse" in results and bool(results["mse"].notna().any())) != (task.kind == "regression"):
        raise DataError(
            f"The study {folder} predicted another kind of label, so its errors cannot be used "
            "here.",
            "Give a study of the same label, or drop --spread-from.",
        )
    measured = Measured(results, predictions, "patient")
    base = next((s for s in measured.main if s.method == TARGET_ONLY), None)
    system = _system(measured, study)
    if base is None or system is None:
        raise DataError(
            f"The study {folder} has no comparison with {TARGET_ONLY}.",
            "Give another study, or drop --spread-from.",
        )
    both = measured.paired(system, base, measured.shared(system, base))
    alone = measured.rows(base)
    assert both is not None
    assert alone is not None
    spread = spread_of(both.assign(difference=both["loss"] - both["loss_reference"]))
    perfect = spread_of(alone.assign(difference=-alone["loss"]))
    if spread is None or perfect is None:
        raise DataError(
            f"The study {folder} has a single test patient per repeat, so the spread is unknown.",
            "Give another study, or drop --spread-from.",
        )
    error = float(measured.losses(base, list(measured.cells[base].index)).mean())
    patients = float(measured.cells[base]["train_patients"].mean())
    repeats = f"{earlier.repeats} {REPEATS[earlier.design]}{'s' * (earlier.repeats > 1)}"
    source = (
        f"measured in {folder.name or folder}, {system.name} against {TARGET_ONLY} with "
        f"{patients:.3g} target patients, {repeats}"
    )
    if earlier.repeats == 1:
        source += ", too few to see how much trainings vary"
    return Guess(spread, perfect, error, source)


def _system(measured: Measured, study: Study) -> System | None:
    """Return the earlier study's system that is most like what is asked for now."""
    others = [s for s in measured.main if s.method not in (CONSTANT, TARGET_ONLY)]
    primary = find_contrast(study.primary, study.methods, study.source_sets)
    wanted = [primary.method] if primary else []
    for name in (*wanted, OWN, *study.methods):
        if found := next((s for s in others if s.method == name), None):
            return found
    return next(iter(others), None)


def _words(study: Study, test: float, least: float | None, guess: Guess, seen: float) -> list[str]:
    what = REPEATS[study.design]
    size = f"{test:.3g} test patients and {study.repeats} {what}{'s' * (study.repeats > 1)}"
    words = []
    if least is None:
        words.append(f"With {size}, no statistical test is possible.")
    else:
        words.append(
            f"With {size}, the study finds only differences of {least:.3g} or more with "
            f"{percent(POWER)} power. The expected error of {TARGET_ONLY} is {guess.error:.3g}."
        )
    words.append(f"Spread: {guess.source}.")
    if seen < POWER:
        advice = f"more test patients, more {what}s, fewer methods"
        advice += "" if study.primary else ", or one primary contrast (--primary)"
        words.append(
            f"Underpowered: even a perfect predictor would be detected with only {percent(seen)} "
            f"power. Remedies: {advice}."
        )
    return words
