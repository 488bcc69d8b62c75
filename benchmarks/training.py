"""The race: medxlate's training step against the textbook's, in one process.

    python -m benchmarks.training                       # the paper's networks at 256 px, batch 1
    python -m benchmarks.training --image-size 64 --blocks 6 --steps 5
    python -m benchmarks.training --device cuda --batch-sizes 1 4 16 --compile on --block 10

Same networks, same sizes, same images; blocks of steps in turns; medians. In the same run: the rate
of the residual block's convolution, the step's FLOPs, the share of that rate which is reached, and
profiles of both. Tables go to the output, figures as JSON to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import convolution_rate, facts, matrix_rate, wait
from benchmarks.profiling import seconds_by_group
from benchmarks.reference import ReferenceTraining, Sizes
from medxlate.base.device import choose_compute, tuned_convolutions
from medxlate.base.events import Event, Stage, Warned
from medxlate.config import resolve
from medxlate.dataset.labels import Task
from medxlate.dataset.loading import Batch
from medxlate.method.label_transform import LabelTransform
from medxlate.method.registry import build_learner
from medxlate.training.step_runner import StepRunner

MEAN, STD = 50.0, 15.0
IMAGES = 8  # of each modality, which the steps go round
PLANNED = 10**6  # steps, for which `--compile auto` decides
TEXTBOOK, MEDXLATE = "textbook", "medxlate"

Batches = dict[str, Batch]
Step = Callable[[Batches], object]


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=9, help="residual blocks of a generator")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--predictor", default="resnet50")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=7, help="blocks of each, after warming up")
    parser.add_argument("--block", type=int, default=1, help="steps that are timed together")
    parser.add_argument("--warm", type=int, default=3, help="blocks that do not count")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", nargs="+", default=["auto"], help="auto, fp32, bf16")
    parser.add_argument("--compile", default="auto", choices=["auto", "on", "off"])
    parser.add_argument("--seconds", type=float, default=3600, help="no further race after")
    parser.add_argument(
        "--textbook-up-to", type=int, default=10**6, help="largest batch that it races, too"
    )
    parser.add_argument("--only", choices=[TEXTBOOK, MEDXLATE], help="no race: one of the two")
    parser.add_argument(
        "--memory",
        action="store_true",
        help="also the resident memory of each in a process of its own; a GPU's is always told",
    )
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    parser.add_argument("--no-profile", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Run the race and print its tables."""
    arguments, began = parse(), time.monotonic()
    device = choose_compute(arguments.device).device
    sizes = Sizes(width=arguments.width, blocks=arguments.blocks, predictor=arguments.predictor)
    report: dict[str, Any] = {
        "machine": facts(device),
        "convolution_flops": {
            str(dtype): convolution_rate(device, dtype) for dtype in (torch.float32, torch.bfloat16)
        },
        "races": [],
    }
    if device.type == "cuda":
        report["matrix_flops"] = {"bf16": matrix_rate(device, torch.bfloat16)}
        report["convolution_flops"]["bf16, batch 16"] = convolution_rate(device, torch.bfloat16, 16)
    print(json.dumps(report, indent=1), flush=True)
    races: dict[tuple[str, int], dict[str, Any]] = {}
    write(report, arguments.out)
    for precision in arguments.precision:
        for batch_size in arguments.batch_sizes:
            if time.monotonic() - began > arguments.seconds:
                report.setdefault("left_out", []).append([precision, batch_size])
                write(report, arguments.out)
                continue
            try:
                for race in run_race(arguments, sizes, device, precision, batch_size):
                    races[precision, batch_size] = race
                    write(report | {"races": list(races.values())}, arguments.out)
                show(race, report)
            except RuntimeError as problem:  # out of memory, above all
                race = {"batch_size": batch_size, "error": str(problem).splitlines()[0]}
                print(f"\nbatch {batch_size}: {race['error']}", flush=True)
                races.setdefault((precision, batch_size), race)
            report |= {"races": list(races.values()), "resident_bytes": resident()}
            write(report, arguments.out)


