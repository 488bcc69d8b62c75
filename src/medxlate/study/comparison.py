"""What a study compares: systems, the contrast that is named before, and what was found.

``verdicts`` decides, ``wording`` says it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medxlate.base.errors import ConfigError, nearest
from medxlate.method.registry import find_method
from medxlate.study.power import Design
from medxlate.study.statistics import Interval

Level = Literal["patient", "image"]
VerdictWord = Literal["helps", "does not help", "no difference shown", "hurts"]
CONSTANT = "constant"
TARGET_ONLY = "target-only"
OWN = "joint"  # the method that studies are about
UNTRANSLATED = ("raw-mix", "histogram")  # source patients without a translation
CONTROLS = (*UNTRANSLATED, "duplicate-real")  # what translation has to beat as well
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
class Contrast:
    """A comparison that was named before the study: its p-value stands for itself.

    Attributes:
        method: What is judged.
        sources: Its sources; "" for a method without.
        reference: The method that it is compared with, with the same sources or without.
    """

    method: str
    sources: str
    reference: str

    def is_of(self, system: System, reference: System) -> bool:
        """Return whether it compares these two."""
        return (
            (system.method, system.sources) == (self.method, self.sources)
            and reference.method == self.reference
            and reference.sources in ("", self.sources)
        )

    def __str__(self) -> str:
        """As it is written on the command line: ``joint/mri:target-only``."""
        method = f"{self.method}/{self.sources}" if self.sources else self.method
        return f"{method}:{self.reference}"

    @property
    def words(self) -> str:
        """As it is read: ``joint (mri) against target-only``."""
        return f"{system_name(self.method, self.sources)} against {self.reference}"


def find_contrast(
    text: str, methods: Sequence[str], source_sets: Sequence[Sequence[str]]
) -> Contrast | None:
    """Return the contrast that ``METHOD[/SOURCES]:REFERENCE`` names; None for no text.

    Args:
        text: Such as ``joint:target-only``; ``joint/mri+pet:target-only`` with several source sets.
        methods: Those of the study.
        source_sets: Those of the study.

    Raises:
        ConfigError: It names a method or sources that the study does not have, or none, or two
            that are not compared.
    """
    if not text:
        return None
    left, colon, reference = text.partition(":")
    method, slash, sources = left.partition("/")
    if not (colon and method and reference):
        raise ConfigError(
            f"The primary contrast '{text}' is not of the form METHOD:REFERENCE.",
            "Use, for example, --primary joint:target-only.",
        )
    for name in (method, reference):
        if name not in methods:
            raise ConfigError(
                f"'{name}' in the primary contrast is not a method of this study.",
                nearest(name, methods),
            )
        if name == CONSTANT:
            raise ConfigError(
                "Every method is compared with the constant anyway.",
                "Use other methods, such as --primary joint:target-only.",
            )
    if method == reference:
        raise ConfigError(
            f"The primary contrast '{text}' compares a method with itself.",
            "Use, for example, --primary joint:target-only.",
        )
    return Contrast(method, _sources(text, method, sources, slash, source_sets), reference)


def _sources(
    text: str, method: str, sources: str, slash: str, source_sets: Sequence[Sequence[str]]
) -> str:
    sets = ["+".join(each) for each in source_sets]
    if not find_method(method).uses_sources:
        if slash:
            raise ConfigError(f"{method} has no sources ({text}).", f"Drop /{sources}.")
        return ""
    if not slash and len(sets) == 1:
        return sets[0]
    if sources not in sets:
        raise ConfigError(
            f"The primary contrast '{text}' does not say which sources of the study it means.",
            f"Use, for example, --primary {method}/{sets[0]}:target-only. The study has "
            f"{', '.join(sets)}.",
        )
    return sources


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
        reference: What it is compared with.
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
    verdict: VerdictWord = "no difference shown"
    sentence: str = ""
