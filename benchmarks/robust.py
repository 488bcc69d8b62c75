"""What safety costs: checkpoints, resuming, and sharing a step between two processes.

    python -m benchmarks.robust                         # the paper's networks at 128 px
    python -m benchmarks.robust --quick

Checkpoints: the same training without and with a checkpoint being written, blocks of steps in
turns; what one costs, as a share of a minute. Resuming: from the start of the command to its first
step, fresh and resumed. Processes: images a second of one process with two threads, and of two
processes with one thread each that share the same batches.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from benchmarks.machine import facts
from medxlate.base.device import choose_compute
from medxlate.base.distributed import joined
from medxlate.base.errors import StoppedError
from medxlate.base.events import Event, Progress, silent
from medxlate.config import Config, resolve
from medxlate.dataset.index import Dataset
from medxlate.dataset.labels import Task
from medxlate.dataset.loading import Batch
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.method.label_transform import LabelTransform
from medxlate.method.registry import build_learner
from medxlate.training.saver import Saver
from medxlate.training.state import TrainingProgress, take_state
from medxlate.training.step_runner import StepRunner
from medxlate.training.train import resume, train

PATIENTS = 24
MODALITIES = ("mri", "ct")
BATCH = 2
WARM = 3  # steps that do not count


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="of the images, pixels")
    parser.add_argument("--blocks", type=int, default=5, help="with a checkpoint, and without")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    parser.add_argument("--part", choices=["fresh", "resumed", "shared"], help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_part(options)
        return
    if options.quick:
        options.size, options.blocks = 32, 2
    print(facts(torch.device("cpu")))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        data = write_dataset(root, options.size)
        found["checkpoint"] = checkpoint_cost(config_of(data, options), root, options.blocks)
        found["start"] = starts(options, data, root)
        found["processes"] = processes(options, data, root)
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


def config_of(data: Path, options: argparse.Namespace, **optimizer: Any) -> Config:
    """Return the paper's configuration at a size, or a tiny one."""
    values: dict[str, Any] = {
        "data": {"folder": str(data), "sources": ["mri"], "target": "ct"},
        "optimizer": {"batch_size": BATCH, "epochs": 1, "steps_per_epoch": 1000, **optimizer},
    }
    return resolve(preset="debug" if options.quick else None, overrides=values)


