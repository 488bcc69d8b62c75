"""Does translation help where the target is scarce? A race with known truth.

    python -m benchmarks.scarce phantoms --trainings 3   # generated MRI (source), CT (target)
    python -m benchmarks.scarce lgg --kaggle kaggle_3m   # T1 and FLAIR of the same slices
    python -m benchmarks.scarce ablation --seeds 10 11   # the preset without each of its parts
    python -m benchmarks.scarce added --seeds 10         # the paper's method with one part more
    python -m benchmarks.scarce time --seeds 0           # how soon half of the gain is there
    python -m benchmarks.scarce phantoms --quick         # the race in minutes, a rough one

It needs scikit-image, which the extra `dev` brings.

25 target patients (4 slices, 64 px), 200 source patients, 5 to validate and 150 to test. All
methods have the same predictor, as many updates of it and as many target images in a step.

The error is the mean squared error per patient: of the mean prediction over the patient's slices
or, where their labels differ, the mean over the labels. The share of the oracle's gain is
(target-only - method) / (target-only - oracle), where the oracle learns from the source patients'
true target images; its interval is a bootstrap over seeds, trainings and patients. One training
of a predictor says little (``--trainings``): another seed moves its error by 10 to 40. No share
is given where the oracle gains nothing for sure.

Translations are compared with the truth of held-out patients: mean absolute error and SSIM within
the head, PSNR of the whole image, and the share of power at the Nyquist frequency, where a
checkerboard shows.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from benchmarks.machine import facts
from benchmarks.pairs import PairedData, write_lgg_pairs, write_phantom_pairs
from medxlate.artifacts.runs import RunFolder
from medxlate.base.errors import DataError
from medxlate.config import Config, resolve
from medxlate.dataset.index import Dataset
from medxlate.dataset.training_data import open_modalities, part_slices
from medxlate.evaluation.paired import similarity
from medxlate.evaluation.prediction_metrics import Cases
from medxlate.inference.engine import run as run_network
from medxlate.inference.predict import Predictor, predict_batches
from medxlate.inference.translate import Translator
from medxlate.method.registry import find_method
from medxlate.training.train import train

HU = 60.0  # of a step of 1 in [-1, 1]: the window is 120 HU wide
DRAWS = 2000  # of the bootstrap
TRAINING_SEEDS = 1000  # apart, from one training to the next of the same patients
BATCH = 64  # images that are computed at once
BLACK = -0.98  # what is above belongs to the head
NYQUIST = 0.45  # cycles a pixel, from which on power counts as that of the Nyquist frequency

NOT_PLAIN = re.compile(r"[^A-Za-z0-9.]+")  # in names of runs

Sets = tuple[str, ...]
# The translator as published, as far as two cores go: 64 px, a narrower network, 650 updates.
PUBLISHED: Sets = (
    "model.upsample=transposed",
    "model.skip=none",
    "model.discriminator_layers=3",
    "model.generator_width=16",
    "model.generator_blocks=3",
    "model.discriminator_width=16",
    "objective.diffaugment=[]",
    "objective.rescale=0",
    "optimizer.autoencode=0",
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
OURS = "joint"


@dataclass
class Finish:
    """What came of one entry in one world, of R trainings.

    Attributes:
        errors: Of each training and test patient [R, P]: see ``errors_of``.
        seconds: That a training took.
        images: Of its translations: see ``held_against_truth``.
    """

    errors: np.ndarray
    seconds: float
    images: dict[str, float] = field(default_factory=dict)


def configured(
    entry: Entry, pairs: PairedData, seed: int, sets: Sequence[str], training: int = 0
) -> Config:
    """Return the configuration of an entry.

    Args:
        entry: What is trained.
        pairs: The data.
        seed: Of the patients.
        sets: What differs from the preset for every entry.
        training: Which of the trainings of this entry and seed, from 0.
    """
    return resolve(
        preset=entry.preset,
        sets=[*sets, *entry.sets],
        overrides={
            "method": entry.method,
            "data": pairs.keys,
            "split": {"seed": seed},
            "runtime": {"seed": seed + TRAINING_SEEDS * training, "samples_every": 1000},
        },
    )


def finish(name: str, config: Config, pairs: PairedData, runs: Path) -> Finish:
    """Train an entry and judge it by the test patients; the same one is not trained again."""
    kept = runs / f"{NOT_PLAIN.sub('-', name)}.json"
    made_from = {**config.model_dump(mode="json"), "split": pairs.split.to_json()["hash"]}
    if kept.is_file() and (found := json.loads(kept.read_text()))["made_from"] == made_from:
        return Finish(np.asarray([found["errors"]]), found["seconds"], found["images"])
    folder = runs / kept.stem
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    train(config, split=pairs.split, runs=runs, name=kept.stem)
    seconds = time.monotonic() - began
    run = RunFolder(folder)
    images = held_against_truth(run, pairs) if find_method(config.method).translates else {}
    errors = patient_errors(run, config, pairs)
    kept.write_text(
        json.dumps(
            {
                "errors": errors.tolist(),
                "seconds": seconds,
                "images": images,
                "made_from": made_from,
            }
        )
    )
    return Finish(errors[None], seconds, images)


def together(trainings: Sequence[Finish]) -> Finish:
    """Return several trainings of an entry as one; seconds and figures of images are means."""
    images = {k: float(np.mean([t.images[k] for t in trainings])) for k in trainings[0].images}
    errors = np.concatenate([each.errors for each in trainings])
    return Finish(errors, float(np.mean([each.seconds for each in trainings])), images)


def patient_errors(run: RunFolder, config: Config, pairs: PairedData) -> np.ndarray:
    """Return the error of each test patient [P]."""
    dataset = Dataset(pairs.data)
    tables = open_modalities(dataset, config)
    test = part_slices(dataset, tables, pairs.split, config, "test")[pairs.target]
    model = Predictor(run.path)
    images = (batch.images for batch in test.batches(BATCH))
    values = predict_batches(model.network, images, head=model.head, compute=model.compute)
    return errors_of(values, test.labels.numpy(), test.patients)


def errors_of(values: np.ndarray, labels: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """Return the squared error of each patient [P], or the Brier score of classes.

    A patient's slices of one label are predicted by their mean; where labels differ within a
    patient, such as heights in the head, the patient's error is the mean over the labels.

    Args:
        values: Predictions of slices [N], or probabilities [N, K].
        labels: The truth [N]: values, or class numbers.
        patients: Whose each slice is.
    """
    cases = Cases(values, labels, tuple(patients)).grouped(patients)
    assert cases.units is not None
    truth = np.eye(values.shape[1])[cases.labels] if values.ndim == 2 else cases.labels
    each = np.square(cases.values - truth).reshape(len(cases), -1).sum(axis=1)
    owners = np.unique(cases.units, return_inverse=True)[1]
    return np.bincount(owners, weights=each * cases.weights)


def held_against_truth(run: RunFolder, pairs: PairedData) -> dict[str, float]:
    """Compare translations of held-out source patients with the truth.

    Returns:
        ``mae`` and ``ssim`` within the head and ``psnr``, of translations and (``raw_``) of the
        sources as they are; ``nyquist`` and ``real_nyquist``.
    """
    translator = Translator(run.path, source=pairs.source)
    source, truth = pairs.images("test", translator.info.image_size)
    fakes = run_network(translator.network, source.split(BATCH), compute=translator.compute)
    found = {"nyquist": nyquist(fakes), "real_nyquist": nyquist(truth)}
    for prefix, shown in (("", fakes), ("raw_", source)):
        found[f"{prefix}psnr"] = float(similarity(shown, truth)[:, 0].mean())
        both = zip(shown[:, 0].numpy(), truth[:, 0].numpy(), strict=True)
        within = np.mean([_within_head(*pair) for pair in both], axis=0)
        found[f"{prefix}mae"], found[f"{prefix}ssim"] = within.tolist()
    return found


def _within_head(image: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return mean absolute error and SSIM where the true image is not black."""
    head = truth > BLACK
    if not head.any():
        raise DataError("A true image is black: there is no head to compare.")
    alike = structural_similarity(truth, image, data_range=2, full=True)[1]
    return float(np.abs(image - truth)[head].mean()), float(alike[head].mean())


