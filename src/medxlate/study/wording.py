"""How a study's verdicts are worded: a sentence each, and the table that reports begin with.

Both answer in the order in which a reader asks: did it help, by how much, against what, could it
have been seen, and what did it cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from medxlate.report.printing import Cell, Number, PrintedTable, with_interval
from medxlate.study.comparison import (
    CONSTANT,
    REPEATS,
    TARGET_ONLY,
    UNTRANSLATED,
    Comparison,
    Control,
    system_name,
)
from medxlate.study.power import POWER

Entry = Mapping[str, Any]

IMAGE_POLICY = (
    "The splits are by slice, so slices of one patient can be in both training and test: this does "
    "not measure how well new patients are predicted"
)
TRANSLATED = ("joint", "cyclegan")  # methods that add translated images
BADGES = {
    "helps": "Benefit shown", "hurts": "Harm shown", "does not help": "No benefit",
    "no difference shown": "No benefit shown",
}  # fmt: skip
HEADS = (
    *("Method", "Does it help?", "Difference", "95 % CI", "Reference", "p", "Detectable"),
    *("Seconds", "Seconds (reference)"),
)
NOTE = (
    "Difference: change of the error per {unit}; below 0 is better. p: adjusted by Holm's method, "
    "except for the primary contrast and the constant. Detectable: the smallest difference that "
    f"such a study finds with {100 * POWER:.0f} % power, given the measured spread and the "
    "significance level that p has to reach. Seconds: mean time of one training, including any "
    "first stage, for the method and for its reference."
)


def predicate(verdict: str, method: str, reference: str) -> str:
    """Return a verdict as the predicate of a sentence about a method.

    "Helps" and "hurts" are of what is added to real target images. The constant adds nothing to
    them and is there to be beaten, so it does better or worse, as a method does than any other
    reference.

    Args:
        verdict: As ``verdicts`` decides it.
        method: The name of the system that is judged.
        reference: The name of the method that it is compared with.
    """
    if reference == TARGET_ONLY and method != CONSTANT:
        return verdict
    better = {"helps": "does better", "does not help": "does better", "hurts": "does worse"}
    return better.get(verdict, verdict)


def sentence(c: Comparison, metric: str, *, by_image: bool, alpha: float) -> str:
    """Return the verdict in one sentence, with the numbers that carry it.

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
    return " ".join(f"{clause}." for clause in clauses)


def answer(entry: Entry, *, label: str = "", target: str = "", unit: str = "patient") -> str:
    """Return the answer of a comparison in a sentence or two, as reports begin.

    The difference and its interval are shares of the reference's error; below 0 is better.

    Args:
        entry: A comparison as in ``statistics.json``.
        label: What is predicted; "": not known.
        target: The target modality; "": not known.
        unit: What losses are taken over.

    Returns:
        "" where the reference has no error, or the entry is not whole.
    """
    try:
        scale = 100 / float(entry["reference_mean"])
        system, reference = entry["system"], entry["reference"]
        ends = entry["interval"] or {"low": None, "high": None}
        low, high = (None if ends[each] is None else scale * ends[each] for each in ("low", "high"))
        value, between = with_interval(scale * entry["difference"], low, high, signed=True)
        repeats, design = int(entry["repeats"]), entry["design"]
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return ""
    name, against = _name(system), _name(reference)
    base = str(system.get("method", "")).partition("+")[0]
    sources = str(system.get("sources") or "").replace("+", " and ")
    alone = reference.get("method") == TARGET_ONLY
    what = f"Training by {name}"
    if alone and base == system.get("method") and base in TRANSLATED and sources:
        what = f"Adding translated {_modality(sources)}"
    if alone:
        against = f"{_modality(target)} alone" if target else TARGET_ONLY
    of = f" of {label}" if label else ""
    sure = f"95 % CI {between} %" if between else "no interval"
    over = f"{repeats} {REPEATS[design]}{'s' * (repeats > 1)}"
    patients = entry.get("test_patients")
    tested = f", {patients:.0f} test patients" if patients and unit == "patient" else ""
    error = f"error per {unit}{of}"
    said = f"{what} changed the {error} by {value} % against {against} ({sure}, {over}{tested})."
    return f"{said} {_beaten(entry, label)}".rstrip()


