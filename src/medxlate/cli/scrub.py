"""``medxlate scrub``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medxlate.cli.options import Json

MOST = 20


def scrub(
    folder: Annotated[Path, typer.Argument(help="A run, a model folder or any other folder.")],
    check: Annotated[
        bool,
        typer.Option("--check", hidden=True, help="What it does anyway; once it was asked for."),
    ] = True,
    data: Annotated[
        Path | None, typer.Option("--data", help="The dataset. Default: the run's own.")
    ] = None,
    json: Json = False,
) -> None:
    """Look for the names, ids, dates and paths of the raw data in a folder.

    Looks in file names, text, headers, metadata and archives for every identifying value that
    `prepare` met, and reports what it cannot look into. A finding names file, place and kind, never
    the value. Exit code 1 where something is found or could not be searched.

    `medxlate scrub runs/mri-to-ct-001`

    `medxlate scrub shared --data data`
    """
    from medxlate.cli.console import reporting

    with reporting(json=json) as reporter:
        from medxlate.scrub.scrub import scrub as look

        result = look(folder, data=data, listener=reporter)
        left = f"{result.too_short} too short"
        if result.generic:
            left += f" and {result.generic} that name nobody"
        if not result.found:
            summary = f"{result.files} files hold none of {result.values} identifying values"
        else:
            summary = (
                f"{len({each.file for each in result.found})} of {result.files} files hold one of "
                f"{result.values} identifying values, or could not be searched"
            )
        lines = [f"{summary} ({left} were not looked for)."]
        lines += [f"  {each.file}: {each.where}: {each.kind}" for each in result.found[:MOST]]
        if len(result.found) > MOST:
            lines.append(f"  ... and {len(result.found) - MOST} more places (--json lists all)")
        reporter.result({**asdict(result), "clean": not result.found}, *lines)
        if result.found:
            reporter.error(f"{folder} holds what may identify a patient.", "The places are above.")
            raise typer.Exit(1)
