"""``medxlate translate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medxlate.cli.options import (
    BatchSize,
    Device,
    Exclude,
    Images,
    Json,
    Model,
    Overwrite,
    Precision,
)


def translate(
    images: Images,
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")],
    model: Model = Path("runs/latest"),
    source: Annotated[
        str | None, typer.Option("--source", help="Source modality, where the model has several.")
    ] = None,
    exclude: Exclude = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Translate images to the target modality: one output per input, same tree, size and stem.

    `medxlate translate ./mri_dir --out ./fake_ct`

    `medxlate translate scan.png --out fake --model runs/mri-to-ct-001`
    """
    from medxlate.cli.console import reporting

    with reporting(json=json) as reporter:
        from medxlate.inference.translate import translate as run

        result = run(
            images,
            out=out,
            model=model,
            source=source,
            exclude=exclude or (),
            device=device,
            precision=precision,
            batch_size=batch_size,
            overwrite=overwrite,
            listener=reporter,
        )
        reporter.result(
            {
                "out": str(result.out),
                "images": result.images,
                "failed": result.failed,
                "seconds": result.seconds,
            },
            f"{result.images} synthetic images in {result.out} ({result.seconds:.1f} s).",
        )
        kept = f"The others are in {result.out}; its translation.json lists all."
        reporter.end_with(result.failed, "translated", kept)
