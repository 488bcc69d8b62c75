"""``medxlate demo``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from medxlate.base.errors import UsageError
from medxlate.cli.options import OUTPUT, PATIENTS, Json, Overwrite, option
from medxlate.cli.report import leave_report

if TYPE_CHECKING:
    from medxlate.cli.console import Reporter
    from medxlate.evaluation.evaluate import Evaluation

FIGURES = ("mse", "mae", "r2")
SHOWN = {  # what each method learns from
    "target-only": "real CT alone",
    "raw-mix": "real CT and untranslated MRI",
    "joint": "real CT and translated MRI",
    "oracle": "real CT and the MRI patients' true CT",
}
OUT = Path("demo")
COUNT = re.compile(r"([^=]+)=([+-]?\d+)")


def demo(
    out: Annotated[
        Path, option("--out", "-o", panel=OUTPUT, metavar="DIR", help="Folder to write.")
    ] = OUT,
    overwrite: Overwrite = False,
    seed: Annotated[
        int,
        option(
            "--seed",
            panel=PATIENTS,
            metavar="N",
            min=0,
            help="Random seed for the patients and the trainings.",
        ),
    ] = 0,
    only_data: Annotated[
        Path | None,
        option(
            "--only-data",
            panel=PATIENTS,
            metavar="DIR",
            help="Write generated patients to this folder, and train nothing.",
        ),
    ] = None,
    patients: Annotated[
        list[str] | None,
        option(
            "--patients",
            panel=PATIENTS,
            metavar="MODALITY=N",
            help="With --only-data: number of patients of ct, mri or pet, such as mri=200. "
            "Repeatable.",
        ),
    ] = None,
    paired: Annotated[
        list[str] | None,
        option(
            "--paired",
            panel=PATIENTS,
            metavar="[MODALITY=]N",
            help="With --only-data: how many patients of mri (or pet=N) have a CT as well. "
            "Repeatable.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    r"""Run every step on generated patients. Takes minutes on a CPU and downloads nothing.

    ```
    # Generate patients, train, evaluate and report, in ./demo
    $ medxlate demo

    # Only write patients, as files to try the other commands on
    $ medxlate demo --only-data raw --patients ct=125 --patients mri=200 \
        --paired 40
    ```
    """
    from medxlate.cli.console import reporting

    hint = "What was finished is kept. To start over, add --overwrite."
    with reporting(json=json, interrupted=hint) as reporter:
        if only_data is None:
            if patients or paired:
                raise UsageError(
                    "--patients and --paired need --only-data.",
                    "Name a folder with --only-data, or leave them out.",
                )
            _demonstrate(reporter, out, seed=seed, overwrite=overwrite)
            return
        if out != OUT:
            raise UsageError("--only-data already names the folder to write.", "Leave out --out.")
        _write_data(
            reporter, only_data, patients or [], paired or [], seed=seed, overwrite=overwrite
        )


def _demonstrate(reporter: Reporter, out: Path, *, seed: int, overwrite: bool) -> None:
    """Run every stage, and show the results."""
    from medxlate.cli.console import number, table
    from medxlate.cli.evaluate import as_json, tables
    from medxlate.cli.prepare import dataset_table
    from medxlate.walkthrough import demo as run

    result = run(out, seed=seed, overwrite=overwrite, listener=reporter)
    joint = result.methods["joint"]
    constant = _figures(joint, "constant")
    scores = {name: _figures(each, "model") for name, each in result.methods.items()}
    rows = {"constant (mean training age)": constant}
    rows |= {f"{name} ({SHOWN[name]})": each for name, each in scores.items()}
    leave_report(reporter, result.runs["target-only"])
    leave_report(reporter, result.runs["joint"], baseline=result.runs["target-only"])
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
            f"Age of {joint.results.patients} test patients, predicted from CT",
            ["method", *FIGURES],
            [[name, *map(number, figures)] for name, figures in rows.items()],
        ),
        _verdict({name: figures[0] for name, figures in scores.items()}, constant[0]),
        f"Picture: {result.picture}",
        f"Everything is in {result.out} ({result.seconds:.0f} s).",
    )


def _write_data(
    reporter: Reporter,
    out: Path,
    patients: list[str],
    paired: list[str],
    *,
    seed: int,
    overwrite: bool,
) -> None:
    """Write generated patients, and show where they are."""
    from medxlate.phantoms.files import PAIRED
    from medxlate.walkthrough import PATIENTS, generate

    counts = _counts("--patients", patients) if patients else dict(PATIENTS)
    pairs = _counts("--paired", [f"mri={each}" if each.isdecimal() else each for each in paired])
    generate(out, patients=counts, paired=pairs, seed=seed, overwrite=overwrite, listener=reporter)
    written = [f"{out / name}: {count} patients" for name, count in sorted(counts.items())]
    if pairs:
        names = " and ".join(f"{count} {name.upper()}" for name, count in sorted(pairs.items()))
        written.append(f"{out / PAIRED}: CT of the first {names} patients")
    reporter.result({"out": str(out), "patients": counts, "paired": pairs}, *written)


def _counts(option: str, words: list[str]) -> dict[str, int]:
    """Return the count of each modality from an option's words such as ``mri=200``."""
    counts: dict[str, int] = {}
    for each in words:
        found = COUNT.fullmatch(each)
        if found is None:
            raise UsageError(
                f"{option} {each} does not name a modality and a count.", "Write it as mri=200."
            )
        name, count = found.groups()
        if name in counts:
            raise UsageError(f"{option} gives two counts of {name}.", "Give one.")
        counts[name] = int(count)
    return counts


def _figures(evaluation: Evaluation, of: str) -> list[float | None]:
    return [evaluation.figure(name, level="patient", of=of) for name in FIGURES]


def _verdict(errors: Mapping[str, float | None], constant: float | None) -> str:
    """Return sentences on what one split shows, and what it cannot.

    Args:
        errors: Mean squared error per patient, by method; None where it could not be taken.
        constant: That of the mean training label, likewise.
    """
    found = {name: error for name, error in errors.items() if error is not None}
    said = [_comparison(found)]
    if constant is not None:
        better = ", ".join(name for name, error in found.items() if error < constant)
        said.append(f"Better than the constant prediction: {better or 'none of them'}.")
    return " ".join([*said, "One split of generated patients proves nothing about yours."])


def _comparison(errors: Mapping[str, float]) -> str:
    """Compare the joint method with the others, of which some may be missing."""
    missing = [name for name in ("joint", "target-only") if name not in errors]
    if missing:
        return f"Nothing can be compared without the error of {' and '.join(missing)}."
    joint, alone = errors["joint"], errors["target-only"]
    said = (
        f"The joint method's squared error is {_than(joint, alone)} target-only's ({joint:.4g} "
        f"against {alone:.4g})"
    )
    if "raw-mix" in errors:
        said += f", and {_than(joint, errors['raw-mix'])} raw-mix's"
    oracle = errors.get("oracle", alone)
    if joint < alone and oracle < alone:
        share = (alone - joint) / (alone - oracle)
        said += f"; it closes {100 * share:.0f} % of the gap to the MRI patients' true CT (oracle)"
    return f"{said}."


def _than(one: float, other: float) -> str:
    return "the same as" if one == other else "lower than" if one < other else "higher than"
