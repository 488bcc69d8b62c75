"""``medxlate evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from medxlate.cli import complete
from medxlate.cli.options import (
    METRICS,
    MODEL,
    Device,
    Json,
    Offline,
    Precision,
    choice,
    flag,
    option,
)
from medxlate.cli.report import leave_report

if TYPE_CHECKING:
    from medxlate.cli.console import ConsoleTable
    from medxlate.evaluation.evaluate import Evaluation
    from medxlate.evaluation.results import Metric, Results


def evaluate(
    metric: Annotated[
        list[str] | None,
        choice(
            "--metric",
            words=complete.METRICS,
            panel=METRICS,
            metavar="NAME",
            help="What to measure. Regression: mse, mae, bias, r2, pearson, slope, skill. "
            "Classification: accuracy, balanced_accuracy, auroc, f1, ece, skill. Translated "
            "images: fid, kid, is, precision, recall, paired_psnr, paired_ssim, paired_mae, tstr. "
            "Repeatable. Default: all that apply; tstr only if it takes no more than a minute or "
            "two.",
        ),
    ] = None,
    features: Annotated[
        list[str] | None,
        choice(
            "--features",
            words=("inception", "predictor"),
            panel=METRICS,
            metavar="NETWORK",
            help="Network whose features fid, kid, precision and recall compare: {words} (trained "
            "on real images), or NAME=FILE.safetensors for a timm network. Repeatable. Default: "
            "predictor, and inception if its weights are on this machine.",
            is_open=True,
        ),
    ] = None,
    audit: Annotated[
        bool | None,
        flag(
            "--audit/--no-audit",
            panel=METRICS,
            help="Audit the translators for known failures. Default: yes, unless --metric is "
            "given.",
        ),
    ] = None,
    run: Annotated[
        Path,
        option(
            "--run",
            panel=MODEL,
            metavar="DIR",
            autocompletion=complete.run_paths,
            help="The run to evaluate. runs/latest is the newest.",
        ),
    ] = Path("runs/latest"),
    model: Annotated[
        Path | None,
        option(
            "--model",
            panel=MODEL,
            metavar="DIR",
            help="Evaluate the translators of this model folder instead of the run's, on the run's "
            "test patients.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        option(
            "--data",
            panel=MODEL,
            metavar="DIR",
            help="Dataset folder, if it has moved since training.",
        ),
    ] = None,
    inception: Annotated[
        Path | None,
        option(
            "--inception",
            panel=MODEL,
            metavar="FILE",
            help="Inception weights for fid, kid and is. Default: those that `medxlate fetch` "
            "stored.",
        ),
    ] = None,
    download: Annotated[
        bool,
        flag(
            "--download", panel=MODEL, help="Allow torch-fidelity to download Inception's weights."
        ),
    ] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Measure a run on its test patients, with confidence intervals, and audit its translators.

    Translated images are compared with real ones by a small predictor that is trained on real
    images alone, once, and kept in the run's judge/. Metrics computed from its features are called
    fid[predictor] and so on. Only those computed from Inception's features can be compared with
    published values. tstr trains another predictor on translated images alone and tests it on real
    ones. The results are kept in the run's evaluation/. If a metric that you name cannot be
    measured, the exit code is 1.

    ```
    # Everything, for the newest run
    $ medxlate evaluate

    # One metric
    $ medxlate evaluate --run runs/mri-to-ct-001 --metric fid

    # The translators of an imported model, on the newest run's test patients
    $ medxlate evaluate --model imported
    ```
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
        reporter.end_with(failed, "measured", "The others are above.", whats="metrics")


def as_json(result: Evaluation) -> dict[str, Any]:
    """Return the evaluation as JSON can hold it."""
    kept = result.results.model_dump(mode="json")
    missing = sorted({each.label for each in result.missing})
    return {"run": str(result.run), **kept, "missing": missing, "took": result.seconds}


def tables(result: Evaluation, names: Sequence[str] = ()) -> list[ConsoleTable]:
    """Return the evaluation as tables for people: some metrics, or all."""
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
                ["metric", "value", "95 % interval", "real against real", "images", "real images"],
                [_image_row(each) for each in images],
                once=("images", "real images"),
            )
        )
    taught = [each for each in shown if each.group == "tstr" and each.value is not None]
    if taught:
        made.append(_taught(result, taught))
    if results.audits and not names:
        made.append(_audits(results))
    return made


def _predictions(result: Evaluation, metrics: Sequence[Metric]) -> ConsoleTable:
    from medxlate.cli.console import merged, table
    from medxlate.evaluation.results import prediction_table

    titles, found = prediction_table(metrics)
    shown = [list(map(_with_interval, cells)) for cells in found.values()]
    columns, rows = [""], [[name] for name in found]
    for are_constant in (False, True):  # often the same at each level: said once
        taken = [i for i, t in enumerate(titles) if t.startswith("constant") == are_constant]
        cells = [[row[i] for i in taken] for row in shown]
        heads, cells = merged([titles[i] for i in taken], cells)
        columns += ["constant"] if are_constant and len(heads) == 1 else heads
        rows = [[*row, *more] for row, more in zip(rows, cells, strict=True)]
    title = f"Prediction of test {result.results.target} with 95 % intervals, {result.run}"
    return table(title, columns, rows)


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
    columns = ["source", "audit", "result", "finding"]
    return text_table("Audits of the translators", columns, rows, once=["source"])
