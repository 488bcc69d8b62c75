"""What a run's report answers: whether adding translated images lowered the error.

The answer is a comparison with a run without source images on the same test patients
(``run_comparison``). Differences are the run's error less the other's: below 0 is better.
"""

from __future__ import annotations

from collections.abc import Sequence

from medxlate.base.errors import plural
from medxlate.dataset.labels import Task
from medxlate.dataset.splits import MEANING
from medxlate.evaluation.results import Metric, Results, taught_in, trained_on, value_text
from medxlate.report.page import Tone, Verdict
from medxlate.report.printing import short, with_interval
from medxlate.report.run_comparison import Against

ADDED = {  # what a method adds to real target images
    "joint": "Adding translated {sources}",
    "cyclegan": "Adding translated {sources}",
    "raw-mix": "Adding untranslated {sources}",
    "histogram": "Adding {sources} with matched histograms",
    "duplicate-real": "Showing the {target} images twice",
    "oracle": "Adding the true {target} of the {sources} patients",
}
BASELINE = "target-only"


def modality_text(name: str) -> str:
    """Return a modality as it is read: short names in capitals."""
    return name.upper() if len(name) <= 4 else name


def error_text(task: Task | None) -> str:
    """Return what the error is, in words."""
    if task is None:
        return "error"
    return f"{'mean squared error' if task.kind == 'regression' else 'error rate'} of {task.name}"


def constant_text(task: Task | None) -> str:
    """Return what a prediction that ignores the image does, in words."""
    if task is None:
        return "a constant prediction"
    if task.kind == "regression":
        return f"predicting the mean {task.name}"
    return f"predicting the most frequent {task.name}"


def of_run(
    results: Results | None, policy: str, *, against: Against | None = None, how: str = ""
) -> Verdict:
    """Return the answer of one run, and what it rests on.

    Args:
        results: The evaluation; None: there is none yet.
        policy: patient or image.
        against: The comparison with a run without source images; None: there is none.
        how: Which command makes that comparison possible, a sentence.
    """
    notes = [MEANING["image"]] if policy == "image" else []
    if results is None:
        said = "Run `medxlate evaluate` for metrics on the test patients."
        return Verdict((said, *notes), "unsure", "Not evaluated yet")
    rest = [*notes, *_audited(results), *_taught(results.metrics)]
    fires = {audit.kind for audit in results.audits if audit.status == "fires"}
    if against is not None:
        said, tone, badge = _compared(results, against)
    else:
        said, tone, badge = _alone(results)
        if results.sources or results.method != BASELINE:
            said = f"{said} {how or 'Compare the run with one of --method target-only.'}"
    if tone == "good" and "label-preservation" in fires:
        tone, badge = "unsure", f"{badge}, but the label is lost"
        rest.insert(0, "Translated images no longer show the label: see the audit.")
    return Verdict((said, *rest), tone, badge)


def _compared(results: Results, against: Against) -> tuple[str, Tone, str]:
    """Return the answer to whether the added images helped, its tone and its badge."""
    task, own = results.task, skill_of(results)
    said = f"{_change(results, against)} {_constants(results, against)}"
    if against.differing:
        said += (
            f" The two runs also differ in {', '.join(against.differing)}, so the added images "
            "are not the only cause."
        )
    if against.low is None or against.high is None or against.low <= 0 <= against.high:
        return said, "unsure", "No benefit shown"
    if against.low > 0:
        return said, "bad", "Harm on this split"
    if own is None or own.value is None or own.value <= 0:
        said += f" An error above that of {constant_text(task)} is no benefit."
        return said, "unsure", "No benefit"
    if against.differing or against.method != BASELINE:
        return said, "unsure", "Lower error on this split"
    return said, "good", "Benefit on this split"


def _change(results: Results, against: Against) -> str:
    target = modality_text(results.target)
    sources = " and ".join(map(modality_text, results.sources or against.sources)) or "source"
    added = ADDED.get(results.method)
    alone = f"{target} alone" if against.method == BASELINE else against.method
    error = error_text(results.task)
    what = f"Training by {results.method}"
    if added and against.method == BASELINE and not against.differing:
        what = added.format(sources=sources, target=target)
    value, ends = with_interval(
        100 * against.change,
        None if against.low is None else 100 * against.low,
        None if against.high is None else 100 * against.high,
        signed=True,
    )
    sure = f"95 % CI {ends} %" if ends else "too few patients for an interval"
    where = f"{sure}, {plural(against.patients, 'patient')}, one split"
    return f"{what} changed the {error} by {value} % against {alone} ({where})."


