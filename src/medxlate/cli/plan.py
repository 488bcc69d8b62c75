"""``medxlate plan``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from medxlate.base.errors import UsageError
from medxlate.cli.grid import GridOptions, takes_grid
from medxlate.cli.options import COMPARED, Json, option
from medxlate.cli.runs import size

if TYPE_CHECKING:
    from medxlate.cli.console import ConsoleTable
    from medxlate.study.plan import Forecast


@takes_grid
def plan(
    grid: GridOptions,
    spread_from: Annotated[
        Path | None,
        option(
            "--spread-from",
            panel=COMPARED,
            metavar="DIR",
            help="A finished study. The spread of its differences tells what this study could "
            "detect. Default: a guess from the labels.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    r"""Estimate what `compare` would cost with the same options, and what it could detect.

    Takes a few steps of each kind of training on this machine and writes nothing.

    ```
    # Time, disk and memory for the study
    $ medxlate plan --target ct

    # Also: what it could detect, judged by an earlier study
    $ medxlate plan --target ct --primary joint:target-only \
        --spread-from compare
    ```
    """
    from medxlate.cli.console import reporting

    with reporting(json=json) as reporter:
        settings, wanted = grid.read()
        if settings is None:
            raise UsageError("No target modality is given.", "Name it with --target.")
        from medxlate.study.plan import plan as forecast

        result = forecast(
            settings, wanted, jobs=grid.jobs, spread_from=spread_from, listener=reporter
        )
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
            f"{result.cells} cells; all trainings one after the other: {duration(result.seconds)}"
            + (
                f"; {grid.jobs} at a time: {duration(result.wall_seconds)} at best."
                if grid.jobs > 1
                else "."
            ),
            f"On disk: about {size(result.disk_bytes)}.",
            *(result.outlook.sentences if result.outlook else ()),
        )


def _table(forecast: Forecast) -> ConsoleTable:
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
    columns = ["training", "sources", "count", "steps", "s per step", "total", "GPU memory"]
    return table("What will be trained", columns, rows, once=["count", "GPU memory"])


def duration(seconds: float) -> str:
    """Return a time as people read it: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
