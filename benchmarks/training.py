"""The race: medxlate's training step against the textbook's, in one process.

    python -m benchmarks.training                       # the paper's networks at 256 px, batch 1
    python -m benchmarks.training --image-size 64 --blocks 6 --steps 5
    python -m benchmarks.training --device cuda --batch-sizes 1 4 16 --compile on

Same networks, same sizes, same images; blocks of steps in turns; medians. In the same run: the rate
of the residual block's convolution, the step's FLOPs, the share of that rate which is reached, and
profiles of both. Tables go to the output, figures as JSON to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import convolution_rate, facts, matrix_rate, wait
from benchmarks.reference import ReferenceTraining, Sizes
from medxlate.config import resolve
from medxlate.dataset.labels import Task
from medxlate.dataset.loading import Batch
from medxlate.events import Event, Stage, Warned
from medxlate.models.device import Compute, choose_compute
from medxlate.models.head import Head
from medxlate.training.methods import build_learner
from medxlate.training.stepper import Stepper

MEAN, STD = 50.0, 15.0
IMAGES = 8  # of each modality, which the steps go round
PLANNED = 10**6  # steps, for which `--compile auto` decides

# What a kernel of the profile belongs to, by what its name holds; the first that fits.
GROUPS = {
    "convolution, backward": ("convolution_backward",),
    "convolution, forward": ("mkldnn_convolution", "_convolution", "cudnn_conv", "bmm", "aten::mm"),
    "norm": ("batch_norm", "group_norm", "instance_norm"),
    "padding": ("pad",),
    "optimizer": ("adam", "Adam", "addcdiv", "addcmul", "sqrt", "lerp"),
    "copies and casts": ("copy_", "cat", "clone", "index", "fill_", "zero_", "empty"),
    "compiled kernels": ("CompiledFxGraph", "triton", "graph_"),
}


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--predictor", default="resnet50")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=7, help="of each, after warming up")
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", nargs="+", default=["auto"], help="auto, fp32, bf16")
    parser.add_argument("--compile", default="auto", choices=["auto", "on", "off"])
    parser.add_argument("--seconds", type=float, default=3600, help="no further batch size after")
    parser.add_argument(
        "--textbook-up-to", type=int, default=10**6, help="largest batch that it races, too"
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
    for precision in arguments.precision:
        for batch_size in arguments.batch_sizes:
            if time.monotonic() - began > arguments.seconds:
                report.setdefault("left_out", []).append([precision, batch_size])
                continue
            try:
                race = run_race(arguments, sizes, device, precision, batch_size)
            except torch.OutOfMemoryError:
                report["races"].append({"batch_size": batch_size, "error": "out of memory"})
                break
            report["races"].append(race)
            show(race, report)
            if arguments.out is not None:
                arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def run_race(
    arguments: argparse.Namespace,
    sizes: Sizes,
    device: torch.device,
    precision: str,
    batch_size: int,
) -> dict[str, Any]:
    """Time both in turns, then profile each."""
    batches = make_batches(batch_size, arguments.image_size, device)
    fast, notes = make_fast(arguments, sizes, device, precision, batches[0])
    reference = ReferenceTraining(sizes, device, mean=MEAN, std=STD)

    def textbook(batch: dict[str, Batch]) -> object:
        y, x = batch["mri"], batch["ct"]
        return reference.step(y.images, y.labels, x.images, x.labels)

    racers: dict[str, Callable[[dict[str, Batch]], object]] = {
        "textbook": textbook,
        "medxlate": fast,
    }
    with FlopCounterMode(display=False) as counter:
        textbook(batches[0])
    if batch_size > arguments.textbook_up_to:
        del racers["textbook"], reference, textbook
    taken: dict[str, list[float]] = {name: [] for name in racers}
    for turn in range(arguments.warm + arguments.steps):
        for name, step in racers.items():
            wait(device)
            began = time.perf_counter()
            step(batches[turn % IMAGES])
            wait(device)
            if turn >= arguments.warm:
                taken[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(each) for name, each in taken.items()}
    return {
        "image_size": arguments.image_size,
        "batch_size": batch_size,
        "precision": notes["precision"],
        "compiled": notes["compiled"],
        "notes": notes["events"],
        "flops": counter.get_total_flops(),
        "seconds": taken,
        "median_seconds": medians,
        "pairs_per_second": {name: batch_size / each for name, each in medians.items()},
        "ratio": medians["textbook"] / medians["medxlate"] if "textbook" in medians else None,
        "memory_bytes": memory(device),
        "profile": {}
        if arguments.no_profile
        else {name: shares(step, batches[0], device) for name, step in racers.items()},
    }


def make_fast(
    arguments: argparse.Namespace,
    sizes: Sizes,
    device: torch.device,
    precision: str,
    batch: dict[str, Batch],
) -> tuple[Callable[[dict[str, Batch]], object], dict[str, Any]]:
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
    compute: Compute = choose_compute(str(device), precision, listener=heard.append)
    head = Head(task=Task(kind="regression", name="age", unit="years"), mean=MEAN, std=STD)
    learner = build_learner(config, head, arguments.image_size, compute)
    stepper = Stepper(learner, compute=compute, runtime=config.runtime, listener=heard.append)
    stepper.prepare(batch, steps=PLANNED)
    notes = {
        "precision": compute.precision,
        "compiled": stepper.compiled,
        "events": [event.text for event in heard if isinstance(event, Stage | Warned)],
    }
    return stepper.step, notes


def make_batches(batch_size: int, side: int, device: torch.device) -> list[dict[str, Batch]]:
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


def shares(
    step: Callable[[dict[str, Batch]], object], batch: dict[str, Batch], device: torch.device
) -> dict[str, float]:
    """Return the seconds of a step by group of kernels."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as found:
        step(batch)
        wait(device)
    groups = dict.fromkeys([*GROUPS, "other"], 0.0)
    for event in found.key_averages():
        on_device = event.self_device_time_total if device.type == "cuda" else 0.0
        spent = on_device if device.type == "cuda" else event.self_cpu_time_total
        name = next((g for g, keys in GROUPS.items() if any(k in event.key for k in keys)), "other")
        groups[name] += spent / 1e6
    return groups


