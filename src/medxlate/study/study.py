"""A study as it lies on disk: what is compared, its cells, and where each thing is.

``docs/reference/folders.md`` describes the folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medxlate.artifacts.runs import RunFolder, seen_from, seen_from_here
from medxlate.base.errors import ConfigError, DataError, UsageError
from medxlate.base.events import silent
from medxlate.base.files import write_json
from medxlate.base.plugins import PluginRecord, check_installed
from medxlate.base.records import read_record
from medxlate.config import Config
from medxlate.dataset.index import Dataset
from medxlate.dataset.loading import Slices
from medxlate.dataset.splits import Split, read_split
from medxlate.dataset.training_data import open_modalities, part_slices
from medxlate.method.registry import find_method, first_stages
from medxlate.study.comparison import find_contrast
from medxlate.study.power import Design

SCHEMA_VERSION = 1
MARKER = "study.json"
MAX_CELLS = 100_000
Share = Annotated[float, Field(gt=0, le=1)]


class Study(BaseModel):
    """The content of study.json: everything that determines a study's numbers.

    Attributes:
        schema_version: Version of this file's format.
        medxlate: The version that began it.
        methods: What is compared.
        source_sets: Sources that are used together, for the methods that use any.
        design: What a repeat changes. ``resampled``: the split; ``redrawn``: the target's
            training patients, drawn from a pool, while validation and test stay; ``given``: only
            the seed of the weights.
        repeats: Number of splits, draws or seeds.
        target_fractions: Shares of the target's training patients; n of N are the share n / N.
        source_fractions: Shares of the sources' training patients.
        primary: The contrast that was named in advance, such as ``joint/mri:target-only``; "":
            none.
        config: The configuration of every cell, except for what ``cell_config`` sets. It names all
            sources.
        fingerprints: A hash of each modality's pixels, labels, patients and recipe.
        given: The hash of a given split; "" if splits are drawn.
        plugins: The plug-ins that train its methods.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    medxlate: str
    methods: tuple[str, ...]
    source_sets: tuple[tuple[str, ...], ...]
    design: Design = "resampled"
    repeats: int = Field(ge=1, le=1000)
    target_fractions: tuple[Share, ...] = (1.0,)
    source_fractions: tuple[Share, ...] = (1.0,)
    primary: str = ""
    config: Config
    fingerprints: dict[str, str]
    given: str = ""
    plugins: tuple[PluginRecord, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _older(cls, values: Any) -> Any:
        """Read a study from before ``split.sources`` as one that divided its sources."""
        config = values.get("config") if isinstance(values, Mapping) else None
        split = config.get("split") if isinstance(config, Mapping) else None
        if isinstance(config, Mapping) and isinstance(split, Mapping) and "sources" not in split:
            divided = {**config, "split": {**split, "sources": "divided"}}
            return {**values, "config": divided}
        return values

    @model_validator(mode="after")
    def _known(self) -> Study:
        """Names of methods and sources become names of folders."""
        known = set(self.config.data.sources)
        if not all(known.issuperset(sources) for sources in self.source_sets):
            raise ValueError("source_sets contains a source that config.data.sources does not")
        needed = [each for each in self.plugins if each.kind == "methods"]
        check_installed(needed, "The study", silent)
        for method in self.methods:
            try:
                find_method(method)
            except ConfigError as problem:
                raise ValueError(problem.message) from None
        try:
            find_contrast(self.primary, self.methods, self.source_sets)
        except ConfigError as problem:
            raise ValueError(problem.message) from None
        fractions = len(self.target_fractions) * len(self.source_fractions)
        if len(self.methods) * max(len(self.source_sets), 1) * fractions * self.repeats > MAX_CELLS:
            raise ValueError(f"it has more than {MAX_CELLS} cells")
        return self


@dataclass(frozen=True)
class Cell:
    """One training of the grid.

    Attributes:
        index: Its place in the grid, from 0.
        method: As in the registry.
        sources: The source modalities; none for methods that use none.
        repeat: Which split, draw or seed, from 0.
        target_fraction: Share of the target's training patients.
        source_fraction: Share of the sources' training patients; 1 without sources.
    """

    index: int
    method: str
    sources: tuple[str, ...]
    repeat: int
    target_fraction: float
    source_fraction: float

    @property
    def name(self) -> str:
        """The name of its folder."""
        parts = [f"{self.index:04d}", self.method, *(["+".join(self.sources)] * bool(self.sources))]
        parts += [
            f"r{self.repeat:02d}",
            f"t{self.target_fraction:.12g}",
            f"s{self.source_fraction:.12g}",
        ]
        return "-".join(parts)

    @property
    def keys(self) -> dict[str, str | int | float]:
        """What tells its rows from others' in the results."""
        return {
            "method": self.method,
            "sources": "+".join(self.sources),
            "repeat": self.repeat,
            "target_fraction": self.target_fraction,
            "source_fraction": self.source_fraction,
        }


@dataclass(frozen=True)
class StudyFolder:
    """The places inside a study folder."""

    path: Path

    @property
    def study(self) -> Path:
        """What is compared."""
        return self.path / MARKER

    @property
    def cells(self) -> Path:
        """A folder a finished cell."""
        return self.path / "cells"

    def cell(self, cell: Cell) -> Path:
        """The folder of a finished cell; it appears whole."""
        return self.cells / cell.name

    def working(self, cell: Cell) -> Path:
        """Where a cell is trained; it stays behind where that was interrupted."""
        return self.cells / f".{cell.name}.work"

    def failure(self, cell: Cell) -> Path:
        """Why a cell failed, until it is tried again."""
        return self.cells / f"{cell.name}.failed.json"

    def split(self, repeat: int) -> Path:
        """The split of a repeat, with the seed by which its training patients are taken."""
        return self.path / "splits" / f"r{repeat:02d}.json"

    def stage(self, config: Config) -> RunFolder:
        """The run of a first stage that cells share."""
        return RunFolder(self.path / "shared" / stage_name(config))


def cells(study: Study) -> list[Cell]:
    """Return the grid, all methods of a repeat before the next: early results compare already."""
    found: list[Cell] = []
    for repeat in range(study.repeats):
        for target_fraction in study.target_fractions:
            for method in study.methods:
                for sources, source_fraction in _source_settings(study, method):
                    found.append(
                        Cell(len(found), method, sources, repeat, target_fraction, source_fraction)
                    )
    return found


def _source_settings(study: Study, method: str) -> Iterator[tuple[tuple[str, ...], float]]:
    if not find_method(method).uses_sources:
        yield (), 1.0
        return
    for sources in study.source_sets:
        for fraction in study.source_fractions:
            yield sources, fraction


def cell_config(study: Study, cell: Cell) -> Config:
    """Return the configuration of a cell.

    The seed of the weights and of the order goes with the repeat: every method of a repeat starts
    from the same predictor, as far as the method lets it. That of the split goes with it where
    each repeat has a split of its own.
    """
    base = study.config
    splits = cell.repeat if study.design == "resampled" else 0
    data = {
        "sources": cell.sources,
        "target_fraction": cell.target_fraction,
        "source_fraction": cell.source_fraction,
        "match_labels": base.data.match_labels and find_method(cell.method).shows_both,
    }
    return base.model_copy(
        update={
            "method": cell.method,
            "data": base.data.model_copy(update=data),
            "split": base.split.model_copy(update={"seed": base.split.seed + splits}),
            "runtime": base.runtime.model_copy(update={"seed": base.runtime.seed + cell.repeat}),
        }
    )


def cell_stages(study: Study, cell: Cell) -> Mapping[str, Config]:
    """Return the configurations of what a cell needs trained before."""
    return first_stages(cell_config(study, cell))


def stage_name(config: Config) -> str:
    """Return the folder's name of a first stage: the same for all cells that can share it."""
    data = config.data
    return (
        f"{config.method}-{'+'.join(data.sources)}-seed{config.runtime.seed}"
        f"-t{data.target_fraction:.12g}-s{data.source_fraction:.12g}"
    )


def read_study(folder: Path) -> Study:
    """Read study.json; the dataset's folder as it is found from here.

    Raises:
        DataError: It is missing, damaged or of another version.
    """
    study = read_record(
        folder / MARKER,
        Study,
        version=SCHEMA_VERSION,
        error=DataError,
        hint="Start a study with `medxlate compare --target T`.",
        again="Start the study again in another folder",
    )
    return study.model_copy(update={"config": seen_from_here(folder, study.config)})


def write_study(folder: Path, study: Study) -> None:
    """Write study.json; a relative dataset folder as it is seen from the study."""
    kept = study.model_copy(update={"config": seen_from(folder, study.config)})
    write_json(folder / MARKER, kept.model_dump(mode="json"))


def find_cell(study: Study, index: int) -> Cell:
    """Return a cell by its place; raises UsageError where there is none."""
    grid = cells(study)
    if not 0 <= index < len(grid):
        raise UsageError(
            f"There is no cell {index}: the study has {len(grid)}.",
            f"Choose one from 0 to {len(grid) - 1}.",
        )
    return grid[index]


class OpenStudy:
    """A study with its data: its modalities, its splits and its test slices.

    Args:
        study: The study.
        folder: Where it lies.

    Attributes:
        dataset: Its dataset.
        tables: The modalities, the target last.
        target: The target's name.
        splits: Of each repeat.
        tests: Test slices of each repeat, by modality.
    """

    def __init__(self, study: Study, folder: StudyFolder) -> None:
        self.study = study
        self.folder = folder
        self.dataset = Dataset(Path(study.config.data.folder))
        self.tables = open_modalities(self.dataset, study.config)
        self.target = study.config.data.target
        self.splits: list[Split] = [
            read_split(folder.split(repeat), self.tables) for repeat in range(study.repeats)
        ]
        self.tests: list[dict[str, Slices]] = [
            part_slices(self.dataset, self.tables, split, study.config, "test")
            for split in self.splits
        ]
