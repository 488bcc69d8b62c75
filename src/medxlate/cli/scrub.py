"""``medxlate scrub``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medxlate.cli.options import INPUT, Json, option

MOST = 20


def scrub(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A run, a model folder, or any other folder.")
    ],
    check: Annotated[
        bool,
        typer.Option("--check", hidden=True, help="Accepted for older scripts: the default."),
    ] = True,
    data: Annotated[
        Path | None,
        option(
            "--data",
            panel=INPUT,
            metavar="DIR",
            help="Dataset whose identifying values are searched for. Default: the run's own.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Search a folder for names, IDs, dates and paths of patients before you share it.

    Searches file names, text, headers, metadata and archives for every identifying value that
    `prepare` read, and reports files that it cannot search. A finding names the file, the place
    and the kind of value, never the value itself. The exit code is 1 if anything is found or
    could not be searched.

    ```
    # A run, before it is shared
    $ medxlate scrub runs/mri-to-ct-001

    # Any folder, for the patients of a dataset
    $ medxlate scrub shared --data data
    ```
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
            reporter.error(f"{folder} may identify a patient.", "The places are listed above.")
            raise typer.Exit(1)
