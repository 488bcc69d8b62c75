"""What the paper's study computes: trainings, steps and floating-point operations.

    python -m benchmarks.paper_cost

Nothing is timed, so the machine does not matter. Torch counts the operations of convolutions and
matrix products while each kind of step is taken once, at the paper's size, on generated patients.
The number of steps follows from the numbers of images in the paper. How long a GPU takes depends on
the rate that it sustains: hours = operations / rate / 3600.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from torch.utils.flop_counter import FlopCounterMode

from medxlate.config import resolve
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.phantoms.files import write_phantoms
from medxlate.study import plan as planning
from medxlate.study.begin import Grid
from medxlate.training.setup import RunInputs, set_up
from medxlate.training.step import take_step
from medxlate.training.trial import Trial

IMAGES = {"mri": 3454, "pet": 12780}  # in the paper
TRAIN = 0.85  # of the sources: all but split.source_test and split.source_val
RATES = (10e12, 30e12, 100e12)  # sustained, operations a second: assumed, not measured
PAPER = ("target-only", "joint", "transfer", "multitask", "dann", "cyclegan", "simple-augment")
PAPER += ("autoaugment", "random-erasing")


@dataclass(frozen=True)
class Line:
    """One kind of training: how many, of how many steps, of how many operations each."""

    training: str
    sources: str
    count: int
    steps: int
    step_flops: float

    @property
    def flops(self) -> float:
        """Of all such trainings together."""
        return self.count * self.steps * self.step_flops


def count_step(inputs: RunInputs) -> Trial:
    """Stand in for ``try_steps``: where it gives seconds, give floating-point operations."""
    with patch("medxlate.method.placing.accelerate"):  # whose kernels the counter does not know
        setup = set_up(inputs)
    data, size = setup.data.train, inputs.config.optimizer.batch_size
    batches = {name: data[name].batch([0] * size) for name in setup.learner.modalities}
    with FlopCounterMode(display=False) as counter:
        take_step(setup.learner, batches)
    return Trial(counter.get_total_flops(), 0.0, 0, None)


def study_lines(data: Path, grid: Grid, largest: str, *, preset: str) -> list[Line]:
    """Return what a study computes whose largest modality has as many images as the paper's."""
    config = resolve(
        preset=preset,
        overrides={
            "data": {"folder": str(data), "target": "ct"},
            "split": {"policy": "image"},
            "optimizer": {"steps_per_epoch": round(TRAIN * IMAGES[largest])},
            "runtime": {"device": "cpu", "precision": "fp32"},
        },
    )
    with ExitStack() as replaced:
        replaced.enter_context(patch.object(planning, "try_steps", count_step))
        replaced.enter_context(patch.object(planning, "outlook_of", return_value=None))
        forecast = planning.plan(config, grid)
    return [
        Line(each.method, each.sources or "-", each.count, each.steps, each.step_seconds)
        for each in forecast.lines
    ]


def studies() -> Iterator[tuple[str, Grid, str]]:
    """Yield the studies of docs/how-to/reproduce-the-paper.md."""
    yield "everything, 10 splits", Grid(repeats=10), "pet"
    yield "the paper's methods, 10 splits", Grid(methods=PAPER, repeats=10), "pet"
    pair = ("target-only", "joint")
    yield "`target-only` and `joint`, MRI, 10 splits", Grid(pair, ("mri",), repeats=10), "mri"
    yield "`target-only` and `joint`, MRI, 3 splits", Grid(pair, ("mri",), repeats=3), "mri"


def make_data(folder: Path, side: int) -> Path:
    """Prepare a few generated patients of the three modalities; return the dataset."""
    write_phantoms(folder / "raw", patients={"ct": 12, "mri": 12, "pet": 12}, slices=1, size=side)
    labels = {
        "ct": PrepareOptions(label="PatientAge", window=(40, 120)),
        "mri": PrepareOptions(
            labels=folder / "raw/mri/labels.csv", label="age", file="file", patient="patient"
        ),
        "pet": PrepareOptions(label="PatientAge", label_name="age"),
    }
    for modality, options in labels.items():
        data = folder / "data"
        prepare(folder / "raw" / modality, modality=modality, data=data, size=side, options=options)
    return data


def main() -> None:
    """Print the tables of the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny networks: figures mean nothing")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(prefix="medxlate-bench-") as scratch:
        data = make_data(Path(scratch), 64 if options.quick else 256)
        for name, grid, largest in studies():
            preset = "debug" if options.quick else "paper"
            found[name] = study_lines(data, grid, largest, preset=preset)
    whole, *_ = found.values()
    print("| training | sources | trainings | steps each | GFLOP per step | EFLOP in total |")
    print("|---|---|---|---|---|---|")
    for line in whole:
        print(
            f"| `{line.training}` | {line.sources} | {line.count} | {line.steps:,} "
            f"| {line.step_flops / 1e9:,.0f} | {line.flops / 1e18:.3g} |"
        )
    columns = [f"at {rate / 1e12:.0f} TFLOP/s" for rate in RATES]
    print(f"\n| study | trainings | EFLOP | {' | '.join(columns)} |")
    print("|---|---|---|" + "---|" * len(RATES))
    for name, lines in found.items():
        flops = sum(line.flops for line in lines)
        hours = [f"{flops / rate / 3600:,.0f} h" for rate in RATES]
        count = sum(line.count for line in lines)
        print(f"| {name} | {count} | {flops / 1e18:,.3g} | {' | '.join(hours)} |")
    if options.out:
        written = {name: [vars(line) for line in lines] for name, lines in found.items()}
        options.out.write_text(json.dumps(written, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
