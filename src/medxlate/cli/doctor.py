"""``medxlate doctor``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medxlate.cli.options import Json


def doctor(
    folder: Annotated[
        Path, typer.Argument(help="Where data and runs will be.", show_default=True)
    ] = Path(),
    json: Json = False,
) -> None:
    """Show what this machine can do, what is missing, and what to do about it.

    Looks at Python, packages, torch, devices, memory, disk, codecs, weights and SLURM, and changes
    nothing. Exit code 1 where there is a problem; a note is not one.

    `medxlate doctor`
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
        shown = text_table("This machine", ["looked at", "found, and what to do"], rows)
        value = {
            "problems": problems,
            "notes": notes,
            "checks": [asdict(check) for check in checks],
        }
        reporter.result(value, shown, f"{problems} problems, {notes} notes.")
        if problems:
            reporter.error(f"{problems} problems.", "The table says what to do about each.")
            raise typer.Exit(1)