def write_dataset(root: Path, size: int) -> Path:
    """Write a dataset of noise, two modalities of some patients."""
    random = np.random.default_rng(0)
    for modality in MODALITIES:
        raw = root / "raw" / modality
        raw.mkdir(parents=True)
        for number in range(PATIENTS):
            pixels = random.integers(0, 256, (size, size), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(raw / f"{modality}{number:02d}.png")
        lines = [f"{modality}{n:02d},{20 + 2 * n}" for n in range(PATIENTS)]
        labels = root / "raw" / f"{modality}.csv"
        labels.write_text("\n".join(["patient,age", *lines]) + "\n")
        chosen = PrepareOptions(
            labels=labels, label="age", patient=r"regex:([a-z]+\d+)", patient_column="patient"
        )
        prepare(raw, modality=modality, data=root / "data", options=chosen, size=size)
    return root / "data"


def checkpoint_cost(config: Config, root: Path, blocks: int) -> dict[str, float]:
    """Take blocks of steps in turns without and with a checkpoint; return what one costs."""
    compute = choose_compute("cpu")
    size = Dataset(root / "data").info.image_size
    head = LabelTransform(task=Task(kind="regression", name="age", unit="years"), mean=50, std=15)
    learner = build_learner(config, head, size, compute)
    runtime = config.runtime.model_copy(update={"compile": "off"})
    step_runner = StepRunner(learner, compute=compute, runtime=runtime, listener=silent)
    random = torch.Generator().manual_seed(0)
    batches = {
        name: Batch(
            torch.rand(BATCH, 1, size, size, generator=random) * 2 - 1, torch.full((BATCH,), 50.0)
        )
        for name in MODALITIES
    }

    def timed(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            step_runner.step(batches)
        step_runner.collect()
        return time.perf_counter() - began

    each = timed(3) / 3
    steps = max(3, round(8 / each))  # about eight seconds, longer than a checkpoint takes
    plain, saving, blocked, written = [], [], [], []
    with Saver(root / "checkpoints", runtime=runtime) as saver:
        for block in range(blocks):
            plain.append(timed(steps))
            began = time.perf_counter()
            snapshot = take_state(
                learner,
                TrainingProgress(step=block),
                device=compute.device,
                window=step_runner.state(),
                watch={},
            )
            saver.save(snapshot)
            blocked.append(time.perf_counter() - began)
            saving.append(blocked[-1] + timed(steps))
            waiting = time.perf_counter()
            saver.finish()
            written.append(time.perf_counter() - waiting)
    cost = statistics.median(saving) - statistics.median(plain)
    found = {
        "bytes": snapshot.bytes,
        "step_seconds": statistics.median(plain) / steps,
        "steps_of_a_block": steps,
        "copy_seconds": statistics.median(blocked),
        "cost_seconds": cost,
        "share_of_a_minute": cost / 60,
        "still_writing_after_the_block_seconds": max(written),
    }
    print(
        f"checkpoint of {snapshot.bytes / 1e6:.0f} MB: {cost:.2f} s on top of "
        f"{statistics.median(plain):.1f} s of steps, {cost / 60:.1%} of a minute; of these "
        f"{found['copy_seconds']:.2f} s copying"
    )
    return found


def starts(options: argparse.Namespace, data: Path, root: Path) -> dict[str, float]:
    """Return the seconds from the start of a process to the first step, fresh and resumed."""
    runs = root / "runs"
    found = {part: float(part_of(options, part, data, runs)) for part in ("fresh", "resumed")}
    found["difference"] = found["resumed"] - found["fresh"]
    print(
        f"first step after {found['fresh']:.1f} s fresh, {found['resumed']:.1f} s resumed"
        f" ({found['difference']:+.1f} s)"
    )
    return found


def processes(options: argparse.Namespace, data: Path, root: Path) -> dict[str, float]:
    """Return images a second of one process with two threads, and of two with one each."""
    found = {}
    for name, count, threads in (("one", 1, 2), ("two", 2, 1), ("one again", 1, 2)):
        runs = root / name.replace(" ", "-")
        found[name] = float(part_of(options, "shared", data, runs, count=count, threads=threads))
    one = (found["one"] + found["one again"]) / 2
    found["ratio"] = found["two"] / one
    print(
        f"{one:.2f} images/s in one process with two threads, {found['two']:.2f} in two processes "
        f"({found['ratio']:.2f} of it)"
    )
    return found


def part_of(
    options: argparse.Namespace,
    part: str,
    data: Path,
    runs: Path,
    *,
    count: int = 1,
    threads: int = 2,
) -> str:
    """Run a part in processes of its own and return the last line that the first prints."""
    words: Sequence[str] = [
        *("-m", "benchmarks.robust", "--part", part, "--size", str(options.size)),
        *("--data", str(data), "--runs", str(runs), *(["--quick"] if options.quick else [])),
    ]
    if count > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        words = [*launch, *words]
    done = subprocess.run(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "STARTED": repr(time.time())},
    )
    return done.stdout.strip().splitlines()[-1]


def run_part(options: argparse.Namespace) -> None:
    """Be one of the processes that ``part_of`` starts, and print the part's figure."""
    enough = WARM + (20 if options.quick else 8) if options.part == "shared" else 1
    taken: list[float] = []

    def listener(event: Event) -> None:
        if isinstance(event, Progress) and event.task == "training":
            taken.append(time.time())

    def stop() -> str:
        return "the benchmark" if len(taken) >= enough else ""

    with joined() as ranks, suppress(StoppedError):
        if options.part == "resumed":
            resume(options.runs / "job", stop=stop, listener=listener)
        else:
            config = config_of(options.data, options)
            train(config, runs=options.runs, name="job", stop=stop, listener=listener)
    if options.part != "shared":
        print(taken[0] - float(os.environ["STARTED"]))
    elif ranks.is_first:
        print(BATCH * len(MODALITIES) * (len(taken) - WARM) / (taken[-1] - taken[WARM - 1]))


if __name__ == "__main__":
    main()
