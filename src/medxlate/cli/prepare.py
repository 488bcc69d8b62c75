"""``medxlate prepare``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medxlate.cli import complete
from medxlate.cli.options import (
    HARDWARE,
    INPUT,
    INTENSITIES,
    LABELS,
    OUTPUT,
    PATIENTS,
    Data,
    DicomModality,
    Exclude,
    Force,
    Include,
    Json,
    Overwrite,
    Volume,
    Where,
    choice,
    flag,
    listed,
    option,
    pair,
    settings_of,
    window_of,
)

if TYPE_CHECKING:
    from medxlate.cli.console import ConsoleTable
    from medxlate.dataset.index import DatasetInfo
    from medxlate.dataset.job import PrepareResult

TaskKind = Literal["regression", "classification"]
Plane = Literal["axial", "coronal", "sagittal"]


def prepare(
    raw: Annotated[
        Path, typer.Argument(metavar="RAW", help="Folder of images, searched recursively.")
    ],
    modality: Annotated[
        str,
        option(
            "--modality",
            panel=INPUT,
            metavar="NAME",
            help="Name of the modality in the dataset: ct, mri, pet, xray...",
        ),
    ],
    layout: Annotated[
        str | None,
        choice(
            "--layout",
            words=complete.LAYOUTS,
            panel=INPUT,
            metavar="NAME",
            help="The folder holds a public data set as it is published: {words}, or a "
            "plug-in's layout. Fills in the options for it.",
            is_open=True,
            plugins="layouts",
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", hidden=True)] = None,
    include: Include = None,
    exclude: Exclude = None,
    where: Where = None,
    dicom_modality: DicomModality = "",
    force: Force = False,
    plane: Annotated[
        Plane,
        choice(
            "--plane",
            words=complete.PLANES,
            panel=INPUT,
            metavar="NAME",
            help="Plane along which volumes are cut into slices: {words}.",
        ),
    ] = "axial",
    volume: Volume = None,
    volume_from: Annotated[
        str | None,
        option(
            "--volume-from",
            panel=INPUT,
            metavar="RULE",
            help="Which pictures are the slices of one volume: folder (all in one folder), "
            "folder:N (all below the Nth folder of the path) or regex:PATTERN.",
        ),
    ] = None,
    channel: Annotated[
        int | None,
        option(
            "--channel",
            panel=INPUT,
            metavar="N",
            min=0,
            help="Which channel of colour images to read, counted from 0.",
        ),
    ] = None,
    label: Annotated[
        str | None,
        option(
            "--label",
            panel=LABELS,
            metavar="COLUMN",
            help="The label: a column of --labels, or a DICOM tag such as PatientAge.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        option(
            "--labels",
            panel=LABELS,
            metavar="FILE",
            help="Label table: CSV, TSV, semicolon-separated or XLSX.",
        ),
    ] = None,
    file: Annotated[
        str | None,
        option(
            "--file",
            panel=LABELS,
            metavar="COLUMN",
            help="Column of the table that names the images: file names, stems or relative paths.",
        ),
    ] = None,
    sheet: Annotated[
        str,
        option(
            "--sheet",
            panel=LABELS,
            metavar="NAME",
            help="Sheet of an XLSX label table. Default: the first.",
        ),
    ] = "",
    task: Annotated[
        TaskKind,
        choice(
            "--task",
            words=complete.TASKS,
            panel=LABELS,
            metavar="KIND",
            help="What is predicted: a number (regression) or a class (classification).",
        ),
    ] = "regression",
    label_name: Annotated[
        str | None,
        option(
            "--label-name",
            panel=LABELS,
            metavar="TEXT",
            help="Name of the label in tables and reports. Default: as in --label.",
        ),
    ] = None,
    unit: Annotated[
        str | None,
        option(
            "--unit",
            panel=LABELS,
            metavar="TEXT",
            help="Unit of the label, such as years or months.",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        option(
            "--keep",
            panel=LABELS,
            metavar="COLUMN",
            help="Further column or DICOM tag to keep, such as sex or site, for --where and for "
            "results by subgroup. Repeatable.",
        ),
    ] = None,
    patient: Annotated[
        str | None,
        option(
            "--patient",
            panel=PATIENTS,
            metavar="RULE",
            help="Where patient IDs come from: a column or DICOM tag, folder:N (the Nth folder of "
            "the path), regex:PATTERN, or file (each file is a patient). Default for DICOM: "
            "PatientID.",
        ),
    ] = None,
    patient_column: Annotated[
        str | None,
        option(
            "--patient-column",
            panel=PATIENTS,
            metavar="COLUMN",
            help="Column of patient IDs in the label table, when its rows are matched to images by "
            "patient.",
        ),
    ] = None,
    distinct_ids: Annotated[
        bool,
        flag(
            "--distinct-ids",
            panel=PATIENTS,
            help="Treat IDs that differ only in case, separators or leading zeros as different "
            "patients. Default: they are one patient.",
        ),
    ] = False,
    recipe: Annotated[
        str,
        choice(
            "--recipe",
            words=("auto", *complete.RECIPES),
            panel=INTENSITIES,
            metavar="NAME",
            help=f"How grey values are mapped: {listed(complete.RECIPES)}, or a plug-in's recipe. "
            "auto: by the modality's name and the files.",
            is_open=True,
            plugins="recipes",
        ),
    ] = "auto",
    recipe_set: Annotated[
        list[str] | None,
        option(
            "--recipe-set",
            panel=INTENSITIES,
            metavar="KEY=VALUE",
            help="A setting of a plug-in's recipe. Repeatable.",
        ),
    ] = None,
    window: Annotated[
        str | None,
        choice(
            "--window",
            words=complete.WINDOWS,
            panel=INTENSITIES,
            metavar="WINDOW",
            help="Recipes ct and pet: LEVEL,WIDTH in HU or SUV, or the name of a CT window: "
            "{words}. Default: soft-tissue (40,400) for ct, 5,10 for pet.",
            is_open=True,
        ),
    ] = None,
    percentiles: Annotated[
        str | None,
        option(
            "--percentiles",
            panel=INTENSITIES,
            metavar="LOW,HIGH",
            help="Recipes mr and xray: percentiles that become black and white. Default: 0.5,99.5.",
        ),
    ] = None,
    n4: Annotated[
        bool,
        flag(
            "--n4",
            panel=INTENSITIES,
            help="Recipe mr: correct the bias field of each volume first (N4).",
        ),
    ] = False,
    size: Annotated[
        int | None,
        option(
            "--size",
            panel=INTENSITIES,
            metavar="PIXELS",
            help="Side of the square images that are stored. Default: 256.",
        ),
    ] = None,
    data: Data = Path("data"),
    overwrite: Overwrite = False,
    strict: Annotated[
        bool,
        flag(
            "--strict",
            panel=OUTPUT,
            help="Fail if a file cannot be used or a patient ID is spelled in two ways.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        flag(
            "--dry-run",
            panel=OUTPUT,
            help="Read headers and labels, report what would be done, and write nothing.",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        option(
            "--workers",
            panel=HARDWARE,
            metavar="N",
            min=1,
            help="Number of processes that read images. Default: one per core.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    r"""Read images and labels of one modality into the dataset folder.

    The same command continues a run that was stopped; on unchanged input it does nothing.

    ```
    # CT series in DICOM, with ages from their headers
    $ medxlate prepare scans/ct --modality ct --label PatientAge

    # Radiographs, with a table of file names, ages and patients
    $ medxlate prepare xrays --modality xray --labels meta.csv --label age \
        --file filename --patient patientid

    # MRI volumes in one folder per patient, with a table of patients
    $ medxlate prepare scans/mri --modality mri --patient folder:1 \
        --labels ages.xlsx --label age --patient-column patient

    # A public data set, as it is published
    $ medxlate prepare kaggle_3m --modality mri --layout lgg-mri
    ```
    """
    from medxlate.cli.console import failures, reporting

    again = "The same command continues with what is missing."
    with reporting(json=json, interrupted=again, shared=True) as reporter:
        from dataclasses import asdict

        from medxlate.base.distributed import local_count
        from medxlate.base.events import Warned
        from medxlate.base.machine import cores
        from medxlate.dataset.options import PrepareOptions
        from medxlate.dataset.prepare import prepare as run

        if preset is not None:
            reporter(Warned(f"--preset {preset} is now called --layout {preset}."))
        result = run(
            raw,
            modality=modality,
            data=data,
            options=PrepareOptions(
                label=label,
                labels=labels,
                sheet=sheet,
                file=file,
                patient=patient,
                patient_column=patient_column,
                distinct_ids=distinct_ids,
                keep=tuple(keep or ()),
                where=tuple(where or ()),
                task=task,
                label_name=label_name,
                unit=unit,
                channel=channel,
                recipe=recipe,
                recipe_settings=settings_of(recipe_set or []),
                window=window_of(window, "--window"),
                percentiles=pair(percentiles, "--percentiles"),
                n4=n4,
                plane=plane,
                volume=volume,
                volume_from=volume_from,
                dicom_modality=dicom_modality or None,
                force=force,
                include=tuple(include or ()),
                exclude=tuple(exclude or ()),
                workers=workers or max(1, cores() // local_count()),
            ),
            layout=layout or preset,
            size=size,
            overwrite=overwrite,
            strict=strict,
            dry_run=dry_run,
            listener=reporter,
        )
        tables: list[ConsoleTable | str] = [outcome_table(result)]
        if result.dataset is not None and not dry_run:
            tables.append(dataset_table(result.dataset, title=f"The dataset {data}"))
        dataset = None if result.dataset is None else result.dataset.model_dump(mode="json")
        reporter.result(
            {
                "modality": modality,
                "state": result.state,
                "files": result.files,
                "dataset": dataset,
                "images": result.images,
                "scans": result.scans,
                "patients": result.patients,
                "skipped": dict(result.skipped),
                "left_out": dict(result.left_out),
                "notes": dict(result.notes),
                "label_notes": list(result.label_notes),
                "respelled": [asdict(each) for each in result.respelled],
                "duplicates": [asdict(pair) for pair in result.duplicates],
                "seconds": result.seconds,
            },
            *failures(dict(result.skipped)),
            *tables,
            _last_line(result),
        )


def _last_line(result: PrepareResult) -> str:
    """Return the line that says what was done."""
    what = f"{result.modality}: {result.images}"
    if result.state == "unchanged":
        return f"{what} images are already prepared from the same files and options: nothing to do."
    if result.state == "planned":
        return f"{what} files of {result.scans} scans would be read; nothing was written."
    return f"{what} images in {result.seconds:.1f} s"


def outcome_table(result: PrepareResult) -> ConsoleTable:
    """Return how many files were read, used and skipped, by reason."""
    from medxlate.cli.console import table

    used, what = ("would be used", "files") if result.state == "planned" else ("used", "images")
    alone = result.scans == result.images  # each its own: no series, no volume
    scans = "" if alone else f"{result.scans} scans of "
    rows = [
        ["read", str(result.files)],
        [
            f"{used}: {what} of {scans}{result.patients} patients",
            str(result.images),
        ],
    ]
    rows += [[f"skipped: {reason}", str(count)] for reason, count in result.reasons().items()]
    rows += [[f"left out: {reason}", str(count)] for reason, count in result.left_out.items()]
    notes = Counter(note.partition(": ")[0] for note in result.notes.values())
    rows += [[f"noted: {note}", str(count)] for note, count in notes.items()]
    if result.respelled:
        rows.append(["patients whose ID is written in several ways", str(len(result.respelled))])
    if result.duplicates:
        rows.append(["pairs of equal images of two patients", str(len(result.duplicates))])
    return table(result.modality, ["files", ""], rows)


def dataset_table(dataset: DatasetInfo, *, title: str) -> ConsoleTable:
    """Return what a dataset holds, as table 1 of the paper."""
    from medxlate.cli.console import table

    task = dataset.task
    rows = []
    for name, info in dataset.modalities.items():
        if task.kind == "regression":
            label = f"{info.labels['min']:g} to {info.labels['max']:g} {task.unit}".strip()
        else:
            label = ", ".join(f"{key} {count:g}" for key, count in info.labels.items())
        size = f"{_range(*info.widths)} x {_range(*info.heights)}"
        window = info.recipe.kind + (
            f" {info.recipe.window[0]:g},{info.recipe.window[1]:g}" if info.recipe.window else ""
        )
        name = f"{name} ({' and '.join(info.where)})" if info.where else name
        rows.append([name, str(info.images), size, str(info.patients), label, window])
    columns = ["modality", "images", "image size", "patients", task.name, "recipe"]
    return table(f"{title}, stored at {dataset.image_size} px", columns, rows)


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"
