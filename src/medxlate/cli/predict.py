"""``medxlate predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medxlate.cli import complete
from medxlate.cli.options import (
    BatchSize,
    Device,
    DicomModality,
    Exclude,
    Force,
    Images,
    Input,
    Json,
    Overwrite,
    Precision,
    Volume,
    images_of,
)

if TYPE_CHECKING:
    import pandas as pd


def predict(
    images: Images = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The table to write.")] = Path(
        "predictions.csv"
    ),
    model: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            help="A model folder, a run, the newest run (default: runs/latest), or "
            "hf://OWNER/NAME@REVISION. Repeat for the mean prediction of several runs, with its "
            "spread.",
            autocompletion=complete.run_paths,
        ),
    ] = None,
    level: Annotated[
        float,
        typer.Option("--level", help="Share of new patients with a label between low and high."),
    ] = 0.9,
    tta: Annotated[
        bool,
        typer.Option(
            "--tta", help="Mean over five small shifts of the images, which takes 5 times as long."
        ),
    ] = False,
    patient: Annotated[
        str | None,
        typer.Option(
            "--patient",
            help="Patients: tag:X, folder:N, regex:PATTERN or file. DICOM default: PatientID.",
        ),
    ] = None,
    exclude: Exclude = None,
    dicom_modality: DicomModality = "",
    force: Force = False,
    volume: Volume = None,
    batch_size: BatchSize = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    input_: Input = None,
    json: Json = False,
) -> None:
    """Predict the label of target-modality images, per slice, volume and patient.

    `medxlate predict ./ct_dir`

    `medxlate predict ./ct_dir --out ages.csv --patient folder:1`

    A regression has an interval (low, high) that holds for a share `--level` of new patients like
    the validation patients; probabilities of classes are calibrated on these.
    """
    images = images_of(images, input_)
    from medxlate.cli.console import left_out, reporting, table

    again = "No table was written; the same command continues."
    with reporting(json=json, interrupted=again, shared=True) as reporter:
        from medxlate.artifacts.hub import located
        from medxlate.inference.request import check_prediction

        models = [located(each, reporter) for each in model or [Path("runs/latest")]]
        check_prediction(
            images, out=out, models=models, level=level, patient=patient, overwrite=overwrite
        )
        from medxlate.inference.predict import predict as run

        result = run(
            images,
            out=out,
            model=models,
            level=level,
            tta=tta,
            patient=patient,
            exclude=exclude or (),
            dicom_modality=dicom_modality,
            force=force,
            volume=volume,
            device=device,
            precision=precision,
            batch_size=batch_size,
            overwrite=overwrite,
            listener=reporter,
        )
        counts = {str(k): int(v) for k, v in result.table["level"].value_counts().items()}
        summary = {level: _summary(result.table, level, result.label) for level in counts}
        reporter.result(
            {
                "out": str(result.out),
                "slices": counts.get("slice", 0),
                "volumes": counts.get("volume", 0),
                "patients": counts.get("patient", 0),
                "summary": summary,
                "notes": list(result.notes),
                "models": list(result.models),
                "failed": result.failed,
                "left_out": result.left_out,
                "seconds": result.seconds,
            },
            table(
                f"Predictions in {result.out}",
                ["level", "count", *next(iter(summary.values()))],
                [[k, str(counts[k]), *map(_text, s.values())] for k, s in summary.items()],
            ),
            *left_out(result.left_out),
        )
        reporter.end_with(result.failed, "read", f"The others are in {result.out}.")


def _summary(table: pd.DataFrame, level: str, label: str) -> dict[str, Any]:
    """Return mean, spread and range of a regression, or the counts of classes."""
    values = table.loc[table["level"] == level, label]
    if values.dtype.kind == "f":
        return {
            f"mean {label}": float(values.mean()),
            "std": float(values.std(ddof=0)),
            "min": float(values.min()),
            "max": float(values.max()),
        }
    classes = sorted(table[label].unique())
    found = values.value_counts().to_dict()
    return {str(name): int(found.get(name, 0)) for name in classes}


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