def _constants(results: Results, against: Against) -> str:
    """Return which of the two is shown to beat a constant prediction."""
    shown = [
        each is not None and each.low is not None and each.low > 0
        for each in (skill_of(results), against.skill)
    ]
    constant = constant_text(results.task)
    if all(shown):
        return f"Both models beat {constant}."
    if not any(shown):
        return f"Neither model is shown to beat {constant}."
    return f"Only {results.method if shown[0] else against.method} is shown to beat {constant}."


def _alone(results: Results) -> tuple[str, Tone, str]:
    """Return what is known of a run without a comparison, its tone and its badge."""
    skill = skill_of(results)
    asked = bool(results.sources) or results.method != BASELINE
    badge = "Benefit not measured" if asked else "Baseline"
    if skill is None or skill.value is None:
        said = "Its predictions were not evaluated: run `medxlate evaluate` without --metric."
        return said, "unsure", badge
    said, tone = _useful(skill, results)
    if not asked:
        target = modality_text(results.target)
        said += f" It was trained on {target} alone: what other runs are compared with."
        return said, tone, badge
    return said, "bad" if tone == "bad" else "unsure", badge


def skill_of(results: Results) -> Metric | None:
    """Return the gain over a constant prediction, by patient where there is one."""
    found = {m.level: m for m in results.metrics if m.name == "skill" and m.of == "model"}
    return found.get("patient") or found.get("image")


def _useful(skill: Metric, results: Results) -> tuple[str, Tone]:
    """Return how the predictor compares with a constant prediction, and the tone."""
    assert skill.value is not None
    regression = results.task is None or results.task.kind == "regression"
    unit = "%" if regression else "points"
    low, high = (
        (None, None)
        if skill.low is None or skill.high is None
        else (-100 * skill.high, -100 * skill.low)
    )
    value, ends = with_interval(-100 * skill.value, low, high, signed=True)
    constant = constant_text(results.task)
    said = f"Against {constant}, the model changed the {error_text(results.task)} by {value} {unit}"
    people = f"{skill.n} {skill.level}s"
    if low is None or high is None:
        return f"{said} ({people}: too few for an interval).", "unsure"
    said += f" (95 % CI {ends} {unit}, {people})"
    if high < 0:
        return f"{said}: it has learned something from the images.", "good"
    if low > 0:
        return f"{said}: it is worse than no model.", "bad"
    return f"{said}: that may be chance.", "unsure"


def _audited(results: Results) -> list[str]:
    fires = sorted({audit.kind for audit in results.audits if audit.status == "fires"})
    if not results.audits:
        return []
    if fires:
        kinds = len({audit.kind for audit in results.audits})
        verb = "fires" if len(fires) == 1 else "fire"
        return [f"{len(fires)} of {kinds} audits {verb}: {', '.join(fires)}."]
    unknown = sum(audit.status == "unknown" for audit in results.audits)
    silent = "No audit fires"
    if unknown:
        return [f"{silent}; {unknown} of {len(results.audits)} could not be measured."]
    return [f"{silent}."]


def _taught(metrics: Sequence[Metric]) -> list[str]:
    """Return in words what translated images teach a predictor by themselves, beside real ones."""
    found = [each for each in metrics if each.group == "tstr"]
    real, constant = (
        next((each for each in found if each.of == of), None) for of in ("judge", "constant")
    )
    if real is None or constant is None:
        return []
    *first, last = (
        f"{value_text(each, lambda value: short(float(f'{value:.2g}')), 'unknown')} when trained "
        f"on {trained_on(each)}"
        for each in (*(each for each in found if each.of == "translated"), real, constant)
    )
    return [
        f"Over {real.n} real test patients, the {taught_in(real)} of a small predictor is "
        f"{', '.join(first)} and {last}."
    ]
