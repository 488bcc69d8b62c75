"""``medxlate demo``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medxlate.cli.options import Json, Overwrite
from medxlate.cli.report import leave_report
from medxlate.errors import UsageError

if TYPE_CHECKING:
    from medxlate.evaluation.evaluate import Evaluation

FIGURES = ("mse", "mae", "r2")
SHOWN = {  # what each method learns from
    "target-only": "real CT alone",
    "raw-mix": "and MRI as it is",
    "joint": "and translated MRI",
    "oracle": "and the true CT of the MRI patients",
}
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
        joint = result.methods["joint"]
        rows = {"constant (mean training age)": _figures(joint, "constant")}
        rows |= {
            f"{name} ({SHOWN[name]})": _figures(each, "model")
            for name, each in result.methods.items()
        }
        leave_report(reporter, result.runs["target-only"])
        leave_report(reporter, result.runs["joint"], baseline=result.runs["target-only"])
        tested = joint.results
        reporter.result(
            {
                "out": str(result.out),
                "picture": str(result.picture),
                "methods": {name: as_json(each) for name, each in result.methods.items()},
                "seconds": result.seconds,
            },
            dataset_table(result.dataset, title=f"The dataset {result.out / 'data'}"),
            *tables(joint)[1:],
            table(
                f"Age of {tested.patients} test patients, CT",
                ["method", *FIGURES],
                [[name, *map(number, scores)] for name, scores in rows.items()],
            ),
            _verdict({name: _figures(each, "model")[0] for name, each in result.methods.items()}),
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
    return [evaluation.figure(name, level="patient", of=of) for name in FIGURES]


def _verdict(errors: Mapping[str, float | None]) -> str:
    """Say what one split shows, and what it cannot.

    Args:
        errors: Mean squared error per patient, by method.
    """
    found = {name: error for name, error in errors.items() if error is not None}
    alone, joint, oracle = found["target-only"], found["joint"], found["oracle"]
    change = "lower" if joint < alone else "higher"
    said = (
        f"The joint method's squared error is {change} than target-only's ({joint:.4g} against "
        f"{alone:.4g}), and {'lower' if joint < found['raw-mix'] else 'higher'} than raw-mix's"
    )
    if oracle < alone:
        share = (alone - joint) / (alone - oracle)
        said += f"; that is {share:.0%} of what the true CT of the MRI patients would have gained"
    return f"{said}. One split of generated patients proves nothing about yours."
