"""A run on its way: what comes first, then its own training, then the model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from medxlate.artifacts.runs import RunFolder, write_config
from medxlate.base.device import deterministic
from medxlate.base.distributed import ranks
from medxlate.base.errors import StoppedError
from medxlate.base.events import Listener, Stage
from medxlate.base.files import locked, remove_stale, write_json
from medxlate.config import Config, flat
from medxlate.dataset.index import Dataset
from medxlate.dataset.splits import Split
from medxlate.dataset.training_data import open_modalities
from medxlate.method.registry import MIXED, STAGES, find_method, first_stages
from medxlate.method.schedule import first_epoch, phase_at
from medxlate.tracking.tracker import Tracking, settings_of
from medxlate.training.checkpoints import (
    checkpoint_at,
    checkpoints,
    drop_old,
    newest_sound,
    read_checkpoint,
)
from medxlate.training.export import export_model
from medxlate.training.loop import Loop, Stop, never
from medxlate.training.randomness import seed_all
from medxlate.training.record import Recorder, rewind_record
from medxlate.training.setup import RunInputs, TrainingSetup, make_inputs, make_loop, prepare_work
from medxlate.training.stages import Stages, is_trained, start_predictor, translated
from medxlate.training.state import TrainingProgress

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


def begin(run: RunFolder, material: RunInputs) -> None:
    """Write what a run is resumed from; the configuration last, which makes it a run."""
    used = {name: modality.fingerprint() for name, modality in material.tables.items()}
    write_json(run.split, {**material.split.to_json(), "slices": used})
    write_config(run, material.config)


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


def run_to_end(
    run: RunFolder,
    material: RunInputs,
    work: TrainingSetup,
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
            data = work.data  # before translations take the place of sources
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
                data=data,
                compute=work.compute,
            )
        if not work.config.runtime.keep_checkpoints and ranks().is_first:
            drop_old(run.checkpoints, 1)
        ranks().barrier()
    return TrainResult(
        run.path,
        position.step,
        position.epoch,
        _images_seen(work, position.step),
        position.best_error,
        position.best_step,
        position.skipped,
        round(time.monotonic() - began, 3),
        sum(
            file.stat().st_size for each in checkpoints(run.checkpoints) for file in each.iterdir()
        ),
    )


def _images_seen(work: TrainingSetup, steps: int) -> int:
    """Return how many images the predictor has learned from in the first steps."""
    optimizer, sources = work.config.optimizer, work.config.data.sources
    per_epoch = work.data.steps_per_epoch(optimizer)
    learned = range(first_epoch(optimizer) * per_epoch, steps)
    batches = len(learned) * work.learner.predictor_batches
    if work.config.method.partition("+")[0] in MIXED:  # which fine-tune on the target alone
        total = optimizer.epochs * per_epoch
        tuned = sum(phase_at(step / total, optimizer).finetunes for step in learned)
        batches -= tuned * len(sources)
    return batches * optimizer.batch_size


def _train_stages(run: RunFolder, material: RunInputs, stop: Stop, listener: Listener) -> Stages:
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
        listener: Receives progress.
        stop: As given to ``train``.
    """
    if ranks().broadcast(ranks().is_first and is_trained(stage, config, listener)):
        return
    material = make_inputs(config, dataset, open_modalities(dataset, config), split)
    if ranks().is_first and not stage.config.exists():
        stage.path.mkdir(parents=True, exist_ok=True)
        begin(stage, material)
    ranks().barrier()
    run_to_end(stage, material, prepare_work(material, listener), {}, stop, listener)


def _take_over(work: TrainingSetup, stages: Stages) -> TrainingSetup:
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
    return replace(work, data=work.data.showing(fakes))


def _train(run: RunFolder, work: TrainingSetup, stop: Stop, listener: Listener) -> TrainingProgress:
    """Train from where the run stands to the end and return where it then stands."""
    runtime = work.config.runtime
    tracking = Tracking(
        runtime.trackers if ranks().is_first else (),
        run.tracking,
        run=run.path.name,
        settings=settings_of(flat(work.config)),
        offline=runtime.offline,
        then=listener,
    )
    record = Recorder(run.metrics, tracking) if ranks().is_first else listener
    used = [work.data.train[name] for name in work.learner.modalities]
    counts = ", ".join(f"{len(slices)} {slices.name}" for slices in used)
    how = f"{work.image_size} px ({work.compute.device.type}, {work.compute.precision}"
    how += ")" if ranks().is_alone else f", {ranks().count} processes)"
    listener(Stage(f"Training {work.config.method} on {counts} images of {how} in {run.path}"))
    loop = make_loop(work, run, stop=stop, listener=record)
    seed_all(work.config.runtime.seed)  # whatever was trained before
    position = _begin_at(run, loop, listener)
    if ranks().is_first:
        rewind_record(run.metrics, position.step, position.epoch)
    with tracking:
        return loop.run()


def _begin_at(run: RunFolder, loop: Loop, listener: Listener) -> TrainingProgress:
    """Bring the loop to the newest sound checkpoint; the first process chooses it for all."""
    found = newest_sound(run.checkpoints, listener) if ranks().is_first else None
    told = ranks().broadcast(asdict(found.position) if found else None)
    if told is not None and found is None:
        read = read_checkpoint(checkpoint_at(run.checkpoints, told["step"]))
        found = replace(read, position=TrainingProgress(**told))
    return loop.begin(found) if found else TrainingProgress()
