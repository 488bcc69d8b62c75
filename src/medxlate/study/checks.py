"""What a study refuses, and what it warns of, before it trains anything.

Labels are counted by patients, not by slices: a patient counts once, with the mean of the different
labels of the slices (regression), or once for each class among them (classification).
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import chi2_contingency, ks_2samp

from medxlate.base.errors import DataError
from medxlate.dataset.labels import Task
from medxlate.dataset.splits import Part, Split, training_share

CHANCE = 0.01  # a test with a smaller p counts as a difference
OUTSIDE = 0.05  # share of a source's patients that may lie outside the target's range
MEAN_SHIFT = 0.5  # standard deviations; Cohen's "medium" effect (1988, section 2.2)
SHARE_SHIFT = 0.10  # of the share of a class

ROUNDING = 1e-9  # relative; smaller differences are none
WIDTH = 80  # columns of the terminal
BINS = 10  # at most, and one more where the range begins within a bin
CLASSES = 20  # lines at most; the classes whose shares differ least are put together
LABEL = 22  # characters of a bin's or class's name
GAP = "  "

Values = npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[np.int64]


def check_training(slices: Mapping[str, pd.DataFrame], splits: Sequence[Split]) -> None:
    """Refuse splits that leave a modality without training data.

    Args:
        slices: The table of each modality of the study.
        splits: The split of each repeat.

    Raises:
        DataError: Naming modality, repeat and numbers.
    """
    for repeat, split in enumerate(splits):
        for name, table in slices.items():
            if not split.rows(name, table, "train"):
                kind = "patient" if split.policy == "patient" else "slice"
                count = len(set(split.units(name, table)))
                raise DataError(
                    f"No {name} {kind} is left for training in {_repeat(repeat, split)}: all "
                    f"{count} went to validation or test.",
                    "Prepare more patients, or choose another --seed.",
                )


def check_classes(
    task: Task,
    target: pd.DataFrame,
    name: str,
    splits: Sequence[Split],
    fractions: Sequence[float] = (1.0,),
) -> None:
    """Refuse a classification of which a class is absent from training or test.

    The training part is looked at whole and after every target fraction, drawn with the split's
    own seed.

    Args:
        task: What is predicted; for a regression nothing is checked.
        target: The target's table, with columns ``patient`` and ``label``.
        name: The target modality.
        splits: The split of each repeat.
        fractions: The target fractions of the study.

    Raises:
        DataError: Naming class, repeat and part.
    """
    if task.kind != "classification":
        return
    for class_ in task.classes:
        if class_ not in set(target["label"]):
            raise DataError(
                f"No {name} image has the class '{class_}', which occurs in other modalities.",
                f"Prepare {name} with images of this class, or leave the class out.",
            )
    gaps = [
        gap
        for repeat, split in enumerate(splits)
        for gap in _gaps(task, target, name, split, fractions, _repeat(repeat, split))
    ]
    if gaps:
        more = f" ({len(gaps) - 1} more like this.)" if len(gaps) > 1 else ""
        raise DataError(
            gaps[0] + more,
            "Choose another --seed or a larger target fraction, prepare more patients, or leave "
            "rare classes out.",
        )


def covers_classes(
    task: Task, target: pd.DataFrame, name: str, split: Split, fraction: float
) -> bool:
    """Return whether a share of the training part has every class; a regression has none."""
    if task.kind == "regression":
        return True
    rows = training_share(split, name, target, split.rows(name, target, "train"), fraction)
    return not _absent(task, target, rows)


def label_warnings(
    task: Task, target: pd.DataFrame, name: str, sources: Mapping[str, pd.DataFrame]
) -> list[str]:
    """Return a warning for each source whose labels are unlike the target's.

    For a regression: more than 5 % of the source's patients lie outside the target's range, or
    the distributions differ (two-sample Kolmogorov-Smirnov test, p < 0.01), or their means do by
    more than half a pooled standard deviation. For a classification: the target lacks a class of
    the source, or the prevalences differ (chi-square test of homogeneity, p < 0.01), or the share
    of a class does by more than 10 percentage points.

    Args:
        task: What is predicted.
        target: The target's table, with columns ``patient`` and ``label``.
        name: The target modality.
        sources: The table of each source.

    Returns:
        Texts of several lines of at most 80 characters: what differs, and both histograms.
    """
    compare = _compare_values if task.kind == "regression" else _compare_classes
    found = (compare(task, name, target, source, table) for source, table in sources.items())
    return [text for text in found if text]


def _repeat(repeat: int, split: Split) -> str:
    return f"repeat {repeat} (split seed {split.seed})"


def _gaps(
    task: Task,
    target: pd.DataFrame,
    name: str,
    split: Split,
    fractions: Sequence[float],
    where: str,
) -> list[str]:
    """Return which classes are absent from which part; of the fractions, the largest without."""
    rows: dict[Part, list[int]] = {
        "train": split.rows(name, target, "train"),
        "test": split.rows(name, target, "test"),
    }
    gaps = []
    for part, some in rows.items():
        for class_ in _absent(task, target, some):
            gaps.append(f"The class '{class_}' is missing from the {part} part of {name}, {where}.")
    known = set(_absent(task, target, rows["train"]))
    for fraction in sorted(set(fractions), reverse=True):
        kept = training_share(split, name, target, rows["train"], fraction)
        for class_ in _absent(task, target, kept):
            if class_ not in known:
                count = len(set(split.units(name, target.iloc[kept])))
                kind = "patients" if split.policy == "patient" else "slices"
                gaps.append(
                    f"The class '{class_}' is missing from the train part of {name} at target "
                    f"fraction {fraction:g} ({count} {kind}), {where}."
                )
                known.add(class_)
    return gaps


def _absent(task: Task, target: pd.DataFrame, rows: list[int]) -> list[str]:
    present = set(target["label"].iloc[rows])
    return [class_ for class_ in task.classes if class_ not in present]


def _compare_values(
    task: Task, name: str, target: pd.DataFrame, source: str, slices: pd.DataFrame
) -> str:
    ours, theirs = _patient_values(target), _patient_values(slices)
    unit = f" {task.unit}" if task.unit else ""
    low, high = float(ours.min()), float(ours.max())
    outside = int(((theirs < low) | (theirs > high)).sum())
    chance = float(ks_2samp(theirs, ours).pvalue)
    shift = abs(_shift(theirs, ours))
    reasons = []
    if outside > OUTSIDE * len(theirs):
        reasons.append(
            f"{outside} of {len(theirs)} patients are outside the range of {name}, "
            f"{low:.4g} to {high:.4g}{unit}."
        )
    if chance < CHANCE or shift > MEAN_SHIFT:
        reasons.append(
            f"{_moments(theirs)}{unit} in {source}, {_moments(ours)}{unit} in {name}: {shift:.2f} "
            f"standard deviations apart; Kolmogorov-Smirnov p = {chance:.2g}."
        )
    if not reasons:
        return ""
    return _warning(task, source, name, reasons, value_histograms({source: theirs, name: ours}))


def _compare_classes(
    task: Task, name: str, target: pd.DataFrame, source: str, slices: pd.DataFrame
) -> str:
    ours, theirs = _patient_classes(task, target), _patient_classes(task, slices)
    there = ours + theirs > 0
    chance = 1.0
    if there.sum() > 1:
        chance = float(chi2_contingency(np.stack([theirs, ours])[:, there]).pvalue)
    shifts = theirs / theirs.sum() - ours / ours.sum()
    most = int(np.abs(shifts).argmax())
    reasons = [
        f"{theirs[i]} patients have the class '{task.classes[i]}', which no {name} patient has."
        for i in np.flatnonzero((theirs > 0) & (ours == 0))
    ]
    if chance < CHANCE or abs(shifts[most]) > SHARE_SHIFT + ROUNDING:
        this, that = (100 * some[most] / some.sum() for some in (theirs, ours))
        reasons.append(
            f"The class '{task.classes[most]}' is {this:.0f} % of {source} and {that:.0f} % of "
            f"{name}; chi-square p = {chance:.2g}."
        )
    if not reasons:
        return ""
    drawn = class_histograms(task.classes, {source: theirs, name: ours})
    return _warning(task, source, name, reasons, drawn)


def _warning(
    task: Task, source: str, name: str, reasons: Sequence[str], drawn: Sequence[str]
) -> str:
    title = f"The labels ({task.name}) of {source} and {name} differ; by patient:"
    lines = textwrap.wrap(title, WIDTH)
    for reason in reasons:
        lines += textwrap.wrap(f"- {reason}", WIDTH, subsequent_indent="  ")
    return "\n".join([*lines, *drawn])


def _patient_values(slices: pd.DataFrame) -> Values:
    """Return the mean of the different labels of each patient [n]; of a single one, exactly it."""
    cases = slices[["patient", "label"]].drop_duplicates()
    means = cases["label"].astype(float).groupby(cases["patient"], sort=False).mean()
    return means.to_numpy(dtype=np.float64)


def _patient_classes(task: Task, slices: pd.DataFrame) -> Counts:
    """Return how many patients have each class [classes]."""
    cases = slices[["patient", "label"]].drop_duplicates()
    counts = cases["label"].value_counts()
    return np.array([int(counts.get(class_, 0)) for class_ in task.classes], dtype=np.int64)


def _shift(one: Values, other: Values) -> float:
    """Return the difference of the means in pooled standard deviations (Cohen's d)."""
    difference = float(one.mean() - other.mean())
    squares = float(((one - one.mean()) ** 2).sum() + ((other - other.mean()) ** 2).sum())
    pooled = math.sqrt(squares / max(len(one) + len(other) - 2, 1))
    if pooled == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / pooled


def _moments(values: Values) -> str:
    spread = f" (sd {values.std(ddof=1):.4g})" if len(values) > 1 else ""
    return f"mean {values.mean():.4g}{spread}"


def value_histograms(values: Mapping[str, Values]) -> list[str]:
    """Draw the histograms of some groups of numbers, over the same bins.

    Args:
        values: The numbers [n] of each group, by its title; none is empty.

    Returns:
        A line of titles, then a line a bin: its bounds (the upper is not part of it but in the
        last), and a count and a bar for each group. The bars show shares of the group.
    """
    everything = np.concatenate(list(values.values()))
    edges = bin_edges(float(everything.min()), float(everything.max()))
    names = [f"{a:.6g} to {b:.6g}" for a, b in itertools.pairwise(edges)]
    counts = {title: np.histogram(some, edges)[0] for title, some in values.items()}
    return _draw(names, counts)


def class_histograms(classes: Sequence[str], counts: Mapping[str, Counts]) -> list[str]:
    """Draw how often two groups have each class.

    Args:
        classes: Their names.
        counts: How many of each group have each class [classes], by the group's title.

    Returns:
        A line of titles, then a line a class, with a count and a bar for each group.
    """
    names, shown = list(classes), dict(counts)
    if len(names) > CLASSES:
        shares = np.stack([some / max(some.sum(), 1) for some in counts.values()])
        order = np.argsort(-np.ptp(shares, axis=0), kind="stable")
        first, rest = np.sort(order[: CLASSES - 1]), order[CLASSES - 1 :]
        names = [*(names[i] for i in first), f"{len(rest)} other classes"]
        shown = {t: np.append(some[first], some[rest].sum()) for t, some in counts.items()}
    return _draw(names, shown)


def bin_edges(low: float, high: float) -> Values:
    """Return round edges, 1, 2, 2.5 or 5 times a power of ten apart, that hold ``low`` to ``high``.

    Where both are the same, the only bin is that number.
    """
    span = high - low
    if span <= ROUNDING * max(abs(low), abs(high)):
        return np.array([low, max(high, low)])
    power = 10.0 ** math.floor(math.log10(span / BINS))
    step = next(step * power for step in (1, 2, 2.5, 5, 10, 20) if span <= BINS * step * power)
    first, last = math.floor(low / step), math.ceil(high / step)
    edges = np.arange(first, max(last, first + 1) + 1) * step
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    return edges


def _draw(names: Sequence[str], counts: Mapping[str, Counts]) -> list[str]:
    """Draw lines of name, count and bar; the longest bar fills its column."""
    left = min(max(len(name) for name in names), LABEL)
    digits = max(len(str(int(some.max()))) for some in counts.values())
    column = (WIDTH - left - len(GAP) * len(counts)) // len(counts)
    length = column - digits - 1
    shares = {title: some / max(some.sum(), 1) for title, some in counts.items()}
    most = max(float(some.max()) for some in shares.values()) or 1.0
    titles = [_short(f"{title} ({some.sum()})", column) for title, some in counts.items()]
    lines = [_join(" " * left, titles, column)]
    for i, name in enumerate(names):
        cells = []
        for title, some in counts.items():
            bar = max(round(length * float(shares[title][i]) / most), int(some[i] > 0))
            cells.append(f"{some[i]:>{digits}} {'#' * bar}")
        lines.append(_join(f"{_short(name, left):<{left}}", cells, column))
    return lines


def _join(name: str, cells: Sequence[str], column: int) -> str:
    return (name + "".join(f"{GAP}{cell:<{column}}" for cell in cells)).rstrip()


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
