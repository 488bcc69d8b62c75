"""``medxlate train``: from a dataset folder to a run folder.

``train`` and ``resume`` make or find the run; ``_run_to_end`` trains what its method trains first,
then the run itself (``loop.py``), and exports the model.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medxlate.artifacts.runs import (
    RunFolder,
    find_run,
    new_run,
    read_config,
    read_plugins,
    write_config,
    write_plugins,
)
from medxlate.base.device import deterministic
from medxlate.base.distributed import ranks
from medxlate.base.errors import ConfigError, StoppedError, UsageError
from medxlate.base.events import Listener, Stage, Warned, silent
from medxlate.base.files import locked, remove_stale, write_json
from medxlate.base.plugins import refuse_changed
from medxlate.config import Config, configured, flat
from medxlate.dataset.index import Dataset
from medxlate.dataset.splits import MEANING, Split, read_split
from medxlate.dataset.training_data import make_split, open_modalities
from medxlate.method.registry import (
    STAGES,
    find_method,
    first_stages,
    single_images,
    used_plugins,
)
from medxlate.method.schedule import first_epoch, phase_at
from medxlate.tracking.tracker import Tracking, check_trackers, settings_of
from medxlate.training.checkpoints import (
    checkpoint_at,
    checkpoints,
    drop_old,
    newest_sound,
    read_checkpoint,
)
from medxlate.training.export import export_model
from medxlate.training.loop import Loop, Stop, never
from medxlate.training.picture import ProgressPicture
from medxlate.training.randomness import seed_all
from medxlate.training.record import Recorder, rewind_record
from medxlate.training.setup import RunInputs, TrainingSetup, check_config, make_inputs, set_up
from medxlate.training.stages import Stages, is_trained, take_over
from medxlate.training.state import TrainingProgress

FIRST = "first"


@dataclass(frozen=True)
class TrainResult:
    """What ``train`` did.

    Attributes:
        run: The run folder.
        steps: Total number of optimizer steps.
        epochs: Number of finished epochs.
        images_seen: Images that the predictor has learned from in these steps, repetitions
            counted; what is trained first comes on top.
        best_error: Lowest validation error (squared error, or cross-entropy); None where nothing
            was validated.
        best_step: The step at which it was reached.
        skipped: Steps without an update, because a loss was not finite.
        seconds: How long this call took, what is trained first included.
        checkpoint_bytes: The size of the checkpoints that were kept.
    """

    run: Path
    steps: int
    epochs: int
    images_seen: int
    best_error: float | None
    best_step: int
    skipped: int
    seconds: float
    checkpoint_bytes: int


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
        stop: Called between steps; returns who asks the training to stop, or "".
        listener: Receives progress, losses and validation.

    Raises:
        ConfigError: Source or target are missing or contradict the method; or ``proceed`` was
            asked for, and the run was begun with another configuration.
        UsageError: Both a configuration and its parts are given.
        DataError: The dataset is unusable, or its patients cannot be split.
        OutputError: The run already exists, another process trains it, or the disk is full.
        StoppedError: ``stop`` asked the training to stop.
    """
    if config is None:
        config = configured(source, target, preset, settings or {})
    elif source or target or preset or settings:
        raise UsageError(
            "train takes either a configuration or source, target, preset and settings.",
            "Put all of them into the configuration with medxlate.resolve.",
        )
    check_config(config)
    check_trackers(config.runtime.trackers)
    if proceed and name is not None and _is_begun(Path(runs) / name, config):
        return resume(Path(runs) / name, stages=stages, stop=stop, listener=listener)
    dataset = Dataset(Path(config.data.folder))
    tables = open_modalities(dataset, config)
    if split is None:
        split = make_split(dataset, tables, config)
    inputs = make_inputs(config, dataset, tables, split)
    # What cannot be trained is refused before anything is written.
    setup = set_up(inputs, listener)
    _tell(split, inputs.config, listener)
    made = None
    if ranks().is_first:
        sources, target = config.data.sources, config.data.target
        run = new_run(Path(runs), name, sources, target, begun=proceed)
        _begin(run, inputs)
        made = str(run.path)
    run = RunFolder(Path(ranks().broadcast(made)))
    return _run_to_end(run, setup, stages, stop, listener)


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
        data: The dataset folder; None: where it was when the run started.
        stages: As given to ``train``.
        device: Where to compute; None: the device that the run started on.
        stop: As given to ``train``.
        listener: Receives progress, losses and validation.

    Raises:
        ModelError: There is no such run, all of its checkpoints are damaged, or the plug-ins by
            which it was begun are not those that are installed.
        DataError: The dataset is gone or has changed.
        OutputError: Another process trains it, or the disk is full.
        StoppedError: ``stop`` asked the training to stop.
    """
    folder = find_run(Path(run))
    refuse_changed(read_plugins(folder), f"The run {folder.path}", listener)
    config = read_config(folder)
    runtime = config.runtime.model_copy(update={"device": device or config.runtime.device})
    config = config.model_copy(update={"runtime": runtime})
    check_trackers(runtime.trackers)
    dataset = Dataset(Path(data or config.data.folder))
    tables = open_modalities(dataset, config)
    split = read_split(folder.split, tables)
    if not checkpoints(folder.checkpoints) and not (folder.path / FIRST).exists():
        listener(Warned("The run has no checkpoint yet; starting from the beginning."))
    inputs = make_inputs(config, dataset, tables, split)
    _tell(split, inputs.config, listener)
    setup = set_up(inputs, listener)
    return _run_to_end(folder, setup, stages, stop, listener)


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
        if value != begun.get(key) and key not in ("runtime.device", "runtime.trackers"):
            raise ConfigError(
                f"The run {run} was started with {key} = {begun[key]!r}, not {value!r}.",
                "Continue it with the same options, or choose another --name.",
            )
    return True


def _begin(run: RunFolder, inputs: RunInputs) -> None:
    """Write what a run is resumed from; the configuration last, which makes it a run."""
    used = {name: modality.fingerprint() for name, modality in inputs.tables.items()}
    write_json(run.split, {**inputs.split.to_json(), "slices": used})
    write_plugins(run, used_plugins(inputs.config))
    write_config(run, inputs.config)


@contextmanager
def _alone(run: RunFolder, config: Config) -> Iterator[None]:
    """Keep every other job away from a run, and clear up what a killed one left half-written."""
    with deterministic(config.runtime.deterministic):
        if not ranks().is_first:
            yield
            return
        with locked(run.lock):
            for folder in (run.path, run.checkpoints, run.samples):
                remove_stale(folder)
            yield


def _run_to_end(
    run: RunFolder,
    setup: TrainingSetup,
    stages: Stages | None,
    stop: Stop,
    listener: Listener,
) -> TrainResult:
    """Train what comes first, then the run itself, from wherever they stand to the end."""
    began = time.monotonic()
    with _alone(run, setup.config):
        try:
            if stages is None:
                stages = _train_stages(run, setup.inputs, stop, listener)
            position = _train(run, take_over(setup, stages), stop, listener)
        except StoppedError as stopped:  # in a first stage too, it is the run that is continued
            again = f"medxlate train --resume --runs {run.path.parent} --name {run.path.name}"
            raise StoppedError(stopped.message, f"Continue with `{again}`.") from None
        if setup.config.method not in STAGES and ranks().is_first:
            export_model(run, setup, stages=stages, position=position)
        if not setup.config.runtime.keep_checkpoints and ranks().is_first:
            drop_old(run.checkpoints, 1)
        ranks().barrier()
    return TrainResult(
        run.path,
        position.step,
        position.epoch,
        _images_seen(setup, position.step),
        position.best_error,
        position.best_step,
        position.skipped,
        round(time.monotonic() - began, 3),
        sum(
            file.stat().st_size for each in checkpoints(run.checkpoints) for file in each.iterdir()
        ),
    )


def _images_seen(setup: TrainingSetup, steps: int) -> int:
    """Return how many images the predictor has learned from in the first steps."""
    optimizer, sources = setup.config.optimizer, setup.config.data.sources
    per_epoch = setup.data.steps_per_epoch(optimizer)
    learned = range(first_epoch(optimizer) * per_epoch, steps)
    batches = len(learned) * setup.learner.predictor_batches
    if find_method(setup.config.method).mixes:  # they fine-tune on the target alone
        total = optimizer.epochs * per_epoch
        tuned = sum(phase_at(step / total, optimizer).finetunes for step in learned)
        batches -= tuned * len(sources)
    return batches * optimizer.batch_size


def _train_stages(run: RunFolder, inputs: RunInputs, stop: Stop, listener: Listener) -> Stages:
    """Train what the method needs first, in folders inside the run; finished ones are kept."""
    stages = {}
    for name, config in first_stages(inputs.config).items():
        stage = RunFolder(run.path / FIRST / name)
        stages[name] = stage
        train_stage(stage, config, inputs.dataset, inputs.split, listener, stop=stop)
    return stages


def train_stage(
    stage: RunFolder,
    config: Config,
    dataset: Dataset,
    split: Split,
    listener: Listener,
    *,
    stop: Stop = never,
) -> None:
    """Train a first stage to its end, from wherever it stands; a finished one is left alone.

    Args:
        stage: Its folder.
        config: Of ``first_stages``.
        dataset: The dataset.
        split: Who is trained on.
        listener: Receives progress.
        stop: As given to ``train``.
    """
    if ranks().broadcast(ranks().is_first and is_trained(stage, config, listener)):
        return
    inputs = make_inputs(config, dataset, open_modalities(dataset, config), split)
    if ranks().is_first and not stage.config.exists():
        stage.path.mkdir(parents=True, exist_ok=True)
        _begin(stage, inputs)
    ranks().barrier()
    _run_to_end(stage, set_up(inputs, listener), {}, stop, listener)


def _train(
    run: RunFolder, setup: TrainingSetup, stop: Stop, listener: Listener
) -> TrainingProgress:
    """Train from where the run stands to the end and return where it then stands."""
    runtime = setup.config.runtime
    tracking = Tracking(
        runtime.trackers if ranks().is_first else (),
        run.tracking,
        run=run.path.name,
        settings=settings_of(flat(setup.config)),
        offline=runtime.offline,
        then=listener,
    )
    record: Listener = listener
    if ranks().is_first:
        record = Recorder(run.metrics, ProgressPicture(run, setup.config, tracking))
    used = [setup.data.train[name] for name in setup.learner.modalities]
    counts = " and ".join(f"{len(slices)} {slices.name}" for slices in used)
    how = f"{setup.image_size} px ({setup.compute.device.type}, {setup.compute.precision}"
    how += ")" if ranks().is_alone else f", {ranks().count} processes)"
    listener(Stage(f"Training {setup.config.method} on {counts} images of {how} in {run.path}"))
    loop = Loop(setup, run, stop=stop, listener=record)
    seed_all(setup.config.runtime.seed)  # whatever was trained before
    position = _begin_at(run, loop, listener)
    if ranks().is_first:
        rewind_record(run.metrics, position.step, position.epoch)
    with tracking:
        return loop.run()


def _begin_at(run: RunFolder, loop: Loop, listener: Listener) -> TrainingProgress:
    """Bring the loop to the newest sound checkpoint; the first process chooses it for all."""
    found = newest_sound(run.checkpoints, listener) if ranks().is_first else None
    newest = ranks().broadcast(asdict(found.position) if found else None)
    if newest is not None and found is None:
        read = read_checkpoint(checkpoint_at(run.checkpoints, newest["step"]))
        found = replace(read, position=TrainingProgress(**newest))
    return loop.begin(found) if found else TrainingProgress()
