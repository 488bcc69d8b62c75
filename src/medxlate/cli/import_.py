"""``medxlate import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medxlate.base.errors import UsageError, nearest
from medxlate.cli.options import Json, Overwrite, window_of

CODES = ("cyclegan",)
RECIPES = "ct, mr, pet, xray or as-is"


def import_(
    code: Annotated[str, typer.Argument(help="The code that wrote the checkpoint: cyclegan.")],
    checkpoint: Annotated[Path, typer.Argument(help="The file, such as latest_net_G_A.pth.")],
    source: Annotated[str, typer.Option("--source", help="Modality it translates from.")],
    target: Annotated[str, typer.Option("--target", help="Modality it translates to.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model folder to write.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="A dataset with both: its recipes and size are taken."),
    ] = None,
    source_recipe: Annotated[
        str | None,
        typer.Option("--source-recipe", help=f"Without --data: intensities, {RECIPES}."),
    ] = None,
    target_recipe: Annotated[
        str | None, typer.Option("--target-recipe", help="Likewise: ct, pet or as-is.")
    ] = None,
    source_window: Annotated[
        str | None,
        typer.Option(
            "--source-window", help="LEVEL,WIDTH of the recipes ct and pet, or a window's name."
        ),
    ] = None,
    target_window: Annotated[
        str | None, typer.Option("--target-window", help="Likewise, of the target.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option("--size", help="Side of the images it was trained on, px (--crop_size)."),
    ] = None,
    channel: Annotated[
        int | None,
        typer.Option("--channel", help="Channel of colour outputs, from 0. Default: 1, green."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make a model folder for `translate` from a generator that other code trained.

    `medxlate import cyclegan latest_net_G_A.pth --source mri --target ct --out model --size 256
    --source-recipe as-is --target-recipe as-is`

    `medxlate import cyclegan latest_net_G_A.pth --source mri --target ct --out model --data data`

    No code in the file is run.
    """
    from medxlate.cli.console import reporting

    with reporting(json=json) as reporter:
        from dataclasses import asdict

        from medxlate.artifacts.importing import import_cyclegan

        if code not in CODES:
            raise UsageError(f"Checkpoints of '{code}' are not known.", nearest(code, CODES))
        result = import_cyclegan(
            checkpoint,
            source=source,
            target=target,
            out=out,
            data=data,
            source_recipe=source_recipe,
            target_recipe=target_recipe,
            source_window=window_of(source_window, "--source-window"),
            target_window=window_of(target_window, "--target-window"),
            size=size,
            channel=channel,
            overwrite=overwrite,
            listener=reporter,
        )
        reporter.result(
            {**asdict(result), "out": str(result.out)},
            f"{source} to {target}, {result.blocks} residual blocks of width {result.width}, in "
            f"{result.out}. Use it with `medxlate translate IMAGES --model {result.out}`.",
        )
