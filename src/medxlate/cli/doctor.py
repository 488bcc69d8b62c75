"""``medxlate doctor``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medxlate.cli.options import Json


def doctor(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Folder where data and runs will be kept.", show_default=True
        ),
    ] = Path(),
    json: Json = False,
) -> None:
    """Check this machine: what works, what is missing, and how to fix it.

    Checks Python, packages, torch, devices, memory, disk, codecs, weights and SLURM, and changes
    nothing. The exit code is 1 if there is a problem; a note is not a problem.

    ```
    # This machine, with data and runs in the working directory
    $ medxlate doctor

    # Data and runs on another disk
    $ medxlate doctor /scratch/project
    ```
    """
    from medxlate.cli.console import reporting, text_table

    with reporting(json=json) as reporter:
        from medxlate.doctor import examine

        checks = examine(folder)
        problems = sum(check.state == "problem" for check in checks)
        notes = sum(check.state == "note" for check in checks)
        rows = []
        for check in checks:
            rows.append([f"{check.state:8}{check.name}", check.found])
            rows += [["", check.fix]] if check.fix else []
        shown = text_table("This machine", ["check", "result, and what to do"], rows)
        value = {
            "problems": problems,
            "notes": notes,
            "checks": [asdict(check) for check in checks],
        }
        reporter.result(value, shown, f"{problems} problems, {notes} notes.")
        if problems:
            reporter.error(f"{problems} problems.", "The table says how to fix each.")
            raise typer.Exit(1)
