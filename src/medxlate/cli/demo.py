"""``medxlate demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medxlate.cli.options import Json, Overwrite
from medxlate.cli.report import leave_report
from medxlate.errors import UsageError

if TYPE_CHECKING:
    from medxlate.evaluation.evaluate import Evaluation

FIGURES = ("mse", "mae", "r2")
OUT = Path("demo")


def demo(
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")] = OUT,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of patients and training.")] = 0,
    only_data: Annotated[
        Path | None,
        typer.Option(
            "--only-data", help="Write the generated patients to this folder and train nothing."
        ),
    ] = None,
    patients: Annotated[
        list[str] | None,
        typer.Option(
            "--patients",
            metavar="MODALITY=COUNT",
            help="With --only-data: patients of ct, mri or pet, such as mri=200; repeat.",
        ),
    ] = None,
    paired: Annotated[
        int | None,
        typer.Option(
            "--paired",
            help="With --only-data: how many MRI patients have a CT too, in ct_of_mri.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Run the whole way on generated patients: minutes on a processor, no download.

    `medxlate demo`

    `medxlate demo --only-data OUT --patients ct=125 --patients mri=200 --paired 40`
    """
    if only_data is not None:
        if out != OUT:
            raise typer.BadParameter("--only-data names the folder; leave --out out.")
        _write_data(only_data, patients, paired or 0, seed=seed, overwrite=overwrite, json=json)
        return
    from medxlate.cli.console import number, reporting, table
    from medxlate.cli.evaluate import as_json, tables
    from medxlate.cli.prepare import dataset_table

    hint = "What was made so far is kept; begin again with `medxlate demo --overwrite`."
    with reporting(json=json, interrupted=hint) as reporter:
        if patients or paired is not None:
            raise UsageError(
                "--patients and --paired choose what --only-data writes.",
                "Name a folder with --only-data, or leave them out.",
            )
        from medxlate.walkthrough import demo as run

        result = run(out, seed=seed, overwrite=overwrite, listener=reporter)
        rows = {
            "constant (mean training age)": _figures(result.joint, "constant"),
            "target-only (real CT alone)": _figures(result.target_only, "model"),
            "joint (with translated MRI)": _figures(result.joint, "model"),
        }
        leave_report(reporter, result.target_only.run)
        leave_report(reporter, result.joint.run, baseline=result.target_only.run)
        tested = result.joint.results
        reporter.result(
            {
                "out": str(result.out),
                "picture": str(result.picture),
                "target_only": as_json(result.target_only),
                "joint": as_json(result.joint),
                "seconds": result.seconds,
            },
            dataset_table(result.dataset, title=f"The dataset {result.out / 'data'}"),
            *tables(result.joint)[1:],
            table(
                f"Age of {tested.images} test CT slices of {tested.patients} patients",
                ["method", *FIGURES],
                [[name, *map(number, scores)] for name, scores in rows.items()],
            ),
            _verdict(*(scores[0] for scores in rows.values())),
            f"Picture: {result.picture}",
            f"Everything is in {result.out} ({result.seconds:.0f} s).",
        )


def _write_data(
    out: Path, patients: list[str] | None, paired: int, *, seed: int, overwrite: bool, json: bool
) -> None:
    """Write generated patients, and say where they are."""
    from medxlate.cli.console import reporting

    hint = "Begin again with --overwrite."
    with reporting(json=json, interrupted=hint) as reporter:
        from medxlate.walkthrough import PATIENTS, generate

        counts = _counts(patients) if patients else dict(PATIENTS)
        generate(
            out, patients=counts, paired=paired, seed=seed, overwrite=overwrite, listener=reporter
        )
        written = [f"{out / name}: {count} patients" for name, count in sorted(counts.items())]
        if paired:
            written.append(f"{out / 'ct_of_mri'}: CT of the first {paired} MRI patients")
        reporter.result({"out": str(out), "patients": counts, "paired": paired}, *written)


def _counts(patients: list[str]) -> dict[str, int]:
    """Return the count of each modality from words such as ``mri=200``."""
    counts: dict[str, int] = {}
    for each in patients:
        name, equals, count = each.partition("=")
        if not equals or not count.strip().lstrip("+-").isdecimal():
            raise UsageError(
                f"--patients {each} is no modality with a count.", "Write it as mri=200."
            )
        if name in counts:
            raise UsageError(f"--patients gives a count of {name} twice.", "Give one.")
        counts[name] = int(count)
    return counts


def _figures(evaluation: Evaluation, of: str) -> list[float | None]:
    return [evaluation.figure(name, level="image", of=of) for name in FIGURES]


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
