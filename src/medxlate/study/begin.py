"""From what is asked for to a study folder: checked, divided and written before any training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medxlate._version import __version__
from medxlate.base.device import choose_compute
from medxlate.base.errors import ConfigError, OutputError, UsageError
from medxlate.base.events import Listener, Warned
from medxlate.base.files import check_parents, locked, whole_file, write_json
from medxlate.base.plugins import PluginRecord, refuse_changed
from medxlate.base.records import for_csv
from medxlate.config import Config
from medxlate.dataset.index import Dataset, Modality
from medxlate.dataset.splits import MEANING, PARTS, Split, training_share
from medxlate.dataset.training_data import Data, image_size, open_modalities, part_slices
from medxlate.method.registry import METHODS, STAGES, base_method, find_method, used_plugins
from medxlate.method.stand_ins import check_covered
from medxlate.study.checks import check_classes, label_warnings
from medxlate.study.comparison import find_contrast
from medxlate.study.designs import (
    LARGE,
    MUCH,
    NUMBER,
    check_room,
    choose_design,
    draw_splits,
    fractions_of,
    settled,
)
from medxlate.study.power import Design
from medxlate.study.study import MARKER, Study, StudyFolder, read_study, write_study
from medxlate.training.setup import check_config, check_pairs


@dataclass(frozen=True)
class Grid:
    """What is asked for.

    Attributes:
        methods: Names in the registry; none: all of them.
        sources: Source sets such as ``mri`` or ``mri+pet``; none: every other modality alone
            and, where there are several, all together.
        repeats: How many splits, draws of target patients, or seeds; None: 10, 8 or 5.
        target_fractions: Fractions of the target's training patients.
        source_fractions: Fractions of the sources' training patients.
        target_patients: Numbers of target training patients instead of fractions. The parts of the
            split then stay, and each repeat draws so many anew from the training part, a smaller
            number among a larger one (design ``redrawn``).
        primary: The one contrast named in advance, such as ``joint:target-only``: its p-value
            is not adjusted for the others; "": none.
    """

    methods: Sequence[str] = ()
    sources: Sequence[str] = ()
    repeats: int | None = None
    target_fractions: Sequence[float] = (1.0,)
    source_fractions: Sequence[float] = (1.0,)
    target_patients: Sequence[int] = ()
    primary: str = ""


def plan_study(config: Config, grid: Grid, *, here: bool = True) -> Study:
    """Return the study that is asked for; nothing is written.

    Args:
        config: Of every cell; its sources are set by the grid. A split that it gives
            (``split.file``, ``split.column``) makes the design ``given``.
        grid: What is compared.
        here: Whether it is trained on this computer, so that its device must be there.

    Raises:
        ConfigError: A method, modality or value is wrong.
        UsageError: What is asked for belongs to different designs.
        DataError: The dataset cannot be used, or has too few patients.
    """
    design = _design(config, grid)
    dataset = Dataset(Path(config.data.folder))
    methods = _methods(grid.methods, config)
    sets = _sets(grid, config, methods, dataset)
    primary = find_contrast(grid.primary, methods, sets)
    union = tuple(dict.fromkeys(name for each in sets for name in each))
    config = config.model_copy(
        update={
            "data": config.data.model_copy(update={"sources": union}),
            "split": settled(config.split, design),
            "method": "joint",
        }
    )
    if union:
        check_config(config)
    for name in methods:
        check_pairs(config.model_copy(update={"method": name}))
    image_size(dataset, config)
    if here:
        choose_compute(config.runtime.device, config.runtime.precision)
    tables = open_modalities(dataset, config)
    study = _checked(
        medxlate=__version__,
        methods=tuple(methods),
        source_sets=tuple(sets),
        design=design,
        repeats=NUMBER[design] if grid.repeats is None else grid.repeats,
        target_fractions=_fractions(grid.target_fractions, "target"),
        source_fractions=_fractions(grid.source_fractions, "source"),
        primary=str(primary or ""),
        config=config,
        fingerprints={name: modality.fingerprint() for name, modality in tables.items()},
        plugins=_plugins(config, methods),
    )
    return _with_split(study, grid, dataset, tables)


def _plugins(config: Config, methods: Sequence[str]) -> tuple[PluginRecord, ...]:
    """Return the plug-ins by which any of the methods is trained."""
    found = (used_plugins(config.model_copy(update={"method": name})) for name in methods)
    return tuple(dict.fromkeys(each for plugins in found for each in plugins))


def _design(config: Config, grid: Grid) -> Design:
    """Return the design that is asked for; refuse what no study can be."""
    if not config.data.target:
        raise ConfigError("No target modality is given.", "Add --target.")
    for key in ("target_fraction", "source_fraction"):
        if getattr(config.data, key) != 1:
            raise ConfigError(
                f"data.{key} cannot be set in a study.", f"Use --{key.replace('_', '-')} instead."
            )
    if grid.repeats is not None and grid.repeats < 1:
        raise UsageError(f"{grid.repeats} repeats are not possible.", "Use 1 or more.")
    whole = tuple(grid.target_fractions) == (1.0,)
    return choose_design(config.split, grid.target_patients, whole)


def _checked(**values: Any) -> Study:
    """Return the study; raise UsageError where its grid is too large."""
    try:
        return Study(**values)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"])) or "The study"
        raise UsageError(f"{where}: {first['msg'].removeprefix('Value error, ')}.") from None


def begin_study(study: Study, folder: StudyFolder, listener: Listener) -> None:
    """Check a study, draw its splits and write both; continue one that was begun before.

    Args:
        study: Of ``plan_study``.
        folder: Where it is written.
        listener: Receives warnings for whoever reads the results.

    Raises:
        DataError: Too few patients for a split, or a class is absent from training or test.
        OutputError: The folder holds something else, or a study of another configuration.
    """
    check_parents(folder.study)
    if folder.path.is_file():
        raise OutputError(f"{folder.path} is a file.", "Give a folder with --out.")
    dataset = Dataset(Path(study.config.data.folder))
    tables = open_modalities(dataset, study.config)
    folder.path.mkdir(parents=True, exist_ok=True)
    with locked(folder.path / ".begin.lock", wait=True):
        if folder.study.is_file():
            begun = read_study(folder.path)
            refuse_changed(begun.plugins, f"The study {folder.path}", listener)
            check_same(begun, study, folder)
            if not _same_folder(begun, study):  # the dataset was moved
                write_study(folder.path, study)
        else:
            _check_empty(folder.path)
            splits = draw_splits(study, dataset, tables)
            _check_labels(study, dataset, tables, splits)
            _check_covered(study, tables, splits)
            for repeat, split in enumerate(splits):
                _write_split(folder.split(repeat), split, study, tables)
            write_study(folder.path, study)
    _warn(study, dataset, tables, listener)


def _same_folder(one: Study, other: Study) -> bool:
    """Return whether two studies name the same dataset folder, however they write it."""
    places = {os.path.realpath(each.config.data.folder) for each in (one, other)}
    return len(places) == 1


_ANYWHERE = (
    *("medxlate", "config.runtime.device", "config.runtime.offline", "config.data.folder"),
    "config.split.file",  # its content is in ``given``
)


def check_same(begun: Study, study: Study, folder: StudyFolder) -> None:
    """Refuse to continue a study that was begun with another configuration.

    Device, folders and connections may be others: they decide where, not what.

    Raises:
        OutputError: Naming what differs.
    """
    old, new = (_flat(each.model_dump(mode="json")) for each in (begun, study))
    for key in _ANYWHERE:
        old.pop(key), new.pop(key)
    differing = [
        f"{key} was {old.get(key)!r} and is now {new.get(key)!r}"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    ]
    if differing:
        raise OutputError(
            f"The study {folder.path} was started with another configuration: "
            f"{'; '.join(differing[:5])}.",
            "Start a new one with --out, or continue it with `medxlate compare --out "
            f"{folder.path}` without other options.",
        )


def _methods(names: Sequence[str], config: Config) -> list[str]:
    """Return known methods once each, in the registry's order; none named: all that can be run.

    Those of plug-ins come last, and only where they are named.
    """
    for name in names:
        if name in STAGES:
            raise ConfigError(f"{name} is a first stage, not a method of its own.")
        find_method(name)  # raises, naming the nearest
    order = list(METHODS)
    paired = config.data.oracle and config.split.policy == "patient"
    possible = [name for name in order if paired or not METHODS[name].needs_pairs]

    def place(name: str) -> tuple[int, str]:
        base = base_method(name)
        return order.index(base) if base in order else len(order), name

    return sorted(dict.fromkeys(names or possible), key=place)


def _source_sets(
    asked: Sequence[str], target: str, prepared: Sequence[str]
) -> list[tuple[str, ...]]:
    others = [name for name in prepared if name != target]
    if not asked:
        return [(name,) for name in others] + ([tuple(others)] if len(others) > 1 else [])
    sets = [tuple(text.split("+")) for text in asked]
    for names in sets:
        if target in names or len(set(names)) < len(names):
            raise ConfigError(
                f"The sources {'+'.join(names)} contain the target, or one modality twice."
            )
    return list(dict.fromkeys(sets))


def _fractions(values: Sequence[float], modality: str) -> tuple[float, ...]:
    for value in values:
        if not 0 < value <= 1:
            raise ConfigError(
                f"{value:g} is not a valid fraction of the {modality} patients.",
                "Use fractions above 0, up to 1.",
            )
    return tuple(sorted(set(values))) or (1.0,)


def _sets(
    grid: Grid, config: Config, methods: Sequence[str], dataset: Dataset
) -> list[tuple[str, ...]]:
    """Return the source sets that the methods use; raise ConfigError where they lack one."""
    if not any(find_method(name).uses_sources for name in methods):
        return []
    prepared = [name for name in dataset.info.modalities if name != config.data.oracle]
    sets = _source_sets(grid.sources, config.data.target, prepared)
    if not sets:
        raise ConfigError(
            f"The dataset {dataset.folder} has no modality other than {config.data.target}.",
            "Prepare a source modality, or compare only methods without a source.",
        )
    return sets


def _with_split(
    study: Study, grid: Grid, dataset: Dataset, tables: Mapping[str, Modality]
) -> Study:
    """Fix what the first split decides: fractions, the hash of a given one, steps of an epoch.

    The steps are as many for every cell as show the largest modality once: methods, sources and
    shares that see fewer images then make as many updates as the others.
    """
    config, target = study.config, tables[study.config.data.target]
    if grid.target_patients:
        check_room(target, grid.target_patients, config.split)
    split = draw_splits(study.model_copy(update={"repeats": 1}), dataset, tables)[0]
    update: dict[str, Any] = {"given": split.to_json()["hash"] if config.split.is_given else ""}
    if grid.target_patients:
        update["target_fractions"] = fractions_of(grid.target_patients, split, target)
    train = part_slices(dataset, tables, split, config, "train")
    steps = Data(train, {}).steps_per_epoch(config.optimizer)
    optimizer = config.optimizer.model_copy(update={"steps_per_epoch": steps})
    update["config"] = config.model_copy(update={"optimizer": optimizer})
    return _checked(**{**dict(study), **update})


def _check_labels(
    study: Study, dataset: Dataset, tables: Mapping[str, Modality], splits: Sequence[Split]
) -> None:
    target = study.config.data.target
    check_classes(dataset.info.task, tables[target].slices, target, splits, study.target_fractions)


def _check_covered(study: Study, tables: Mapping[str, Modality], splits: Sequence[Split]) -> None:
    """Refuse pairs that do not cover the sources' training patients, where a method needs them."""
    if not any(find_method(name).needs_pairs for name in study.methods):
        return
    oracle = study.config.data.oracle
    paired = set(tables[oracle].slices["patient"])
    for split in splits:
        for name in study.config.data.sources:
            patients = set(tables[name].slices["patient"]).intersection(split.parts["train"])
            check_covered(patients, paired, name, oracle)


