"""One system of a study against another: the figures, and the sentence that they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medxlate.study.statistics import Interval

Level = Literal["image", "patient"]
Verdict = Literal["helps", "no difference shown", "hurts"]
CONSTANT = "constant"
TARGET_ONLY = "target-only"
IMAGE_POLICY = (
    "the splits divide images, so slices of one patient may be in training and in test, and this "
    "measures something else than how well new patients are predicted"
)


@dataclass(frozen=True, order=True)
class System:
    """A method with what it was trained on.

    Attributes:
        method: Its name.
        sources: The sources, such as ``mri+pet``; "" for methods without source.
        target_fraction: Share of the target's training patients, 0..1.
        source_fraction: Share of the sources' patients, 0..1.
    """

    method: str
    sources: str
    target_fraction: float
    source_fraction: float

    @property
    def name(self) -> str:
        """The method, and its sources in brackets."""
        return system_name(self.method, self.sources)


def system_name(method: str, sources: str) -> str:
    """Return a method, and its sources in brackets where it has any."""
    return f"{method} ({sources})" if sources else method


@dataclass(frozen=True)
class Comparison:
    """One system against another, over the repeats that both finished.

    Losses are MSE (the label's unit squared) or the error rate; lower is better, and a difference
    is the system's loss minus the reference's.

    Attributes:
        system: What is judged.
        reference: What it is held against.
        repeats: Repeats that both finished with a finite loss; all figures are over these.
        study_repeats: Repeats in the study.
        mean: Mean loss over repeats.
        std: Its standard deviation over repeats, ddof 1; None for one repeat.
        reference_mean: The same of the reference.
        reference_std: The same of the reference.
        difference: Mean difference.
        relative_change: The difference as a share of the reference's mean; None where that is 0.
        interval: The difference with the interval of the corrected t-test, not adjusted by Holm.
        t: Statistic of the corrected resampled t-test; None where there is no test.
        p: Its two-sided p-value.
        p_holm: The same after Holm over the family; None for the constant, which is not in it.
        wilcoxon_p: p-value of Wilcoxon's signed-rank test.
        effect_size: Cohen's d_z.
        loss_interval: The mean loss over all test images (or patients) of these repeats, with its
            bootstrap interval over patients; None without predictions.
        difference_interval: The same of the paired difference.
        constant_mean: Mean loss of the constant, over the repeats that it shares with the system.
        constant_p: p-value of the corrected t-test of the system against the constant.
        beats_constant: Whether the system's mean is below the constant's; None without one.
        reference_beats_constant: The same of the reference.
        verdict: By ``p_holm`` (by ``p`` for the constant) and the sign of the difference.
        sentence: The verdict in words, with its numbers.
    """

    system: System
    reference: System
    repeats: int
    study_repeats: int
    mean: float
    std: float | None
    reference_mean: float
    reference_std: float | None
    difference: float
    relative_change: float | None
    interval: Interval | None
    t: float | None
    p: float | None
    p_holm: float | None
    wilcoxon_p: float | None
    effect_size: float | None
    loss_interval: Interval | None
    difference_interval: Interval | None
    constant_mean: float | None
    constant_p: float | None
    beats_constant: bool | None
    reference_beats_constant: bool | None
    verdict: Verdict = "no difference shown"
    sentence: str = ""


def sentence(c: Comparison, metric: str, *, by_image: bool, alpha: float) -> str:
    """Say the verdict in one sentence, with the numbers that carry it.

    Args:
        c: The comparison, its verdict included.
        metric: What the loss is called: ``MSE``, ``error rate per patient``.
        by_image: Whether the splits divide images, which the sentence then says.
        alpha: The verdict's.
    """
    of = "" if c.repeats == c.study_repeats else f" of {c.study_repeats}"
    clauses = [
        f"{_opening(c)}: {metric} {_spread(c.mean, c.std)} against "
        f"{_spread(c.reference_mean, c.reference_std)} for {c.reference.name}, {_change(c)}, "
        f"{_evidence(c)}, over {c.repeats}{of} repeat{'s' * (c.study_repeats > 1)}",
        *_standing(c, metric, alpha),
    ]
    if by_image:
        clauses.append(IMAGE_POLICY)
    return "; ".join(clauses) + "."


def _opening(c: Comparison) -> str:
    if c.verdict == "no difference shown":
        return f"No difference between {c.system.name} and {c.reference.name} is shown"
    if c.reference.method == TARGET_ONLY and c.system.method != CONSTANT:
        return f"{c.system.name} {c.verdict}"
    kind = "better" if c.verdict == "helps" else "worse"
    return f"{c.system.name} does {kind} than {c.reference.name}"


def _spread(mean: float, std: float | None) -> str:
    return f"{mean:.4g}" if std is None else f"{mean:.4g} ± {std:.3g}"


def _change(c: Comparison) -> str:
    text = f"a difference of {c.difference:+.3g}"
    if c.interval is None:
        return text
    ends = f"{c.interval.low:+.3g} to {c.interval.high:+.3g}"
    return f"{text} ({100 * c.interval.level:.0f} % interval {ends})"


def _evidence(c: Comparison) -> str:
    if c.p is None and c.repeats == 1:
        return "no test, as one repeat has no spread"
    if c.p is None:
        return "no test, as the difference is the same in every repeat"
    if c.p_holm is None:
        return f"{_p(c.p)} (not in Holm's family)"
    return f"{_p(c.p_holm)} after Holm"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _standing(c: Comparison, metric: str, alpha: float) -> list[str]:
    """Say how both stand to the constant: nothing that loses to it means anything."""
    clauses = []
    shown = c.constant_p is not None and c.constant_p < alpha
    if c.beats_constant is False:
        beaten = f"{c.system.name} does not beat {_constant(c, metric)}"
        clauses.append(f"{beaten}, so its result means nothing")
    elif c.beats_constant and not shown and c.reference.method != CONSTANT:
        clauses.append(f"its lead over {_constant(c, metric)} is not shown")
    if c.reference_beats_constant is False:
        clauses.append(f"{c.reference.name} does not beat the constant")
    return clauses


def _constant(c: Comparison, metric: str) -> str:
    if c.reference.method == CONSTANT:
        return "the constant"
    return f"the constant ({metric} {c.constant_mean:.4g})"
