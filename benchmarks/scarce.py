"""Does translation help where the target is scarce? A race with known truth.

    python -m benchmarks.scarce phantoms --seeds 0 1 2      # generated MRI (source) and CT (target)
    python -m benchmarks.scarce lgg --kaggle kaggle_3m      # T1 and FLAIR of the same slices
    python -m benchmarks.scarce ablation --seeds 10 11      # what each part of the recipe is worth
    python -m benchmarks.scarce time --seeds 0              # how soon half of the gain is there
    python -m benchmarks.scarce phantoms --quick            # the phantoms' race in minutes

25 target patients (4 slices, 64 px), 200 source patients, 5 to validate and 150 to test. All methods
have the same predictor, as many updates of it and as many target images in a step. The error is the
mean squared error per patient, of the mean prediction over the patient's slices. The share of the
oracle's gain is (target-only - method) / (target-only - oracle), where the oracle learns from the
source patients' true target images; its interval is a bootstrap over seeds and patients.
Translations are held against the truth of held-out patients: mean absolute error within the head,
SSIM there, and the share of power at the Nyquist frequency, where a checkerboard shows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.metrics import structural_similarity

from benchmarks.machine import facts
from benchmarks.pairs import Pairs, write_lgg_pairs, write_phantom_pairs
from medxlate.config import Config, resolve
from medxlate.dataset.index import Dataset
from medxlate.images.recipes import scaled
from medxlate.inference.engine import run as run_network
from medxlate.inference.predict import Predictor, predict_batches
from medxlate.inference.translate import Translator
from medxlate.models.runs import RunFolder
from medxlate.training.data import open_modalities, part_slices
from medxlate.training.train import train

HU = 60.0  # of a step of 1 in [-1, 1]: the window is 120 HU wide
DRAWS = 2000  # of the bootstrap
NYQUIST = 0.45  # cycles a pixel, from which on power counts as that of the Nyquist frequency

Sets = tuple[str, ...]
# The translator as published, as far as two cores go: 64 px, a narrower network, 600 updates.
PUBLISHED: Sets = (
    "model.upsample=transposed",
    "model.skip=none",
    "model.discriminator_layers=3",
    "model.generator_width=16",
    "model.generator_blocks=3",
    "model.discriminator_width=16",
    "objective.diffaugment=[]",
    "optimizer.translator_lr=2e-4",
    "optimizer.ema_decay=0",
    "objective.ema_fakes=false",
)


@dataclass(frozen=True)
class Entry:
    """One of those that race.

    Attributes:
        method: As ``train`` takes it.
        sets: What differs from the preset.
        preset: Where it starts from.
    """

    method: str
    sets: Sets = ()
    preset: str = "scarce"


RACE: Mapping[str, Entry] = {
    "target-only": Entry("target-only"),
    "duplicate-real": Entry("duplicate-real"),
    "raw-mix": Entry("raw-mix"),
    "histogram": Entry("histogram"),
    "cyclegan, published": Entry("cyclegan", PUBLISHED),
    "joint": Entry("joint"),
    "oracle": Entry("oracle"),
}
ENDS = ("target-only", "oracle")


@dataclass
class Finish:
    """What came of one entry with one seed.

    Attributes:
        errors: Squared error of each test patient [P], in the label's unit.
        seconds: That its training took.
        images: Of its translations: see ``held_against_truth``.
    """

    errors: np.ndarray
    seconds: float
    images: dict[str, float] = field(default_factory=dict)


def configured(entry: Entry, pairs: Pairs, seed: int, sets: Sequence[str]) -> Config:
    """Return the configuration of an entry."""
    return resolve(
        preset=entry.preset,
        sets=[*sets, *entry.sets],
        overrides={
            "method": entry.method,
            "data": pairs.keys,
            "split": {"seed": seed},
            "runtime": {"seed": seed, "samples_every": 1000},
        },
    )


def finish(
    name: str, entry: Entry, pairs: Pairs, seed: int, runs: Path, sets: Sequence[str]
) -> Finish:
    """Train an entry and judge it by the test patients; a finished one is read again."""
    kept = runs / f"{name}.json".replace(" ", "-").replace(",", "")
    if kept.is_file():
        found = json.loads(kept.read_text())
        return Finish(np.asarray(found["errors"]), found["seconds"], found["images"])
    config = configured(entry, pairs, seed, sets)
    folder = runs / kept.stem
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    train(config, split=pairs.split, runs=runs, name=kept.stem)
    seconds = time.monotonic() - began
    run = RunFolder(folder)
    images = held_against_truth(run, pairs) if entry.method in ("joint", "cyclegan") else {}
    result = Finish(patient_errors(run, config, pairs), seconds, images)
    kept.write_text(
        json.dumps({"errors": result.errors.tolist(), "seconds": seconds, "images": images})
    )
    return result


def patient_errors(run: RunFolder, config: Config, pairs: Pairs) -> np.ndarray:
    """Return the squared error of each test patient [P]; of classes, the Brier score."""
    dataset = Dataset(pairs.data)
    tables = open_modalities(dataset, config)
    test = part_slices(dataset, tables, pairs.split, config, "test")[pairs.target]
    model = Predictor(run.path)
    images = (batch.images for batch in test.batches(64))
    values = predict_batches(model.network, images, head=model.head, compute=model.compute)
    truth = test.labels.numpy()
    if values.ndim == 2:
        truth = np.eye(values.shape[1])[truth]
    values, truth = (
        np.asarray(v, dtype=np.float64).reshape(len(test), -1) for v in (values, truth)
    )
    patients = np.asarray(test.patients)
    off = [
        values[patients == one].mean(0) - truth[patients == one].mean(0)
        for one in np.unique(patients)
    ]
    return np.square(off).sum(axis=1)


def held_against_truth(run: RunFolder, pairs: Pairs) -> dict[str, float]:
    """Compare translations of held-out source patients with the truth.

    Returns:
        ``mae`` and ``psnr`` (of [-1, 1], 2 wide) and ``ssim`` within the head, for the translations
        and (``raw_``) the sources as they are; ``nyquist`` and ``real_nyquist``.
    """
    dataset = Dataset(pairs.data)
    rows = pairs.aligned("test")
    translator = Translator(run.path, source=pairs.source)
    size = translator.info.image_size
    source = _images(dataset, pairs.source, [row for row, _, _ in rows])
    truth = np.concatenate([_images(dataset, name, [row]) for _, name, row in rows])
    tensor = torch.from_numpy(source).unsqueeze(1)
    fakes = run_network(translator.network, [tensor], compute=translator.compute)[:, 0].numpy()
    assert size == truth.shape[-1]
    found: dict[str, float] = {"nyquist": nyquist(fakes), "real_nyquist": nyquist(truth)}
    for prefix, images in (("", fakes), ("raw_", source)):
        heads = [truth_image > -0.98 for truth_image in truth]
        off = np.concatenate([(a - b)[h] for a, b, h in zip(images, truth, heads, strict=True)])
        found[f"{prefix}mae"] = float(np.abs(off).mean())
        found[f"{prefix}psnr"] = float(10 * np.log10(4 / np.square(images - truth).mean()))
        found[f"{prefix}ssim"] = float(
            np.mean(
                [
                    structural_similarity(b, a, data_range=2, full=True)[1][h].mean()
                    for a, b, h in zip(images, truth, heads, strict=True)
                ]
            )
        )
    return found


def _images(dataset: Dataset, name: str, rows: Sequence[int]) -> np.ndarray:
    return scaled(dataset.modality(name).read(np.asarray(rows)))


def nyquist(images: np.ndarray) -> float:
    """Return the share of the power of images [N, S, S] at the highest frequencies."""
    centred = images - images.mean((1, 2), keepdims=True)
    power = np.square(np.abs(np.fft.fft2(centred))).mean(0)
    high = np.abs(np.fft.fftfreq(images.shape[-1])) >= NYQUIST
    return float(power[high[:, None] | high[None]].sum() / power.sum())


def share(
    method: Sequence[np.ndarray], alone: Sequence[np.ndarray], oracle: Sequence[np.ndarray]
) -> float:
    """Return the share of the oracle's gain, of errors [P] of each seed."""
    one, low, high = (
        np.mean([errors.mean() for errors in each]) for each in (method, alone, oracle)
    )
    return float((low - one) / (low - high))


