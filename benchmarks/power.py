"""False alarms and power of ``compare``'s tests, in simulated studies; nothing is trained.

    python -m benchmarks.power [--simulations 2000] [--out FILE]

A patient has three hidden features whose sum, with noise, is the label. Two methods see them with
noise of their own and fit ridge regressions, so that a study's differences vary as they do in
earnest: with the test patients, with the training patients, and with what these do to single test
patients. Both methods are as good, so that every difference found is a false alarm.

``power`` moves all losses of one method by the smallest difference that can be detected, as the
spread of all simulated studies has it; ``planned`` by what ``plan`` forecasts for the same design
from the spread of one of them, mean over 100. ``before`` are the false alarms of the test that
counts training patients after the fraction.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medxlate.study.power import ALPHA, Design, detectable, spread_of
from medxlate.study.statistics import Tested, corrected_resampled_t, crossed_t

SIMULATIONS = 2000
FEATURES = 3
NOISE = 0.7  # of a method's view of a feature, whose own deviation is 1
RIDGE = 1.0
PLANNED = 100  # studies by which a forecast is judged
TRAIN, TEST = 0.7, 0.2  # of the patients, where they are divided anew

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Layout:
    """The size of a study.

    Attributes:
        design: resampled, or redrawn.
        test: Test patients of a repeat.
        pool: Target patients to train on, before a fraction or draw.
        train: How many of them train.
        repeats: Splits, or draws.
    """

    design: Design
    test: int
    pool: int
    train: int
    repeats: int


LAYOUTS = (
    Layout("resampled", 10, 35, 35, 5),
    Layout("resampled", 10, 35, 35, 10),
    Layout("resampled", 10, 35, 9, 10),
    Layout("resampled", 10, 35, 5, 10),
    Layout("redrawn", 20, 40, 5, 5),
    Layout("redrawn", 40, 40, 3, 8),
    Layout("redrawn", 40, 40, 10, 8),
    Layout("redrawn", 40, 40, 25, 8),
    Layout("redrawn", 60, 60, 10, 10),
)


def differences(random: np.random.Generator, layout: Layout) -> pd.DataFrame:
    """Return paired differences of a study without effect: repeat, patient, difference."""
    count = layout.test + layout.pool
    count += round(count / 9) if layout.design == "resampled" else 0  # a tenth validates
    features = random.normal(size=(count, FEATURES))
    label = features.sum(axis=1) + random.normal(size=count)
    views = [features + NOISE * random.normal(size=features.shape) for _ in range(2)]
    rows = []
    fixed = random.permutation(count)
    for repeat in range(layout.repeats):
        order = random.permutation(count) if layout.design == "resampled" else fixed
        test, pool = order[: layout.test], order[-layout.pool :]
        train = random.permutation(pool)[: layout.train]
        first, second = ((label[test] - _fitted(view, label, train, test)) ** 2 for view in views)
        rows.append(pd.DataFrame({"repeat": repeat, "patient": test, "difference": first - second}))
    return pd.concat(rows, ignore_index=True)


def _fitted(view: Floats, label: Floats, train: Rows, test: Rows) -> Floats:
    """Return the predictions of a ridge regression with a free intercept."""
    x, y = view[train], label[train]
    middle, level = x.mean(axis=0), y.mean()
    gram = (x - middle).T @ (x - middle) + RIDGE * np.eye(FEATURES)
    weights = np.linalg.solve(gram, (x - middle).T @ (y - level))
    predicted: Floats = level + (view[test] - middle) @ weights
    return predicted


def judged(found: pd.DataFrame, layout: Layout, train: int) -> Tested | None:
    """Return the test that ``compare`` makes of such a study, where so many train."""
    if layout.design == "resampled":
        means = found.groupby("repeat")["difference"].mean().to_numpy()
        return corrected_resampled_t(means, train=train, test=layout.test)
    table = found.pivot_table(index="patient", columns="repeat", values="difference")
    return crossed_t(table.to_numpy())


def measure(layout: Layout, simulations: int, *, seed: int = 0) -> dict[str, float]:
    """Return the shares of simulated studies with false alarms, and of effects found."""
    studies = [
        differences(np.random.default_rng([seed, number]), layout) for number in range(simulations)
    ]
    tests = [test for study in studies if (test := judged(study, layout, layout.pool)) is not None]
    after = [judged(study, layout, layout.train) for study in studies]
    error = float(np.sqrt(np.mean([test.error**2 for test in tests])))
    least = detectable(error, float(np.median([test.df for test in tests]))) or np.nan
    planned = []
    for study in studies[:PLANNED]:
        spread = spread_of(study)
        assert spread is not None
        expected = spread.expected(
            layout.design, patients=layout.test, repeats=layout.repeats, pool=layout.pool
        )
        assert expected is not None
        planned.append(_found(tests, detectable(*expected) or np.nan))
    return {
        "false_alarms": float(np.mean([test.p < ALPHA for test in tests])),
        "before": float(np.mean([test is not None and test.p < ALPHA for test in after])),
        "detectable": float(least),
        "power": _found(tests, least),
        "planned": float(np.mean(planned)),
    }


def _found(tests: Sequence[Tested], effect: float) -> float:
    """Return the share of tests that find all differences moved by this much, either way."""
    means = np.array([test.interval.estimate for test in tests])
    half = np.array([test.interval.high - test.interval.estimate for test in tests])
    return float(np.mean([np.abs(means + effect) > half, np.abs(means - effect) > half]))


def main() -> None:
    """Print a row a layout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=SIMULATIONS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    print("| design | test | pool | training | repeats | false alarms | before | power | planned |")
    print("|---|---|---|---|---|---|---|---|---|")
    figures = []
    for layout in LAYOUTS:
        found = measure(layout, arguments.simulations)
        sizes = (layout.design, layout.test, layout.pool, layout.train, layout.repeats)
        shares = [100 * found[key] for key in ("false_alarms", "before", "power", "planned")]
        print(f"| {' | '.join(map(str, sizes))} | {' | '.join(f'{s:.1f}' for s in shares)} |")
        figures.append({**vars(layout), **found})
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
