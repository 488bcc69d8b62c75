"""The command ``medxlate``. Importing it costs neither torch nor pydicom."""

from __future__ import annotations

from typing import Annotated

import typer

import medxlate
from medxlate.cli.compare import compare
from medxlate.cli.demo import demo
from medxlate.cli.doctor import doctor
from medxlate.cli.evaluate import evaluate
from medxlate.cli.export import export
from medxlate.cli.fetch import fetch
from medxlate.cli.import_ import import_
from medxlate.cli.plan import plan
from medxlate.cli.predict import predict
from medxlate.cli.prepare import prepare
from medxlate.cli.report import report
from medxlate.cli.runs import runs
from medxlate.cli.scrub import scrub
from medxlate.cli.train import train
from medxlate.cli.translate import translate

app = typer.Typer(
    name="medxlate",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medxlate {medxlate.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Translate medical images between modalities to make a better predictor.

    The usual way: **prepare** each modality, **train**, then **translate**, **predict** and
    **evaluate**. **compare** trains every method on the same splits and says what helps; **plan**
    says before what that will cost. **scrub** looks for patients' data in what is handed on.
    **import** takes over a generator that other code trained, **export** writes ONNX or a folder
    for model hubs. **demo** does all of it on generated images.

    Exit codes: 0 done, 1 failed, 2 wrong use, 3 stopped by a signal and saved (train), 130
    interrupted.
    """


COMMANDS = (
    *(prepare, train, translate, predict, evaluate, report, compare, plan, scrub, import_, export),
    doctor,
    fetch,
    demo,
)
for command in COMMANDS:
    app.command(command.__name__.rstrip("_"))(command)
app.add_typer(runs)


def main() -> None:
    """Run the command line."""
    app()
