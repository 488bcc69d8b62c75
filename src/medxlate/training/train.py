"""``medxlate train``: from a dataset folder to a run folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from medxlate.config import Config, flat, parse
from medxlate.dataset.index import Dataset
from medxlate.dataset.links import find_links
from medxlate.dataset.splits import MEANING, Split, draw_split, read_split
from medxlate.errors import ConfigError, ModelError, StoppedError
from medxlate.events import Listener, Stage, Warned, silent
from medxlate.files import locked, remove_stale, write_json
from medxlate.models.device import deterministic
from medxlate.models.runs import RunFolder, find_run, new_run
from medxlate.ranks import ranks
from medxlate.records import read_json
from medxlate.training.checkpoints import (
    checkpoint_at,
    checkpoints,
    newest_sound,
    read_checkpoint,
)
from medxlate.training.data import Data, open_modalities
from medxlate.training.export import export_model
from medxlate.training.loop import Loop, Stop, never
from medxlate.training.methods import STAGES, find_method, first_stages
from medxlate.training.randomness import seed_all
from medxlate.training.record import Recorder, rewind_record
from medxlate.training.snapshot import Position
from medxlate.training.stages import Stages, is_trained, start_predictor, translated
from medxlate.training.work import Material, Work, check_config, make_loop, prepare_work

FIRST = "first"


@dataclass(frozen=True)
class TrainResult:
    """What ``train`` did.

    Attributes:
        run: The run folder.
        steps: Optimizer steps taken in all.
        epochs: Epochs ended.
        images_seen: Images that the predictor has learned from in these steps, repetitions
            counted; what is trained first comes on top.
        best_error: Lowest validation error (squared error, or cross-entropy); None where nothing
            was validated.
        best_step: The step at which it was reached.
        skipped: Steps without an update, because a loss was not finite.
        seconds: How long this call took, what is trained first included.
    """

    run: Path
    steps: int
    epochs: int
    images_seen: int
    best_error: float | None
    best_step: int
    skipped: int
    seconds: float


def train(
    config: Config,
    *,
    runs: Path | str = "runs",
    name: str | None = None,
    split: Split | None = None,
    stages: Stages | None = None,
    proceed: bool = False,
    stop: Stop = never,
    listener: Listener = silent,
) -> TrainResult:
    """Train a predictor, and translators where the method has them, from a prepared dataset.

    Args:
        config: Everything that decides the training; see ``medxlate.config.resolve``.
        runs: The folder of all runs.
        name: The run's name; None: made from the modalities and a number.
        split: Who is trained and tested on; None: drawn by ``config.split``.
        stages: Finished runs of what the method trains first, by the names that
            ``first_stages`` gives; None: they are trained inside the run.
        proceed: Continue the run of that name where it was begun already.
        stop: Says who asks the training to stop, between two steps; "": nobody.
        listener: Told of progress, losses and validation.

    Raises:
        ConfigError: Source or target are missing or contradict the method; or ``proceed`` was
            asked for, and the run was begun with another configuration.
        DataError: The dataset cannot be used, or its patients cannot be divided.
        OutputError: The run exists already, another process trains it, or the disk is full.
        StoppedError: ``stop`` asked for it.
    """
    check_config(config)
    if proceed and name is not None and _is_begun(Path(runs) / name, config):
        return resume(Path(runs) / name, stages=stages, stop=stop, listener=listener)
    dataset = Dataset(Path(config.data.folder))
    tables = open_modalities(dataset, config)
    if split is None:
        split = draw_split(
            {n: m.slices for n, m in tables.items()},
            target=config.data.target,
            config=config.split,
            links=find_links(tables, config.split.policy),
        )
    material = Material(config, dataset, tables, split)
    # What cannot be trained is refused before anything is written.
    work = prepare_work(material, listener)
    _tell(split, listener)
    made = None
    if ranks().is_first:
        sources, target = config.data.sources, config.data.target
        run = new_run(Path(runs), name, sources, target, begun=proceed)
        _begin(run, material)
        made = str(run.path)
    run = RunFolder(Path(ranks().tell(made)))
    return _run(run, material, work, stages, stop, listener)


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
        listener: Told of progress, losses and validation.

    Raises:
        ModelError: There is no such run, or all of its checkpoints are damaged.
        DataError: The dataset is gone or has changed.
        OutputError: Another process trains it, or the disk is full.
        StoppedError: ``stop`` asked for it.
    """
    folder = find_run(Path(run))
    config = parse(read_json(folder.config, error=ModelError))
    runtime = config.runtime.model_copy(update={"device": device or config.runtime.device})
    config = config.model_copy(update={"runtime": runtime})
    dataset = Dataset(Path(data or config.data.folder))
    tables = open_modalities(dataset, config)
    split = read_split(folder.split, tables)
    if not checkpoints(folder.checkpoints) and not (folder.path / FIRST).exists():
        listener(Warned("The run has no checkpoint yet; it starts from the beginning."))
    _tell(split, listener)
    material = Material(config, dataset, tables, split)
    work = prepare_work(material, listener)
    return _run(folder, material, work, stages, stop, listener)


