"""``medxlate runs list|show|rm``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medxlate.base.errors import plural
from medxlate.cli.command import Command, Group
from medxlate.cli.complete import run_names
from medxlate.cli.loudness import takes_loudness
from medxlate.cli.options import RUN, Json, Runs, flag

if TYPE_CHECKING:
    from medxlate.artifacts.history import RunDetails, RunSummary
    from medxlate.cli.console import ConsoleTable

runs = typer.Typer(
    name="runs",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="List, show and remove runs.",
)
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="Name of a run. latest is the newest.", autocompletion=run_names
    ),
]


@runs.command("list", cls=Command)
@takes_loudness
def list_(folder: Runs = Path("runs"), json: Json = False) -> None:
    """List all runs, newest first, with their progress and test results.

    A run is finished, running, stopped (`train --resume --name RUN` continues it) or damaged.

    ```
    # The runs in ./runs
    $ medxlate runs list

    # For a program
    $ medxlate runs list --json
    ```
    """
    from medxlate.cli.console import reporting

    with reporting(json=json) as reporter:
        from medxlate.artifacts.history import list_runs

        found = list_runs(folder)
        problems = [f"{run.name} is damaged: {run.problem}" for run in found if run.problem]
        reporter.result(
            {"runs": [_record(run) for run in found]}, _listed(found, folder), *problems
        )


@runs.command("show", cls=Command)
@takes_loudness
def show(run: Run = "latest", folder: Runs = Path("runs"), json: Json = False) -> None:
    """Show a run: how its configuration differs from the defaults, its results and its files.

    ```
    # The newest run
    $ medxlate runs show

    # A run by its name
    $ medxlate runs show mri-to-ct-001
    ```
    """
    from medxlate.cli.console import reporting, table, text_table

    with reporting(json=json) as reporter:
        from medxlate.artifacts.history import show_run
        from medxlate.config import in_toml

        details = show_run(folder, run)
        summary = details.summary
        line = f"{summary.path}: {summary.state}, {summary.epochs} epochs, {size(summary.bytes)}"
        line += f", changed {age(summary.seconds)} ago"
        settings = [[key, in_toml(value)] for key, value in details.differences.items()]
        plugins = [
            [each.kind, each.name, f"{each.distribution} {each.version}", each.sha256[:12]]
            for each in details.plugins
        ]
        files = [[name, size(count)] for name, count in details.files.items()]
        value = {
            "run": _record(summary),
            "differences": details.differences,
            "plugins": [each.model_dump(mode="json") for each in details.plugins],
            "files": details.files,
            "metrics": details.metrics,
            "tests": list(details.tests),
        }
        problem = [f"The run is damaged: {summary.problem}"] if summary.problem else []
        reporter.result(
            value,
            line,
            *problem,
            text_table("Changed from the defaults", ["key", "value"], settings),
            *([table("Plug-ins", ["kind", "name", "package", "hash"], plugins)] if plugins else []),
            _measured(details),
            table("Files", ["file", "size"], files),
        )


@runs.command("rm", cls=Command)
@takes_loudness
def rm(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Name of the run.", autocompletion=run_names)
    ],
    folder: Runs = Path("runs"),
    yes: Annotated[bool, flag("--yes", panel=RUN, help="Do not ask for confirmation.")] = False,
    json: Json = False,
) -> None:
    """Remove a run with its checkpoints and model.

    A run that is being trained is not removed. Links in the run are removed, but not what they
    point to. `latest` then names the newest of the other runs.

    ```
    # Asks first
    $ medxlate runs rm mri-to-ct-001

    # In a script
    $ medxlate runs rm mri-to-ct-001 --yes
    ```
    """
    from medxlate.cli.console import reporting

    with reporting(json=json, interrupted="The run is still there, or partly removed.") as reporter:
        from medxlate.artifacts.history import remove_run, show_run
        from medxlate.base.errors import UsageError
        from medxlate.base.records import visible

        found = show_run(folder, run).summary
        if not yes:
            asked = f"Remove {visible(str(found.path))} ({found.state}, {size(found.bytes)})?"
            try:
                typer.confirm(asked, abort=True, err=True)
            except typer.Abort:
                raise UsageError(
                    "Nothing was removed.", "Add --yes to remove it without being asked."
                ) from None
        freed = remove_run(folder, found.name)
        value = {"removed": str(found.path), "bytes": freed}
        reporter.result(value, f"Removed {found.path} ({size(freed)}).")


def _listed(found: Sequence[RunSummary], folder: Path) -> ConsoleTable:
    """Return a row for each run; what all have in common is said once."""
    from medxlate.cli.console import number, table

    metrics = {run.metric for run in found if run.metric}
    (metric,) = metrics if len(metrics) == 1 else ("",)
    rows = [
        [
            run.name + (" (latest)" if run.latest else ""),
            run.method or "-",
            f"{'+'.join(run.sources)} to {run.target}" if run.sources else run.target or "-",
            run.state,
            str(run.epochs),
            number(run.best_error),
            f"{'' if metric else run.metric + ' '}{number(run.test)}" if run.metric else "-",
            size(run.bytes),
            age(run.seconds),
        ]
        for run in found
    ]
    columns = ["run", "method", "data", "state", "epochs", "val error", f"test {metric}".strip()]
    return table(
        f"{plural(len(found), 'run')} in {folder}",
        [*columns, "size", "age"],
        rows,
        once=["method", "data", "state", "epochs"],
    )


def _measured(details: RunDetails) -> ConsoleTable:
    """Return a row for each metric, its value in validation and by each level of the test."""
    from medxlate.cli.console import merged, number, table

    values = {("validation", k.removeprefix("val_")): v for k, v in details.metrics.items()}
    values |= {
        (f"test by {each['level'] or 'image'}", each["name"]): each["value"]
        for each in details.tests
    }
    heads = list(dict.fromkeys(head for head, _ in values))
    names = list(dict.fromkeys(name for _, name in values))
    columns, rows = merged(
        heads, [[number(values.get((head, name))) for head in heads] for name in names]
    )
    rows = [[name, *row] for name, row in zip(names, rows, strict=True)]
    return table("Metrics", ["metric", *columns], rows)


def _record(run: RunSummary) -> dict[str, Any]:
    return {**asdict(run), "path": str(run.path), "sources": list(run.sources)}


def size(count: int) -> str:
    """Return bytes for people: 512 B, 3.1 MiB."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def age(seconds: float) -> str:
    """Return a time for people: 40 s, 12 min, 5 h, 3 days."""
    for limit, length, unit in ((60, 1, "s"), (3600, 60, "min"), (2 * 86400, 3600, "h")):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
