"""``medxlate config show|init``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medxlate.base.errors import OutputError, UsageError
from medxlate.cli import complete
from medxlate.cli.command import Command, Group
from medxlate.cli.loudness import takes_loudness
from medxlate.cli.options import OUTPUT, ConfigFile, Json, Overwrite, Preset, Sets, option

if TYPE_CHECKING:
    from medxlate.config import Setting

config = typer.Typer(
    name="config",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Show every key of a configuration, or write a configuration file to start from.",
)


@config.command("show", cls=Command)
@takes_loudness
def show(
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEYS",
            help="Keys or sections to show, such as optimizer or data.image_size, and the run to "
            "read them from, such as runs/latest. Default: all keys.",
            autocompletion=complete.config_words,
            show_default=False,
        ),
    ] = None,
    preset: Preset = None,
    file: ConfigFile = None,
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Show each key of a configuration: its value, its default, its meaning and its source.

    ```
    # All keys and their defaults
    $ medxlate config show

    # What a preset changes in a section
    $ medxlate config show optimizer --preset scarce

    # One key, as the newest run had it
    $ medxlate config show runs/latest optimizer.epochs
    ```
    """
    from medxlate.cli.console import entries, reporting

    with reporting(json=json) as reporter:
        from medxlate.config import chosen, is_name, settings

        runs = [word for word in keys or [] if not is_name(word) and _is_path(word)]
        names = [word for word in keys or [] if word not in runs]
        chosen(settings(), names)  # a wrong name is refused before a run is looked for
        if runs:
            if len(runs) > 1 or preset or file or sets:
                raise UsageError(
                    "A run is shown with the configuration it was trained with.",
                    "Name one run, without --preset, --config and --set.",
                )
            from medxlate.artifacts.runs import find_run

            file = find_run(Path(runs[0])).config
        found = chosen(settings(preset=preset, file=file, sets=sets or ()), names)
        reporter.result(
            {"settings": [asdict(each) for each in found]},
            entries((_assigned(each), each.meaning) for each in found),
        )


@config.command("init", cls=Command)
@takes_loudness
def init(
    out: Annotated[
        Path, option("--out", "-o", panel=OUTPUT, metavar="FILE", help="TOML file to write.")
    ] = Path("config.toml"),
    overwrite: Overwrite = False,
    preset: Preset = None,
    sets: Sets = None,
    json: Json = False,
) -> None:
    r"""Write a configuration file for `train` and `compare` in which every key is explained.

    Keys that the preset or --set changes have their values; all others are commented out and have
    their defaults.

    ```
    # The defaults, in ./config.toml
    $ medxlate config init

    # A preset, for given modalities
    $ medxlate config init --preset scarce -o ct.toml \
        --set data.sources='["mri"]' --set data.target=ct

    # Then
    $ medxlate train --config ct.toml
    ```
    """
    from medxlate.cli.console import reporting

    with reporting(json=json) as reporter:
        from medxlate.base.files import whole_file
        from medxlate.config import document, settings

        if out.suffix.lower() == ".json":
            raise UsageError("The file is written as TOML.", "Give it a name that ends in .toml.")
        if out.is_dir() or (out.exists() and not overwrite):
            raise OutputError(f"{out} exists.", "Name another file, or replace it: --overwrite.")
        text = document(settings(preset=preset, sets=sets or ()), preset)
        with whole_file(out) as place:
            place.write_text(text, encoding="utf-8")
        reporter.result(
            {"out": str(out)}, f"Configuration: {out}. Use it: medxlate train --config {out}"
        )


def _is_path(word: str) -> bool:
    return "/" in word or Path(word).exists()


def _assigned(setting: Setting) -> str:
    from medxlate.config import in_toml

    beside = setting.source
    if setting.value != setting.default:
        beside += f"; default: {in_toml(setting.default)}"
    return f"{setting.key} = {in_toml(setting.value)}  ({beside})"
