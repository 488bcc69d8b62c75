"""Label tables for the study in docs/results.md: T1 of some patients, FLAIR of others.

    python benchmarks/lgg_tables.py kaggle_3m tables --target-patients 30

writes ``tables/t1.csv`` and ``tables/flair.csv``: file, patient, level, age, sex. The level is the
height of a slice among its patient's slices, 0 (lowest) to 100 (highest), by the number in its
file's name. Patients are dealt out at random with a fixed seed; nobody is in both tables.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

SEED = 0
T1, FLAIR = 0, 1  # channels


def without_t1(folder: Path) -> set[str]:
    """Return the patients whose T1 is missing: the published files repeat FLAIR in its place."""
    found = set()
    for path in folder.rglob("*.tif"):
        if path.name[:12] not in found and not path.stem.endswith("_mask"):
            with Image.open(path) as image:
                pixels = np.asarray(image)
            if np.array_equal(pixels[..., T1], pixels[..., FLAIR]):
                found.add(path.name[:12])
    return found


def slices(folder: Path) -> pd.DataFrame:
    """Return file, patient, level, age and sex of every slice; masks are left out."""
    files = [path for path in folder.rglob("*.tif") if not path.stem.endswith("_mask")]
    frame = pd.DataFrame(
        {
            "file": [path.relative_to(folder).as_posix() for path in files],
            "patient": [path.name[:12] for path in files],
            "number": [int(path.stem.rpartition("_")[2]) for path in files],
        }
    ).sort_values(["patient", "number"])
    numbers = frame.groupby("patient")["number"]
    low, high = numbers.transform("min"), numbers.transform("max")
    frame["level"] = (100 * (frame["number"] - low) / (high - low)).round(2)
    people = pd.read_csv(folder / "data.csv").set_index("Patient")
    frame["age"] = frame["patient"].map(people["age_at_initial_pathologic"])
    frame["sex"] = frame["patient"].map(people["gender"]).map({1: "1", 2: "2"})
    return frame.dropna(subset=["age"]).drop(columns="number")


def main() -> None:
    """Write the two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="kaggle_3m")
    parser.add_argument("out", type=Path)
    parser.add_argument("--target-patients", type=int, default=30)
    options = parser.parse_args()
    frame = slices(options.folder)
    patients = np.random.default_rng(SEED).permutation(sorted(frame["patient"].unique()))
    chosen = frame["patient"].isin(patients[: options.target_patients])
    options.out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("flair", frame[chosen]), ("t1", frame[~chosen])):
        rows.to_csv(options.out / f"{name}.csv", index=False)
        print(f"{name}: {len(rows)} slices of {rows['patient'].nunique()} patients")


if __name__ == "__main__":
    main()