def interval(
    method: Sequence[np.ndarray], alone: Sequence[np.ndarray], oracle: Sequence[np.ndarray]
) -> tuple[float, float]:
    """Return the 95 % interval of the share: a bootstrap over seeds, and patients within each."""
    random, draws = np.random.default_rng(0), []
    for _ in range(DRAWS):
        seeds = random.integers(len(method), size=len(method))
        rows = [random.integers(len(method[s]), size=len(method[s])) for s in seeds]
        draws.append(
            share(
                *(
                    [each[s][r] for s, r in zip(seeds, rows, strict=True)]
                    for each in (method, alone, oracle)
                )
            )
        )
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def table(results: Mapping[str, Sequence[Finish]], *, unit: float) -> list[str]:
    """Return the lines of a race; ``unit`` is of the images' errors."""
    errors = {name: [each.errors for each in every] for name, every in results.items()}
    ends = [errors[name] for name in ENDS]
    lines = [
        "| method | error | by seed | share of the oracle's gain | seconds | mae | ssim | nyquist |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, every in results.items():
        by_seed = [float(each.errors.mean()) for each in every]
        gain = "0" if name == ENDS[0] else "100 %" if name == ENDS[1] else ""
        if not gain:
            low, high = interval(errors[name], *ends)
            gain = f"{share(errors[name], *ends):.0%} ({low:.0%} to {high:.0%})"
        images = {k: np.mean([each.images[k] for each in every]) for k in every[0].images}
        cells = [
            f"{images['mae'] * unit:.1f}", f"{images['ssim']:.3f}",
            f"{images['nyquist']:.4f} (real {images['real_nyquist']:.4f})",
        ] if images else ["", "", ""]  # fmt: skip
        seconds = np.mean([each.seconds for each in every])
        lines.append(
            f"| {name} | {np.mean(by_seed):.1f} | {', '.join(f'{e:.0f}' for e in by_seed)} | {gain} | "
            f"{seconds:.0f} | {' | '.join(cells)} |"
        )
    return lines


def race(
    entries: Mapping[str, Entry],
    pairs: Mapping[int, Pairs],
    out: Path,
    sets: Sequence[str],
) -> dict[str, list[Finish]]:
    """Train every entry with every seed and say each as soon as it is there."""
    results: dict[str, list[Finish]] = {name: [] for name in entries}
    for seed, each in pairs.items():
        runs = out / f"seed-{seed}" / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        for name, entry in entries.items():
            done = finish(name, entry, each, seed, runs, sets)
            results[name].append(done)
            print(
                f"seed {seed}: {name}: {done.errors.mean():.1f} in {done.seconds:.0f} s", flush=True
            )
    return results


def until_half(
    name: str, entry: Entry, lengths: Sequence[int], pairs: Pairs, seed: int, out: Path,
    ends: tuple[float, float],
) -> None:  # fmt: skip
    """Train an entry for ever more epochs, and print when half of the oracle's gain is closed."""
    low, high = ends
    runs = out / f"seed-{seed}" / "time"
    runs.mkdir(parents=True, exist_ok=True)
    for epochs in lengths:
        longer = Entry(entry.method, (*entry.sets, f"optimizer.epochs={epochs}"), entry.preset)
        done = finish(f"{name}-{epochs}", longer, pairs, seed, runs, ())
        closed = (low - float(done.errors.mean())) / (low - high)
        print(f"{name}, {epochs} epochs: {done.seconds:.0f} s, {closed:.0%}", flush=True)
        if closed >= 0.5:
            print(f"{name} closed half of the gain in {done.seconds:.0f} s")
            return
    print(f"{name} did not close half of the gain")


def main() -> None:
    """Parse the command line and race."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["phantoms"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="entries of the race")
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--out", type=Path, default=Path("bench-out/scarce"))
    arguments = parser.parse_args()
    pairs = {s: write_phantom_pairs(arguments.out / f"seed-{s}", seed=s) for s in arguments.seeds}
    chosen = {n: e for n, e in RACE.items() if not arguments.only or n in arguments.only}
    results = race(chosen, pairs, arguments.out, arguments.sets)
    print("\n".join(table(results, unit=HU)))


if __name__ == "__main__":
    main()
