"""The commands that are killed: their words, what must hold after a kill, and their results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image

import tiny
from medxlate.training.checkpoints import checkpoints, last_position, newest_sound, pointed
from medxlate.training.record import read_events

INTERVAL = 5  # steps between two checkpoints
SCANS = 500  # that prepare and translate read
TIMES = ("images_per_second", "data_wait", "seconds", "shared_seconds")

Digest = dict[str, str]


@dataclass(frozen=True)
class Kill:
    """What a kill cost.

    Attributes:
        done: Units of work that were done when it came.
        kept: Units that the next life found.
    """

    done: int
    kept: int


@dataclass(frozen=True)
class Subject:
    """A command that is killed.

    Attributes:
        name: Of the command.
        unit: Of its work, where that is counted.
        words: From a folder of its own to the command's words.
        check: Raises AssertionError where a kill left something half-written; returns its cost.
        results: Hashes of everything that must come out.
        limit: Units that a kill may cost at most; None: not counted.
        is_whole: Whether the result stands already, so that the command would not run again.
    """

    name: str
    unit: str
    words: Callable[[Path], Sequence[str]]
    check: Callable[[Path], Kill]
    results: Callable[[Path], Digest]
    limit: int | None = None
    is_whole: Callable[[Path], bool] = lambda _: False


def subjects(root: Path) -> list[Subject]:
    """Write what the commands read into a folder, and return them."""
    data = tiny.write_dataset(root)
    model = tiny.write_tiny_model(root / "model")
    raw = root / "scans"
    _write_scans(raw)
    return [
        _train(data),
        _prepare(raw),
        _translate(raw, model),
        _compare(data),
    ]


def _train(data: Path) -> Subject:
    words = [
        *("train", "--source", "mri", "--target", "ct", "--preset", "debug", "--data", str(data)),
        *("--epochs", "12", "--name", "job", "--auto-resume"),
        *("--set", f"runtime.checkpoint_steps={INTERVAL}", "--set", "optimizer.buffer_size=4"),
    ]

    def check(folder: Path) -> Kill:
        run = folder / "runs" / "job"
        steps = [event["step"] for event in read_events(run / "metrics.jsonl")]
        found = checkpoints(run / "checkpoints")
        if found:  # the newest is sound, for a folder appears whole
            snapshot = newest_sound(run / "checkpoints", _no_warning)
            assert snapshot is not None
        if (run / "checkpoints" / "last").exists():
            assert pointed(run / "checkpoints", "last") is not None
        if (run / "model").exists():
            assert (run / "model" / "model.json").is_file()
        return Kill(max(steps, default=0), last_position(run / "checkpoints").step)

    def results(folder: Path) -> Digest:
        run = folder / "runs" / "job"
        events = [
            {k: v for k, v in event.items() if k not in TIMES}
            for event in read_events(run / "metrics.jsonl")
        ]
        files = [*(run / "model").glob("*.safetensors"), *(run / "samples").glob("*.png")]
        last = pointed(run / "checkpoints", "last")
        assert last is not None
        return {
            "metrics": _hash(json.dumps(events).encode()),
            **{str(f.relative_to(run)): _hash(f.read_bytes()) for f in files},
            **{f.name: _hash(f.read_bytes()) for f in last.glob("*.safetensors")},
        }

    return Subject(
        "train",
        "steps",
        lambda folder: [*words, "--runs", str(folder / "runs")],
        check,
        results,
        INTERVAL,
    )


def _prepare(raw: Path) -> Subject:
    def words(folder: Path) -> list[str]:
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data" / "pseudonym.key").write_text(tiny.KEY)  # the same in each round
        return [
            *("prepare", str(raw), "--modality", "ct", "--data", str(folder / "data")),
            *("--patient", r"regex:(p\d+)", "--patient-column", "patient"),
            *("--label", "age", "--labels", str(raw / "labels.csv"), "--size", "32"),
            *("--recipe", "auto"),
        ]

    def check(folder: Path) -> Kill:
        modality = folder / "data" / "ct"
        if modality.exists():  # then it is whole
            assert (modality / "prepare.json").is_file()
            assert len(pd.read_parquet(modality / "slices.parquet")) == SCANS
        return Kill(0, 0)

    def results(folder: Path) -> Digest:
        secret = {"pseudonym.key", "identifiers.json"}
        return _tree(folder / "data", leave_out=secret)

    return Subject("prepare", "", words, check, results)


def _translate(raw: Path, model: Path) -> Subject:
    def words(folder: Path) -> list[str]:
        return [
            *("translate", str(raw), "--model", str(model), "--out", str(folder / "out")),
            *("--device", "cpu", "--exclude", "*.csv"),
        ]

    def check(folder: Path) -> Kill:
        if (folder / "out").exists():
            assert (folder / "out" / "translation.json").is_file()
        return Kill(0, 0)

    def results(folder: Path) -> Digest:
        return _tree(folder / "out")

    def is_whole(folder: Path) -> bool:
        return (folder / "out").exists() and not (folder / ".out.work").exists()

    return Subject("translate", "", words, check, results, is_whole=is_whole)


def _compare(data: Path) -> Subject:
    def words(folder: Path) -> list[str]:
        return [
            *("compare", "--target", "ct", "--source", "mri", "--preset", "debug"),
            *("--method", "target-only", "--method", "joint", "--method", "cyclegan"),
            *("--repeats", "3", "--data", str(data), "--out", str(folder / "study")),
            *("--set", "optimizer.epochs=2", "--set", f"runtime.checkpoint_steps={INTERVAL}"),
        ]

    def check(folder: Path) -> Kill:
        for cell in (folder / "study" / "cells").glob("[!.]*"):
            if cell.is_dir():
                assert (cell / "cell.json").is_file()
        return Kill(0, 0)

    def results(folder: Path) -> Digest:
        found: Digest = {}
        for cell in sorted((folder / "study" / "cells").glob("[!.]*/")):
            values = json.loads((cell / "cell.json").read_text())
            kept = {k: v for k, v in values.items() if k not in TIMES}
            found[f"{cell.name}/cell.json"] = _hash(json.dumps(kept, sort_keys=True).encode())
            table = pd.read_parquet(cell / "predictions.parquet")
            found[f"{cell.name}/predictions"] = _hash(table.to_csv(index=False).encode())
        assert found
        return found

    return Subject("compare", "", words, check, results)


def _write_scans(raw: Path) -> None:
    raw.mkdir()
    random = np.random.default_rng(0)
    lines = ["patient,age"]
    for number in range(SCANS):
        pixels = random.integers(0, 256, (96, 80), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(raw / f"p{number:03d}-0.png")
        lines.append(f"p{number:03d},{20 + number % 60}")
    (raw / "labels.csv").write_text("\n".join(lines) + "\n")


def _tree(folder: Path, leave_out: frozenset[str] | set[str] = frozenset()) -> Digest:
    """Return a hash of each file below a folder; hidden ones are no result."""
    assert folder.is_dir()
    return {
        str(path.relative_to(folder)): _hash(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in leave_out and not path.name.startswith(".")
    }


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _no_warning(event: Any) -> None:
    raise AssertionError(f"a kill left a damaged checkpoint: {event}")
