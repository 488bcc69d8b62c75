"""The options that ``compare`` and ``plan`` have in common: what is compared, on whom."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medxlate.base.errors import UsageError
from medxlate.cli import complete

if TYPE_CHECKING:
    from medxlate.config import Config
    from medxlate.study.begin import Grid

Target = Annotated[
    str | None,
    typer.Option("--target", help="Target modality.", autocompletion=complete.modalities),
]
Source = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        help="Sources used together, such as mri or mri+pet; repeat for several sets. Default: "
        "each other modality alone, and all together.",
        autocompletion=complete.modalities,
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help="A method; repeat. Default: all that docs/how-to/compare.md lists.",
        autocompletion=complete.methods,
    ),
]
Repeats = Annotated[
    int | None,
    typer.Option(
        "--repeats", min=1, help="How many splits or, of a given one, seeds. Default: 10; 5."
    ),
]
Policy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        help="patient (default): nobody on two sides. image: slices are divided, as in the paper.",
    ),
]
TargetFraction = Annotated[
    str | None,
    typer.Option(
        "--target-fraction",
        help="Shares of the target's training patients (policy image: slices). Default: 1.0.",
    ),
]
SourceFraction = Annotated[
    str | None,
    typer.Option(
        "--source-fraction",
        help="Shares of the sources' training patients (policy image: slices). Default: 1.0.",
    ),
]
TargetPatients = Annotated[
    str | None,
    typer.Option(
        "--target-patients",
        help="Numbers of target patients to train on, such as 3,5,10,25: drawn anew in each of "
        "--draws, while those who test and validate stay, and all sources train.",
    ),
]
Draws = Annotated[
    int | None,
    typer.Option("--draws", min=1, help="How many draws of --target-patients. Default: 8."),
]
TestPatients = Annotated[
    int | None,
    typer.Option(
        "--test-patients", min=1, help="Target patients to test. Default: the share split.test."
    ),
]
ValPatients = Annotated[
    int | None,
    typer.Option(
        "--val-patients",
        min=1,
        help="Target patients to validate. Default: the share split.val; 5 with --target-patients.",
    ),
]
GivenSplit = Annotated[
    Path | None,
    typer.Option(
        "--split",
        help="A given split: a run's split.json, or a table with columns patient and part (train, "
        "val, test).",
    ),
]
SplitColumn = Annotated[
    str | None,
    typer.Option(
        "--split-column",
        help="A given split: a column of `prepare --keep` with train, val and test.",
    ),
]
Primary = Annotated[
    str | None,
    typer.Option(
        "--primary",
        help="The one contrast that counts by itself, METHOD[/SOURCES]:REFERENCE, such as "
        "joint:target-only: named before, its p-value is not adjusted for the others.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="The study folder.")]
DataFolder = Annotated[
    Path | None, typer.Option("--data", help="The dataset folder. Default: data.")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file, or a run's config.json.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="section.key=value, for every cell; method and sources are the grid's."
    ),
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Of the first split and its weights; then +1 each.")
]
DeviceName = Annotated[
    str | None,
    typer.Option(
        "--device", help="auto, cpu, cuda, cuda:N or mps.", autocompletion=complete.devices
    ),
]
Jobs = Annotated[
    int, typer.Option("--jobs", min=1, help="Cells at the same time; GPUs are dealt out in turn.")
]


def asked(
    *,
    target: str | None,
    source: list[str] | None,
    method: list[str] | None,
    repeats: int | None,
    policy: str | None,
    target_fraction: str | None,
    source_fraction: str | None,
    target_patients: str | None,
    draws: int | None,
    test_patients: int | None,
    val_patients: int | None,
    split: Path | None,
    split_column: str | None,
    where: list[str] | None,
    primary: str | None,
    preset: str | None,
    config: Path | None,
    sets: list[str] | None,
    seed: int | None,
    data: Path | None,
    device: str | None,
    offline: bool = False,
) -> tuple[Config | None, Grid | None]:
    """Return the configuration and the grid; None for a study that was begun before."""
    from medxlate.config import resolve
    from medxlate.study.begin import Grid

    if target is None and config is None:
        shape = (source, method, repeats, policy, target_fraction, source_fraction, primary)
        design = (target_patients, draws, test_patients, val_patients, split, split_column, where)
        if any((*shape, *design, preset, sets, data, offline)) or seed is not None:
            raise UsageError("No target modality is given.", "Name it with --target.")
        return None, None
    sections: dict[str, dict[str, Any]] = {
        "data": {
            "target": target,
            "folder": None if data is None else str(data),
            "where": where or None,
        },
        "split": {
            "policy": policy,
            "seed": seed,
            "test_patients": test_patients,
            "val_patients": val_patients,
            "file": None if split is None else str(split),
            "column": split_column,
        },
        "runtime": {"seed": seed, "device": device, "offline": offline or None},
    }
    overrides = {
        name: {key: value for key, value in section.items() if value is not None}
        for name, section in sections.items()
    }
    settings = resolve(preset=preset, file=config, sets=sets or (), overrides=overrides)
    grid = Grid(
        methods=method or (),
        sources=source or (),
        target_fractions=_shares(target_fraction, "--target-fraction"),
        source_fractions=_shares(source_fraction, "--source-fraction"),
        target_patients=_counts(target_patients, "--target-patients"),
        repeats=_repeats(repeats, draws, target_patients),
        primary=primary or "",
    )
    return settings, grid


def _repeats(repeats: int | None, draws: int | None, target_patients: str | None) -> int | None:
    """Return how many repeats are asked for, by the option that counts them in this design."""
    if target_patients is None and draws is not None:
        raise UsageError(
            "--draws counts draws of target patients.",
            "Say how many are drawn with --target-patients, or give --repeats.",
        )
    if target_patients is not None and repeats is not None:
        raise UsageError(
            "--repeats counts splits or seeds, and --target-patients is drawn from one split.",
            "Give --draws in its place.",
        )
    return repeats if target_patients is None else draws


def _shares(text: str | None, option: str) -> list[float]:
    if text is None:
        return [1.0]
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{option} {text} is no list of numbers.", "Such as 0.25,0.5,1.0."
        ) from None


def _counts(text: str | None, option: str) -> list[int]:
    if text is None:
        return []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{option} {text} is no list of whole numbers.", "Such as 3,5,10,25."
        ) from None
