"""``medxlate compare``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medxlate.cli import complete
from medxlate.cli.options import Json, Offline
from medxlate.errors import UsageError

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
    int | None, typer.Option("--repeats", min=1, help="How many splits. Default: 10.")
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
Primary = Annotated[
    str | None,
    typer.Option(
        "--primary",
        help="The one contrast that counts by itself, METHOD[/SOURCES]:REFERENCE, such as "
        "joint:target-only: named before, its p-value is not adjusted for the others.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="The study folder.")]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="paper (256 px), scarce (few target images; minutes on a CPU), small (64 px) or "
        "debug (seconds).",
        autocompletion=complete.presets,
    ),
]
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


def compare(
    target: Target = None,
    source: Source = None,
    method: Methods = None,
    repeats: Repeats = None,
    policy: Policy = None,
    target_fraction: TargetFraction = None,
    source_fraction: SourceFraction = None,
    primary: Primary = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    seed: Seed = None,
    data: DataFolder = None,
    out: Out = Path("compare"),
    jobs: Jobs = 1,
    cell: Annotated[
        int | None,
        typer.Option("--cell", help="Train this cell alone, from 0: for a job array."),
    ] = None,
    ray: Annotated[
        str, typer.Option("--ray", help="Address of an existing Ray cluster, or auto.")
    ] = "",
    predictions: Annotated[
        list[Path] | None,
        typer.Option("--predictions", help="CSV of another tool's predictions; repeat."),
    ] = None,
    inception: Annotated[
        Path | None, typer.Option("--inception", help="File of Inception's weights, for FID, IS.")
    ] = None,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Keep the trained model of every cell.")
    ] = False,
    offline: Offline = False,
    device: DeviceName = None,
    json: Json = False,
) -> None:
    """Train every method on the same splits and say what helps.

    A study that was interrupted goes on: the same command again, or without any option but --out.

    `medxlate compare --target ct`

    `medxlate compare --target ct --source mri --method target-only --method joint --repeats 5`

    `medxlate compare --target ct --target-fraction 0.1,0.25,0.5,1.0 --jobs 4`
    """
    from medxlate.cli.console import failures, reporting

    hint = "Finished cells are kept; go on with the same command."
    with reporting(json=json, interrupted=hint) as reporter:
        settings, grid = asked(
            target=target,
            source=source,
            method=method,
            repeats=repeats,
            policy=policy,
            target_fraction=target_fraction,
            source_fraction=source_fraction,
            primary=primary,
            preset=preset,
            config=config,
            sets=sets,
            seed=seed,
            data=data,
            device=device,
            offline=offline,
        )
        from medxlate.cli.findings import show
        from medxlate.study.compare import Where
        from medxlate.study.compare import compare as run

        result = run(
            settings,
            grid,
            out=out,
            where=Where(jobs, ray, cell, device=device or "", keep_models=keep_models),
            predictions=predictions or (),
            inception=inception,
            listener=reporter,
        )
        show(reporter, result)
        if result.failed:
            named = "\n".join(failures(result.failed))
            hint = "The same command tries them again."
            reporter.error(f"{len(result.failed)} of {result.cells} cells failed:\n{named}", hint)
            raise typer.Exit(1)


def asked(
    *,
    target: str | None,
    source: list[str] | None,
    method: list[str] | None,
    repeats: int | None,
    policy: str | None,
    target_fraction: str | None,
    source_fraction: str | None,
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
        if any((*shape, preset, sets, data, offline)) or seed is not None:
            raise UsageError("No target modality is given.", "Name it with --target.")
        return None, None
    sections: dict[str, dict[str, Any]] = {
        "data": {"target": target, "folder": None if data is None else str(data)},
        "split": {"policy": policy, "seed": seed},
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
        primary=primary or "",
    )
    if repeats is not None:
        grid = replace(grid, repeats=repeats)
    return settings, grid


def _shares(text: str | None, option: str) -> list[float]:
    if text is None:
        return [1.0]
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{option} {text} is no list of numbers.", "Such as 0.25,0.5,1.0."
        ) from None