def _beaten(entry: Entry, label: str) -> str:
    """Return which of the two does better than the constant on average, and whether that is shown.

    "Shown" is said of the system alone, for which there is a test.
    """
    own, other = entry.get("beats_constant"), entry.get("reference_beats_constant")
    constant = f"the constant prediction of {label}" if label else "the constant prediction"
    if own is None or other is None:
        return ""
    if own and other:
        return f"Both have a lower error than {constant}."
    if not own and not other:
        return f"Neither has a lower error than {constant}."
    return f"Only {_name(entry['system' if own else 'reference'])} has a lower one than {constant}."


def _modality(names: str) -> str:
    """Return modalities as they are read: short names in capitals."""
    return " ".join(
        each.upper() if len(each) <= 4 and each != "and" else each for each in names.split()
    )


def _opening(c: Comparison) -> str:
    if c.verdict == "no difference shown":
        return f"No difference shown between {c.system.name} and {c.reference.name}"
    said = predicate(c.verdict, c.system.method, c.reference.method)
    than = "" if said == c.verdict else f" than {c.reference.name}"
    return f"{c.system.name} {said}{than}"


def _spread(mean: float, std: float | None) -> str:
    return f"{mean:.4g}" if std is None else f"{mean:.4g} ± {std:.3g}"


def _change(c: Comparison) -> str:
    text = f"difference {c.difference:+.3g}"
    if c.interval is None:
        return text
    ends = f"{c.interval.low:+.3g} to {c.interval.high:+.3g}"
    return f"{text} ({100 * c.interval.level:.0f} % CI {ends})"


def _evidence(c: Comparison) -> str:
    if c.p is None:
        return f"not tested because {_no_test(c)}"
    if c.primary:
        return f"{p_text(c.p)} (primary contrast, named in advance)"
    if c.p_holm is None:
        return f"{p_text(c.p)} (unadjusted)"
    return f"{p_text(c.p_holm)} (Holm-adjusted)"


def _no_test(c: Comparison) -> str:
    if c.repeats == 1 and c.design != "given":
        return f"a single {REPEATS[c.design]} has no spread"
    if c.design != "resampled" and c.difference_interval is None:
        return "the losses of fewer than three single patients are known"
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
    """Yield what could have been seen, where nothing was."""
    if c.verdict == "no difference shown" and c.detectable is not None:
        yield (
            f"With this spread, a study of this size finds only differences of {c.detectable:.3g} "
            f"or more with {100 * POWER:.0f} % power"
        )


def _standing(c: Comparison, metric: str, alpha: float) -> Iterator[str]:
    """Yield how both compare with the constant: nothing that loses to it means anything."""
    shown = c.constant_p is not None and c.constant_p < alpha
    if c.beats_constant is False:
        yield f"{c.system.name} does not beat {_constant(c, metric)}, so this result is meaningless"
    elif c.beats_constant and not shown and c.reference.method != CONSTANT:
        yield f"{c.system.name} is not shown to beat {_constant(c, metric)}"
    if c.reference_beats_constant is False:
        yield f"{c.reference.name} does not beat the constant prediction"


def _constant(c: Comparison, metric: str) -> str:
    if c.reference.method == CONSTANT:
        return "the constant prediction"
    return f"the constant prediction ({metric} {c.constant_mean:.4g})"


def _translation(c: Comparison) -> Iterator[str]:
    """Yield whether a system's translations help, or only its source patients."""
    if c.controls is None:
        return
    beaten = [each for each in c.controls if each.beaten]
    equal = [each for each in c.controls if not each.beaten]
    if beaten:
        yield f"{c.system.name} beats {_list(beaten)}"
    if equal:
        yield f"{c.system.name} is not shown to beat {_list(equal)}"
    if c.verdict != "helps":
        return
    if any(each.method in UNTRANSLATED for each in equal):
        yield (
            "The gain may come from the added source patients alone: no benefit of translation is "
            "shown"
        )
    if not any(each.method in UNTRANSLATED for each in c.controls):
        yield (
            f"Without {' or '.join(UNTRANSLATED)} in the study, it is unknown whether the "
            "translation helps or the added source patients alone"
        )


