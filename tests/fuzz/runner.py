"""Sends inputs to a worker and notes their outcomes; one that dies or hangs is replaced."""

from __future__ import annotations

import argparse
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.targets import KINDS
from fuzz.worker import Outcome, chosen

SECONDS = 5.0  # for one input
HANGS = 20.0  # seconds after which a worker is ended: slow and hanging are told apart
TESTS = Path(__file__).resolve().parents[1]


@dataclass
class Report:
    """What a run found.

    Attributes:
        seed: From which the inputs follow.
        counts: How many inputs of each kind came to which outcome.
        failures: The inputs that must not have ended as they did.
        slowest: Of each kind, seconds.
        largest: Growth of memory of each kind, bytes.
        seconds: How long all of it took.
    """

    seed: int
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[Outcome] = field(default_factory=list)
    slowest: dict[str, float] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, found: Outcome) -> None:
        """Note one outcome."""
        self.counts[found.kind, found.outcome] += 1
        self.slowest[found.kind] = max(self.slowest.get(found.kind, 0.0), found.seconds)
        self.largest[found.kind] = max(self.largest.get(found.kind, 0), found.grown)
        if found.outcome == "failed":
            self.failures.append(found)

    def table(self) -> str:
        """Return a table in Markdown, a row a kind."""
        lines = ["| kind | inputs | read | refused | failed | slowest | most memory |"]
        lines.append("|---|---:|---:|---:|---:|---:|---:|")
        for kind in [name for name in KINDS if name in self.slowest]:
            each = [self.counts[kind, outcome] for outcome in ("read", "refused", "failed")]
            mebibytes = self.largest[kind] / 2**20
            figures = " | ".join(map(str, [sum(each), *each]))
            lines.append(
                f"| {kind} | {figures} | {self.slowest[kind]:.2f} s | {mebibytes:.0f} MiB |"
            )
        return "\n".join(lines)


class Worker:
    """A process that reads inputs; see ``worker``."""

    def __init__(self, corpus: Path, targets: str = "fuzz.targets") -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
        paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.worker", str(corpus), str(self.scratch), targets],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "OMP_NUM_THREADS": "1",
                "ARROW_DEFAULT_MEMORY_POOL": "system",  # others reserve a gibibyte beforehand
            },
        )
        assert self.process.stdout is not None
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)
        if self._line(120) != b"ready\n":
            raise RuntimeError("the worker does not start")

    def ask(self, kind: str, number: int, seed: int) -> Outcome:
        """Return what became of an input; ``alive`` says whether the worker can go on."""
        assert self.process.stdin is not None
        begun = time.monotonic()
        self.process.stdin.write(f"{kind} {number} {seed}\n".encode())
        self.process.stdin.flush()
        line = self._line(HANGS)
        seconds = time.monotonic() - begun
        if line is None:
            self.process.kill()
            self.process.wait()
            return Outcome(kind, number, "failed", f"hangs: over {HANGS:g} s", seconds)
        if not line.endswith(b"\n"):
            code = self.process.wait()
            return Outcome(kind, number, "failed", f"the process ended: {code}", seconds)
        return Outcome(**json.loads(line))

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def close(self) -> None:
        """End the process and remove its folder."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self.selector.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _line(self, seconds: float) -> bytes | None:
        assert self.process.stdout is not None
        if not self.selector.select(seconds):
            return None
        return self.process.stdout.readline()


def inputs(kinds: Sequence[str], count: int, first: int = 0) -> Iterator[tuple[str, int]]:
    """Yield kind and number of ``count`` inputs: each kind its share, in turns."""
    turn = [kind for kind in kinds for _ in range(KINDS[kind].share)]
    numbers: Counter[str] = Counter()
    for place in range(count):
        kind = turn[place % len(turn)]
        yield kind, first + numbers[kind]
        numbers[kind] += 1


def fuzz(
    corpus: Path,
    *,
    count: int,
    seed: int = 0,
    kinds: Sequence[str] = (),
    first: int = 0,
    keep: Path | None = None,
) -> Report:
    """Bring ``count`` inputs through the library.

    Args:
        corpus: What ``seeds.write_corpus`` wrote.
        count: How many inputs.
        seed: From which they follow, together with kind and number.
        kinds: Which kinds; default: all.
        first: The number of the first input of each kind.
        keep: Where the inputs that failed are kept.
    """
    report, begun = Report(seed), time.monotonic()
    worker = Worker(corpus)
    try:
        for kind, number in inputs(kinds or list(KINDS), count, first):
            if not worker.alive:
                worker.close()
                worker = Worker(corpus)
            found = worker.ask(kind, number, seed)
            if found.outcome != "failed" and found.seconds > SECONDS:  # the machine may be busy
                again = worker.ask(kind, number, seed)
                found.seconds = min(found.seconds, again.seconds)
                if found.seconds > SECONDS:
                    found.outcome, found.why = "failed", f"slow: {found.seconds:.1f} s"
            report.add(found)
            if found.outcome == "failed" and keep is not None:
                name, content = chosen(kind, number, seed, corpus)
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{kind}-{seed}-{number}-{name}").write_bytes(content)
                (keep / f"{kind}-{seed}-{number}.txt").write_text(found.why)
    finally:
        worker.close()
    report.seconds = time.monotonic() - begun
    return report


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="inputs of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of each kind's first input")
    parser.add_argument("--kind", action="append", choices=sorted(KINDS), help="repeat; else all")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that failed")
    chosen_ = parser.parse_args()
    from fuzz.seeds import write_corpus

    with tempfile.TemporaryDirectory(prefix="fuzz-corpus-") as name:
        write_corpus(Path(name))
        report = fuzz(
            Path(name),
            count=chosen_.count,
            seed=chosen_.seed,
            kinds=chosen_.kind or (),
            first=chosen_.first,
            keep=chosen_.keep,
        )
    print(report.table())
    print(f"\n{sum(report.counts.values())} inputs in {report.seconds:.0f} s, seed {report.seed}")
    for found in report.failures:
        print(f"\nFAILED --kind {found.kind} --first {found.number} --count 1 --seed {report.seed}")
        print(found.why)
    return 1 if report.failures else 0
