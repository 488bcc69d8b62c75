"""Does translation help where the target is scarce? A race with known truth.

    python -m benchmarks.scarce phantoms --seeds 0 1 2   # generated MRI (source), CT (target)
    python -m benchmarks.scarce lgg --kaggle kaggle_3m   # T1 and FLAIR of the same slices
    python -m benchmarks.scarce ablation --seeds 10      # what each part of the preset is worth
    python -m benchmarks.scarce time --seeds 0           # how soon half of the gain is there
    python -m benchmarks.scarce phantoms --quick         # the race in minutes, a rough one

25 target patients (4 slices, 64 px), 200 source patients, 5 to validate and 150 to test. All
methods have the same predictor, as many updates of it and as many target images in a step. The
error is the mean squared error per patient, of the mean prediction over the patient's slices. The
share of the
oracle's gain is (target-only - method) / (target-only - oracle), where the oracle learns from the
source patients' true target images; its interval is a bootstrap over seeds and patients.
Translations are held against the truth of held-out patients: mean absolute error within the head,
SSIM there, and the share of power at the Nyquist frequency, where a checkerboard shows.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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

NOT_PLAIN = re.compile(r"[^A-Za-z0-9.]+")  # in names of runs

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
    "objective.one_sided=false",
    "objective.lambda_cycle=10",
    "objective.lambda_identity=0",
    "objective.lambda_structure=0",
    "objective.noise=none",
    "model.discriminator_norm=instance",
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
    kept = runs / f"{NOT_PLAIN.sub('-', name)}.json"
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
    heads = ("method", "error", "by seed", "share of the oracle's gain", "seconds")
    heads += ("mae", "ssim", "nyquist")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
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
        seeds = ", ".join(f"{error:.0f}" for error in by_seed)
        row = [name, f"{np.mean(by_seed):.1f}", seeds, gain, f"{seconds:.0f}", *cells]
        lines.append(f"| {' | '.join(row)} |")
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


# What each part of the preset is worth: all others stay.
WITHOUT: Mapping[str, Sets] = {
    "the preset": (),
    "skip=none": ("model.skip=none",),
    "skip=global": ("model.skip=global",),
    "upsample=transposed": ("model.upsample=transposed",),
    "discriminator_layers=3": ("model.discriminator_layers=3",),
    "discriminator_norm=instance": ("model.discriminator_norm=instance",),
    "no DiffAugment": ("objective.diffaugment=[]",),
    "no noise": ("objective.noise=none",),
    "no MIND": ("objective.lambda_structure=0",),
    "no identity loss": ("objective.lambda_identity=0",),
    "with F, D_s and the cycle": ("objective.one_sided=false", "objective.lambda_cycle=10"),
    "lambda=0": ("objective.lambda_predict=0",),
    "lambda=0.25": ("objective.lambda_predict=0.25",),
    "batch_norm=joint": ("model.batch_norm=joint",),
    "no EMA": ("objective.ema_fakes=false", "optimizer.ema_decay=0"),
    "no warm-up": ("optimizer.warmup=0",),
    "ramp=0.1": ("optimizer.ramp=0.1",),
    "fine-tuning": ("optimizer.finetune_share=0.1",),
    "keep=best": ("optimizer.keep=best",),
}
QUICK: Sets = ("optimizer.steps_per_epoch=5",)
SLOW = "cyclegan, published"  # minutes by itself, so that the quick race leaves it out


def ablation() -> dict[str, Entry]:
    """Return the preset, without each of its parts, between the two ends."""
    parts = {name: Entry("joint", sets) for name, sets in WITHOUT.items()}
    return {ENDS[0]: RACE[ENDS[0]], **parts, ENDS[1]: RACE[ENDS[1]]}


def time_to_quality(pairs: Pairs, seed: int, out: Path) -> None:
    """Print after how many seconds the preset and the textbook close half of the oracle's gain.

    Each is trained for ever longer, its schedule stretched to that length.
    """
    found = race({name: RACE[name] for name in ENDS}, {seed: pairs}, out, ())
    low, high = (float(found[name][0].errors.mean()) for name in ENDS)
    for name in ("joint", "cyclegan, published"):
        for epochs in LENGTHS:
            entry = RACE[name]
            longer = Entry(entry.method, (*entry.sets, f"optimizer.epochs={epochs}"), entry.preset)
            label = f"{name} {epochs}"
            (done,) = race({label: longer}, {seed: pairs}, out, ())[label]
            closed = (low - float(done.errors.mean())) / (low - high)
            print(f"{label}: {closed:.0%} of the gain in {done.seconds:.0f} s", flush=True)
            if closed >= HALF:
                break


LENGTHS = (5, 10, 20, 40, 80)  # epochs of 50 steps
HALF = 0.5


def main() -> None:
    """Parse the command line and race."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["phantoms", "lgg", "ablation", "time"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="these entries alone")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="for all entries")
    parser.add_argument("--quick", action="store_true", help="one seed, fewer patients and steps")
    parser.add_argument("--kaggle", type=Path, help="LGG's folder kaggle_3m")
    parser.add_argument("--out", type=Path, default=Path("bench-out/scarce"))
    arguments = parser.parse_args()
    seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
    pairs = {}
    for seed in seeds:
        folder = arguments.out / f"seed-{seed}"
        if arguments.what == "lgg":
            pairs[seed] = write_lgg_pairs(folder, arguments.kaggle, seed=seed)
        elif arguments.quick:
            pairs[seed] = write_phantom_pairs(folder, source=100, test=60, held_out=8, seed=seed)
        else:
            pairs[seed] = write_phantom_pairs(folder, seed=seed)
    if arguments.what == "time":
        for seed, each in pairs.items():
            time_to_quality(each, seed, arguments.out)
        return
    entries = ablation() if arguments.what == "ablation" else RACE
    chosen = {n: e for n, e in entries.items() if not arguments.only or n in arguments.only}
    if arguments.quick:
        chosen.pop(SLOW, None)
    sets = [*arguments.sets, *(QUICK if arguments.quick else ())]
    results = race(chosen, pairs, arguments.out, sets)
    if all(name in results for name in ENDS):
        print("\n".join(table(results, unit=1.0 if arguments.what == "lgg" else HU)))
    print(json.dumps(facts(torch.device("cpu"))))


if __name__ == "__main__":
    main()
