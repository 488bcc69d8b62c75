"""From the results of a study to one plain verdict per method, with the numbers behind it.

The only place where a verdict is decided: of each comparison (``_verdict``), and of the whole study
(``headline``). ``wording`` says it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medxlate.base.errors import ConfigError
from medxlate.method.registry import find_method
from medxlate.report.page import Tone, Verdict
from medxlate.study.comparison import (
    CONSTANT,
    CONTROLS,
    TARGET_ONLY,
    Comparison,
    Contrast,
    Control,
    Level,
    System,
    VerdictWord,
)
from medxlate.study.measured import Measured
from medxlate.study.power import ALPHA, detectable
from medxlate.study.statistics import difference_interval, effect_size, holm, wilcoxon
from medxlate.study.ttests import Tested
from medxlate.study.wording import BADGES, answer, in_order, sentence, sentences


def compare_to(
    results: pd.DataFrame,
    predictions: pd.DataFrame | None = None,
    reference: str = TARGET_ONLY,
    level: Level | None = None,
    alpha: float = ALPHA,
    primary: Contrast | None = None,
) -> list[Comparison]:
    """Compare every system at the largest fractions with one reference method.

    Holm's family is every system but the constant and the primary contrast. The constant is not
    a candidate: it is the row that the others have to beat, and counting it would only make their
    tests harder. Its own row says whether the reference tells more than a prediction that ignores
    the image. A system that is better than the reference but not than the constant does not help.

    Args:
        results: A row a finished cell.
        predictions: A row a test image and cell; None: no bootstrap intervals, and no tests where
            every repeat has the same test patients.
        reference: A method without source.
        level: Whether losses are taken over patients or over images; None: over patients, unless
            the splits divide images.
        alpha: Which p-value after Holm is small enough.
        primary: What was named before the study; None: nothing.

    Returns:
        By method and sources, the reference left out, and systems that share no finished repeat
        with it. Empty where the reference itself has none.

    Raises:
        DataError: The results were measured under more than one policy or design.
    """
    study = Measured(results, predictions, level)
    base = next((system for system in study.main if system.method == reference), None)
    if base is None:
        return []
    others = [system for system in study.main if system != base]
    return _judge(study, [(system, base) for system in others], alpha, primary)


def against_baselines(
    results: pd.DataFrame,
    predictions: pd.DataFrame | None = None,
    method: str = "joint",
    sources: str | None = None,
    level: Level | None = None,
    alpha: float = ALPHA,
    primary: Contrast | None = None,
) -> list[Comparison]:
    """Compare one method with every other method that had the same sources, or none.

    Args:
        results: As for ``compare_to``.
        predictions: As for ``compare_to``.
        method: The method that is judged; it is the ``system`` of each comparison.
        sources: Its sources; None: each set of sources it was trained with, each with a family
            of its own.
        level: As for ``compare_to``.
        alpha: As for ``compare_to``.
        primary: As for ``compare_to``.

    Returns:
        By sources, then by baseline. Holm's family is the baselines of one set of sources, but
        the constant and the primary contrast.

    Raises:
        DataError: The results were measured under more than one policy or design.
    """
    study = Measured(results, predictions, level)
    found: list[Comparison] = []
    for system in study.main:
        if system.method == method and sources in (None, system.sources):
            found += _judge(study, _baselines(study, system), alpha, primary)
    return found


def compare_primary(
    results: pd.DataFrame,
    predictions: pd.DataFrame | None,
    primary: Contrast,
    alpha: float = ALPHA,
) -> Comparison | None:
    """Make the comparison that was named before, at the largest fractions.

    Args:
        results: As for ``compare_to``.
        predictions: As for ``compare_to``.
        primary: What was named.
        alpha: Which p-value is small enough.

    Returns:
        None where the two share no finished repeat.

    Raises:
        DataError: The results were measured under more than one policy or design.
    """
    study = Measured(results, predictions)
    pairs = [
        (one, other) for one in study.main for other in study.main if primary.is_of(one, other)
    ]
    return next(iter(_judge(study, pairs, alpha, primary)), None)


def with_fewer_patients(
    results: pd.DataFrame,
    predictions: pd.DataFrame | None = None,
    method: str = "joint",
    reference: str = TARGET_ONLY,
    alpha: float = ALPHA,
) -> list[Comparison]:
    """Compare a method with the reference at each target fraction but the largest.

    Args:
        results: As for ``compare_to``.
        predictions: As for ``compare_to``.
        method: The method that is judged, at its largest source fraction.
        reference: A method without source.
        alpha: Which p-value after Holm is small enough; all of these comparisons are one family.

    Returns:
        By target fraction, smallest first, and sources.

    Raises:
        DataError: The results were measured under more than one policy or design.
    """
    study = Measured(results, predictions)
    source = max((s.source_fraction for s in study.main if s.sources), default=1.0)
    whole = max((s.target_fraction for s in study.cells), default=1.0)
    pairs = []
    for share in sorted({s.target_fraction for s in study.cells} - {whole}):
        there = study.at(share, source)
        base = next((s for s in there if s.method == reference), None)
        pairs += [(s, base) for s in there if s.method == method and base]
    return _judge(study, pairs, alpha, None)


def _judge(
    study: Measured,
    pairs: Sequence[tuple[System, System]],
    alpha: float,
    primary: Contrast | None,
) -> list[Comparison]:
    """Compare each pair, adjust the p-values of the family, and give the verdicts."""
    pairs = [pair for pair in pairs if study.shared(*pair)]
    tested = {pair: study.tested(*pair) for pair in pairs}
    adjusted = _adjusted(study, tested, primary)
    size = sum(p is not None for p in adjusted.values())
    judged = []
    for pair, test in tested.items():
        own_alpha = alpha / max(size, 1) if pair in adjusted else alpha
        comparison = replace(
            _compare(study, *pair, test),
            primary=primary is not None and primary.is_of(*pair),
            p_holm=adjusted.get(pair),
            detectable=detectable(test.error, test.df, alpha=own_alpha) if test else None,
            controls=_controls(study, *pair, alpha, primary),
        )
        comparison = replace(comparison, verdict=_verdict(comparison, alpha))
        words = sentence(comparison, study.metric, by_image=study.by_image, alpha=alpha)
        judged.append(replace(comparison, sentence=words))
    return judged


def _adjusted(
    study: Measured,
    tested: Mapping[tuple[System, System], Tested | None],
    primary: Contrast | None,
) -> dict[tuple[System, System], float | None]:
    """Return the p-values after Holm of the family: all but the constant and the primary."""
    family = [
        pair
        for pair in tested
        if CONSTANT not in (pair[0].method, pair[1].method)
        and not (primary and primary.is_of(*pair))
    ]
    values = [test.p if (test := tested[pair]) else None for pair in family]
    return dict(zip(family, holm(values), strict=True))


def _verdict(c: Comparison, alpha: float) -> VerdictWord:
    p = c.p if c.p_holm is None else c.p_holm
    if p is None or p >= alpha:
        return "no difference shown"
    if c.difference > 0:
        return "hurts"
    return "does not help" if c.beats_constant is False else "helps"


def _translates(name: str) -> bool:
    """Return whether a method translates; tables of other tools' predictions are none."""
    try:
        return find_method(name).translates
    except ConfigError:
        return False


