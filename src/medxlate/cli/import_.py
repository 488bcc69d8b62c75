"""``medxlate import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medxlate.cli import complete
from medxlate.cli.options import (
    INPUT,
    INTENSITIES,
    OUTPUT,
    Json,
    Overwrite,
    choice,
    listed,
    one_of,
    option,
    window_of,
)

CODES = ("cyclegan",)


def import_(
    code: Annotated[
        str,
        typer.Argument(
            metavar="CODE",
            help=f"The code that wrote the checkpoint: {listed(CODES)}.",
            parser=one_of(CODES),
        ),
    ],
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="Checkpoint file, such as latest_net_G_A.pth."),
    ],
    source: Annotated[
        str,
        option(
            "--source",
            panel=INPUT,
            metavar="MODALITY",
            help="Modality that the generator translates from.",
        ),
    ],
    target: Annotated[
        str,
        option(
            "--target",
            panel=INPUT,
            metavar="MODALITY",
            help="Modality that the generator translates to.",
        ),
    ],
    out: Annotated[
        Path, option("--out", "-o", panel=OUTPUT, metavar="DIR", help="Model folder to write.")
    ],
    data: Annotated[
        Path | None,
        option(
            "--data",
            panel=INTENSITIES,
            metavar="DIR",
            help="A dataset with both modalities: its recipes and size are taken.",
        ),
    ] = None,
    source_recipe: Annotated[
        str | None,
        choice(
            "--source-recipe",
            words=complete.RECIPES,
            panel=INTENSITIES,
            metavar="NAME",
            help="Without --data: how grey values of the source are mapped: {words}.",
            is_open=True,
        ),
    ] = None,
    target_recipe: Annotated[
        str | None,
        choice(
            "--target-recipe",
            words=("ct", "pet", "as-is"),
            panel=INTENSITIES,
            metavar="NAME",
            help="Without --data: how grey values of the target are mapped: {words}.",
            is_open=True,
        ),
    ] = None,
    source_window: Annotated[
        str | None,
        choice(
            "--source-window",
            words=complete.WINDOWS,
            panel=INTENSITIES,
            metavar="WINDOW",
            help="Source recipes ct and pet: LEVEL,WIDTH in HU or SUV, or the name of a CT "
            "window: {words}.",
            is_open=True,
        ),
    ] = None,
    target_window: Annotated[
        str | None,
        choice(
            "--target-window",
            words=complete.WINDOWS,
            panel=INTENSITIES,
            metavar="WINDOW",
            help="The same for the target: LEVEL,WIDTH, or {words}.",
            is_open=True,
        ),
    ] = None,
    size: Annotated[
        int | None,
        option(
            "--size",
            panel=INTENSITIES,
            metavar="PIXELS",
            help="Side of the images that the generator was trained on (--crop_size there).",
        ),
    ] = None,
    channel: Annotated[
        int | None,
        option(
            "--channel",
            panel=INTENSITIES,
            metavar="N",
            help="Which channel of colour outputs to use, counted from 0. Default: 1, green.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    r"""Make a model folder for `translate` from a generator that other code trained.

    No code in the checkpoint file is run.

    ```
    # Recipes and size from a dataset with both modalities
    $ medxlate import cyclegan latest_net_G_A.pth --source mri --target ct \
        --out model --data data

    # Without a dataset: 8-bit pictures, trained at 256 pixels
    $ medxlate import cyclegan latest_net_G_A.pth --source mri --target ct \
        --out model --size 256 --source-recipe as-is --target-recipe as-is
    ```
    """
    from medxlate.cli.console import reporting

    with reporting(json=json) as reporter:
        from dataclasses import asdict

        from medxlate.artifacts.importing import import_cyclegan

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
