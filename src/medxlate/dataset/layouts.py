"""Layouts in which public data sets are published, for ``prepare``.

A layout fills in only what the user left open.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from medxlate.base.errors import DataError, UsageError
from medxlate.base.plugins import blamed, choose, expected
from medxlate.dataset.label_table import read_table
from medxlate.dataset.options import PrepareOptions

BRAIN = "brain"
DICOM_MODALITIES = {"ct": "CT", "pet": "PT"}
ANATOMICAL_MR = re.compile(r"_(T1w|T2w|T2starw|PDw|PDT2|FLAIR|UNIT1|inplaneT1|inplaneT2|angio)\b")
NOT_MAGNITUDE = ("*_part-phase_*", "*_part-real_*", "*_part-imag_*")
YEARS = frozenset({"", "y", "yr", "yrs", "year", "years", "n/a"})


def lgg_mri(modality: str, raw: Path, options: PrepareOptions) -> PrepareOptions:
    """Fill in the layout of the LGG MRI segmentation set (Buda 2019), the paper's MRI source.

    ``kaggle_3m/<case>/<case>_<slice>.tif`` with pre-contrast T1, FLAIR and post-contrast T1 as
    channels (FLAIR unless ``channel`` says otherwise), ``*_mask.tif`` left out, ages in
    ``data.csv`` by patient: the first 12 characters of the case. The archive holds the folder
    twice; the one is taken.
    """
    labels, include = options.labels, options.include
    if labels is None:
        tables = sorted(raw.rglob("data.csv"))
        if not tables:
            raise DataError(
                f"The layout lgg-mri found no data.csv in {raw}.",
                "Give the folder kaggle_3m or one above it.",
            )
        labels = tables[0]
        include = include or (_below(raw, labels.parent) + "*/*.tif",)
    return replace(
        options,
        labels=labels,
        label=options.label or "age_at_initial_pathologic",
        patient=options.patient or r"regex:(TCGA_\w\w_\w{4})_\d+_\d+\.tif$",
        patient_column=options.patient_column or "Patient",
        volume_from=options.volume_from or "folder",
        channel=1 if options.channel is None else options.channel,
        recipe="as-is" if options.recipe == "auto" else options.recipe,
        include=include,
        exclude=(*options.exclude, "*_mask.tif"),
    )


def ct_ich(modality: str, raw: Path, options: PrepareOptions) -> PrepareOptions:
    """Fill in the layout of CT-ICH (Hssayeni 2020, PhysioNet), the paper's CT target.

    The NIfTI edition (1.3.1) has ``ct_scans/<nnn>.nii`` in HU and ``masks/<nnn>.nii``; the JPEG
    editions have ``Patients_CT/<nnn>/brain/<slice>.jpg``, windowed already, the masks as
    ``<slice>_HGE_Seg.jpg`` beside them, and the bone window in ``bone/``. Where both lie below
    ``raw``, the NIfTI edition is taken. Ages are in ``patient_demographics.csv`` by
    ``Patient Number``: the folder's or file's number without its leading zeros.
    """
    volumes, pictures = _folder(raw, "ct_scans"), _folder(raw, "Patients_CT")
    scans = volumes if pictures != raw and volumes is not None else pictures
    if scans is None:
        raise DataError(
            f"The layout ct-ich found neither ct_scans nor Patients_CT in {raw}.",
            "Give the folder into which you unpacked the download.",
        )
    below = _below(raw, scans)
    labels = options.labels or _demographics(raw, scans)
    options = replace(
        options,
        labels=labels,
        label=options.label or _column(labels, "Age (years)", "--label"),
        patient_column=options.patient_column
        or _column(labels, "Patient Number", "--patient-column"),
    )
    if scans == volumes:
        recipe = "ct" if options.recipe == "auto" else options.recipe
        return replace(
            options,
            patient=options.patient or r"regex:(?:^|/)0*(\d+)\.nii(?:\.gz)?$",
            recipe=recipe,
            window=options.window or (BRAIN if recipe == "ct" else None),
            include=options.include or (below + "*.nii", below + "*.nii.gz"),
            exclude=(*options.exclude, "**/masks/*"),
        )
    return replace(
        options,
        patient=options.patient or r"regex:(?:^|/)0*(\d+)/(?:brain|bone)/[^/]+$",
        recipe="as-is" if options.recipe == "auto" else options.recipe,
        volume_from=options.volume_from or "folder",
        include=options.include or (below + "*/brain/*.jpg",),
        exclude=(*options.exclude, "*_HGE_Seg.jpg"),
    )


def head_neck_pet_ct(modality: str, raw: Path, options: PrepareOptions) -> PrepareOptions:
    """Fill in the layout of Head-Neck-PET-CT (Vallières 2017, TCIA), the paper's PET source.

    ``HN-<hospital>-<nnn>/<study>/<series>/*.dcm`` with CT, PT and RTSTRUCT series; the modality's
    name, ``ct`` or ``pet``, chooses among them. Patient and age are in the headers.
    """
    if modality not in DICOM_MODALITIES:
        raise UsageError(
            f"The layout head-neck-pet-ct has no modality '{modality}'.",
            "Use --modality ct or --modality pet: it selects the DICOM series.",
        )
    patients = (folder for depth in ("", "*/", "*/*/") for folder in raw.glob(depth + "HN-*"))
    if not raw.resolve().name.startswith("HN-") and next(patients, None) is None:
        raise DataError(
            f"The layout head-neck-pet-ct found no patient folder (HN-CHUM-001...) in {raw}.",
            "Give the folder Head-Neck-PET-CT or the one that contains it.",
        )
    return replace(
        options,
        label=options.label or "tag:PatientAge",
        patient=options.patient or "tag:PatientID",
        dicom_modality=options.dicom_modality or DICOM_MODALITIES[modality],
        recipe=modality if options.recipe == "auto" else options.recipe,
    )


def bids(modality: str, raw: Path, options: PrepareOptions) -> PrepareOptions:
    """Fill in the Brain Imaging Data Structure (bids-specification.readthedocs.io).

    ``sub-<label>/[ses-<label>/]anat/*_T1w.nii.gz`` (or what ``include`` says), ages in
    ``participants.tsv`` by ``participant_id``, or by session in ``sub-X/sub-X_sessions.tsv``.
    ``derivatives/`` and ``sourcedata/`` are left out.
    """
    labels = options.labels or raw / "participants.tsv"
    if options.labels is None and not labels.is_file():
        raise DataError(
            f"The layout bids found no participants.tsv in {raw}.",
            "Give the root of the data set, which contains participants.tsv and sub-*.",
        )
    include = options.include or ("sub-*/**/anat/*_T1w.nii", "sub-*/**/anat/*_T1w.nii.gz")
    label = options.label or "age"
    is_mr = options.recipe == "auto" and all(ANATOMICAL_MR.search(name) for name in include)
    return replace(
        options,
        labels=labels,
        label=label,
        unit=_bids_unit(raw, labels, label) if options.unit is None else options.unit,
        patient=options.patient or "regex:(?:^|/)(sub-[^/_]+)/",
        patient_column=options.patient_column or "participant_id",
        sessions=options.sessions or raw,
        recipe="mr" if is_mr else options.recipe,
        include=include,
        exclude=(*options.exclude, "derivatives/**", "sourcedata/**", *NOT_MAGNITUDE),
    )


# From the modality's name, the raw folder and the options of the user to these options, filled in
# where the user left them open.
Layout = Callable[[str, Path, PrepareOptions], PrepareOptions]
LAYOUTS: dict[str, Layout] = {
    "lgg-mri": lgg_mri,
    "ct-ich": ct_ich,
    "head-neck-pet-ct": head_neck_pet_ct,
    "bids": bids,
}


def apply_layout(name: str, modality: str, raw: Path, options: PrepareOptions) -> PrepareOptions:
    """Return the options, filled in from the layout where the user left them open.

    Args:
        name: One of LAYOUTS, or a plug-in's.
        modality: Its name in the dataset.
        raw: The folder to search.
        options: Those of the user.

    Raises:
        UsageError: There is no such layout, or it has no such modality.
        DataError: The folder is not laid out like this.
        PluginError: The plug-in cannot be loaded, or fails.
    """
    fill_in = choose("layouts", name, LAYOUTS)
    if name in LAYOUTS:
        return fill_in(modality, raw, options)
    with blamed("layouts", name):
        return expected(fill_in(modality, raw, options), PrepareOptions, "layouts", name)


def _folder(raw: Path, name: str) -> Path | None:
    """Return ``raw`` if it is called so, else the first folder of that name below it."""
    if raw.resolve().name == name:
        return raw
    return next((path for path in sorted(raw.rglob(name)) if path.is_dir()), None)


def _below(raw: Path, folder: Path) -> str:
    """Return the beginning of a glob pattern for what lies in ``folder``."""
    relative = folder.relative_to(raw).as_posix()
    return "" if relative == "." else glob.escape(relative) + "/"


def _demographics(raw: Path, scans: Path) -> Path:
    """Return the demographics table of CT-ICH; editions differ in how its name is written."""
    name = "patient_demographics.csv"
    beside = scans.parent if scans != raw else raw.resolve().parent
    for table in (*sorted(beside.glob("*.csv")), *sorted(raw.rglob("*.csv"))):
        if table.name.lower() == name:
            return table
    raise DataError(
        f"The layout ct-ich found no {name} next to {scans}.",
        "Put the table where the download has it, or give it with --labels.",
    )


def _column(table: Path, wanted: str, option: str) -> str:
    """Return the column of that name; the published tables break lines within names."""
    columns = read_table(table).columns
    plain = {re.sub(r"\s", "", column).lower(): column for column in columns}
    found = plain.get(re.sub(r"\s", "", wanted).lower())
    if found is None:
        raise DataError(
            f"The layout ct-ich found no column '{wanted}' in {table}.",
            f"Give the column with {option}.",
        )
    return found


def _bids_unit(raw: Path, table: Path, label: str) -> str | None:
    """Return the label's unit where the JSON file of the table, or of sessions, names one.

    BIDS: ages are in years unless ``Units`` says otherwise.
    """
    for path in (table.with_suffix(".json"), raw / "sessions.json"):
        try:
            description = json.loads(path.read_text(encoding="utf-8-sig"))
            unit = str(description[label.rpartition(":")[2]]["Units"]).strip()
        except (OSError, ValueError, LookupError, TypeError):
            continue
        return None if unit.lower() in YEARS else unit
    return None