def nyquist(images: Tensor) -> float:
    """Return the share of the power of images [N, 1, S, S] at the highest frequencies."""
    shown = images[:, 0].numpy()
    centred = shown - shown.mean((1, 2), keepdims=True)
    power = np.square(np.abs(np.fft.fft2(centred))).mean(0)
    high = np.abs(np.fft.fftfreq(images.shape[-1])) >= NYQUIST
    return float(power[high[:, None] | high[None]].sum() / power.sum())


def share(
    method: Sequence[np.ndarray], alone: Sequence[np.ndarray], oracle: Sequence[np.ndarray]
) -> float:
    """Return the share of the oracle's gain, of errors [R, P] of each seed."""
    one, low, high = (
        np.mean([errors.mean() for errors in each]) for each in (method, alone, oracle)
    )
    return float((low - one) / (low - high))


def resampled(
    *methods: Sequence[np.ndarray],
) -> Iterator[list[list[np.ndarray]]]:
    """Draw for a bootstrap: seeds, within each its patients, and for each method its trainings.

    Args:
        methods: Errors [R, P] of each seed, of each method; the patients are the same.

    Yields:
        As many methods, with errors [R, P] of as many seeds.
    """
    random, first = np.random.default_rng(0), methods[0]
    for _ in range(DRAWS):
        seeds = random.integers(len(first), size=len(first))
        rows = [random.integers(first[s].shape[1], size=first[s].shape[1]) for s in seeds]
        yield [
            [
                each[s][random.integers(len(each[s]), size=len(each[s]))][:, r]
                for s, r in zip(seeds, rows, strict=True)
            ]
            for each in methods
        ]


