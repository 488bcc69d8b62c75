"""A few raw images with their table, and short ways to prepare them and to look at the result."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd

from conftest import Array, noise, save_dicom, save_raster, tree, truncate
from medxlate.dataset.index import Dataset
from medxlate.dataset.job import PrepareResult
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare

SIZE = 32
KEY = "5a" * 32  # of the pseudonyms, where bytes are compared
PRIVATE = {"pseudonym.key", "identifiers.json"}  # they hold secrets, and stay in the dataset
ROWS = [
    ("a.png", "60", "Ann"),
    ("b.png", "61", "Ann"),
    ("c.png", "62", "Bob"),
    ("d.png", "63", "Cem"),
]


def write_table(path: Path, rows=ROWS, columns=("file", "age", "who"), separator=",") -> Path:
    lines = [separator.join(row) for row in (columns, *rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_raw(folder: Path) -> Path:
    """Write four images of three patients, and their table."""
    for i, (name, *_) in enumerate(ROWS):
        save_raster(folder / name, noise(40, 40, seed=i))
    write_table(folder / "t.csv")
    return folder


def plant_key(data: Path) -> Path:
    """Make a dataset folder with a known key, so that its bytes can be compared."""
    data.mkdir(parents=True)
    (data / "pseudonym.key").write_text(KEY)
    return data


def options(raw: Path, **changes: Any) -> PrepareOptions:
    known = PrepareOptions(label="age", labels=raw / "t.csv", file="file", patient="who")
    return replace(known, **changes)


def run(
    raw: Path, data: Path, modality: str = "mri", *, size: int | None = SIZE, **changes: Any
) -> PrepareResult:
    names = ("overwrite", "strict", "listener", "layout", "dry_run")
    further = {name: changes.pop(name) for name in names if name in changes}
    if "options" not in changes:
        changes = {"options": options(raw, **changes)}
    return prepare(raw, modality=modality, data=data, size=size, **changes, **further)


def slices(data: Path, modality: str = "mri") -> pd.DataFrame:
    return Dataset(data).modality(modality).slices


def record(data: Path, modality: str = "mri") -> dict[str, Any]:
    return dict(json.loads((data / modality / "prepare.json").read_text()))


def by_file(data: Path, column: str, modality: str = "mri") -> dict[str, Any]:
    frame = slices(data, modality)
    return dict(zip(frame["file"], frame[column], strict=True))


def public(data: Path) -> bytes:
    """Return the content of all files but those that hold secrets."""
    files = {name: text for name, text in tree(data).items() if Path(name).name not in PRIVATE}
    return b"".join(files.values())


def write_series(
    folder: Path,
    volume: Array,
    *,
    patient: str,
    age: int = 60,
    uid: str = "",
    distance: float = 2.0,
    **attributes: Any,
) -> list[str]:
    """Write a CT series of slices [N, H, W] in HU, from the feet up.

    File names and InstanceNumber follow another order, so that only the position tells. Return
    the names of the files, from the feet up.
    """
    count = len(volume)
    names = [f"{(7 * number + 3) % 97:02d}.dcm" for number in range(count)]
    for number, (name, pixels) in enumerate(zip(names, volume, strict=True)):
        save_dicom(
            folder / name,
            (pixels + 1024).astype(np.int16),
            **{
                "PatientID": patient,
                "PatientAge": f"{age:03d}Y",
                "SeriesInstanceUID": uid or f"1.2.826.0.1.99.{zlib.crc32(str(folder).encode())}",
                "InstanceNumber": count - number,
                "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
                "ImagePositionPatient": [0, 0, number * distance - 50],
                "PixelSpacing": [1, 1],
                **attributes,
            },
        )
    return names


def tissue(count: int, side: int = 24, seed: int = 0) -> Array:
    """Return slices [N, S, S] of random values in HU, within the soft-tissue window."""
    return np.random.default_rng(seed).integers(-150, 230, (count, side, side))


def save_nifti(path: Path, voxels: Array, *, spacing: float = 1.0, **sidecar: Any) -> Path:
    """Write voxels [x, y, z(, t)], x to the right, y to the front, z to the head, by nibabel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1, 1, spacing, 1])), path)
    if sidecar:
        stem = path.name.removesuffix(".gz").removesuffix(".nii")
        (path.parent / f"{stem}.json").write_text(json.dumps(sidecar))
    return path


TAGS = PrepareOptions(label="tag:PatientAge", patient="tag:PatientID")


def write_mixed(folder: Path) -> Path:
    """Write CT as archives hold it: series, a volume file, and what cannot be used.

    12 series of 4 slices of which one is a copy of another's, a NIfTI volume with its JSON file, a
    localizer, a truncated file, a PNG without label, and a table that nobody asked for.
    """
    for number in range(12):
        patient, seed = f"P{number // 2}", number if number < 11 else 0
        write_series(
            folder / f"s{number:02d}", tissue(4, seed=seed), patient=patient, age=50 + number
        )
    voxels = tissue(24, seed=99).astype(np.int16)
    save_nifti(folder / "v" / "a.nii.gz", voxels, PatientAge="033Y", PatientID="Q")
    save_dicom(
        folder / "s00" / "scout.dcm", noise(24, 24, dtype=np.int16),
        ImageType=["DERIVED", "SECONDARY", "LOCALIZER"],
    )  # fmt: skip
    truncate(save_dicom(folder / "s01" / "cut.dcm", noise(24, 24, dtype=np.int16)))
    save_raster(folder / "s02" / "shot.png", noise(24, 24))
    (folder / "notes.csv").write_text("nothing\n")
    return folder