def write(report: dict[str, Any], path: Path | None) -> None:
    """Write what is known so far, where anybody wants it."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def run_race(
    arguments: argparse.Namespace,
    sizes: Sizes,
    device: torch.device,
    precision: str,
    batch_size: int,
) -> Iterator[dict[str, Any]]:
    """Time both in turns, yield the figures, profile each, and yield all of them."""
    batches = make_batches(batch_size, arguments.image_size, device)
    flops = batch_size * count_flops(sizes, arguments.image_size)
    racers: dict[str, Step] = {}
    notes: dict[str, Any] = {}
    if arguments.only != MEDXLATE and batch_size <= arguments.textbook_up_to:
        racers[TEXTBOOK] = make_textbook(sizes, device)
    if arguments.only != TEXTBOOK:
        racers[MEDXLATE], notes = make_fast(arguments, sizes, device, precision, batches[0])
    taken, memory = take_turns(racers, batches, arguments, device)
    medians = {name: statistics.median(each) for name, each in taken.items()}
    if arguments.memory and device.type == "cpu":
        memory = {name: own_memory(name, precision, batch_size) for name in racers}
    found = {
        "image_size": arguments.image_size,
        "batch_size": batch_size,
        "flops": flops,
        "seconds": taken,
        "median_seconds": medians,
        "pairs_per_second": {name: batch_size / each for name, each in medians.items()},
        "ratio": medians[TEXTBOOK] / medians[MEDXLATE] if len(medians) == 2 else None,
        "memory_bytes": memory,
        "profile": {},
        **{name: each() if callable(each) else each for name, each in notes.items()},
    }
    yield found
    if not arguments.no_profile:
        yield found | {"profile": profiles(racers, batches[0], device)}


def take_turns(
    racers: dict[str, Step],
    batches: list[Batches],
    arguments: argparse.Namespace,
    device: torch.device,
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return the seconds a step of each block, and the GPU memory in use at most in its turns."""
    taken: dict[str, list[float]] = {name: [] for name in racers}
    memory = dict.fromkeys(racers, 0)
    for turn in range(arguments.warm + arguments.steps):
        for name, step in racers.items():
            wait(device)
            began = time.perf_counter()
            for number in range(arguments.block):
                step(batches[(turn * arguments.block + number) % IMAGES])
            wait(device)
            if turn >= arguments.warm:
                taken[name].append((time.perf_counter() - began) / arguments.block)
            if device.type == "cuda":  # the networks of the other racer count in
                memory[name] = max(memory[name], torch.cuda.max_memory_allocated(device))
                torch.cuda.reset_peak_memory_stats(device)
    return taken, memory if device.type == "cuda" else {}


def profiles(
    racers: dict[str, Step], batch: Batches, device: torch.device
) -> dict[str, dict[str, float]]:
    """Return the seconds of a step by group of kernels; nothing where they cannot be had."""
    found = {}
    for name, step in racers.items():
        try:
            found[name] = seconds_by_group(lambda step=step: step(batch), device)  # type: ignore[misc]
        except RuntimeError as problem:  # a machine may lock its counters away
            print(f"No profile of {name}: {problem}", file=sys.stderr)
    return found


def make_textbook(sizes: Sizes, device: torch.device) -> Step:
    """Return the textbook's step, at torch's default settings."""
    reference = ReferenceTraining(sizes, device, mean=MEAN, std=STD)

    def step(batch: Batches) -> object:
        y, x = batch["mri"], batch["ct"]
        return reference.step(y.images, y.labels, x.images, x.labels)

    return step


def make_fast(
    arguments: argparse.Namespace,
    sizes: Sizes,
    device: torch.device,
    precision: str,
    batch: Batches,
) -> tuple[Step, dict[str, Any]]:
    """Return medxlate's step as ``train`` takes it, and what was chosen."""
    config = resolve(
        overrides={
            "data": {"sources": ["mri"], "target": "ct"},
            "model": {
                "generator_width": sizes.width,
                "generator_blocks": sizes.blocks,
                "predictor": sizes.predictor,
            },
            "runtime": {"compile": arguments.compile},
        }
    )
    heard: list[Event] = []
    compute = choose_compute(str(device), precision, listener=heard.append)
    head = LabelTransform(
        task=Task(kind="regression", name="age", unit="years"), mean=MEAN, std=STD
    )
    learner = build_learner(config, head, arguments.image_size, compute)
    step_runner = StepRunner(
        learner, compute=compute, runtime=config.runtime, listener=heard.append
    )
    began = time.perf_counter()
    with tuned_convolutions(device):
        step_runner.prepare(batch, steps=PLANNED)

    def step(batches: Batches) -> None:
        with tuned_convolutions(device):  # as the training's loop has it
            step_runner.step(batches)

    return step, {
        "precision": compute.precision,
        "compiled": step_runner.compiled,
        "prepare_seconds": time.perf_counter() - began,
        # As they stand after the race: memory may have run out within.
        "parts": lambda: step_runner.parts,
        "notes": lambda: [event.text for event in heard if isinstance(event, Stage | Warned)],
    }


