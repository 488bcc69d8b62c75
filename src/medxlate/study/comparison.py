"""One system of a study against another: the figures, and the sentence that they make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from medxlate.study.power import POWER, Design
from medxlate.study.statistics import Interval

Level = Literal["patient", "image"]
Verdict = Literal["helps", "does not help", "no difference shown", "hurts"]
CONSTANT = "constant"
TARGET_ONLY = "target-only"
UNTRANSLATED = ("raw-mix", "histogram")  # source patients without a translation
CONTROLS = (*UNTRANSLATED, "duplicate-real")  # what translation has to beat as well
IMAGE_POLICY = (
    "the splits divide images, so slices of one patient may be in training and in test, and this "
    "measures something else than how well new patients are predicted"
)
REPEATS: dict[Design, str] = {"resampled": "repeat", "redrawn": "draw", "given": "seed"}


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
class Control:
    """Whether a system with translations also beats one of the controls.

    Attributes:
        method: One of CONTROLS.
        difference: Mean loss of the system minus the control's.
        p: After Holm, over all methods with the same sources or none.
        beaten: Whether the difference is below 0 and shown.
    """

    method: str
    difference: float
    p: float | None
    beaten: bool


@dataclass(frozen=True)
class Comparison:
    """One system against another, over the repeats that both finished.

    Losses are MSE (the label's unit squared) or the error rate; lower is better, and a difference
    is the system's loss minus the reference's.

    Attributes:
        system: What is judged.
        reference: What it is held against.
        design: What the repeats are.
        repeats: Repeats that both finished with a finite loss; all figures are over these.
        study_repeats: Repeats in the study.
        test_patients: Mean number of test patients of a repeat.
        primary: Whether it was named before the study, and so is in no family.
        mean: Mean loss over repeats.
        std: Its standard deviation over repeats, ddof 1; None for one repeat.
        reference_mean: The same of the reference.
        reference_std: The same of the reference.
        difference: Mean difference.
        relative_change: The difference as a share of the reference's mean; None where that is 0.
        interval: The difference with the interval of the design's test, not adjusted by Holm.
        t: Statistic of the design's test; None where there is no test.
        df: Its degrees of freedom.
        p: Its two-sided p-value.
        p_holm: The same after Holm over the family; None where it is in none: the constant and the
            primary contrast.
        detectable: The smallest difference that such a study finds with a power of 80 %, from the
            measured spread: at alpha, in a family of m at alpha / m.
        wilcoxon_p: p-value of Wilcoxon's signed-rank test.
        effect_size: Cohen's d_z.
        loss_interval: The mean loss over all test patients (or images) of these repeats, with its
            bootstrap interval over patients; None without predictions.
        difference_interval: The same of the paired difference.
        constant_mean: Mean loss of the constant, over the repeats that it shares with the system.
        constant_p: p-value of the test of the system against the constant.
        beats_constant: Whether the system's mean is below the constant's; None without one.
        reference_beats_constant: The same of the reference.
        seconds: Mean seconds of a training, with what was trained first; None: not known.
        reference_seconds: The same of the reference.
        controls: Of a system that learns from translations, against target-only: whether it beats
            those controls that were run.
        verdict: By ``p_holm`` (by ``p`` outside the family), the sign of the difference, and
            whether the constant does better.
        sentence: The verdict in words, with its numbers.
    """

    system: System
    reference: System
    design: Design
    repeats: int
    study_repeats: int
    test_patients: float | None
    primary: bool
    mean: float
    std: float | None
    reference_mean: float
    reference_std: float | None
    difference: float
    relative_change: float | None
    interval: Interval | None
    t: float | None
    df: float | None
    p: float | None
    p_holm: float | None
    detectable: float | None
    wilcoxon_p: float | None
    effect_size: float | None
    loss_interval: Interval | None
    difference_interval: Interval | None
    constant_mean: float | None
    constant_p: float | None
    beats_constant: bool | None
    reference_beats_constant: bool | None
    seconds: float | None
    reference_seconds: float | None
    controls: tuple[Control, ...] | None = None
    verdict: Verdict = "no difference shown"
    sentence: str = ""


def sentence(c: Comparison, metric: str, *, by_image: bool, alpha: float) -> str:
    """Say the verdict in one sentence, with the numbers that carry it.

    It answers in this order: did it help, by how much, against what, could it have been seen, what
    did it cost.

    Args:
        c: The comparison, its verdict included.
        metric: What the loss is called: ``MSE per patient``, ``error rate``.
        by_image: Whether the splits divide images, which the sentence then says.
        alpha: The verdict's.
    """
    clauses = [
        f"{_opening(c)}: {metric} {_spread(c.mean, c.std)} against "
        f"{_spread(c.reference_mean, c.reference_std)} for {c.reference.name}, {_change(c)}, "
        f"{_evidence(c)}, {_over(c)}",
        *_visible(c),
        *_standing(c, metric, alpha),
        *_translation(c),
        *_cost(c),
    ]
    if by_image:
        clauses.append(IMAGE_POLICY)
    return "; ".join(clauses) + "."


def _opening(c: Comparison) -> str:
    if c.verdict == "no difference shown":
        return f"No difference between {c.system.name} and {c.reference.name} is shown"
    if c.reference.method == TARGET_ONLY and c.system.method != CONSTANT:
        return f"{c.system.name} {c.verdict}"
    kind = "worse" if c.verdict == "hurts" else "better"
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
    if c.p is None:
        return f"no test, as {_no_test(c)}"
    if c.primary:
        return f"{p_text(c.p)} (the primary contrast, named before)"
    if c.p_holm is None:
        return f"{p_text(c.p)} (not in Holm's family)"
    return f"{p_text(c.p_holm)} after Holm"


def _no_test(c: Comparison) -> str:
    if c.repeats == 1 and c.design != "given":
        return f"one {REPEATS[c.design]} has no spread"
    if c.design != "resampled" and c.difference_interval is None:
        return "the losses of at least three single patients are not known"
    return "the difference is the same in every repeat"


def p_text(p: float) -> str:
    """Return a p-value as it is printed."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _over(c: Comparison) -> str:
    of = "" if c.repeats == c.study_repeats else f" of {c.study_repeats}"
    text = f"over {c.repeats}{of} {REPEATS[c.design]}{'s' * (c.study_repeats > 1)}"
    if c.design != "resampled" and c.test_patients is not None:
        text += f" and {c.test_patients:.0f} test patients"
    return text


def _visible(c: Comparison) -> Iterator[str]:
    """Say what could have been seen, where nothing was."""
    if c.verdict == "no difference shown" and c.detectable is not None:
        yield (
            f"with this spread only a difference of {c.detectable:.3g} or more would be found in "
            f"{100 * POWER:.0f} of 100 such studies"
        )


def _standing(c: Comparison, metric: str, alpha: float) -> Iterator[str]:
    """Say how both stand to the constant: nothing that loses to it means anything."""
    shown = c.constant_p is not None and c.constant_p < alpha
    if c.beats_constant is False:
        yield f"{c.system.name} does not beat {_constant(c, metric)}, so its result means nothing"
    elif c.beats_constant and not shown and c.reference.method != CONSTANT:
        yield f"its lead over {_constant(c, metric)} is not shown"
    if c.reference_beats_constant is False:
        yield f"{c.reference.name} does not beat the constant"


def _constant(c: Comparison, metric: str) -> str:
    if c.reference.method == CONSTANT:
        return "the constant"
    return f"the constant ({metric} {c.constant_mean:.4g})"


def _translation(c: Comparison) -> Iterator[str]:
    """Say of a system with translations whether it is they that help: it may be the patients."""
    if c.controls is None:
        return
    beaten = [each for each in c.controls if each.beaten]
    equal = [each for each in c.controls if not each.beaten]
    if beaten:
        yield f"it beats {_list(beaten)}"
    if equal:
        yield f"it is not shown to beat {_list(equal)}"
    if c.verdict != "helps":
        return
    if any(each.method in UNTRANSLATED for each in equal):
        yield "source patients may be all that helps: that their translation does is not shown"
    if not any(each.method in UNTRANSLATED for each in c.controls):
        yield f"without {' or '.join(UNTRANSLATED)} it is not known whether translation helps"


def _list(controls: Sequence[Control]) -> str:
    return ", ".join(
        f"{each.method} ({each.difference:+.3g}{'' if each.p is None else f', {p_text(each.p)}'})"
        for each in controls
    )


def _cost(c: Comparison) -> Iterator[str]:
    if c.seconds is not None and c.reference_seconds is not None:
        yield f"a training took {c.seconds:.3g} s against {c.reference_seconds:.3g} s"
