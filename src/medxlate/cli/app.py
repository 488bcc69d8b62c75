"""The command ``medxlate``. Importing it costs neither torch nor pydicom."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from medxlate._version import __version__
from medxlate.cli.command import Command, Group
from medxlate.cli.compare import compare
from medxlate.cli.config import config
from medxlate.cli.demo import demo
from medxlate.cli.doctor import doctor
from medxlate.cli.evaluate import evaluate
from medxlate.cli.fetch import fetch
from medxlate.cli.hand_over import export
from medxlate.cli.import_ import import_
from medxlate.cli.loudness import takes_loudness
from medxlate.cli.plan import plan
from medxlate.cli.predict import predict
from medxlate.cli.prepare import prepare
from medxlate.cli.report import report
from medxlate.cli.runs import runs
from medxlate.cli.scrub import scrub
from medxlate.cli.terminal import print_whatever_comes
from medxlate.cli.train import train
from medxlate.cli.translate import translate


class _Group(Group):
    """The commands; a call that is wrong already in its words fails with an object, too."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        words = [*getattr(ctx, "_protected_args", ()), *ctx.args]  # before they are taken apart
        try:
            return super().invoke(ctx)
        except Exception as problem:
            said = getattr(problem, "format_message", None)  # click's own errors
            if said is not None and "--json" in words:
                from medxlate.cli.console import print_object

                code, hint = getattr(problem, "exit_code", 2), "`medxlate --help` says more."
                print_object({"error": said(), "hint": hint, "code": code})
            raise


app = typer.Typer(
    name="medxlate",
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medxlate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_version, is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    """Translate medical images between modalities to train a better predictor.

    **prepare** each modality, **train**, then **translate**, **predict** and **evaluate**.
    **compare** trains every method on the same splits and reports what helps.

    ```
    # Every step, on generated patients
    $ medxlate demo

    # Your own images
    $ medxlate prepare scans/mri --modality mri --label PatientAge
    $ medxlate prepare scans/ct --modality ct --label PatientAge
    $ medxlate train --source mri --target ct --preset scarce
    $ medxlate evaluate
    $ medxlate report --open
    ```

    Exit codes: 0 done, 1 failed, 2 wrong use, 3 stopped by a signal and saved (train), 130
    interrupted. `medxlate COMMAND --help` explains a command.
    """


# By panel of the help; the panels and their commands in the order in which people need them.
COMMANDS = {
    "Data and models": (prepare, train, translate, predict, evaluate, report, runs),
    "Studies": (compare, plan),
    "Sharing": (scrub, export, import_),
    "Set-up": (config, demo, doctor, fetch),
}
for panel, commands in COMMANDS.items():
    for command in commands:
        if isinstance(command, typer.Typer):
            app.add_typer(command, rich_help_panel=panel)
        else:
            name = command.__name__.rstrip("_")
            app.command(name, cls=Command, rich_help_panel=panel)(takes_loudness(command))


def main() -> None:
    """Run the command line."""
    print_whatever_comes()
    app()
