"""Run the torture: see ``tests/torture/__init__.py``."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from torture.figure import draw
from torture.lives import live
from torture.subjects import Subject, subjects

SHORTEST = 0.05  # seconds until a kill
DONE = (0,)  # exit codes of a command that has done its work


@dataclass
class Outcome:
    """What a subject went through.

    Attributes:
        name: Of the command.
        unit: Of its work.
        undisturbed: Seconds of a life without a kill.
        kills: Seconds into each life at which it was killed.
        lost: Units of work that each kill cost, where they are counted.
        rounds: How often it came to its end, each time with the undisturbed results.
        limit: Units that a kill may cost.
    """

    name: str
    unit: str
    undisturbed: float
    kills: list[float] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    rounds: int = 0
    limit: int | None = None


def torture(subject: Subject, root: Path, *, kills: int, seed: int) -> Outcome:
    """Kill a command that often; raise AssertionError where it does not recover wholly."""
    random = np.random.default_rng([seed, sum(subject.name.encode())])
    reference = root / f"{subject.name}-reference"
    reference.mkdir()
    whole = live(subject.words(reference), reference / "log.txt")
    assert whole.code in DONE, (reference / "log.txt").read_text()
    wanted = subject.results(reference)
    outcome = Outcome(subject.name, subject.unit, whole.seconds, limit=subject.limit)
    while len(outcome.kills) < kills:
        folder = root / f"{subject.name}-{outcome.rounds}"
        folder.mkdir()
        _one_round(subject, folder, outcome, kills, random)
        found = subject.results(folder)
        different = [name for name in wanted if found.get(name) != wanted[name]]
        assert set(found) == set(wanted)
        assert not different, f"{subject.name}: {different} are not those of an undisturbed run"
        _check_clean(folder)
        outcome.rounds += 1
        shutil.rmtree(folder)
    return outcome


def _one_round(
    subject: Subject, folder: Path, outcome: Outcome, kills: int, random: np.random.Generator
) -> None:
    """Let a command live and be killed until it has ended."""
    log = folder / "log.txt"
    while True:
        at = None
        if len(outcome.kills) < kills:
            at = float(random.uniform(SHORTEST, outcome.undisturbed))
        life = live(subject.words(folder), log, at_most=at)
        if not life.killed:
            assert life.code in DONE, log.read_text()
            assert "Traceback" not in log.read_text(), log.read_text()
            return
        outcome.kills.append(round(life.seconds, 3))
        cost = subject.check(folder)
        if subject.is_whole(folder):  # killed after its last act; started again, it would refuse
            return
        if subject.limit is not None:
            outcome.lost.append(cost.done - cost.kept)


def _check_clean(folder: Path) -> None:
    """Nothing half-written is left beside the results."""
    left = [path for path in folder.rglob(".*") if path.name.endswith((".partial", ".old"))]
    assert not left, left


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("torture"))
    parser.add_argument("--only", action="append", help="a command; repeat")
    options = parser.parse_args(words)
    options.out.mkdir(parents=True)
    outcomes = []
    for subject in subjects(options.out / "inputs"):
        if options.only and subject.name not in options.only:
            continue
        began = time.monotonic()
        outcome = torture(subject, options.out, kills=options.kills, seed=options.seed)
        outcomes.append(outcome)
        cost = f", at most {max(outcome.lost)} {outcome.unit} lost" if outcome.lost else ""
        print(
            f"{outcome.name}: {len(outcome.kills)} kills survived in {outcome.rounds} rounds"
            f"{cost}; undisturbed {outcome.undisturbed:.1f} s ({time.monotonic() - began:.0f} s)",
            flush=True,
        )
        facts = [asdict(each) for each in outcomes]
        (options.out / "torture.json").write_text(json.dumps(facts, indent=2) + "\n")
    draw(outcomes, options.out / "torture.png")


if __name__ == "__main__":
    main()