def _controls(
    study: Measured,
    system: System,
    reference: System,
    alpha: float,
    primary: Contrast | None,
) -> tuple[Control, ...] | None:
    """Compare a system with translations with the controls, in the family of its baselines."""
    base = system.method.partition("+")[0]
    if reference.method != TARGET_ONLY or not _translates(base):
        return None
    tested = {
        pair: study.tested(*pair) for pair in _baselines(study, system) if study.shared(*pair)
    }
    adjusted = _adjusted(study, tested, primary)
    found = []
    for (_, control), test in tested.items():
        if control.method in CONTROLS:
            p = adjusted.get((system, control), test.p if test else None)
            repeats = study.shared(system, control)
            difference = study.losses(system, repeats) - study.losses(control, repeats)
            mean = float(difference.mean())
            found.append(Control(control.method, mean, p, p is not None and p < alpha and mean < 0))
    return tuple(sorted(found, key=lambda each: CONTROLS.index(each.method)))


def _baselines(study: Measured, system: System) -> list[tuple[System, System]]:
    """Return a system with each other method that had the same sources, or none."""
    return [
        (system, other)
        for other in study.at(system.target_fraction, system.source_fraction)
        if other.method != system.method and other.sources in ("", system.sources)
    ]


def _compare(
    study: Measured, system: System, reference: System, tested: Tested | None
) -> Comparison:
    repeats = study.shared(system, reference)
    own, other = study.losses(system, repeats), study.losses(reference, repeats)
    difference = own - other
    both = study.paired(system, reference, repeats)
    mean, reference_mean = float(own.mean()), float(other.mean())
    constant_mean, constant_p, beats = _against_constant(study, system)
    patients = study.sizes(system, reference, repeats)["test"]
    return Comparison(
        system=system,
        reference=reference,
        design=study.design,
        repeats=len(repeats),
        study_repeats=study.repeats,
        test_patients=patients if math.isfinite(patients) and not study.by_image else None,
        primary=False,
        mean=mean,
        std=_std(own),
        reference_mean=reference_mean,
        reference_std=_std(other),
        difference=mean - reference_mean,
        relative_change=(mean - reference_mean) / reference_mean if reference_mean else None,
        interval=tested.interval if tested else None,
        t=tested.t if tested else None,
        df=tested.df if tested else None,
        p=tested.p if tested else None,
        p_holm=None,
        detectable=None,
        wilcoxon_p=wilcoxon(difference),
        effect_size=effect_size(difference),
        loss_interval=study.own(system, repeats),
        difference_interval=None
        if both is None
        else difference_interval(
            both["loss"].to_numpy(float),
            both["loss_reference"].to_numpy(float),
            both["patient"].to_numpy(),
        ),
        constant_mean=constant_mean,
        constant_p=constant_p,
        beats_constant=beats,
        reference_beats_constant=_against_constant(study, reference)[2],
        seconds=study.seconds(system, repeats),
        reference_seconds=study.seconds(reference, repeats),
    )