def _warn(
    study: Study, dataset: Dataset, tables: Mapping[str, Modality], listener: Listener
) -> None:
    target = study.config.data.target
    sources = {name: tables[name].slices for name in study.config.data.sources}
    for text in label_warnings(dataset.info.task, tables[target].slices, target, sources):
        for line in text.splitlines():  # a console writes out what would begin a line
            listener(Warned(line))
    if study.config.split.policy == "image":
        listener(Warned(f"--policy image: {MEANING['image']}"))
    if study.design == "redrawn" and max(study.target_fractions) > LARGE:
        listener(Warned(MUCH.format(target=target)))


def _write_split(path: Path, split: Split, study: Study, tables: Mapping[str, Modality]) -> None:
    """Write the split, and beside it a table of the target's slices for other tools.

    Training slices that not even the largest share has are ``unused`` there.
    """
    write_json(path, {**split.to_json(), "slices": study.fingerprints})
    target = study.config.data.target
    slices = tables[target].slices
    part: dict[int, str] = {row: name for name in PARTS for row in split.rows(target, slices, name)}
    train = split.rows(target, slices, "train")
    drawn = training_share(split, target, slices, train, max(study.target_fractions))
    part |= dict.fromkeys(set(train).difference(drawn), "unused")
    frame = slices[["slice_id", "patient", "label"]].copy()
    frame.insert(0, "part", [part[row] for row in range(len(frame))])
    with whole_file(path.with_suffix(".csv")) as partial:
        for_csv(frame).to_csv(partial, index=False)


def _check_empty(path: Path) -> None:
    names = [entry.name for entry in path.iterdir()]
    left = [name for name in names if name != "splits" and not name.startswith(".")]
    if left:
        raise OutputError(
            f"The folder {path} is not empty and is not a study: it has no {MARKER}.",
            "Choose another one with --out.",
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
