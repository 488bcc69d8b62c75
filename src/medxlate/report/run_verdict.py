"""The verdict on a run: whether its predictor learned something, and whether it beats another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medxlate.artifacts.info import read_model, weights_hashes
from medxlate.artifacts.runs import RunFolder
from medxlate.base.errors import ModelError, UsageError
from medxlate.base.records import read_json
from medxlate.config import flat, parse
from medxlate.dataset.splits import MEANING
from medxlate.evaluation.intervals import bootstrap
from medxlate.evaluation.results import (
    PREDICTIONS,
    Metric,
    Results,
    read_results,
    taught_in,
    trained_on,
    value_text,
)
from medxlate.method.registry import find_method
from medxlate.method.settings import concerns
from medxlate.report.page import Tone, Verdict
from medxlate.report.printing import short

Array = npt.NDArray[Any]
# Settings that are not counted: the verdict names the methods, and the others are no cause.
NOT_COUNTED = ("method", "data.folder", "runtime.")


def of_run(results: Results | None, policy: str) -> Verdict:
    """Return whether the predictor beats a constant prediction, how sure that is, and the audits.

    Args:
        results: The evaluation; None: there is none yet.
        policy: patient or image.
    """
    notes = [MEANING["image"]] if policy == "image" else []
    if results is None:
        said = "Not evaluated yet: run `medxlate evaluate` for figures on the test patients."
        return Verdict((said, *notes), "unsure")
    skill = _skill(results.metrics)
    tone: Tone = "unsure"
    if skill is None or skill.value is None:
        said = "No verdict on its predictions: `medxlate evaluate` without --metric gives one."
    else:
        said, tone = _useful(skill, results)
    fires = [audit for audit in results.audits if audit.status == "fires"]
    if fires:
        kinds = ", ".join(sorted({audit.kind for audit in fires}))
        verb = "fires" if len(fires) == 1 else "fire"
        notes.append(
            f"{len(fires)} of {len(results.audits)} audits of the translator {verb}: {kinds}."
        )
    elif results.audits:
        unknown = sum(audit.status == "unknown" for audit in results.audits)
        silent = f"No audit of the translator fires; {unknown} of {len(results.audits)} cannot say."
        notes.append(silent if unknown else "No audit of the translator fires.")
    if tone == "good" and any(audit.kind == "label-preservation" for audit in fires):
        tone = "unsure"
    return Verdict((said, *notes, *_taught(results.metrics)), tone)


def _skill(metrics: Sequence[Metric]) -> Metric | None:
    found = {m.level: m for m in metrics if m.name == "skill" and m.of == "model"}
    return found.get("patient") or found.get("image")


def _taught(metrics: Sequence[Metric]) -> list[str]:
    """Return in words what translated images teach a predictor by themselves, beside real ones."""
    found = [each for each in metrics if each.group == "tstr"]
    real, constant = (
        next((each for each in found if each.of == of), None) for of in ("judge", "constant")
    )
    if real is None or constant is None:
        return []
    *first, last = (
        f"{value_text(each, short, 'unknown')} when trained on {trained_on(each)}"
        for each in (*(each for each in found if each.of == "translated"), real, constant)
    )
    return [
        f"Over {real.n} real test patients, the {taught_in(real)} of a small predictor is "
        f"{', '.join(first)} and {last}."
    ]


def _useful(skill: Metric, results: Results) -> tuple[str, Tone]:
    """Return what the predictor's skill over a constant prediction is worth, and its tone."""
    assert skill.value is not None
    over = f"Over {skill.n} test {skill.level}s"
    is_regression = results.task is None or results.task.kind == "regression"
    what = "squared error" if is_regression else "accuracy"
    unit = "%" if is_regression else "points"
    better = "lower" if is_regression else "higher"
    worse = "higher" if is_regression else "lower"
    amount = f"{abs(100 * skill.value):.0f} {unit} {better if skill.value > 0 else worse}"
    said = f"{over} the predictor's {what} is {amount} than that of a constant prediction"
    if skill.low is None or skill.high is None:
        return f"{said}; too few patients to say how sure that is.", "unsure"
    said += f" (95 % interval of the gain: {100 * skill.low:.0f} to {100 * skill.high:.0f} {unit})"
    if skill.low > 0:
        return f"{said}: it has learned something from the images.", "good"
    if skill.high < 0:
        return f"{said}: it is worse than no predictor.", "bad"
    return f"{said}: that may be chance.", "unsure"


