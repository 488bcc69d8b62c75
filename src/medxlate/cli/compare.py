"""``medxlate compare``."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medxlate.cli.grid import GridOptions, takes_grid
from medxlate.cli.options import HARDWARE, OUTPUT, Json, Offline, flag, option

if TYPE_CHECKING:
    from medxlate.cli.console import ConsoleTable, Reporter
    from medxlate.study.compare import CompareResult
    from medxlate.study.comparison import Comparison

SHARES = {"target_fraction": "target", "source_fraction": "source"}


@takes_grid
def compare(
    grid: GridOptions,
    ray: Annotated[
        str,
        option(
            "--ray",
            panel=HARDWARE,
            metavar="ADDRESS",
            help="Train on a running Ray cluster: its address, or auto.",
        ),
    ] = "",
    cell: Annotated[
        int | None,
        option(
            "--cell",
            panel=HARDWARE,
            metavar="N",
            help="Train only this cell of the study, counted from 0: for a job array.",
        ),
    ] = None,
    offline: Offline = False,
    out: Annotated[
        Path, option("--out", "-o", panel=OUTPUT, metavar="DIR", help="Study folder.")
    ] = Path("compare"),
    predictions: Annotated[
        list[Path] | None,
        option(
            "--predictions",
            panel=OUTPUT,
            metavar="FILE",
            help="CSV file of another tool's predictions, to include in the tables. Repeatable.",
        ),
    ] = None,
    inception: Annotated[
        Path | None,
        option(
            "--inception",
            panel=OUTPUT,
            metavar="FILE",
            help="Inception weights, for FID and IS. Default: those that `medxlate fetch` stored.",
        ),
    ] = None,
    keep_models: Annotated[
        bool,
        flag("--keep-models", panel=OUTPUT, help="Keep the trained model of every cell."),
    ] = False,
    json: Json = False,
) -> None:
    r"""Train every method on the same patients and report what helps.

    The same command continues a study that was stopped; so does the command with --out alone.

    ```
    # All methods and sources, on ten splits
    $ medxlate compare --target ct

    # Two methods, few images
    $ medxlate compare --target ct --source mri --preset scarce \
        --method target-only --method joint --primary joint:target-only

    # How many target patients are needed?
    $ medxlate compare --target ct --target-patients 3,5,10 --draws 8 \
        --test-patients 40

    # A given split, four trainings at a time
    $ medxlate compare --target ct --split split.csv --repeats 5 --jobs 4
    ```
    """
    from medxlate.cli.console import failures, reporting

    hint = "Finished cells are kept. The same command continues the study."
    with reporting(json=json, interrupted=hint) as reporter:
        settings, wanted = grid.read(offline=offline)
        from medxlate.study.compare import Where as Place
        from medxlate.study.compare import compare as run

        result = run(
            settings,
            wanted,
            out=out,
            where=Place(grid.jobs, ray, cell, device=grid.device or "", keep_models=keep_models),
            predictions=predictions or (),
            inception=inception,
            listener=reporter,
        )
        show(reporter, result)
        if result.failed:
            message = f"{len(result.failed)} of {result.cells} cells failed:"
            hint = "The same command tries them again."
            reporter.error(message, hint, details=failures(result.failed))
            raise typer.Exit(1)


def show(reporter: Reporter, result: CompareResult) -> None:
    """Show verdicts first, then errors and what the study took."""
    findings = result.findings
    value = {
        "folder": str(result.folder),
        "cells": result.cells,
        "failed": result.failed,
        "training_seconds": result.training_seconds,
        "seconds": result.seconds,
        "overhead": result.overhead,
        "primary": _verdict(findings.primary) if findings and findings.primary else None,
        "verdicts": [_verdict(each) for each in (findings.comparisons if findings else ())],
    }
    lines: list[Any] = []
    if findings is not None:
        first = () if findings.primary is None else (findings.primary,)
        sentences = [*first, *(each for each in findings.comparisons if not each.primary)]
        lines += [f"- {each.sentence}" for each in sentences]
        lines += [each.sentence for each in findings.equivalents]
        lines += [each.sentence for each in findings.saturation]
        lines.append(_overview(result))
        lines.append(f"Tables, charts and statistics: {result.folder / 'report.md'}")
    if result.overhead is not None:
        lines.append(
            f"Took {result.seconds:.0f} s. All trainings: {result.training_seconds:.0f} s; "
            f"predicting, writing and comparing took {100 * result.overhead:.1f} % on top of that."
        )
    reporter.result(value, *lines)


def _verdict(found: Comparison) -> dict[str, Any]:
    return {
        "method": found.system.method,
        "sources": found.system.sources,
        "reference": found.reference.method,
        "verdict": found.verdict,
        "mean": found.mean,
        "reference_mean": found.reference_mean,
        "difference": found.difference,
        "interval": [found.interval.low, found.interval.high] if found.interval else None,
        "p": found.p,
        "p_holm": found.p_holm,
        "detectable": found.detectable,
        "beats_constant": found.beats_constant,
        "seconds": found.seconds,
        "reference_seconds": found.reference_seconds,
        "sentence": found.sentence,
    }


def _overview(result: CompareResult) -> ConsoleTable:
    from medxlate.cli.console import number, table
    from medxlate.study.measured import design_of, judged, level_of
    from medxlate.study.tables import BESIDE

    assert result.findings is not None
    frame = judged(result.findings.results)
    shares = {key: SHARES[key] for key in SHARES if frame[key].nunique() > 1}
    drawn = design_of(frame) == "redrawn"  # patients were asked for, not shares
    if drawn and "target_fraction" in shares:
        shares["target_fraction"] = "patients"
    beside = [name for name in BESIDE if name in frame and frame[name].notna().any()]
    rows = []
    for names, cells in frame.groupby(["method", "sources", *shares], sort=False):
        spent = (cells["seconds"] + cells["shared_seconds"]).astype(float).mean()
        method, sources, *fractions = names
        values = dict(zip(shares, fractions, strict=True))
        if drawn and "target_fraction" in values:
            values["target_fraction"] = cells["train_patients"].mean()
        if not sources:
            values["source_fraction"] = None
        rows.append(
            [
                f"{method} ({sources})" if sources else str(method),
                *("-" if values[key] is None else f"{values[key]:.3g}" for key in shares),
                str(len(cells)),
                number(float(cells["loss"].mean())),
                number(cells["loss"].std(ddof=1) if len(cells) > 1 else None),
                *(number(float(cells[name].mean())) for name in beside),
                number(None if isnan(spent) else float(spent)),
            ]
        )
    columns = ["method", *shares.values(), "cells", "error", "std"]
    columns += [*(BESIDE[name] for name in beside), "seconds"]
    title = f"Test errors per {level_of(frame)}, {result.folder}"
    return table(title, columns, rows, once=["cells"])
