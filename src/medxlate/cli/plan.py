"""``medxlate plan``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medxlate.base.errors import UsageError
from medxlate.cli import grid
from medxlate.cli.options import Json, Preset, Where

if TYPE_CHECKING:
    from medxlate.cli.console import Table
    from medxlate.study.plan import Forecast


def plan(
    target: grid.Target = None,
    source: grid.Source = None,
    method: grid.Methods = None,
    repeats: grid.Repeats = None,
    policy: grid.Policy = None,
    target_fraction: grid.TargetFraction = None,
    source_fraction: grid.SourceFraction = None,
    target_patients: grid.TargetPatients = None,
    draws: grid.Draws = None,
    test_patients: grid.TestPatients = None,
    val_patients: grid.ValPatients = None,
    split: grid.GivenSplit = None,
    split_column: grid.SplitColumn = None,
    where: Where = None,
    primary: grid.Primary = None,
    preset: Preset = None,
    config: grid.ConfigFile = None,
    sets: grid.Sets = None,
    seed: grid.Seed = None,
    data: grid.DataFolder = None,
    jobs: grid.Jobs = 1,
    spread_from: Annotated[
        Path | None,
        typer.Option(
            "--spread-from",
            help="A finished study: how much its differences vary tells what this one could show. "
            "Without it that is guessed from the label.",
        ),
    ] = None,
    device: grid.DeviceName = None,
    json: Json = False,
) -> None:
    """Forecast what `compare` will cost, and what it could show, with the same options.

    Nothing is written. A few steps of each kind of training are taken on this machine.

    `medxlate plan --target ct`

    `medxlate plan --target ct --primary joint:target-only --spread-from compare`
    """
    from medxlate.cli.console import reporting

    with reporting(json=json) as reporter:
        settings, wanted = grid.asked(
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
        )
        if settings is None:
            raise UsageError("No target modality is given.", "Name it with --target.")
        from medxlate.study.plan import plan as forecast

        result = forecast(settings, wanted, jobs=jobs, spread_from=spread_from, listener=reporter)
        reporter.result(
            {
                "cells": result.cells,
                "seconds": result.seconds,
                "wall_seconds": result.wall_seconds,
                "disk_bytes": result.disk_bytes,
                "outlook": None if result.outlook is None else asdict(result.outlook),
                "trainings": [asdict(line) for line in result.lines],
            },
            _table(result),
            f"{result.cells} cells; all trainings one after the other: {duration(result.seconds)}; "
            f"with {jobs} at the same time {duration(result.wall_seconds)} at best.",
            f"On disk: about {result.disk_bytes / 2**30:.2g} GiB.",
            *(result.outlook.sentences if result.outlook else ()),
        )


def _table(forecast: Forecast) -> Table:
    from medxlate.cli.console import number, table

    rows = [
        [
            line.method,
            line.sources or "-",
            str(line.count),
            str(line.steps),
            number(line.step_seconds),
            duration(line.seconds),
            "-" if line.memory_bytes is None else f"{line.memory_bytes / 2**30:.1f} GiB",
        ]
        for line in forecast.lines
    ]
    columns = ["training", "sources", "count", "steps", "s a step", "in all", "GPU memory"]
    return table("What will be trained", columns, rows)


def duration(seconds: float) -> str:
    """Return a time as people read it: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
