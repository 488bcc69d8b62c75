"""From the results of a study to one plain verdict per method, with the numbers behind it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from medxlate.study.comparison import TARGET_ONLY, Comparison, Level, System, Verdict, sentence
from medxlate.study.measured import KEYS, Measured
from medxlate.study.statistics import (
    corrected_resampled_t,
    difference_interval,
    effect_size,
    holm,
    wilcoxon,
)

__all__ = ["Comparison", "System", "against_baselines", "compare_to", "subgroups"]

FEWEST, MOST = 2, 20  # values of a column that divides into subgroups


def compare_to(
    results: pd.DataFrame,
    predictions: pd.DataFrame | None = None,
    reference: str = TARGET_ONLY,
    level: Level = "image",
    alpha: float = 0.05,
) -> list[Comparison]:
    """Compare every system at the largest fractions with one reference method.

    Holm's family is every system but the constant. The constant is no candidate: it is the row
    that the others have to beat, and counting it would only make their tests harder. Its own
    row says whether the reference tells more than a prediction that ignores the image.

    Args:
        results: A row a finished cell.
        predictions: A row a test image and cell; None: no bootstrap intervals.
        reference: A method without source.
        level: Whether losses are taken over images or over patients.
        alpha: Which p-value after Holm is small enough.

    Returns:
        By method and sources, the reference left out, and systems that share no finished repeat
        with it. Empty where the reference itself has none.

    Raises:
        DataError: The results were measured under more than one policy.
    """
    study = Measured(results, predictions, level)
    base = next((system for system in study.main if system.method == reference), None)
    if base is None:
        return []
    others = [system for system in study.main if system != base]
    return _judge(study, [(system, base) for system in others], alpha)


def against_baselines(
    results: pd.DataFrame,
    predictions: pd.DataFrame | None = None,
    method: str = "joint",
    sources: str | None = None,
    level: Level = "image",
    alpha: float = 0.05,
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

    Returns:
        By sources, then by baseline. Holm's family is the baselines of one set of sources, but
        the constant.

    Raises:
        DataError: The results were measured under more than one policy.
    """
    study = Measured(results, predictions, level)
    found: list[Comparison] = []
    for system in study.main:
        if system.method == method and sources in (None, system.sources):
            pairs = [
                (system, other)
                for other in study.main
                if other.method != method and other.sources in ("", system.sources)
            ]
            found += _judge(study, pairs, alpha)
    return found


def subgroups(
    predictions: pd.DataFrame,
    columns: Sequence[str] = ("sex", "site"),
    label_name: str = "",
    regression: bool = False,
) -> pd.DataFrame:
    """Measure every system's loss within subgroups of the test images.

    Args:
        predictions: A row a test image and cell.
        columns: What divides; columns that are absent, or that have fewer than 2 or more than 20
            distinct values, are passed over. Images without a value are left out.
        label_name: The label's name. An age (``age``, ``physiological_age``, ``PatientAge``) in a
            regression is divided into decades, ``40-49``.
        regression: Whether the label is a number.

    Returns:
        A row a system, column and value: KEYS, ``subgroup`` (the column, or ``age decade``),
        ``value``, ``repeats``, ``images`` and ``patients`` (distinct, over all repeats), ``loss``
        (mean over repeats of the mean over images) and ``std`` (over repeats, ddof 1; NaN for
        one).
    """
    table = predictions.assign(sources=predictions["sources"].fillna(""))
    kinds = {column: table[column] for column in columns if column in table}
    if regression and _is_age(label_name):
        kinds["age decade"] = table["label"].astype(float).map(_decade, na_action="ignore")
    parts = [
        _subgroup(table, kind, values.where(values.notna() & (values.astype(str) != "")))
        for kind, values in kinds.items()
    ]
    names = [*KEYS, "subgroup", "value", "repeats", "images", "patients", "loss", "std"]
    kept = [part for part in parts if len(part)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=names)


def _subgroup(table: pd.DataFrame, kind: str, values: pd.Series) -> pd.DataFrame:
    if not FEWEST <= values.nunique() <= MOST:
        return pd.DataFrame()
    group = [*KEYS, "subgroup", "value"]
    known = table.assign(subgroup=kind, value=values.astype(object))[values.notna()]
    known["value"] = known["value"].astype(str)
    means = known.groupby([*group, "repeat"], as_index=False)["loss"].mean()
    rows = means.groupby(group).agg(repeats=("repeat", "nunique"), loss=("loss", "mean"))
    rows["std"] = means.groupby(group)["loss"].std()
    rows["images"] = known.groupby(group)["slice_id"].nunique()
    rows["patients"] = known.groupby(group)["patient"].nunique()
    return rows.reset_index()[[*group, "repeats", "images", "patients", "loss", "std"]]


def _decade(age: float) -> str:
    first = 10 * math.floor(age / 10)
    return f"{first}-{first + 9}"


def _is_age(name: str) -> bool:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return "age" in re.split(r"[^a-z]+", words)


def _judge(
    study: Measured, pairs: Sequence[tuple[System, System]], alpha: float
) -> list[Comparison]:
    """Compare each pair, adjust the p-values of the family, and give the verdicts."""
    found = [_compare(study, *pair) for pair in pairs if study.shared(*pair)]
    family = [c for c in found if study.constant not in (c.system, c.reference)]
    adjusted = dict(zip(map(id, family), holm([c.p for c in family]), strict=True))
    judged = []
    for comparison in found:
        p_holm = adjusted.get(id(comparison))
        p = p_holm if id(comparison) in adjusted else comparison.p
        verdict: Verdict = "no difference shown"
        if p is not None and p < alpha:
            verdict = "helps" if comparison.difference < 0 else "hurts"
        comparison = replace(comparison, p_holm=p_holm, verdict=verdict)
        words = sentence(comparison, study.metric, by_image=study.by_image, alpha=alpha)
        judged.append(replace(comparison, sentence=words))
    return judged


def _compare(study: Measured, system: System, reference: System) -> Comparison:
    repeats = study.shared(system, reference)
    own, other = study.losses(system, repeats), study.losses(reference, repeats)
    difference = own - other
    tested = corrected_resampled_t(difference, **study.sizes(system, reference, repeats))
    both = study.paired(system, reference, repeats)
    mean, reference_mean = float(own.mean()), float(other.mean())
    constant_mean, constant_p, beats = _against_constant(study, system)
    return Comparison(
        system=system,
        reference=reference,
        repeats=len(repeats),
        study_repeats=study.repeats,
        mean=mean,
        std=_std(own),
        reference_mean=reference_mean,
        reference_std=_std(other),
        difference=mean - reference_mean,
        relative_change=(mean - reference_mean) / reference_mean if reference_mean else None,
        interval=tested.interval if tested else None,
        t=tested.t if tested else None,
        p=tested.p if tested else None,
        p_holm=None,
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
    )


def _against_constant(
    study: Measured, system: System
) -> tuple[float | None, float | None, bool | None]:
    """Return the constant's mean, the p-value of the test against it, and whether it is beaten."""
    if study.constant in (None, system):
        return None, None, None
    assert study.constant is not None
    repeats = study.shared(system, study.constant)
    if not repeats:
        return None, None, None
    own, constant = study.losses(system, repeats), study.losses(study.constant, repeats)
    tested = corrected_resampled_t(own - constant, **study.sizes(system, study.constant, repeats))
    beats = bool(own.mean() < constant.mean())
    return float(constant.mean()), tested.p if tested else None, beats


def _std(losses: npt.NDArray[np.float64]) -> float | None:
    return float(losses.std(ddof=1)) if len(losses) > 1 else None