def against_baseline(run: RunFolder, baseline: RunFolder) -> str:
    """Return in words whether a run predicts better than another on the same test patients.

    Paired: the share of the other's error that is gained, on the same images, both resampled over
    patients together. Translated images are credited only where they are all that differed.

    Raises:
        ModelError: One was not evaluated since it was trained, or its predictions are missing.
        UsageError: They were not tested on the same patients.
    """
    own, other = (read_results(each.evaluation) for each in (run, baseline))
    if own.split != other.split or own.target != other.target:
        raise UsageError(
            f"{run.path} and {baseline.path} were not tested on the same patients.",
            "Train both on one dataset with one split.seed.",
        )
    if other.model != weights_hashes(read_model(baseline.model)):
        raise ModelError(
            f"The evaluation of {baseline.path} is of other weights than it has now.",
            f"Evaluate it again: `medxlate evaluate --run {baseline.path}`.",
        )
    losses = [_losses(each, found) for each, found in ((run, own), (baseline, other))]
    table = losses[0].merge(losses[1], on=["slice_id", "patient"], suffixes=("", "_other"))
    if not len(table) == len(losses[0]) == len(losses[1]):
        raise ModelError(
            f"{PREDICTIONS} of {run.path} and of {baseline.path} hold different images.",
            "Evaluate both runs again.",
        )
    name = baseline.path.name
    method = other.method if name == other.method else f"{other.method} ({name})"
    loss, base = table["loss"].to_numpy(np.float64), table["loss_other"].to_numpy(np.float64)
    if not base.any():
        return f"{method} makes no error on these patients: there is nothing to gain over it."

    def share(weights: Array) -> dict[str, Array]:
        with np.errstate(divide="ignore", invalid="ignore"):  # a resample without any error
            return {"gain": 1 - weights @ loss / (weights @ base)}

    gain = float(share(np.ones((1, len(base))))["gain"][0])
    way = "lower" if gain > 0 else "higher"
    said = f"Against {method}, its error per image is {abs(100 * gain):.0f} % {way}"
    interval = bootstrap(share, table["patient"].tolist())["gain"]
    if interval is None:
        return f"{said}; too few patients to say how sure that is."
    low, high = (100 * end for end in interval)
    said += f" (95 % interval of the gain: {low:.0f} to {high:.0f} %): "
    if low <= 0 <= high:
        return f"{said}that may be chance. One split only."
    differing = _differing(run, baseline)
    if own.sources and other.method == "target-only" and not differing:
        helped = "translated images helped here" if low > 0 else "they did harm here"
        return f"{said}{helped}. One split only."
    also = f"; they differ in {', '.join(differing)} too" if differing else ""
    return f"{said}it predicts {'better' if low > 0 else 'worse'} here{also}. One split only."


def _differing(run: RunFolder, baseline: RunFolder) -> list[str]:
    """Return what differs of all that the baseline's method depends on, and the augmentation.

    Of `target-only`, these are the settings by which translated images are not the only cause.
    """
    own, other = (flat(parse(read_json(each.config, error=ModelError))) for each in (run, baseline))
    added = [find_method(each["method"]).augmentation for each in (own, other)]
    return ["augmentation"] * (added[0] != added[1]) + [
        key
        for key, value in own.items()
        if value != other[key]
        and not key.startswith(NOT_COUNTED)
        and concerns(key, other["method"])
    ]


def _losses(run: RunFolder, results: Results) -> pd.DataFrame:
    """Return the loss of each test image: squared error, or whether the class is wrong."""
    path = run.evaluation / PREDICTIONS
    try:
        table = pd.read_parquet(path)
        said, label = table["prediction"], table["label"]
        is_regression = results.task is None or results.task.kind == "regression"
        loss = (said - label) ** 2 if is_regression else (said != label).astype(np.float64)
        return pd.DataFrame(
            {"slice_id": table["slice_id"], "patient": table["patient"], "loss": loss}
        )
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ModelError(
            f"{path} is missing or damaged: {problem}.", "Evaluate the run again."
        ) from None
