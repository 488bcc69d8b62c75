"""``medxlate evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medxlate.cli import complete
from medxlate.cli.options import Device, Json, Offline, Precision
from medxlate.cli.report import leave_report

if TYPE_CHECKING:
    from medxlate.cli.console import ConsoleTable
    from medxlate.evaluation.evaluate import Evaluation
    from medxlate.evaluation.results import Metric, Results


def evaluate(
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            autocompletion=complete.metrics,
            help="mse, mae, bias, r2, pearson, slope, skill | accuracy, balanced_accuracy, auroc, "
            "f1, ece, skill | fid, kid, is, precision, recall, paired_psnr, paired_ssim, "
            "paired_mae | tstr; repeat. Default: all, tstr only where it takes a minute or two.",
        ),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--features",
            help="What images are compared by: inception, predictor (trained on real images), or "
            "NAME=FILE.safetensors, a network of timm's; repeat. Default: inception where it is "
            "there, and predictor.",
        ),
    ] = None,
    audit: Annotated[
        bool | None,
        typer.Option(
            "--audit/--no-audit",
            help="Look for what goes wrong in translators. Default: where no --metric is given.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="The dataset, where it was moved since training.")
    ] = None,
    run: Annotated[
        Path,
        typer.Option("--run", autocompletion=complete.run_paths, help="A run, or the newest."),
    ] = Path("runs/latest"),
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            help="Measure the translators of this model folder in place of the run's: fid, kid... "
            "on the run's test patients.",
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
    """Measure a run on its test patients, each figure with an interval, and audit its translators.

    Translated images are judged by a small predictor of real images alone, trained once and kept
    in the run's judge/. Figures by its features are called fid[predictor]...: another scale, not
    comparable with published figures, which are by Inception's. tstr trains another one on
    translated images alone and tests it on real ones. All of it is kept in the run's evaluation/. A
    figure that was asked for by name and cannot be taken gives exit code 1.

    `medxlate evaluate --metric fid`

    `medxlate evaluate --run runs/mri-to-ct-001 --inception inception.pth`

    `medxlate evaluate --model imported`
    """
    from medxlate.cli.console import reporting

    with reporting(json=json, shared=True) as reporter:
        from medxlate.artifacts.runs import find_run

        find_run(run, "a model")  # refused before torch is loaded
        from medxlate.evaluation.evaluate import evaluate as measure

        result = measure(
            run,
            metrics=metric or (),
            extractors=features or (),
            audits=audit,
            data=data,
            model=model,
            inception=inception,
            download=download,
            offline=offline,
            device=device,
            precision=precision,
            listener=reporter,
        )
        if model is None:
            leave_report(reporter, result.run)
        reporter.result(as_json(result), *tables(result, metric or ()))
        failed = {each.label: f"{each.reason} {each.remedy}" for each in result.missing}
        reporter.end_with(failed, "taken", "The others are above.", whats="figures")


def as_json(result: Evaluation) -> dict[str, Any]:
    """Return the evaluation as JSON can hold it."""
    kept = result.results.model_dump(mode="json")
    missing = sorted({each.label for each in result.missing})
    return {"run": str(result.run), **kept, "missing": missing, "took": result.seconds}


def tables(result: Evaluation, names: Sequence[str] = ()) -> list[ConsoleTable]:
    """Return the evaluation as tables for people: some figures, or all."""
    from medxlate.cli.console import table

    results = result.results
    shown = [each for each in results.metrics if not names or each.name in names]
    made = []
    predictions = [each for each in shown if each.group == "prediction"]
    if predictions:
        made.append(_predictions(result, predictions))
    images = [each for each in shown if each.group == "translation" and each.value is not None]
    if images:
        made.append(
            table(
                f"Translated images against real {results.target}, {result.run}",
                ["figure", "value", "95 % interval", "real against real", "n", "real"],
                [_image_row(each) for each in images],
            )
        )
    taught = [each for each in shown if each.group == "tstr" and each.value is not None]
    if taught:
        made.append(_taught(result, taught))
    if results.audits and not names:
        made.append(_audits(results))
    return made


def _predictions(result: Evaluation, metrics: Sequence[Metric]) -> ConsoleTable:
    from medxlate.cli.console import table
    from medxlate.evaluation.results import prediction_table

    titles, found = prediction_table(metrics)
    rows = [[name, *map(_with_interval, cells)] for name, cells in found.items()]
    title = f"Prediction of test {result.results.target} with 95 % intervals, {result.run}"
    return table(title, ["", *titles], rows)


def _taught(result: Evaluation, metrics: Sequence[Metric]) -> ConsoleTable:
    from medxlate.cli.console import table
    from medxlate.evaluation.results import taught_in, trained_on

    first = metrics[0]
    unit = f" ({first.unit})" if first.unit else ""
    title = f"A small predictor on {first.n} real test patients, {result.run}"
    rows = [[trained_on(each), _with_interval(each)] for each in metrics]
    return table(title, ["trained on", f"{taught_in(first)}{unit}"], rows)


def _with_interval(metric: Metric | None) -> str:
    from medxlate.cli.console import number
    from medxlate.evaluation.results import value_text

    return value_text(metric, number, "-")


def _image_row(metric: Metric) -> list[str]:
    from medxlate.cli.console import number

    between = f"{number(metric.low)} to {number(metric.high)}" if metric.low is not None else "-"
    counts = [str(metric.n), str(metric.reference)]
    figures = [number(metric.value), between, number(metric.floor)]
    return [f"{metric.source}: {metric.label}", *figures, *counts]


def _audits(results: Results) -> ConsoleTable:
    from medxlate.cli.console import text_table

    rows = [[a.source, a.kind, a.status, a.sentence] for a in results.audits]
    return text_table("Audits of the translators", ["source", "audit", "", "what was found"], rows)
