"""Whether the fast path reaches the validation error that the textbook step reaches.

    python benchmarks/accuracy.py                  # 5 seeds, 300 steps
    python benchmarks/accuracy.py --seeds 2 --steps 20

Generated patients (``medxlate.phantoms``), MRI to CT, the networks of ``medxlate demo``: for every
seed the textbook's eager float32 step (``tests/reference.py``), medxlate's step in fp32 and in bf16
train from the same initial weights on the same images in the same order. Printed are the
validation errors in years squared, averaged over the last fifth of the training, their means and
their spread over the seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import reference
from medxlate.base.device import Compute
from medxlate.config import Config, resolve
from medxlate.dataset.division import draw_split
from medxlate.dataset.index import Dataset
from medxlate.dataset.loading import Batch, Order
from medxlate.dataset.training_data import open_modalities
from medxlate.inference.predict import predict_batches
from medxlate.method.joint import Joint
from medxlate.phantoms.files import write_phantoms
from medxlate.training.loop import validation_metrics
from medxlate.training.setup import RunInputs, TrainingSetup, set_up
from medxlate.training.step import take_step
from medxlate.walkthrough import SETTINGS, prepare_phantoms

PATIENTS = {"ct": 36, "mri": 48, "pet": 1}
SIZE = 64
CPU = torch.device("cpu")
Step = Callable[[Mapping[str, Batch]], object]


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {"textbook fp32": [], "fp32": [], "bf16": []}
    with tempfile.TemporaryDirectory(prefix="medxlate-bench-") as name:
        root = Path(name)
        write_phantoms(root / "raw", patients=PATIENTS, slices=4, size=96, seed=0)
        prepare_phantoms(root / "raw", root / "data", size=SIZE)
        for seed in range(arguments.seeds):
            for which, errors in found.items():
                began = time.perf_counter()
                errors.append(train(root / "data", which, seed, arguments.steps))
                took = time.perf_counter() - began
                print(f"seed {seed} {which}: {errors[-1]:.1f} ({took:.0f} s)", flush=True)
    for which, errors in found.items():
        spread = statistics.stdev(errors) if len(errors) > 1 else float("nan")
        print(f"{which}: mean {statistics.mean(errors):.1f}, standard deviation {spread:.1f}")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def train(data: Path, which: str, seed: int, steps: int) -> float:
    """Train and return the mean validation error of the last fifth, years squared."""
    precision = "bf16" if which == "bf16" else "fp32"
    config = resolve(
        overrides={
            **SETTINGS,
            "data": {"folder": str(data), "sources": ["mri"], "target": "ct"},
            "runtime": {"seed": seed, "device": "cpu", "precision": precision},
        }
    )
    work = make_work(config, data)
    assert isinstance(work.learner, Joint)
    step = textbook(work, config) if which.startswith("textbook") else fast(work)
    names = work.learner.modalities
    orders = {n: Order(len(work.data.train[n]), seed=seed, name=n) for n in names}
    errors = []
    for number in range(steps):
        taken = {n: orders[n].take(number, config.optimizer.batch_size) for n in names}
        step({name: work.data.train[name].batch(indices) for name, indices in taken.items()})
        if number >= 0.8 * steps and number % 5 == 4:
            errors.append(validation_error(work))
    return statistics.mean(errors)


def make_work(config: Config, data: Path) -> TrainingSetup:
    """Return what a training needs; the split is the same for every seed."""
    dataset = Dataset(data)
    tables = open_modalities(dataset, config)
    slices = {name: table.slices for name, table in tables.items()}
    split = draw_split(slices, target="ct", config=config.split)
    return set_up(RunInputs(config, dataset, tables, split))


def fast(work: TrainingSetup) -> Step:
    """Return medxlate's own step."""
    return lambda batches: take_step(work.learner, batches)


def textbook(work: TrainingSetup, config: Config) -> Step:
    """Return the textbook's step, on networks with the learner's initial weights."""
    ours = work.learner.networks
    model = config.model
    generator = lambda: reference.reference_generator(  # noqa: E731
        1, 1, model.generator_width, model.generator_blocks or 9
    )
    networks = reference.ReferenceNetworks(
        generator(),
        generator(),
        reference.reference_discriminator(1, model.discriminator_width),
        reference.reference_discriminator(1, model.discriminator_width),
        ours["predictor"],
    )
    parts: dict[str, nn.Module] = {n: getattr(networks, n) for n in ("g", "f", "d_s", "d_t")}
    for name, part in parts.items():
        reference.copy_parameters(getattr(ours["mri"], name), part)
    parts["predictor"] = networks.predictor
    adams = {
        name: torch.optim.Adam(
            part.parameters(),
            config.optimizer.predictor_lr
            if name == "predictor"
            else config.optimizer.translator_lr,
            betas=(0.9, 0.999) if name == "predictor" else (0.5, 0.999),
        )
        for name, part in parts.items()
    }
    random = torch.Generator().manual_seed(config.runtime.seed)
    coin = lambda: float(torch.rand((), generator=random))  # noqa: E731
    pick = lambda count: int(coin() * count)  # noqa: E731
    buffers = [reference.ReferenceBuffer(config.optimizer.buffer_size, coin, pick) for _ in "st"]

    def step(batches: Mapping[str, Batch]) -> None:
        y, x = batches["mri"], batches["ct"]
        found = reference.reference_step(
            networks,
            y.images,
            y.labels,
            x.images,
            x.labels,
            fakes_for_d_t=buffers[1],
            fakes_for_d_s=buffers[0],
            label_mean=work.head.mean,
            label_std=work.head.std,
        )
        for name, adam in adams.items():
            for parameter, gradient in zip(
                parts[name].parameters(), found.gradients[name], strict=True
            ):
                parameter.grad = gradient
            adam.step()

    return step


def validation_error(work: TrainingSetup) -> float:
    """Return the predictor's squared error on the validation patients, in float32."""
    slices = work.data.val["ct"]
    images = (batch.images for batch in slices.batches(16))
    predictor, compute = work.learner.networks["predictor"], Compute(CPU, "fp32")
    values = predict_batches(predictor, images, head=work.head, compute=compute)
    return validation_metrics(values, slices.labels, work.head)["val_error"]


if __name__ == "__main__":
    main()