def interval(
    method: Sequence[np.ndarray], alone: Sequence[np.ndarray], oracle: Sequence[np.ndarray]
) -> tuple[float, float] | None:
    """Return the 95 % interval of the share, of errors [R, P] of each seed.

    None where the oracle has no gain in more than 2.5 % of the draws: a share of it means nothing.
    """
    draws = []
    for drawn in resampled(method, alone, oracle):
        gains = np.mean([a.mean() - o.mean() for _, a, o in zip(*drawn, strict=True)])
        draws.append(share(*drawn) if gains > 0 else np.nan)
    if np.isnan(draws).mean() > 0.025:
        return None
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)


def difference(
    one: Sequence[np.ndarray], other: Sequence[np.ndarray]
) -> tuple[float, float, float]:
    """Return by how much one's error lies above the other's, and its 95 % interval."""

    def mean(errors: Sequence[np.ndarray]) -> float:
        return float(np.mean([each.mean() for each in errors]))

    draws = [mean(a) - mean(b) for a, b in resampled(one, other)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return mean(one) - mean(other), float(low), float(high)


def table(results: Mapping[str, Sequence[Finish]], *, unit: float) -> list[str]:
    """Return the lines of a race; ``unit`` is of the images' errors."""
    errors = {name: [each.errors for each in every] for name, every in results.items()}
    heads = ("method", "error", "by seed", "share of the oracle's gain", f"{OURS} less this")
    heads += ("seconds", "mae", "ssim", "psnr", "nyquist")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, every in results.items():
        by_seed = [float(each.errors.mean()) for each in every]
        seeds = ", ".join(f"{error:.3g}" for error in by_seed)
        seconds = np.mean([each.seconds for each in every])
        row = [name, f"{np.mean(by_seed):.4g}", seeds, _gain(name, errors), _lead(name, errors)]
        row.append(f"{seconds:.0f}")
        lines.append(f"| {' | '.join([*row, *_image_cells(every, unit)])} |")
    return lines


def _gain(name: str, errors: Mapping[str, Sequence[np.ndarray]]) -> str:
    """Return the share of the oracle's gain with its interval; "" where there is none."""
    if name in ENDS or not all(end in errors for end in ENDS):
        return ""
    ends = [errors[end] for end in ENDS]
    found = interval(errors[name], *ends)
    if found is None:
        return "the oracle gains nothing for sure"
    return f"{share(errors[name], *ends):.0%} ({found[0]:.0%} to {found[1]:.0%})"


def _lead(name: str, errors: Mapping[str, Sequence[np.ndarray]]) -> str:
    """Return how far the error of OURS lies above another's, with its interval."""
    if name == OURS or OURS not in errors:
        return ""
    mean, low, high = difference(errors[OURS], errors[name])
    return f"{mean:+.3g} ({low:+.3g} to {high:+.3g})"


def _image_cells(every: Sequence[Finish], unit: float) -> list[str]:
    if not every[0].images:
        return [""] * 4
    found = {k: float(np.mean([each.images[k] for each in every])) for k in every[0].images}
    return [
        f"{found['mae'] * unit:.3g} (untranslated {found['raw_mae'] * unit:.3g})",
        f"{found['ssim']:.3f} ({found['raw_ssim']:.3f})",
        f"{found['psnr']:.1f} ({found['raw_psnr']:.1f})",
        f"{found['nyquist']:.4f} (real {found['real_nyquist']:.4f})",
    ]


def race(
    entries: Mapping[str, Entry],
    pairs: Mapping[int, PairedData],
    out: Path,
    sets: Sequence[str],
    trainings: int = 1,
) -> dict[str, list[Finish]]:
    """Train every entry with every seed and print each as soon as it is there."""
    results: dict[str, list[Finish]] = {name: [] for name in entries}
    for seed, each in pairs.items():
        runs = out / f"seed-{seed}" / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        for name, entry in entries.items():
            done = []
            for number in range(trainings):
                config = configured(entry, each, seed, sets, number)
                done.append(finish(f"{name} {number}" if number else name, config, each, runs))
                error, seconds = done[-1].errors.mean(), done[-1].seconds
                print(f"seed {seed}: {name}: {error:.4g} in {seconds:.0f} s", flush=True)
            results[name].append(together(done))
    return results


# What each part of the preset is worth: all others stay.
WITHOUT: Mapping[str, Sets] = {
    "joint": (),
    "no autoencoder": ("optimizer.autoencode=0",),
    "no rescaling": ("objective.rescale=0",),
    "skip=none": ("model.skip=none",),
    "skip=global": ("model.skip=global",),
    "upsample=transposed": ("model.upsample=transposed",),
    "discriminator_layers=1": ("model.discriminator_layers=1",),
    "discriminator_norm=none": ("model.discriminator_norm=none",),
    "no DiffAugment": ("objective.diffaugment=[]",),
    "DiffAugment with translation": ('objective.diffaugment=["translation", "cutout"]',),
    "no noise": ("objective.noise=none",),
    "with MIND": ("objective.lambda_structure=2",),
    "with the identity loss": ("objective.lambda_identity=5",),
    "one-sided, with MIND": (
        "objective.one_sided=true",
        "objective.lambda_cycle=0",
        "objective.lambda_structure=2",
    ),
    "lambda=0": ("objective.lambda_predict=0",),
    "lambda=0.25": ("objective.lambda_predict=0.25",),
    "batch_norm=joint": ("model.batch_norm=joint",),
    "no EMA": ("objective.ema_fakes=false", "optimizer.ema_decay=0"),
    # As many updates of the predictor, all of them beside the translators'.
    "no warm-up": (
        "optimizer.epochs=60",
        "optimizer.autoencode=0.334",
        "optimizer.warmup=0.334",
        "optimizer.translator_share=1",
    ),
    "with fine-tuning": ("optimizer.finetune_share=0.1",),
    "label-matched sampling": ("data.match_labels=true",),
    "keep=best": ("optimizer.keep=best",),
}
QUICK: Sets = ("optimizer.steps_per_epoch=5",)
QUICK_PATIENTS = {"source": 100, "test": 60, "held_out": 8}
SLOW = "cyclegan, published"  # minutes by itself, so that the quick race leaves it out


# The paper's method in networks of the preset's size, and one part more.
PAPERS: Sets = (
    *PUBLISHED,
    "model.batch_norm=joint",
    "optimizer.translator_betas=[0.5, 0.999]",
    "optimizer.epochs=40",  # as many updates of the predictor
    "optimizer.warmup=0",
    "optimizer.translator_share=1",
)
ADDED: Mapping[str, Sets] = {
    "the paper's": (),
    "and bilinear upsampling": ("model.upsample=bilinear",),
    "and skip=unet, bilinear": ("model.skip=unet", "model.upsample=bilinear"),
    "and skip=global, bilinear": ("model.skip=global", "model.upsample=bilinear"),
    "and small patches": ("model.discriminator_layers=0", "model.discriminator_norm=none"),
    "and DiffAugment": ('objective.diffaugment=["cutout"]',),
    "and noise": ("objective.noise=target",),
    "and rescaling": ("objective.rescale=0.08",),
    "and MIND": ("objective.lambda_structure=2",),
    "and the identity loss": ("objective.lambda_identity=5",),
    "and batch_norm=separate": ("model.batch_norm=separate",),
    "and EMA": ("objective.ema_fakes=true", "optimizer.ema_decay=0.99"),
    "and an autoencoder": (
        "optimizer.epochs=60",
        "optimizer.autoencode=0.334",
        "optimizer.warmup=0.334",
    ),
    "and a warm-up": (
        "optimizer.epochs=80",
        "optimizer.warmup=0.5",
        "optimizer.translator_share=0.6",
    ),
    "and fine-tuning": ("optimizer.finetune_share=0.2",),
    "and label-matched sampling": ("data.match_labels=true",),
}
LENGTHS = (10, 20, 40, 60, 80, 100, 150, 200)  # epochs of 10 steps
HALF = 0.5


def between_the_ends(parts: Mapping[str, Sets]) -> dict[str, Entry]:
    """Return `joint` with these settings, between target-only and the oracle."""
    changed = {name: Entry("joint", sets) for name, sets in parts.items()}
    return {ENDS[0]: RACE[ENDS[0]], **changed, ENDS[1]: RACE[ENDS[1]]}


def time_to_quality(
    pairs: Mapping[int, PairedData],
    out: Path,
    names: Sequence[str],
    sets: Sequence[str],
    trainings: int,
) -> None:
    """Print after how many seconds each closes half of the oracle's gain, over all seeds.

    Each is trained for ever longer, its schedule stretched to that length. The ends are those of
    the preset as it is.
    """
    found = race({name: RACE[name] for name in ENDS}, pairs, out, sets, trainings)
    ends = [[each.errors for each in found[name]] for name in ENDS]
    for name in names:
        for epochs in LENGTHS:
            entry = RACE[name]
            longer = Entry(entry.method, (*entry.sets, f"optimizer.epochs={epochs}"), entry.preset)
            label = f"{name}, {epochs} epochs"
            done = race({label: longer}, pairs, out, sets, trainings)[label]
            closed = share([each.errors for each in done], *ends)
            seconds = np.mean([each.seconds for each in done])
            print(f"{label}: {closed:.0%} of the gain in {seconds:.0f} s", flush=True)
            if closed >= HALF:
                break


def main() -> None:
    """Parse the command line and race."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["phantoms", "lgg", "ablation", "added", "time"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trainings", type=int, default=1, help="of each entry with each seed")
    parser.add_argument("--only", nargs="+", help="these entries alone")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="for all entries")
    parser.add_argument("--quick", action="store_true", help="one seed, fewer patients and steps")
    parser.add_argument("--kaggle", type=Path, help="LGG's folder kaggle_3m")
    parser.add_argument("--label", help="what is predicted: age, sex; of LGG level too")
    parser.add_argument("--out", type=Path, default=Path("bench-out/scarce"))
    arguments = parser.parse_args()
    if (arguments.what == "lgg") != (arguments.kaggle is not None):
        parser.error("lgg, and nothing else, takes --kaggle")
    of = {
        "ablation": between_the_ends(WITHOUT),
        "added": between_the_ends({n: (*PAPERS, *sets) for n, sets in ADDED.items()}),
    }
    entries = of.get(arguments.what, RACE)
    if unknown := [name for name in arguments.only or () if name not in entries]:
        parser.error(f"there is no entry '{unknown[0]}'; there are: {', '.join(entries)}")
    chosen = {n: e for n, e in entries.items() if not arguments.only or n in arguments.only}
    if arguments.quick:
        chosen.pop(SLOW, None)
    data = "lgg" if arguments.what == "lgg" else "phantoms"
    parts = [data, arguments.label, "quick" * arguments.quick]
    out = arguments.out / "-".join(filter(None, parts))
    pairs = {
        seed: paired_data(out / f"seed-{seed}", arguments, seed)
        for seed in arguments.seeds[: 1 if arguments.quick else None]
    }
    sets = [*arguments.sets, *(QUICK if arguments.quick else ())]
    if arguments.what == "time":
        names = [name for name in ("joint", SLOW) if name in chosen]
        time_to_quality(pairs, out, names, sets, arguments.trainings)
    else:
        results = race(chosen, pairs, out, sets, arguments.trainings)
        print("\n".join(table(results, unit=1.0 if data == "lgg" else HU)))
    print(json.dumps(facts(torch.device("cpu"))))


def paired_data(folder: Path, arguments: argparse.Namespace, seed: int) -> PairedData:
    """Write what is raced on, or find it."""
    few = {"target": 10, "test": 10} if arguments.what == "lgg" else QUICK_PATIENTS
    sizes = {**(few if arguments.quick else {}), "seed": seed}
    sizes |= {"label": arguments.label} if arguments.label else {}
    if arguments.what == "lgg":
        return write_lgg_pairs(folder, arguments.kaggle, **sizes)
    return write_phantom_pairs(folder, **sizes)


if __name__ == "__main__":
    main()