def memory(device: torch.device) -> int:
    """Return the most memory in use so far: of the GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def show(race: dict[str, Any], report: dict[str, Any]) -> None:
    """Print a race as tables."""
    medians, rates = race["median_seconds"], report["convolution_flops"]
    used = "torch.float32" if race["precision"] == "fp32" else "torch.bfloat16"
    limit = report.get("matrix_flops", {}).get("bf16") or rates[used]
    reached = race["flops"] / medians["medxlate"] / limit
    kind = "matrix" if "matrix_flops" in report else "convolution"
    print(
        f"\n{race['image_size']} px, batch {race['batch_size']}, {race['precision']}, compiled: "
        f"{race['compiled']}\n"
        f"{', '.join(f'{name} {each:.3f} s' for name, each in medians.items())}"
        + (f": {race['ratio']:.2f} times the pairs per second" if race["ratio"] else "")
        + "\n"
        f"{race['flops'] / 1e9:.0f} GFLOP a step; {100 * reached:.0f} % of the {kind} rate "
        f"({limit / 1e9:.0f} GFLOP/s)"
    )
    if race["profile"]:
        names = list(race["profile"])
        print(f"\n| | {', '.join(names)} (seconds) |".replace(", ", " | "))
        print("|---" * (len(names) + 1) + "|")
        for group in race["profile"]["medxlate"]:
            each = " | ".join(f"{race['profile'][name][group]:.3f}" for name in names)
            print(f"| {group} | {each} |")
    print(flush=True)


if __name__ == "__main__":
    main()
