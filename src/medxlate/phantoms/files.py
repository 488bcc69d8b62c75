"""Phantom scans as the files that hospitals have: CT and PET in DICOM, MRI in NIfTI."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medxlate.base.errors import UsageError
from medxlate.base.events import Listener, Progress, silent
from medxlate.images.dicom.tags import new_uid
from medxlate.images.dicom.write import write_dicom
from medxlate.images.orientation import Geometry
from medxlate.images.volumes import write_volume
from medxlate.phantoms.anatomy import (
    FOV_MM,
    MODALITIES,
    Anatomy,
    Array,
    draw_anatomy,
    render,
)

AGES = (20.0, 88.0)
POSITIONS = (0.1, 0.95)
SLICE_SPACING_MM = 6.0
PAIRED = "paired_ct"  # the folder of CT scans of MRI and PET patients
_PAIR_NOISE = 1  # a random stream of its own: without pairs, everything else is the same

# 370 MBq of F-18 an hour before the scan, 75 kg: SUV 1 is 3379 Bq/ml.
PET: Mapping[str, Any] = {
    "Units": "BQML",
    "CorrectedImage": ["ATTN", "DECY"],
    "DecayCorrection": "START",
    "PatientWeight": 75,
    "SeriesDate": "20200102",
    "SeriesTime": "100000",
    "AcquisitionDate": "20200102",
    "AcquisitionTime": "100000",
    "RadiopharmaceuticalInformationSequence": [
        {
            "RadionuclideTotalDose": 370e6,
            "RadionuclideHalfLife": 6586.2,
            "RadiopharmaceuticalStartTime": "090000",
        }
    ],
}


def write_phantoms(
    folder: Path,
    *,
    patients: Mapping[str, int],
    slices: int,
    paired: Mapping[str, int] | None = None,
    size: int = 128,
    seed: int = 0,
    listener: Listener = silent,
) -> None:
    """Write scans of generated patients, different ones for every modality.

    ``ct/`` and ``pet/`` hold single-frame DICOM files in a folder a patient, with ages in the
    headers, PET with what SUV is computed from; ``mri/`` holds a NIfTI volume a patient and
    ``labels.csv`` (file, patient, age, sex). ``paired_ct/`` is laid out as ``ct/`` and holds CT
    scans of the first MRI and PET patients, as many as ``paired`` says: the same ids, heads and
    slice positions, with noise of their own. All other files are the same with and without pairs.

    Args:
        folder: Where to write.
        patients: How many patients of each modality (ct, mri, pet).
        slices: Slices of each patient.
        paired: How many of the patients of mri and of pet have a CT too.
        size: Side of the images, pixels.
        seed: Everything drawn follows from it.
        listener: Receives progress.

    Raises:
        UsageError: A modality is unknown, a count is below 1, or there are more pairs than
            patients of MRI or PET.
    """
    paired = paired or {}
    check_counts(patients, paired)
    done, total = 0, sum(patients.values()) + sum(paired.values())
    for number, (modality, count) in enumerate(sorted(patients.items())):
        random = np.random.default_rng([seed, number])
        noise = np.random.default_rng([seed, number, _PAIR_NOISE])
        rows: list[dict[str, Any]] = []
        for patient in range(count):
            name = identity(modality, patient + 1)
            anatomy = draw_anatomy(random, age=float(np.floor(random.uniform(*AGES))))
            images = _scan(anatomy, modality, slices, size, random)
            if modality == "mri":
                rows.append(_write_volume(folder / modality, name, anatomy, images))
            else:
                _write_series(folder / modality / name, name, anatomy, modality, images)
            if patient < paired.get(modality, 0):
                images = _scan(anatomy, "ct", slices, size, noise)
                _write_series(folder / PAIRED / name, name, anatomy, "ct", images)
                done += 1
            done += 1
            listener(Progress("patients", done, total))
        if modality == "mri":
            _write_labels(folder / modality / "labels.csv", rows)


def identity(modality: str, number: int) -> str:
    """Return the id of a modality's patient, counted from 1, such as CT001."""
    return f"{modality.upper()}{number:03d}"


def check_counts(patients: Mapping[str, int], paired: Mapping[str, int]) -> None:
    """Raise UsageError for patients that ``write_phantoms`` cannot write."""
    if not patients:
        raise UsageError("No patients were asked for.", "Give a modality and a number of patients.")
    for modality, count in patients.items():
        if modality not in MODALITIES:
            raise UsageError(
                f"{modality} scans cannot be generated.", f"Known: {', '.join(MODALITIES)}."
            )
        if count < 1:
            raise UsageError(f"{count} {modality} patients cannot be generated.", "Give 1 or more.")
    for modality, count in paired.items():
        there = patients.get(modality, 0) if modality != "ct" else 0
        if not 0 <= count <= there:
            raise UsageError(
                f"{count} {modality} patients with an additional CT cannot be generated: only "
                f"{there} are possible.",
                "Pairs are CT scans of MRI or PET patients: ask for at most as many as patients.",
            )


def _scan(
    anatomy: Anatomy, modality: str, slices: int, size: int, random: np.random.Generator
) -> list[Array]:
    """Return the slices of a scan, evenly spread over the brain, from the bottom up."""
    return [
        render(anatomy, modality, float(position), size=size, rng=random)
        for position in np.linspace(*POSITIONS, slices)
    ]


def _write_volume(
    folder: Path, identity: str, anatomy: Anatomy, images: list[Array]
) -> dict[str, Any]:
    """Write a NIfTI volume and return its row of the table."""
    path = folder / f"{identity}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    size, spacing = images[0].shape[0], FOV_MM / images[0].shape[0]
    geometry = Geometry(
        size=(size, size, len(images)),
        spacing=(spacing, spacing, SLICE_SPACING_MM),
        origin=(-FOV_MM / 2, -FOV_MM / 2, 0.0),
        direction=(1, 0, 0, 0, 1, 0, 0, 0, 1),
    )
    voxels = np.clip(np.rint(np.stack(images)), 0, 32767).astype(np.int16)
    write_volume(path, voxels, geometry, facts={"description": "SYNTHETIC phantom"})
    return {"file": path.name, "patient": identity, "age": anatomy.age, "sex": anatomy.sex}


def _write_series(
    folder: Path, identity: str, anatomy: Anatomy, modality: str, images: list[Array]
) -> None:
    series = new_uid(identity, str(anatomy.shape_seed))
    for number, image in enumerate(images):
        path = folder / f"{number:02d}.dcm"
        _write_slice(path, image, modality, identity, anatomy, number, series)


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
    attributes |= {"RescaleSlope": f"{slope:.8g}", "RescaleIntercept": 0, **PET}
    stored = np.rint(image / np.float32(f"{slope:.8g}")).astype(np.int16)
    write_dicom(path, stored, modality="PT", attributes=attributes)


def _write_labels(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