def _list(controls: Sequence[Control]) -> str:
    return ", ".join(
        f"{each.method} ({each.difference:+.3g}{'' if each.p is None else f', {p_text(each.p)}'})"
        for each in controls
    )


def _cost(c: Comparison) -> Iterator[str]:
    if c.seconds is not None and c.reference_seconds is not None:
        yield f"A training took {c.seconds:.3g} s against {c.reference_seconds:.3g} s"


def answers(entries: Sequence[Entry], *, unit: str = "patient") -> PrintedTable | None:
    """Return a row a comparison.

    Args:
        entries: Comparisons as in ``statistics.json``.
        unit: What losses are taken over.

    Returns:
        None without a comparison.
    """
    if not entries:
        return None
    several = len({each["system"].get("target_fraction") for each in entries}) > 1
    heads = (HEADS[0], *(("Target fraction",) if several else ()), *HEADS[1:])
    rows = tuple(_row(each, several) for each in entries)
    return PrintedTable("answers", "", (heads,), rows, NOTE.format(unit=unit))


def in_order(statistics: Mapping[str, Any]) -> list[Entry]:
    """Return the comparisons by which a study answers: the primary contrast, then the others."""
    primary = list(statistics.get("primary") or [])
    others = statistics.get("against_target_only") or []
    return [*primary, *(each for each in others if not (primary and each.get("primary")))]


def answer_tables(
    statistics: Mapping[str, Any], *, unit: str = "patient"
) -> Iterator[tuple[str, PrintedTable]]:
    """Yield the tables that answer, each with its heading.

    Args:
        statistics: The content of ``statistics.json``.
        unit: What losses are taken over.
    """
    fewer = statistics.get("with_fewer_target_patients") or []
    for title, entries in (
        ("By how much, compared with what, and at what cost?", in_order(statistics)),
        ("With fewer target patients", fewer),
    ):
        if found := answers(entries, unit=unit):
            yield title, found


def sentences(entries: Iterable[Entry]) -> list[str]:
    """Return the sentences of comparisons or readings, as far as they have one."""
    return [str(each["sentence"]) for each in entries if each.get("sentence")]


def _row(entry: Entry, several: bool) -> tuple[Cell, ...]:
    p = entry.get("p") if entry.get("p_holm") is None else entry["p_holm"]
    name, against = (_name(entry.get(key)) for key in ("system", "reference"))
    return (
        f"{name}, primary" if entry.get("primary") else name,
        *((_short(entry["system"].get("target_fraction"), ".3g"),) if several else ()),
        _verdict(entry),
        _short(entry.get("difference"), "+.3g"),
        _interval(entry.get("interval")),
        against,
        "< 0.001" if p is not None and p < 0.001 else _short(p, ".2g"),
        _short(entry.get("detectable"), ".3g"),
        _seconds(entry.get("seconds")),
        _seconds(entry.get("reference_seconds")),
    )


def _verdict(entry: Entry) -> str:
    """Return the verdict; what does better, but not than the constant, does not help."""
    verdict = str(entry.get("verdict") or "-")
    method = str(entry["system"].get("method"))
    reference = str((entry.get("reference") or {}).get("method", TARGET_ONLY))
    return verdict if verdict == "does not help" else predicate(verdict, method, reference)


def _name(system: Mapping[str, Any] | None) -> str:
    if not system:
        return "-"
    return system_name(str(system.get("method")), str(system.get("sources") or ""))


def _short(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _interval(interval: Mapping[str, float] | None) -> str:
    return f"{interval['low']:+.3g} to {interval['high']:+.3g}" if interval else "-"


def _seconds(value: float | None) -> Cell:
    return Number(math.nan if value is None else value, 1)
