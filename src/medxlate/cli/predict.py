"""``medxlate predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from medxlate.cli import complete
from medxlate.cli.options import (
    INPUT,
    MODEL,
    OUTPUT,
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
    flag,
    images_of,
    option,
)

if TYPE_CHECKING:
    import pandas as pd


def predict(
    images: Images = None,
    input_: Input = None,
    patient: Annotated[
        str | None,
        option(
            "--patient",
            panel=INPUT,
            metavar="RULE",
            help="Where patient IDs come from: tag:X, folder:N (the Nth folder of the path), "
            "regex:PATTERN, or file (each file is a patient). Default for DICOM: PatientID.",
        ),
    ] = None,
    exclude: Exclude = None,
    dicom_modality: DicomModality = "",
    force: Force = False,
    volume: Volume = None,
    model: Annotated[
        list[Path] | None,
        option(
            "--model",
            panel=MODEL,
            metavar="DIR",
            help="Run, model folder, or hf://OWNER/NAME@REVISION. Repeatable: predicts the mean of "
            "several, and their spread. Default: runs/latest, the newest run.",
            autocompletion=complete.run_paths,
        ),
    ] = None,
    level: Annotated[
        float,
        option(
            "--level",
            panel=MODEL,
            metavar="LEVEL",
            help="Confidence level of the prediction intervals.",
        ),
    ] = 0.9,
    tta: Annotated[
        bool,
        flag(
            "--tta",
            panel=MODEL,
            help="Average over five small shifts of each image. Takes 5 times as long.",
        ),
    ] = False,
    out: Annotated[
        Path, option("--out", "-o", panel=OUTPUT, metavar="FILE", help="Table to write.")
    ] = Path("predictions.csv"),
    overwrite: Overwrite = False,
    device: Device = "auto",
    batch_size: BatchSize = None,
    precision: Precision = "auto",
    json: Json = False,
) -> None:
    """Predict the label of target-modality images, per slice, volume and patient.

    In regression, a prediction comes with an interval from low to high, which holds the label of
    the fraction --level of new patients, if they are like the validation patients. Class
    probabilities are calibrated on the validation patients.

    ```
    # A folder, with the newest run
    $ medxlate predict scans/ct

    # One folder per patient, into a table of your choice
    $ medxlate predict scans/ct --patient folder:1 --out ages.csv

    # The mean of two runs
    $ medxlate predict scans/ct --model runs/ct-001 --model runs/ct-002
    ```
    """
    images = images_of(images, input_)
    from medxlate.cli.console import left_out, reporting, table

    again = "No table was written yet. The same command continues."
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
