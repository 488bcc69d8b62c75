"""``medxlate train``: from a dataset folder to a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medxlate.artifacts.runs import RunFolder, find_run, new_run, read_config
from medxlate.base.distributed import ranks
from medxlate.base.errors import ConfigError, UsageError
from medxlate.base.events import Listener, Warned, silent
from medxlate.config import Config, configured, flat
from medxlate.dataset.index import Dataset
from medxlate.dataset.splits import MEANING, Split, read_split
from medxlate.dataset.training_data import make_split, open_modalities
from medxlate.method.registry import single_images
from medxlate.tracking.tracker import check_trackers
from medxlate.training.checkpoints import checkpoints
from medxlate.training.loop import Stop, never
from medxlate.training.running import FIRST, TrainResult, begin, run_to_end
from medxlate.training.setup import check_config, make_inputs, prepare_work
from medxlate.training.stages import Stages


def train(
    config: Config | None = None,
    *,
    source: str | Sequence[str] = (),
    target: str = "",
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    runs: Path | str = "runs",
    name: str | None = None,
    split: Split | None = None,
    stages: Stages | None = None,
    proceed: bool = False,
    stop: Stop = never,
    listener: Listener = silent,
) -> TrainResult:
    """Train a predictor, and translators where the method has them, from a prepared dataset.

    ``train(source="mri", target="ct", preset="small", settings={"optimizer.epochs": 5})`` is the
    command of the same words; ``train(config)`` takes a whole configuration.

    Args:
        config: Everything that decides the training, from ``medxlate.resolve``; None: made from
            the next four.
        source: The source modality, or several.
        target: The target modality.
        preset: paper, scarce, small or debug; None: the defaults, which are the paper's.
        settings: Values by key, such as ``{"optimizer.epochs": 5}``.
        runs: The folder of all runs.
        name: The run's name; None: made from the modalities and a number.
        split: Who is trained and tested on; None: as ``config.split`` says.
        stages: Finished runs of what the method trains first, by the names that
            ``first_stages`` gives; None: they are trained inside the run.
        proceed: Continue the run of that name where it was begun already.
        stop: Says who asks the training to stop, between two steps; "": nobody.
        listener: Receives progress, losses and validation.

    Raises:
        ConfigError: Source or target are missing or contradict the method; or ``proceed`` was
            asked for, and the run was begun with another configuration.
        UsageError: Both a configuration and what one is made from are given.
        DataError: The dataset cannot be used, or its patients cannot be divided.
        OutputError: The run exists already, another process trains it, or the disk is full.
        StoppedError: ``stop`` asked for it.
    """
    if config is None:
        config = configured(source, target, preset, settings or {})
    elif source or target or preset or settings:
        raise UsageError(
            "train takes a configuration, or source, target, preset and settings.",
            "Put them into the configuration with medxlate.resolve.",
        )
    check_config(config)
    check_trackers(config.runtime.trackers)
    if proceed and name is not None and _is_begun(Path(runs) / name, config):
        return resume(Path(runs) / name, stages=stages, stop=stop, listener=listener)
    dataset = Dataset(Path(config.data.folder))
    tables = open_modalities(dataset, config)
    if split is None:
        split = make_split(dataset, tables, config)
    material = make_inputs(config, dataset, tables, split)
    # What cannot be trained is refused before anything is written.
    work = prepare_work(material, listener)
    _tell(split, material.config, listener)
    made = None
    if ranks().is_first:
        sources, target = config.data.sources, config.data.target
        run = new_run(Path(runs), name, sources, target, begun=proceed)
        begin(run, material)
        made = str(run.path)
    run = RunFolder(Path(ranks().broadcast(made)))
    return run_to_end(run, material, work, stages, stop, listener)


def resume(
    run: Path | str = "runs/latest",
    *,
    data: Path | str | None = None,
    stages: Stages | None = None,
    device: str | None = None,
    stop: Stop = never,
    listener: Listener = silent,
) -> TrainResult:
    """Continue a run from its newest sound checkpoint, with its own configuration and split.

    Args:
        run: A run folder or ``runs/latest``.
        data: The dataset folder; None: where it was when the run began.
        stages: As given to ``train``.
        device: Where to compute; None: where the run began.
        stop: As given to ``train``.
        listener: Receives progress, losses and validation.

    Raises:
        ModelError: There is no such run, or all of its checkpoints are damaged.
        DataError: The dataset is gone or has changed.
        OutputError: Another process trains it, or the disk is full.
        StoppedError: ``stop`` asked for it.
    """
    folder = find_run(Path(run))
    config = read_config(folder)
    runtime = config.runtime.model_copy(update={"device": device or config.runtime.device})
    config = config.model_copy(update={"runtime": runtime})
    check_trackers(runtime.trackers)
    dataset = Dataset(Path(data or config.data.folder))
    tables = open_modalities(dataset, config)
    split = read_split(folder.split, tables)
    if not checkpoints(folder.checkpoints) and not (folder.path / FIRST).exists():
        listener(Warned("The run has no checkpoint yet; it starts from the beginning."))
    material = make_inputs(config, dataset, tables, split)
    _tell(split, material.config, listener)
    work = prepare_work(material, listener)
    return run_to_end(folder, material, work, stages, stop, listener)


def _tell(split: Split, config: Config, listener: Listener) -> None:
    if split.policy == "image":
        listener(Warned(MEANING["image"]))
    if note := single_images(config):
        listener(Warned(note))


def _is_begun(run: Path, config: Config) -> bool:
    """Return whether the run was begun; raises ConfigError where it was begun differently."""
    path = RunFolder(run).config
    if not ranks().broadcast(path.is_file()):
        return False
    begun, given = flat(read_config(RunFolder(run))), flat(config)
    for key, value in given.items():
        if key == "data.folder" and Path(value).resolve() == Path(begun[key]).resolve():
            continue
        if value != begun[key] and key not in ("runtime.device", "runtime.trackers"):
            raise ConfigError(
                f"The run {run} was begun with {key} = {begun[key]!r}, not {value!r}.",
                "Continue it with the same options, or choose another --name.",
            )
    return True
