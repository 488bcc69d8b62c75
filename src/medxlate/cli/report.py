"""``medxlate report``, and the page that other commands leave."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medxlate.base.errors import MedxlateError, UsageError
from medxlate.cli.options import INPUT, OUTPUT, Json, flag, option

if TYPE_CHECKING:
    from medxlate.cli.console import Reporter


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="A run, or the folder of a study. runs/latest is the newest run."
        ),
    ] = Path("runs/latest"),
    baseline: Annotated[
        Path | None,
        option(
            "--baseline",
            panel=INPUT,
            metavar="DIR",
            help="A run on the same split to compare with, such as one of target-only.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "--out",
            "-o",
            panel=OUTPUT,
            metavar="FILE",
            help="Page to write. Default: report.html in the run.",
        ),
    ] = None,
    open_: Annotated[
        bool, flag("--open", panel=OUTPUT, help="Open the page in the browser.")
    ] = False,
    json: Json = False,
) -> None:
    """Write one HTML page about a run or a study. It needs no server or network.

    The page of an evaluated run shows test images of patients: give it only to people who may see
    them.

    ```
    # The newest run, opened in the browser
    $ medxlate report --open

    # A run beside its baseline
    $ medxlate report runs/mri-to-ct-001 --baseline runs/ct-001

    # A study
    $ medxlate report compare
    ```
    """
    from medxlate.cli.console import reporting

    with reporting(json=json) as reporter:
        if is_study(folder):
            from medxlate.study.study_report import write_study_page

            if baseline is not None or out is not None:
                raise UsageError(
                    "The page of a study is written into its folder and needs no baseline.",
                    "Leave out --baseline and --out.",
                )
            path = write_study_page(folder)
            reporter.result({"report": str(path)}, f"Report: {path}")
            show(path, reporter, wanted=open_)
            return
        from medxlate.artifacts.runs import find_run

        find_run(folder)  # refused before torch is loaded
        from medxlate.report.run_report import write_report as write

        made = write(folder, baseline=baseline, out=out)
        value = {"report": str(made.path), "verdict": list(made.verdict), "bytes": made.bytes}
        value["badge"] = made.badge
        first, *others = made.verdict
        answer = f"{made.badge}. {first}" if made.badge else first
        reporter.result(value, answer, *others, f"Report: {made.path}")
        show(made.path, reporter, wanted=open_)


def show(page: Path, reporter: Reporter, *, wanted: bool) -> None:
    """Open a page in the browser, where it is wanted; a machine without one is only noted."""
    if wanted and not webbrowser.open(page.resolve().as_uri()):
        from medxlate.base.events import Warned

        reporter(Warned(f"No browser could be started. Open {page.resolve()} in one."))


def is_study(folder: Path) -> bool:
    """Return whether a folder is a study's, without loading what trains its cells."""
    return (folder / "study.json").is_file()


def leave_report(reporter: Reporter, run: Path, *, baseline: Path | None = None) -> None:
    """Write the page of a run that a command has just made; a page that fails is only reported."""
    from medxlate.base.events import Stage, Warned
    from medxlate.report.run_report import write_report as write

    if not reporter.ranks.is_first:
        return
    try:
        reporter(Stage(f"Report: {write(run, baseline=baseline).path}"))
    except (MedxlateError, OSError) as problem:
        reporter(Warned(f"The report of {run} could not be written: {problem}"))
