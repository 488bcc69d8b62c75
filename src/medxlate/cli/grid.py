"""The options that ``compare`` and ``plan`` have in common: what is compared, on whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from medxlate.base.errors import UsageError
from medxlate.cli import complete
from medxlate.cli.options import (
    COMPARED,
    HARDWARE,
    METHODS_HELP,
    SPLIT,
    TRAINING,
    ConfigFile,
    DataOverride,
    DeviceOverride,
    Preset,
    Sets,
    Target,
    Where,
    choice,
    given_sections,
    option,
)

if TYPE_CHECKING:
    from medxlate.config import Config
    from medxlate.study.begin import Grid


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """The options; ``takes_grid`` gives them to a command."""

    target: Target = None
    source: Annotated[
        list[str] | None,
        option(
            "--source",
            panel=COMPARED,
            metavar="SOURCES",
            help="Source modalities that are used together, such as mri or mri+pet. Repeatable for "
            "several sets. Default: each other modality alone, and all together.",
            autocompletion=complete.modalities,
        ),
    ] = None
    method: Annotated[
        list[str] | None,
        choice(
            "--method",
            words=complete.METHODS,
            panel=COMPARED,
            metavar="NAME",
            help=f"{METHODS_HELP} Repeatable. Default: all that docs/how-to/compare.md lists.",
            is_open=True,
            plugins="methods",
        ),
    ] = None
    primary: Annotated[
        str | None,
        option(
            "--primary",
            panel=COMPARED,
            metavar="CONTRAST",
            help="The contrast that matters most, named in advance as METHOD[/SOURCES]:REFERENCE, "
            "such as joint:target-only. Its p-value is not adjusted for the others.",
        ),
    ] = None
    target_fraction: Annotated[
        str | None,
        option(
            "--target-fraction",
            panel=COMPARED,
            metavar="FRACTIONS",
            help="Fractions of the target's training patients to train on, such as 0.1,0.5,1.0 "
            "(with --policy image: of its slices). Default: 1.0.",
        ),
    ] = None
    source_fraction: Annotated[
        str | None,
        option(
            "--source-fraction",
            panel=COMPARED,
            metavar="FRACTIONS",
            help="Fractions of the sources' training patients to train on (with --policy image: of "
            "their slices). Default: 1.0.",
        ),
    ] = None
    target_patients: Annotated[
        str | None,
        option(
            "--target-patients",
            panel=COMPARED,
            metavar="COUNTS",
            help="Numbers of target patients to train on, such as 3,5,10,25. They are drawn anew "
            "in each of --draws; test and validation patients stay the same, and all sources are "
            "used.",
        ),
    ] = None
    repeats: Annotated[
        int | None,
        option(
            "--repeats",
            panel=SPLIT,
            metavar="N",
            min=1,
            help="Number of random splits, or of seeds if the split is given. Default: 10 splits, "
            "5 seeds.",
        ),
    ] = None
    draws: Annotated[
        int | None,
        option(
            "--draws",
            panel=SPLIT,
            metavar="N",
            min=1,
            help="Number of draws of --target-patients. Default: 8.",
        ),
    ] = None
    policy: Annotated[
        str | None,
        choice(
            "--policy",
            words=complete.POLICIES,
            panel=SPLIT,
            metavar="NAME",
            help="What is divided: patient (nobody is on two sides; the default) or image (slices, "
            "as in the paper).",
        ),
    ] = None
    test_patients: Annotated[
        int | None,
        option(
            "--test-patients",
            panel=SPLIT,
            metavar="N",
            min=1,
            help="Number of target patients for testing. Default: the fraction split.test.",
        ),
    ] = None
    val_patients: Annotated[
        int | None,
        option(
            "--val-patients",
            panel=SPLIT,
            metavar="N",
            min=1,
            help="Number of target patients for validation. Default: the fraction split.val; with "
            "--target-patients, 5.",
        ),
    ] = None
    split: Annotated[
        Path | None,
        option(
            "--split",
            panel=SPLIT,
            metavar="FILE",
            help="Use this split: a run's split.json, or a table with columns patient and part "
            "(train, val, test).",
        ),
    ] = None
    split_column: Annotated[
        str | None,
        option(
            "--split-column",
            panel=SPLIT,
            metavar="COLUMN",
            help="Use the split in this column, kept by `prepare --keep`: train, val or test.",
        ),
    ] = None
    data: DataOverride = None
    where: Where = None
    preset: Preset = None
    config: ConfigFile = None
    sets: Sets = None
    seed: Annotated[
        int | None,
        option(
            "--seed",
            panel=TRAINING,
            metavar="N",
            help="Random seed of the first repeat; each further repeat adds 1. Default: 0.",
        ),
    ] = None
    jobs: Annotated[
        int,
        option(
            "--jobs",
            panel=HARDWARE,
            metavar="N",
            min=1,
            help="Number of trainings that run at the same time, spread over the GPUs.",
        ),
    ] = 1
    device: DeviceOverride = None

    def read(self, *, offline: bool = False) -> tuple[Config | None, Grid | None]:
        """Return the configuration and the grid; None for a study that was begun before.

        Raises:
            UsageError: No target is named although other options are, or options contradict each
                other.
            ConfigError: The configuration cannot be read.
        """
        if self.target is None and self.config is None:
            elsewhere = {"jobs", "device"}  # not part of what a study is
            named = (getattr(self, f.name) for f in fields(self) if f.name not in elsewhere)
            if offline or any(value not in (None, []) for value in named):
                raise UsageError("No target modality is given.", "Name it with --target.")
            return None, None
        from medxlate.config import resolve
        from medxlate.study.begin import Grid

        overrides = given_sections(
            data={
                "target": self.target,
                "folder": None if self.data is None else str(self.data),
                "where": self.where,
            },
            split={
                "policy": self.policy,
                "seed": self.seed,
                "test_patients": self.test_patients,
                "val_patients": self.val_patients,
                "file": None if self.split is None else str(self.split),
                "column": self.split_column,
            },
            runtime={"seed": self.seed, "device": self.device, "offline": offline or None},
        )
        settings = resolve(
            preset=self.preset, file=self.config, sets=self.sets or (), overrides=overrides
        )
        grid = Grid(
            methods=self.method or (),
            sources=self.source or (),
            target_fractions=_shares(self.target_fraction, "--target-fraction"),
            source_fractions=_shares(self.source_fraction, "--source-fraction"),
            target_patients=_counts(self.target_patients, "--target-patients"),
            repeats=_repeats(self.repeats, self.draws, self.target_patients),
            primary=self.primary or "",
        )
        return settings, grid


def takes_grid(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's first parameter, its ``GridOptions``, by an option for each field.

    Typer builds a command from a function's signature, and knows no groups of options.
    """
    kinds = get_type_hints(GridOptions, include_extras=True)
    shared = [
        Parameter(
            each.name,
            Parameter.POSITIONAL_OR_KEYWORD,
            default=each.default,
            annotation=kinds[each.name],
        )
        for each in fields(GridOptions)
    ]
    own = list(signature(command, eval_str=True).parameters.values())[1:]

    @wraps(command)
    def run(**values: Any) -> None:
        options = GridOptions(**{each.name: values.pop(each.name) for each in shared})
        command(options, **values)

    run.__dict__["__signature__"] = Signature([*shared, *own])
    run.__annotations__ = {each.name: each.annotation for each in (*shared, *own)}
    return run


def _repeats(repeats: int | None, draws: int | None, target_patients: str | None) -> int | None:
    """Return how many repeats are asked for, by the option that counts them in this design."""
    if target_patients is None and draws is not None:
        raise UsageError(
            "--draws needs --target-patients.",
            "Say how many patients to draw with --target-patients, or use --repeats.",
        )
    if target_patients is not None and repeats is not None:
        raise UsageError(
            "--repeats counts splits or seeds, but --target-patients draws from one split.",
            "Use --draws instead.",
        )
    return repeats if target_patients is None else draws


def _shares(text: str | None, option: str) -> list[float]:
    if text is None:
        return [1.0]
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{option} {text} is not a list of numbers.", "Write it as 0.25,0.5,1.0."
        ) from None


def _counts(text: str | None, option: str) -> list[int]:
    if text is None:
        return []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{option} {text} is not a list of whole numbers.", "Write it as 3,5,10,25."
        ) from None
