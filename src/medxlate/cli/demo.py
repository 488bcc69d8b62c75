"""``medxlate demo``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medxlate.cli.options import Json, Overwrite


def demo(
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")] = Path("demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of patients and training.")] = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Run the whole way on generated patients: minutes on a processor, no download.

    `medxlate demo`
    """
    from medxlate.cli.console import number, reporting, table
    from medxlate.cli.evaluate import tables
    from medxlate.cli.prepare import dataset_table

    hint = "What was made so far is kept; begin again with `medxlate demo --overwrite`."
    with reporting(json=json, interrupted=hint) as reporter:
        from medxlate.walkthrough import demo as run

        result = run(out, seed=seed, overwrite=overwrite, listener=reporter)
        methods = {
            "constant (mean training age)": result.joint.constant,
            "target-only (real CT alone)": result.target_only.per_image,
            "joint (with translated MRI)": result.joint.per_image,
        }
        reporter.result(
            {
                "out": str(result.out),
                "picture": str(result.picture),
                "constant": result.joint.constant,
                "target_only": {**asdict(result.target_only), "run": str(result.target_only.run)},
                "joint": {**asdict(result.joint), "run": str(result.joint.run)},
                "seconds": result.seconds,
            },
            dataset_table(result.dataset, title=f"The dataset {result.out / 'data'}"),
            *tables(result.joint)[1:],
            table(
                f"Age of {result.joint.images} test CT slices of {result.joint.patients} patients",
                ["method", *result.joint.per_image],
                [[name, *map(number, scores.values())] for name, scores in methods.items()],
            ),
            _verdict(*(scores["mse"] for scores in methods.values())),
            f"Picture: {result.picture}",
            f"Everything is in {result.out} ({result.seconds:.0f} s).",
        )


def _verdict(constant: float | None, alone: float | None, joint: float | None) -> str:
    """Say what one split shows, and what it cannot."""
    assert constant is not None
    assert alone is not None
    assert joint is not None
    change = "lower" if joint < alone else "higher"
    beaten = [name for name, mse in (("target-only", alone), ("joint", joint)) if mse < constant]
    useful = f"{' and '.join(beaten)} beat" + ("s" if len(beaten) == 1 else "") if beaten else ""
    return (
        f"The joint method's squared error is {change} than target-only's ({joint:.4g} against "
        f"{alone:.4g}); {useful or 'neither beats'} the constant. "
        "One split of a few generated patients proves nothing either way."
    )
