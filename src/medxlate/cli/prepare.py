"""``medxlate prepare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medxlate.cli.options import Data, Exclude, Json, Overwrite
from medxlate.errors import UsageError

if TYPE_CHECKING:
    from medxlate.cli.console import Table
    from medxlate.dataset.index import DatasetInfo


def prepare(
    raw: Annotated[Path, typer.Argument(help="Folder of images, searched recursively.")],
    modality: Annotated[str, typer.Option("--modality", help="What it is: ct, mri, pet, xray...")],
    label: Annotated[
        str | None, typer.Option("--label", help="Column of the label, or DICOM tag (PatientAge).")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Label table: CSV, TSV, semicolons or XLSX.")
    ] = None,
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
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="Further column or tag to keep in the index; repeat."),
    ] = None,
    task: Annotated[
        str, typer.Option("--task", help="regression or classification.")
    ] = "regression",
    label_name: Annotated[
        str | None, typer.Option("--label-name", help="What to call the label.")
    ] = None,
    unit: Annotated[str | None, typer.Option("--unit", help="The label's unit.")] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="Layout of a public data set: lgg-mri.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Side of the stored squares, px. Default: 256.")
    ] = None,
    channel: Annotated[
        int | None, typer.Option("--channel", min=0, help="Channel of colour images, from 0.")
    ] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", help="Intensities: auto, ct, percentile or as-is.")
    ] = "auto",
    window: Annotated[
        str | None,
        typer.Option("--window", help="LEVEL,WIDTH in HU, recipe ct. Default: 40,400."),
    ] = None,
    percentiles: Annotated[
        str | None,
        typer.Option("--percentiles", help="LOW,HIGH of recipe percentile. Default: 0.5,99.5."),
    ] = None,
    exclude: Exclude = None,
    data: Data = Path("data"),
    overwrite: Overwrite = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse instead of skipping what cannot be used.")
    ] = False,
    json: Json = False,
) -> None:
    """Read images and labels of one modality into the dataset folder.

    `medxlate prepare scans/ct --modality ct --label PatientAge`

    `medxlate prepare xrays --modality xray --labels meta.csv --label age --patient patientid --file filename`

    `medxlate prepare kaggle_3m --modality mri --preset lgg-mri`
    """  # noqa: E501
    from medxlate.cli.console import failures, reporting

    with reporting(json=json) as reporter:
        from medxlate.dataset.options import PrepareOptions
        from medxlate.dataset.prepare import prepare as run

        if task not in ("regression", "classification"):
            raise UsageError(f"--task {task} must be regression or classification.")
        result = run(
            raw,
            modality=modality,
            data=data,
            options=PrepareOptions(
                label=label,
                labels=labels,
                file=file,
                patient=patient,
                patient_column=patient_column,
                keep=tuple(keep or ()),
                task="classification" if task == "classification" else "regression",
                label_name=label_name,
                unit=unit,
                channel=channel,
                recipe=recipe,
                window=_pair(window, "--window"),
                percentiles=_pair(percentiles, "--percentiles"),
                exclude=tuple(exclude or ()),
            ),
            preset=preset,
            size=size,
            overwrite=overwrite,
            strict=strict,
            listener=reporter,
        )
        info = result.dataset.modalities[modality]
        reporter.result(
            {
                "modality": modality,
                "dataset": result.dataset.model_dump(mode="json"),
                "skipped": result.skipped,
                "notes": result.notes,
                "seconds": result.seconds,
            },
            *failures(result.skipped),
            dataset_table(result.dataset, title=f"The dataset {data}"),
            f"{modality}: {info.images} images in {result.seconds:.1f} s",
        )


def dataset_table(dataset: DatasetInfo, *, title: str) -> Table:
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
        rows.append([name, str(info.images), size, str(info.patients), label, window])
    columns = ["modality", "images", "image size", "patients", task.name, "recipe"]
    return table(f"{title}, stored at {dataset.image_size} px", columns, rows)


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"


def _pair(text: str | None, option: str) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text} must be two numbers, as in {option} 40,400.") from None
    return first, second
