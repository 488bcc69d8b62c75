"""``medxlate prepare``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medxlate.base.errors import UsageError
from medxlate.cli import complete
from medxlate.cli.options import (
    Data,
    DicomModality,
    Exclude,
    Force,
    Json,
    Overwrite,
    Volume,
    Where,
    pair,
    settings_of,
    window_of,
)

if TYPE_CHECKING:
    from medxlate.cli.console import ConsoleTable
    from medxlate.dataset.index import DatasetInfo
    from medxlate.dataset.job import PrepareResult


def prepare(
    raw: Annotated[Path, typer.Argument(help="Folder of images, searched recursively.")],
    modality: Annotated[str, typer.Option("--modality", help="What it is: ct, mri, pet, xray...")],
    label: Annotated[
        str | None, typer.Option("--label", help="Column of the label, or DICOM tag (PatientAge).")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Label table: CSV, TSV, semicolons or XLSX.")
    ] = None,
    sheet: Annotated[
        str, typer.Option("--sheet", help="Sheet of an XLSX label table. Default: the first.")
    ] = "",
    file: Annotated[
        str | None, typer.Option("--file", help="Column of file names, stems or relative paths.")
    ] = None,
    patient: Annotated[
        str | None,
        typer.Option(
            "--patient",
            help="Patients: a column or tag, folder:N, regex:PATTERN, or file (each its own). "
            "DICOM default: PatientID.",
        ),
    ] = None,
    patient_column: Annotated[
        str | None,
        typer.Option("--patient-column", help="Column of patients, to match rows by patient."),
    ] = None,
    distinct_ids: Annotated[
        bool,
        typer.Option(
            "--distinct-ids",
            help="Ids that differ in case, separators or leading zeros alone are different "
            "patients. Default: one patient.",
        ),
    ] = False,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="Further column or tag to keep in the index; repeat."),
    ] = None,
    where: Where = None,
    task: Annotated[
        str, typer.Option("--task", help="regression or classification.")
    ] = "regression",
    label_name: Annotated[
        str | None, typer.Option("--label-name", help="The label's name.")
    ] = None,
    unit: Annotated[str | None, typer.Option("--unit", help="The label's unit.")] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            help="Layout of a public data set: lgg-mri, ct-ich, head-neck-pet-ct, bids, or a "
            "plug-in's.",
            autocompletion=complete.layouts,
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", hidden=True)] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Side of the stored squares, px. Default: 256.")
    ] = None,
    channel: Annotated[
        int | None, typer.Option("--channel", min=0, help="Channel of colour images, from 0.")
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="Intensities: auto, ct, mr, pet, xray, as-is, or a plug-in's.",
            autocompletion=complete.recipes,
        ),
    ] = "auto",
    recipe_set: Annotated[
        list[str] | None,
        typer.Option("--recipe-set", help="KEY=VALUE, a setting of a plug-in's recipe; repeat."),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            "--window",
            help="LEVEL,WIDTH in HU (recipe ct) or SUV (pet), or brain, subdural, bone, lung, "
            "soft-tissue, wide. Default: soft-tissue (40,400); 5,10 SUV.",
        ),
    ] = None,
    percentiles: Annotated[
        str | None,
        typer.Option("--percentiles", help="LOW,HIGH of recipes mr, xray. Default: 0.5,99.5."),
    ] = None,
    n4: Annotated[
        bool, typer.Option("--n4", help="Correct each volume's bias field first (recipe mr).")
    ] = False,
    plane: Annotated[
        str, typer.Option("--plane", help="How volumes are cut: axial, coronal or sagittal.")
    ] = "axial",
    volume: Volume = None,
    volume_from: Annotated[
        str | None,
        typer.Option(
            "--volume-from",
            help="Pictures that are slices of one volume: folder (those in one folder), folder:N "
            "or regex:PATTERN.",
        ),
    ] = None,
    dicom_modality: DicomModality = "",
    force: Force = False,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", help="Glob of files to take, such as '*_T1w.nii.gz'; repeat."),
    ] = None,
    exclude: Exclude = None,
    data: Data = Path("data"),
    overwrite: Overwrite = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what cannot be used, and ids in two spellings.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read headers and labels; write nothing.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes. Default: one a core.")
    ] = None,
    json: Json = False,
) -> None:
    """Read images and labels of one modality into the dataset folder.

    `medxlate prepare scans/ct --modality ct --label PatientAge`

    `medxlate prepare xrays --modality xray --labels meta.csv --label age --patient patientid --file filename`

    `medxlate prepare kaggle_3m --modality mri --layout lgg-mri`

    The same command continues a run that was stopped; on unchanged input it does nothing.
    """  # noqa: E501
    from medxlate.cli.console import failures, reporting

    again = "Run the same command again: it continues with what is missing."
    with reporting(json=json, interrupted=again, shared=True) as reporter:
        from dataclasses import asdict

        from medxlate.base.distributed import local_count
        from medxlate.base.events import Warned
        from medxlate.base.machine import cores
        from medxlate.dataset.options import PrepareOptions
        from medxlate.dataset.prepare import prepare as run
        from medxlate.images.orientation import PLANES

        if preset is not None:
            reporter(Warned(f"--preset {preset} is now called --layout {preset}."))
        if task not in ("regression", "classification"):
            raise UsageError(f"--task {task} must be regression or classification.")
        chosen = next((known for known in PLANES if known == plane), None)
        if chosen is None:
            raise UsageError(f"--plane {plane} must be axial, coronal or sagittal.")
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
                task="classification" if task == "classification" else "regression",
                label_name=label_name,
                unit=unit,
                channel=channel,
                recipe=recipe,
                recipe_settings=settings_of(recipe_set or []),
                window=window_of(window, "--window"),
                percentiles=pair(percentiles, "--percentiles"),
                n4=n4,
                plane=chosen,
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
        return f"{what} images, from the same files with the same options as before: nothing to do."
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
        rows.append(["patients whose id is written in several ways", str(len(result.respelled))])
    if result.duplicates:
        rows.append(["pairs of images that two patients share", str(len(result.duplicates))])
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
