"""Label tables for the studies on the paper's MRI and CT in docs/results.md.

    python -m benchmarks.paper_data kaggle_3m lgg-tumour.csv ct-ich tables

Brain slices of adults, by their height among the slices that the patient has, from 0 (lowest) to
100. MRI: T1 and FLAIR of the LGG set as pictures of one modality (``tables/mri/*.png``,
``tables/mri.csv``). CT: the CT-ICH set's brain window (``tables/ct.csv``, files below ``ct-ich``).
For the tumour in a slice: FLAIR of some LGG patients, T1 of the others (``tables/flair.csv``,
``tables/t1.csv``, files below ``kaggle_3m``); nobody is in both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.lgg_tables import FLAIR, T1, slices, without_t1

CHANNELS = {"t1": T1, "flair": FLAIR}
MRI_LEVELS = (45, 90)  # below are face and skull base, above is the vertex
CT_LEVELS = (20, 90)  # of the upper part of each scan, which is all that there is here
ADULT = 18  # years
SEXES = {"1": "female", "2": "male"}  # as the LGG set numbers them
FLAIR_PATIENTS = 56
SEED = 0


def mri(kaggle: Path, out: Path) -> pd.DataFrame:
    """Write T1 and FLAIR of each brain slice; return file, patient, age, sex, sequence.

    Of four patients the files repeat FLAIR in the place of a missing T1: theirs come twice.
    """
    frame = slices(kaggle)
    frame = frame[frame["level"].between(*MRI_LEVELS)]
    rows = []
    for row in frame.itertuples():
        with Image.open(kaggle / row.file) as image:
            pixels = np.asarray(image)
        for sequence, channel in CHANNELS.items():
            file = f"{Path(row.file).stem}_{sequence}.png"
            Image.fromarray(pixels[..., channel]).save(out / file)
            rows.append((file, row.patient, row.age, SEXES[row.sex], sequence))
    return pd.DataFrame(rows, columns=["file", "patient", "age", "sex", "sequence"])


def ct(folder: Path) -> pd.DataFrame:
    """Return file, patient, age, sex of each brain slice of an adult."""
    people = pd.read_csv(folder / "patient_demographics.csv").dropna(subset=["Patient Number"])
    ages = people[next(name for name in people if name.startswith("Age"))]
    rows = []
    for patient, years, sex in zip(people["Patient Number"], ages, people["Gender"], strict=True):
        number = f"{int(patient):03d}"
        brain = (folder / "Patients_CT" / number / "brain").glob("*.jpg")
        files = sorted((p for p in brain if p.stem.isdigit()), key=lambda p: int(p.stem))
        for file, height in zip(files, np.linspace(0, 100, len(files)), strict=True):
            if CT_LEVELS[0] <= height <= CT_LEVELS[1]:
                name = file.relative_to(folder).as_posix()
                rows.append((name, number, float(years), str(sex).lower()))
    frame = pd.DataFrame(rows, columns=["file", "patient", "age", "sex"])
    return frame[frame["age"] >= ADULT]


def main() -> None:
    """Write the tables, and the pictures of the MRI."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("kaggle", "tumour", "ct", "out"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    (options.out / "mri").mkdir(parents=True, exist_ok=True)
    tumour = pd.read_csv(options.tumour)
    tumour["file"] = (
        tumour["file"].str.replace(r"_\d+\.tif$", "", regex=True) + "/" + tumour["file"]
    )
    tumour = tumour[~tumour["patient"].isin(without_t1(options.kaggle))]
    people = np.random.default_rng(SEED).permutation(sorted(tumour["patient"].unique()))
    flair = tumour["patient"].isin(people[:FLAIR_PATIENTS])
    tables = {
        "mri": mri(options.kaggle, options.out / "mri"),
        "ct": ct(options.ct),
        "flair": tumour[flair],
        "t1": tumour[~flair],
    }
    for name, table in tables.items():
        table.to_csv(options.out / f"{name}.csv", index=False)
        print(f"{name}: {len(table)} images of {table['patient'].nunique()} patients")


if __name__ == "__main__":
    main()