def _against_constant(
    study: Measured, system: System
) -> tuple[float | None, float | None, bool | None]:
    """Return the constant's mean, the p-value of the test against it, and whether it is beaten."""
    constant = study.constant(system)
    if constant in (None, system):
        return None, None, None
    assert constant is not None
    repeats = study.shared(system, constant)
    if not repeats:
        return None, None, None
    own, other = study.losses(system, repeats), study.losses(constant, repeats)
    tested = study.tested(system, constant)
    return float(other.mean()), tested.p if tested else None, bool(own.mean() < other.mean())


def _std(losses: npt.NDArray[np.float64]) -> float | None:
    return float(losses.std(ddof=1)) if len(losses) > 1 else None


def headline(
    statistics: Mapping[str, Any],
    method: str = "joint",
    *,
    label: str = "",
    target: str = "",
    unit: str = "patient",
) -> Verdict:
    """Return what a study says first: of the primary contrast, or else of one method.

    An answer in a sentence a comparison comes first, then the sentences with all their numbers.

    Args:
        statistics: The content of ``statistics.json``.
        method: The method that the study is about, with or without an augmentation.
        label: What is predicted; "": not known.
        target: The target modality; "": not known.
        unit: What losses are taken over.
    """
    chosen = _chosen(statistics, method)
    # The constant is there to be beaten: that it is worse is not bad news.
    words = {str(each.get("verdict")) for each in chosen if not _is_of(each, CONSTANT)}
    words.discard("None")
    short = (answer(each, label=label, target=target, unit=unit) for each in chosen)
    said = (*filter(None, short), *sentences(chosen))
    if not said:
        said = ("There is nothing to compare with: target-only is not part of the study.",)
    badge = BADGES.get(next(iter(words)), "") if len(words) == 1 else ""
    if len(words) > 1:
        badge = "It depends on the method"
    if words == {"helps"} and all(each.get("beats_constant") is not False for each in chosen):
        return Verdict(said, "good", badge)
    if words == {"helps"}:
        badge = BADGES["does not help"]
    tone: Tone = "bad" if "hurts" in words and "helps" not in words else "unsure"
    return Verdict(said, tone, badge)


def headline_record(
    statistics: Mapping[str, Any], *, label: str, target: str, unit: str
) -> dict[str, Any] | None:
    """Return the answer as ``statistics.json`` keeps it, for the reports of runs.

    Only that of one comparison, with target-only.

    Args:
        statistics: The other content of ``statistics.json``.
        label: What is predicted.
        target: The target modality.
        unit: What losses are taken over.
    """
    chosen = _chosen(statistics, "joint")
    if len(chosen) != 1 or chosen[0]["reference"]["method"] != TARGET_ONLY:
        return None
    found = headline(statistics, label=label, target=target, unit=unit)
    return {
        "method": chosen[0]["system"]["method"],
        "sources": chosen[0]["system"]["sources"],
        "badge": found.badge,
        "tone": found.tone,
        "sentence": found.sentences[0],
    }


def _chosen(statistics: Mapping[str, Any], method: str) -> Sequence[Mapping[str, Any]]:
    """Return the comparisons that a study's answer is about."""
    answers = in_order(statistics)
    own = [each for each in answers if _is_of(each, method)]
    return statistics.get("primary") or own or answers


def _is_of(entry: Mapping[str, Any], method: str) -> bool:
    return str(entry.get("system", {}).get("method", "")).partition("+")[0] == method
