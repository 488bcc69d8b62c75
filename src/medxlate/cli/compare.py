"""``medxlate compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medxlate.cli.grid import (
    ConfigFile,
    DataFolder,
    DeviceName,
    Draws,
    GivenSplit,
    Jobs,
    Methods,
    Out,
    Policy,
    Primary,
    Repeats,
    Seed,
    Sets,
    Source,
    SourceFraction,
    SplitColumn,
    Target,
    TargetFraction,
    TargetPatients,
    TestPatients,
    ValPatients,
    asked,
)
from medxlate.cli.options import Json, Offline, Preset, Where


def compare(
    target: Target = None,
    source: Source = None,
    method: Methods = None,
    repeats: Repeats = None,
    policy: Policy = None,
    target_fraction: TargetFraction = None,
    source_fraction: SourceFraction = None,
    target_patients: TargetPatients = None,
    draws: Draws = None,
    test_patients: TestPatients = None,
    val_patients: ValPatients = None,
    split: GivenSplit = None,
    split_column: SplitColumn = None,
    where: Where = None,
    primary: Primary = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    seed: Seed = None,
    data: DataFolder = None,
    out: Out = Path("compare"),
    jobs: Jobs = 1,
    cell: Annotated[
        int | None,
        typer.Option("--cell", help="Train this cell alone, from 0: for a job array."),
    ] = None,
    ray: Annotated[
        str, typer.Option("--ray", help="Address of an existing Ray cluster, or auto.")
    ] = "",
    predictions: Annotated[
        list[Path] | None,
        typer.Option("--predictions", help="CSV of another tool's predictions; repeat."),
    ] = None,
    inception: Annotated[
        Path | None, typer.Option("--inception", help="File of Inception's weights, for FID, IS.")
    ] = None,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Keep the trained model of every cell.")
    ] = False,
    offline: Offline = False,
    device: DeviceName = None,
    json: Json = False,
) -> None:
    """Train every method on the same patients and say what helps.

    A study that was interrupted goes on: the same command again, or without any option but --out.

    `medxlate compare --target ct`

    `medxlate compare --target ct --source mri --method target-only --method joint --repeats 5`

    `medxlate compare --target ct --target-fraction 0.1,0.25,0.5,1.0 --jobs 4`

    `medxlate compare --target ct --target-patients 3,5,10 --draws 8 --test-patients 40`

    `medxlate compare --target ct --split split.csv --repeats 5`
    """
    from medxlate.cli.console import failures, reporting

    hint = "Finished cells are kept; go on with the same command."
    with reporting(json=json, interrupted=hint) as reporter:
        settings, grid = asked(
            target=target,
            source=source,
            method=method,
            repeats=repeats,
            policy=policy,
            target_fraction=target_fraction,
            source_fraction=source_fraction,
            target_patients=target_patients,
            draws=draws,
            test_patients=test_patients,
            val_patients=val_patients,
            split=split,
            split_column=split_column,
            where=where,
            primary=primary,
            preset=preset,
            config=config,
            sets=sets,
            seed=seed,
            data=data,
            device=device,
            offline=offline,
        )
        from medxlate.cli.findings import show
        from medxlate.study.compare import Where as Place
        from medxlate.study.compare import compare as run

        result = run(
            settings,
            grid,
            out=out,
            where=Place(jobs, ray, cell, device=device or "", keep_models=keep_models),
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
