"""Phantom scans as the files that hospitals have: CT and PET in DICOM, MRI as 16-bit PNG."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from medxlate.images.dicom import new_uid, write_dicom
from medxlate.phantoms.anatomy import FOV_MM, Anatomy, Array, draw_anatomy, render

AGES = (20.0, 88.0)
POSITIONS = (0.1, 0.95)
SLICE_SPACING_MM = 6.0


def write_phantoms(
    folder: Path,
    *,
    patients: Mapping[str, int],
    slices: int,
    size: int = 128,
    seed: int = 0,
) -> None:
    """Write scans of generated patients, different ones for every modality.

    ``ct/`` and ``pet/`` hold single-frame DICOM files in a folder a patient, with ages in the
    headers; ``mri/`` holds PNG files and ``labels.csv`` (file, patient, age, sex).

    Args:
        folder: Where to write.
        patients: How many patients of each modality (ct, mri, pet).
        slices: Slices of each patient.
        size: Side of the images, pixels.
        seed: Everything drawn follows from it.
    """
    for number, (modality, count) in enumerate(sorted(patients.items())):
        random = np.random.default_rng([seed, number])
        rows: list[dict[str, Any]] = []
        for patient in range(count):
            identity = f"{modality.upper()}{patient + 1:03d}"
            anatomy = draw_anatomy(random, age=float(np.floor(random.uniform(*AGES))))
            rows += _write_patient(
                folder / modality, identity, anatomy, modality, slices, size, random
            )
        if modality == "mri":
            _write_labels(folder / modality / "labels.csv", rows)


def _write_patient(
    folder: Path,
    identity: str,
    anatomy: Anatomy,
    modality: str,
    slices: int,
    size: int,
    random: np.random.Generator,
) -> list[dict[str, Any]]:
    rows = []
    series = new_uid(identity, str(anatomy.shape_seed))
    for i, position in enumerate(np.linspace(*POSITIONS, slices)):
        image = render(anatomy, modality, float(position), size=size, rng=random)
        if modality == "mri":
            path = folder / f"{identity}_{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(np.clip(np.rint(image), 0, 65535).astype(np.uint16)).save(path)
        else:
            path = folder / identity / f"{i:02d}.dcm"
            _write_slice(path, image, modality, identity, anatomy, i, series)
        rows.append(
            {"file": path.name, "patient": identity, "age": anatomy.age, "sex": anatomy.sex}
        )
    return rows


def _write_slice(
    path: Path,
    image: Array,
    modality: str,
    identity: str,
    anatomy: Anatomy,
    number: int,
    series: str,
) -> None:
    spacing = FOV_MM / image.shape[0]
    attributes: dict[str, Any] = {
        "PatientID": identity,
        "PatientName": f"Phantom^{identity}",
        "PatientAge": f"{int(anatomy.age):03d}Y",
        "PatientSex": anatomy.sex,
        "SeriesInstanceUID": series,
        "InstanceNumber": number + 1,
        "PixelSpacing": [spacing, spacing],
        "SliceThickness": SLICE_SPACING_MM,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [-FOV_MM / 2, -FOV_MM / 2, number * SLICE_SPACING_MM],
    }
    if modality == "ct":  # stored = HU + 1024, as scanners do
        attributes |= {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}
        stored = np.clip(np.rint(image) + 1024, 0, 4095).astype(np.uint16)
        write_dicom(path, stored, modality="CT", attributes=attributes)
        return
    slope = max(float(image.max()), 1.0) / 32767
    attributes |= {"RescaleSlope": f"{slope:.8g}", "RescaleIntercept": 0, "Units": "BQML"}
    stored = np.rint(image / np.float32(f"{slope:.8g}")).astype(np.int16)
    write_dicom(path, stored, modality="PT", attributes=attributes)


def _write_labels(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