def make_batches(batch_size: int, side: int, device: torch.device) -> list[Batches]:
    """Return the images that the steps go round."""
    random = torch.Generator().manual_seed(0)
    return [
        {
            name: Batch(
                torch.rand(batch_size, 1, side, side, generator=random) * 2 - 1,
                20 + 60 * torch.rand(batch_size, generator=random),
            ).to(device)
            for name in ("mri", "ct")
        }
        for _ in range(IMAGES)
    ]


def count_flops(sizes: Sizes, side: int) -> int:
    """Return the floating-point operations of convolutions and matrix products, a pair of images.

    Counted where nothing is computed, on tensors without values.
    """
    device = torch.device("meta")
    reference = ReferenceTraining(sizes, device, mean=MEAN, std=STD)
    images, labels = (torch.empty(2, *shape, device=device) for shape in ((1, side, side), ()))
    with FlopCounterMode(display=False) as counter:
        reference.step(images, labels, images, labels, log=False)
    return counter.get_total_flops() // 2


def own_memory(name: str, precision: str, batch_size: int) -> int:
    """Return the most memory resident in a process that runs one of the two, in bytes."""
    with tempfile.TemporaryDirectory(prefix="medxlate-bench-") as folder:
        out = Path(folder) / "one.json"
        options = ["--only", name, "--batch-sizes", str(batch_size), "--precision", precision]
        short = ["--steps", "1", "--warm", "1", "--block", "1", "--no-profile", "--out", str(out)]
        given = [each for each in sys.argv[1:] if each != "--memory"]
        command = [sys.executable, "-m", "benchmarks.training", *given, *options, *short]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return int(json.loads(out.read_text())["resident_bytes"])


def resident() -> int:
    """Return the most memory that was resident in this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def show(race: dict[str, Any], report: dict[str, Any]) -> None:
    """Print a race as tables."""
    medians, rates = race["median_seconds"], report["convolution_flops"]
    used = torch.bfloat16 if race.get("precision") == "bf16" else torch.float32
    limits = {f"convolution rate in {used}": rates[str(used)]}
    if "matrix_flops" in report:
        limits["bf16 matrix rate"] = report["matrix_flops"]["bf16"]
    print(
        f"\n{race['image_size']} px, batch {race['batch_size']}, {race.get('precision')}, ", end=""
    )
    print(f"compiled: {race.get('compiled')}; {race['flops'] / 1e9:.0f} GFLOP a step\n")
    print("| | seconds a step | pairs/s | GFLOP/s |" + "".join(f" of the {n} |" for n in limits))
    print("|---" * (4 + len(limits)) + "|")
    for name, each in medians.items():
        rate = race["flops"] / each
        row = [name, f"{each:.4g}", f"{race['batch_size'] / each:.4g}", f"{rate / 1e9:.0f}"]
        row += [f"{100 * rate / limit:.0f} %" for limit in limits.values()]
        print(f"| {' | '.join(row)} |")
    if race["ratio"]:
        print(f"\nmedxlate / textbook: {race['ratio']:.2f} times the pairs per second")
    for name, memory in race["memory_bytes"].items():
        print(f"memory at most, {name}: {memory / 2**30:.2f} GiB")
    if race["profile"]:
        names = list(race["profile"])
        print("\n| seconds of a step | " + " | ".join(names) + " |")
        print("|---" * (len(names) + 1) + "|")
        for group in race["profile"][names[0]]:
            each = " | ".join(f"{race['profile'][name][group]:.3g}" for name in names)
            print(f"| {group} | {each} |")
    print(flush=True)


if __name__ == "__main__":
    main()
