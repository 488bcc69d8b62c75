"""False alarms and power of ``compare``'s tests, in simulated studies; nothing is trained.

    python -m benchmarks.power [--simulations 2000] [--worlds] [--out FILE]

A patient has three hidden features whose sum, with noise, is the label. Two methods see them with
noise of their own and fit ridge regressions, so that a study's differences vary as they do in
earnest: with the test patients, with the training patients, and with what these do to single test
patients. Both methods are as good, so that every difference found is a false alarm. ``--worlds``
varies the methods: see ``WORLDS``.

``plain`` are the false alarms of the tests without their corrections: Nadeau and Bengio's for
random splits; for draws the one that takes them as independent. ``power`` moves all losses of one
method by the smallest difference that can be detected, as the spread of all simulated studies has
it; ``planned`` by what ``plan`` forecasts for the same design from the spread of one of them, mean
over 100. ``better`` and ``worse`` say what the false alarms claim of the first method.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medxlate.study.power import ALPHA, Design, detectable, spread_of
from medxlate.study.ttests import Tested, corrected_resampled_t, crossed_t, overlap_of, splits_t

SIMULATIONS = 2000
FEATURES = 3
NOISE = 0.7  # of a method's view of a feature, whose own deviation is 1
PLANNED = 100  # studies by which a forecast is judged

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class World:
    """What the two methods are like.

    Attributes:
        ridge: Weight of the penalty.
        patients: Deviation of what single patients favour, whoever trains.
        seeds: Deviation of what a training is better or worse by chance.
        sources: Patients of another population with whom the first method trains as well. The
            differences of all studies are then moved so that their mean is zero.
        classes: Whether the sign of the label is predicted, and errors are counted.
    """

    ridge: float = 1.0
    patients: float = 0.0
    seeds: float = 0.0
    sources: int = 0
    classes: bool = False


WORLDS: Mapping[str, World] = {
    "alike": World(),
    "classes": World(classes=True),
    "patients": World(patients=2.0),
    "stiff": World(ridge=15.0),
    "seeds": World(seeds=0.3),
    "seeds x 3": World(seeds=1.0),
    "sources": World(sources=60),
}


@dataclass(frozen=True)
class Layout:
    """The size of a study.

    Attributes:
        design: resampled, or redrawn.
        test: Test patients of a repeat.
        pool: Target patients to train on, before a fraction or draw.
        train: How many of them train.
        repeats: Splits, or draws.
        world: A key of ``WORLDS``.
    """

    design: Design
    test: int
    pool: int
    train: int
    repeats: int
    world: str = "alike"


LAYOUTS = (
    Layout("resampled", 10, 35, 35, 3),
    Layout("resampled", 10, 35, 35, 5),
    Layout("resampled", 10, 35, 35, 10),
    Layout("resampled", 10, 35, 18, 5),
    Layout("resampled", 10, 35, 18, 10),
    Layout("resampled", 10, 35, 9, 5),
    Layout("resampled", 10, 35, 9, 10),
    Layout("resampled", 10, 35, 9, 20),
    Layout("resampled", 10, 35, 5, 5),
    Layout("resampled", 10, 35, 5, 10),
    Layout("resampled", 6, 21, 21, 10),
    Layout("resampled", 6, 21, 11, 5),
    Layout("resampled", 6, 21, 4, 10),
    Layout("resampled", 20, 70, 70, 10),
    Layout("resampled", 20, 70, 14, 10),
    Layout("resampled", 20, 70, 7, 5),
    Layout("redrawn", 20, 40, 5, 5),
    Layout("redrawn", 40, 40, 3, 8),
    Layout("redrawn", 40, 40, 10, 8),
    Layout("redrawn", 40, 40, 20, 8),
    Layout("redrawn", 40, 40, 25, 8),
    Layout("redrawn", 40, 40, 36, 5),
    Layout("redrawn", 10, 20, 5, 8),
    Layout("redrawn", 10, 20, 15, 5),
    Layout("redrawn", 60, 60, 10, 10),
)
OTHER_WORLDS = tuple(
    replace(layout, world=world)
    for world in WORLDS
    if world != "alike"
    for layout in (
        Layout("resampled", 10, 35, 35, 10),
        Layout("resampled", 10, 35, 9, 10),
        Layout("resampled", 10, 35, 5, 5),
        Layout("resampled", 20, 70, 14, 10),
        Layout("redrawn", 40, 40, 3, 8),
        Layout("redrawn", 40, 40, 10, 8),
        Layout("redrawn", 40, 40, 25, 8),
    )
)


@dataclass(frozen=True)
class Simulated:
    """A study's paired differences, [J, P], and whose they are."""

    differences: Floats
    patients: Rows