def _tell(split: Split, listener: Listener) -> None:
    if split.policy == "image":
        listener(Warned(MEANING["image"]))


def _begin(run: RunFolder, material: Material) -> None:
    """Write what a run is resumed from; the configuration last, which makes it a run."""
    used = {name: modality.fingerprint() for name, modality in material.tables.items()}
    write_json(run.split, {**material.split.to_json(), "slices": used})
    write_json(run.config, material.config.model_dump(mode="json"))


def _is_begun(run: Path, config: Config) -> bool:
    """Return whether the run was begun; raises ConfigError where it was begun differently."""
    path = RunFolder(run).config
    if not ranks().tell(path.is_file()):
        return False
    begun, given = flat(parse(read_json(path, error=ModelError))), flat(config)
    for key, value in given.items():
        if value != begun[key] and key != "runtime.device":
            raise ConfigError(
                f"The run {run} was begun with {key} = {begun[key]!r}, not {value!r}.",
                "Continue it with the same options, or choose another --name.",
            )
    return True


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


def _run(
    run: RunFolder,
    material: Material,
    work: Work,
    stages: Stages | None,
    stop: Stop,
    listener: Listener,
) -> TrainResult:
    """Train what comes first, then the run itself, from wherever they stand to the end."""
    began = time.monotonic()
    with _alone(run, work.config):
        try:
            if stages is None:
                stages = _train_stages(run, material, stop, listener)
            work = _take_over(work, stages)
            position = _train(run, work, stop, listener)
        except StoppedError as stopped:  # in a first stage too, it is the run that is continued
            again = f"medxlate train --resume --runs {run.path.parent} --name {run.path.name}"
            raise StoppedError(stopped.message, f"Continue with `{again}`.") from None
        if work.config.method not in STAGES and ranks().is_first:
            export_model(
                run,
                config=work.config,
                dataset=work.dataset.info,
                head=work.head,
                image_size=work.image_size,
                position=position,
                stages=stages,
                data=work.data,
                compute=work.compute,
            )
        ranks().wait()
    batches = work.learner.predictor_batches
    return TrainResult(
        run.path,
        position.step,
        position.epoch,
        position.step * work.config.optimizer.batch_size * batches,
        position.best_error,
        position.best_step,
        position.skipped,
        round(time.monotonic() - began, 3),
    )


def _train_stages(run: RunFolder, material: Material, stop: Stop, listener: Listener) -> Stages:
    """Train what the method needs first, in folders inside the run; finished ones are kept."""
    stages = {}
    for name, config in first_stages(material.config).items():
        stage = RunFolder(run.path / FIRST / name)
        stages[name] = stage
        train_stage(stage, config, material.dataset, material.split, listener, stop=stop)
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
        listener: Told of progress.
        stop: As given to ``train``.
    """
    if ranks().tell(ranks().is_first and is_trained(stage, config, listener)):
        return
    material = Material(config, dataset, open_modalities(dataset, config), split)
    if ranks().is_first and not stage.config.exists():
        stage.path.mkdir(parents=True, exist_ok=True)
        _begin(stage, material)
    ranks().wait()
    _run(stage, material, prepare_work(material, listener), {}, stop, listener)


def _take_over(work: Work, stages: Stages) -> Work:
    """Give the predictor the weights, or the sources the translations, of a first stage."""
    first = find_method(work.config.method).first
    if first == "source-only":
        start_predictor(work.learner, stages["sources"])
    if first != "translator":
        return work
    fakes = {
        source: translated(
            work.data.train[source],
            stages[source],
            config=work.config,
            image_size=work.image_size,
            compute=work.compute,
        )
        for source in work.config.data.sources
    }
    return replace(work, data=Data({**work.data.train, **fakes}, work.data.val))


def _train(run: RunFolder, work: Work, stop: Stop, listener: Listener) -> Position:
    """Train from where the run stands to the end and return where it then stands."""
    record = Recorder(run.metrics, listener) if ranks().is_first else listener
    used = work.learner.modalities
    counts = ", ".join(f"{len(work.data.train[name])} {name}" for name in used)
    how = f"{work.image_size} px ({work.compute.device.type}, {work.compute.precision}"
    how += ")" if ranks().is_alone else f", {ranks().count} processes)"
    listener(Stage(f"Training {work.config.method} on {counts} images of {how} in {run.path}"))
    loop = make_loop(work, run, stop=stop, listener=record)
    seed_all(work.config.runtime.seed)  # whatever was trained before
    position = _begin_at(run, loop, listener)
    if ranks().is_first:
        rewind_record(run.metrics, position.step, position.epoch)
    return loop.run()


def _begin_at(run: RunFolder, loop: Loop, listener: Listener) -> Position:
    """Bring the loop to the newest sound checkpoint; the first process chooses it for all."""
    found = newest_sound(run.checkpoints, listener) if ranks().is_first else None
    told = ranks().tell(asdict(found.position) if found else None)
    if told is not None and found is None:
        read = read_checkpoint(checkpoint_at(run.checkpoints, told["step"]))
        found = replace(read, position=Position(**told))
    return loop.begin(found) if found else Position()
