"""``medxlate evaluate``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medxlate.cli.options import Device, Json, Offline, Precision

if TYPE_CHECKING:
    from medxlate.cli.console import Table
    from medxlate.evaluation.evaluate import Evaluation


def evaluate(
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="mse, mae, r2 | accuracy, auroc, f1 | fid, kid, is; repeat. Default: all.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="The dataset, where it was moved since training.")
    ] = None,
    run: Annotated[Path, typer.Option("--run", help="A run, or the newest.")] = Path("runs/latest"),
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            help="A model folder whose translators are measured in place of the run's: fid, kid "
            "and is on the run's test patients.",
        ),
    ] = None,
    inception: Annotated[
        Path | None, typer.Option("--inception", help="Inception weights for fid, kid and is.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Let torch-fidelity download Inception's weights.")
    ] = False,
    offline: Offline = False,
    device: Device = "auto",
    precision: Precision = "auto",
    json: Json = False,
) -> None:
    """Measure a run on its test patients.

    Without Inception's weights, fid, kid and is are taken from the predictor's features and are
    called fid[predictor]...: another scale, not comparable with published figures.

    `medxlate evaluate --metric fid`

    `medxlate evaluate --run runs/mri-to-ct-001 --inception inception.pth`

    `medxlate evaluate --model imported`
    """
    from medxlate.cli.console import reporting

    with reporting(json=json, shared=True) as reporter:
        from medxlate.evaluation.evaluate import evaluate as measure

        result = measure(
            run,
            metrics=metric or (),
            data=data,
            model=model,
            inception=inception,
            download=download,
            offline=offline,
            device=device,
            precision=precision,
            listener=reporter,
        )
        reporter.result({**asdict(result), "run": str(result.run)}, *tables(result))


def tables(result: Evaluation) -> list[Table]:
    """Return the evaluation as tables for people."""
    from medxlate.cli.console import number, table

    made = []
    if result.per_image:
        columns = [f"test {result.target}", "n", *result.per_image]
        rows = [
            ["per image", str(result.images), *map(number, result.per_image.values())],
            ["per patient", str(result.patients), *map(number, result.per_patient.values())],
            ["constant, per image", str(result.images), *map(number, result.constant.values())],
        ]
        made.append(table(f"Prediction, {result.run}", columns, rows))
    for source, metrics in result.image_metrics.items():
        counts = [str(result.translated[source]), str(result.images)]
        made.append(
            table(
                f"Translated {source} against real {result.target}, {result.run}",
                ["source", "translated", "real", *metrics],
                [[source, *counts, *map(number, metrics.values())]],
            )
        )
    return made