def simulate(random: np.random.Generator, layout: Layout) -> Simulated:
    """Return a study without effect."""
    world, count = WORLDS[layout.world], layout.test + layout.pool
    count += round(count / 9) if layout.design == "resampled" else 0  # a tenth validates
    features = random.normal(size=(count, FEATURES))
    label = features.sum(axis=1) + random.normal(size=count)
    views = [features + NOISE * random.normal(size=features.shape) for _ in range(2)]
    favour = world.patients * random.normal(size=count)
    source = random.normal(size=(world.sources, FEATURES))
    source_label = 0.3 + 0.8 * source.sum(axis=1) + random.normal(size=world.sources)
    source = source + NOISE * random.normal(size=source.shape)
    rows, fixed = [], random.permutation(count)
    for _ in range(layout.repeats):
        order = random.permutation(count) if layout.design == "resampled" else fixed
        test, pool = order[: layout.test], order[-layout.pool :]
        train = random.permutation(pool)[: layout.train]
        losses = []
        for number, view in enumerate(views):
            x, y = view[train], label[train]
            if not number and world.sources:
                x, y = np.concatenate([x, source]), np.concatenate([y, source_label])
            said = _fitted(x, y, world.ridge, view[test])
            wrong = (said > 0) != (label[test] > 0)
            losses.append(wrong.astype(float) if world.classes else (label[test] - said) ** 2)
        chance = world.seeds * random.normal() if world.seeds else 0.0
        rows.append((losses[0] - losses[1] + favour[test] + chance, test))
    return Simulated(np.array([row for row, _ in rows]), np.array([test for _, test in rows]))


def _fitted(x: Floats, y: Floats, ridge: float, new: Floats) -> Floats:
    """Return the predictions of a ridge regression with a free intercept."""
    middle, level = x.mean(axis=0), y.mean()
    gram = (x - middle).T @ (x - middle) + ridge * np.eye(FEATURES)
    weights = np.linalg.solve(gram, (x - middle).T @ (y - level))
    predicted: Floats = level + (new - middle) @ weights
    return predicted


def judged(study: Simulated, layout: Layout, *, plain: bool = False) -> Tested | None:
    """Return the test that ``compare`` makes of such a study, or the one without correction."""
    values = study.differences
    if layout.design == "redrawn":
        overlap = 0.0 if plain else overlap_of(layout.train, layout.pool)
        return crossed_t(values.T, overlap=overlap)
    if plain:
        return corrected_resampled_t(values.mean(axis=1), train=layout.pool, test=layout.test)
    return splits_t(
        values.ravel(),
        np.indices(values.shape)[0].ravel(),
        study.patients.ravel(),
        fraction=layout.train / layout.pool,
        total=layout.pool + layout.test,
    )


def measure(layout: Layout, simulations: int, *, seed: int = 0) -> dict[str, float]:
    """Return the shares of simulated studies with false alarms, and of effects found."""
    studies = [
        simulate(np.random.default_rng([seed, number]), layout) for number in range(simulations)
    ]
    if WORLDS[layout.world].sources:
        mean = np.mean([study.differences.mean() for study in studies])
        studies = [replace(study, differences=study.differences - mean) for study in studies]
    tests = [test for study in studies if (test := judged(study, layout)) is not None]
    plain = [judged(study, layout, plain=True) for study in studies]
    error = float(np.sqrt(np.mean([test.error**2 for test in tests])))
    least = detectable(error, float(np.median([test.df for test in tests]))) or np.nan
    alarms = [np.sign(test.t) * (test.p < ALPHA) for test in tests]
    return {
        "false_alarms": float(np.mean(np.abs(alarms))),
        "better": float(np.mean(np.array(alarms) < 0)),
        "worse": float(np.mean(np.array(alarms) > 0)),
        "plain": float(np.mean([test is not None and test.p < ALPHA for test in plain])),
        "detectable": float(least),
        "power": _found(tests, least),
        "planned": float(np.mean([_planned(s, layout, tests) for s in studies[:PLANNED]])),
    }


def _planned(study: Simulated, layout: Layout, tests: Sequence[Tested]) -> float:
    """Return the share that is found of what ``plan`` forecasts from one study."""
    values = study.differences
    columns = {"repeat": np.indices(values.shape)[0], "patient": study.patients}
    columns["difference"] = values
    spread = spread_of(pd.DataFrame({name: each.ravel() for name, each in columns.items()}))
    assert spread is not None
    sizes = {"patients": layout.test, "pool": layout.pool, "train": layout.train}
    expected = spread.expected(layout.design, repeats=layout.repeats, **sizes)
    assert expected is not None
    return _found(tests, detectable(*expected) or np.nan)


def _found(tests: Sequence[Tested], effect: float) -> float:
    """Return the share of tests that find all differences moved by this much, either way."""
    means = np.array([test.interval.estimate for test in tests])
    half = np.array([test.interval.high - test.interval.estimate for test in tests])
    return float(np.mean([np.abs(means + effect) > half, np.abs(means - effect) > half]))


def main() -> None:
    """Print a row a layout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=SIMULATIONS)
    parser.add_argument("--worlds", action="store_true", help="other worlds, in the place of sizes")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    shown = ["false_alarms", "better", "worse", "plain", "power", "planned"]
    names = ["world", "design", "test", "pool", "training", "repeats", *shown]
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}".replace("_", " "))
    figures = []
    for layout in OTHER_WORLDS if arguments.worlds else LAYOUTS:
        found = measure(layout, arguments.simulations)
        sizes = (layout.design, layout.test, layout.pool, layout.train, layout.repeats)
        cells = [layout.world, *map(str, sizes), *(f"{100 * found[key]:.1f}" for key in shown)]
        print(f"| {' | '.join(cells)} |", flush=True)
        figures.append({**vars(layout), **found})
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
