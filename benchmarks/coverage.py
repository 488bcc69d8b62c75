"""Coverage of intervals in simulation: those of ``predict``, and those of ``evaluate``'s figures.

    python -m benchmarks.coverage [--simulations 200]

Every simulation draws validation patients, calibrates as the export does, and measures which share
of new patients' labels the intervals hold. Patients have 1 to 12 slices in 1 to 3 volumes; the
error of a slice is one of the patient, of the volume and of the slice, with deviations 5, 2 and 3,
and patients differ in how hard they are. ``best of 50``: the calibration patients also chose the
best of 50 predictors, as an epoch is chosen.

Then the figures of test patients with four alike slices each: how often ``evaluate``'s interval
holds what the figure is over all patients there could be. Labels are normal; a prediction is the
label, drawn to the mean by half, with an error of the patient (deviation 0.4) and of the slice
(0.2), so that mse, mae and the correlation are known.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import numpy as np
import torch

from medxlate.artifacts.calibration import LEVELS, calibrate, conformal_quantile
from medxlate.dataset.labels import Task
from medxlate.evaluation.intervals import bootstrap
from medxlate.evaluation.prediction_metrics import regression
from medxlate.method.label_transform import LabelTransform

SIMULATIONS = 200
NEW = 400  # patients by whom a calibration is judged
HEAD = LabelTransform(task=Task(kind="regression", name="age", unit="years"))
CHOICES = 50


def draw(random: np.random.Generator, patients: int) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the errors of all slices [N], their patients and their volumes."""
    errors, owners, volumes = [], [], []
    for patient in range(patients):
        hard = random.gamma(4, 0.25)
        own = random.normal(0, 5)
        for volume in range(random.integers(1, 4)):
            slices = random.integers(1, 5)
            shared = own + random.normal(0, 2)
            errors.append(hard * (shared + random.normal(0, 3, slices)))
            owners += [str(patient)] * slices
            volumes += [f"{patient}-{volume}"] * slices
    return np.concatenate(errors), owners, volumes


def covered(
    errors: np.ndarray, owners: list[str], volumes: list[str], widths: Mapping[str, float]
) -> dict[str, float]:
    """Return the share of patients within the intervals; of a slice or volume drawn from each.

    Drawing is done exactly: each patient counts once, by the share of slices or volumes within.
    """
    rows: dict[str, list[int]] = {}
    for row, owner in enumerate(owners):
        rows.setdefault(owner, []).append(row)
    inside: dict[str, list[float]] = {level: [] for level in (*LEVELS, "all slices")}
    for own in rows.values():
        parts: dict[str, list[int]] = {}
        for row in own:
            parts.setdefault(volumes[row], []).append(row)
        means = np.array([errors[part].mean() for part in parts.values()])
        inside["slice"].append(float(np.mean(np.abs(errors[own]) <= widths["slice"])))
        inside["all slices"].append(float(np.mean(np.abs(errors[own]) <= widths["all slices"])))
        inside["volume"].append(float(np.mean(np.abs(means) <= widths["volume"])))
        inside["patient"].append(float(abs(errors[own].mean()) <= widths["patient"]))
    return {level: float(np.mean(found)) for level, found in inside.items()}


def simulate(
    nominal: float,
    *,
    patients: int,
    seed: int,
    new: int = NEW,
    choices: int = 1,
    simulations: int = SIMULATIONS,
) -> dict[str, list[float]]:
    """Return the coverage of each simulation by level.

    ``all slices`` is what is not done: every slice's error counts as if it were a patient's.
    """
    found: dict[str, list[float]] = {level: [] for level in (*LEVELS, "all slices")}
    for number in range(simulations):
        random = np.random.default_rng([seed, number])
        errors, owners, volumes = draw(random, patients)
        if choices > 1:  # predictors whose errors are mostly alike, as those of epochs are
            own = {name: i for i, name in enumerate(dict.fromkeys(owners))}
            places = [own[name] for name in owners]
            others = [errors + random.normal(0, 2, len(own))[places] for _ in range(choices)]
            errors = min(others, key=lambda each: float(np.mean(each**2)))
        calibration = calibrate(
            torch.from_numpy(errors)[:, None],
            torch.zeros(len(errors)),
            patients=owners,
            volumes=volumes,
            head=HEAD,
        )
        widths: dict[str, float] = {
            level: calibration.half_width(level, nominal) for level in LEVELS
        }
        widths["all slices"] = conformal_quantile(np.abs(errors).tolist(), nominal)
        theirs, their_owners, their_volumes = draw(random, new)
        if choices > 1:
            own = {name: i for i, name in enumerate(dict.fromkeys(their_owners))}
            theirs = theirs + random.normal(0, 2, len(own))[[own[n] for n in their_owners]]
        for level, share in covered(theirs, their_owners, their_volumes, widths).items():
            found[level].append(share)
    return found


SLOPE, OF_PATIENT, OF_SLICE = 0.5, 0.4, 0.2
_ERROR = float(np.sqrt((1 - SLOPE) ** 2 + OF_PATIENT**2 + OF_SLICE**2))
TRUTH = {
    "mse": _ERROR**2,
    "mae": _ERROR * float(np.sqrt(2 / np.pi)),
    "pearson": SLOPE / float(np.sqrt(SLOPE**2 + OF_PATIENT**2 + OF_SLICE**2)),
}


def figures_covered(patients: int, *, simulations: int, seed: int = 0) -> dict[str, float]:
    """Return by figure the share of simulated test sets whose interval holds the truth."""
    random = np.random.default_rng([seed, patients])
    held = dict.fromkeys(TRUTH, 0)
    owners = [f"p{i // 4}" for i in range(4 * patients)]
    for _ in range(simulations):
        label = np.repeat(random.normal(0, 1, patients), 4)
        shared = np.repeat(random.normal(0, OF_PATIENT, patients), 4)
        predicted = SLOPE * label + shared + random.normal(0, OF_SLICE, len(label))
        found = bootstrap(lambda w, p=predicted, t=label: regression(p, t, w, 0.0), owners)
        for name, truth in TRUTH.items():
            low, high = found[name] or (np.nan, np.nan)
            held[name] += low <= truth <= high
    return {name: count / simulations for name, count in held.items()}


def main() -> None:
    """Print a table of mean coverages, and the deviation between calibrations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=SIMULATIONS)
    count = parser.parse_args().simulations
    print("| patients | nominal | slice | volume | patient | patient, best of 50 | all slices |")
    print("|---|---|---|---|---|---|---|")
    for patients in (20, 40, 100):
        for nominal in (0.8, 0.9, 0.95):
            plain = simulate(nominal, patients=patients, seed=0, simulations=count)
            chosen = simulate(
                nominal, patients=patients, seed=0, choices=CHOICES, simulations=count
            )
            cells = [plain["slice"], plain["volume"], plain["patient"], chosen["patient"]]
            cells.append(plain["all slices"])
            text = " | ".join(f"{100 * np.mean(c):.1f} ± {100 * np.std(c):.1f}" for c in cells)
            print(f"| {patients} | {nominal:.0%} | {text} |")
    print("\n| test patients | mse | mae | pearson |\n|---|---|---|---|")
    for patients in (5, 7, 10, 20, 50, 100):
        shares = figures_covered(patients, simulations=5 * count)
        print(f"| {patients} | {' | '.join(f'{100 * s:.1f}' for s in shares.values())} |")


if __name__ == "__main__":
    main()
