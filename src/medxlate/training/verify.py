"""Proof that a training which is stopped and resumed is the one that was never stopped."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medxlate.artifacts.runs import RunFolder
from medxlate.base.device import deterministic
from medxlate.base.distributed import ranks
from medxlate.base.errors import UsageError
from medxlate.base.events import Event, Listener, Progress, Stage, silent
from medxlate.base.tensors import same_bits
from medxlate.config import Config
from medxlate.dataset.index import Dataset
from medxlate.dataset.training_data import make_split, named_modalities, open_modalities
from medxlate.method.registry import first_stages
from medxlate.training.checkpoints import checkpoint_at, read_checkpoint
from medxlate.training.loop import Loop
from medxlate.training.randomness import seed_all
from medxlate.training.setup import RunInputs, check_config, make_inputs, set_up
from medxlate.training.state import TrainingState

BEFORE, AFTER = 4, 4  # steps before and after the stop
ALL = 10**9  # of the checkpoints stay


@dataclass(frozen=True)
class Difference:
    """What is not the same after a resume: the tensor's name, and how far it is off at most."""

    name: str
    largest: float


@dataclass(frozen=True)
class VerifyResult:
    """What ``verify_resume`` found.

    Attributes:
        steps: Steps of each training, with and without a stop.
        stopped_at: The step after which one was stopped.
        tensors: How many tensors were compared: weights, moments, buffers, random states, losses.
        values: How many numbers they hold.
        device: Where it was computed.
        differences: What was not the same; nothing where resuming is exact.
    """

    steps: int
    stopped_at: int
    tensors: int
    values: int
    device: str
    differences: tuple[Difference, ...]


def verify_resume(config: Config, *, listener: Listener = silent) -> VerifyResult:
    """Train some steps twice, once with a stop and a resume in between, and compare every bit.

    The configured training is taken as it is, each of its first stages too; nothing is kept.

    Raises:
        ConfigError, DataError: As ``train``.
        UsageError: Several processes were started.
    """
    if not ranks().is_alone:
        raise UsageError("--verify-resume runs in one process only.", "Run it without torchrun.")
    check_config(config)
    dataset = Dataset(Path(config.data.folder))
    tables = open_modalities(dataset, config)
    split = make_split(dataset, tables, config)
    results = []
    for each in (*first_stages(config).values(), config):
        listener(Stage(f"Verifying that {each.method} resumes exactly"))
        named = {name: tables[name] for name in named_modalities(each)}
        with deterministic(config.runtime.deterministic):
            inputs = make_inputs(_with_stop(each), dataset, named, split)
            results.append(_verify(inputs, listener))
    return VerifyResult(
        results[-1].steps,
        results[-1].stopped_at,
        sum(result.tensors for result in results),
        sum(result.values for result in results),
        results[-1].device,
        tuple(difference for result in results for difference in result.differences),
    )


def _with_stop(config: Config) -> Config:
    """Return the configuration with a checkpoint where the stop will have been."""
    update = {"checkpoint_steps": BEFORE, "keep_checkpoints": ALL}
    return config.model_copy(update={"runtime": config.runtime.model_copy(update=update)})


def _verify(inputs: RunInputs, listener: Listener) -> VerifyResult:
    with tempfile.TemporaryDirectory(prefix="medxlate-verify-") as name:
        whole, again = RunFolder(Path(name) / "whole"), RunFolder(Path(name) / "again")
        setup = set_up(inputs)
        seed_all(inputs.config.runtime.seed)
        first = Loop(setup, whole, listener=_steps_of("without a stop", listener))
        begun = first.first_step
        stop = (begun // BEFORE + 1) * BEFORE  # the first checkpoint
        steps = first.run(until=stop + AFTER).step
        stopped = _at(whole, min(stop, steps - 1))
        second = Loop(set_up(inputs), again, listener=_steps_of("with a stop", listener))
        seed_all(inputs.config.runtime.seed)
        if stopped is not None:
            second.begin(stopped)
        second.run(until=stop + AFTER)
        one, other = _tensors(first.snapshot()), _tensors(second.snapshot())
    differences = [
        Difference(name, _largest(tensor, other.get(name)))
        for name, tensor in one.items()
        if name not in other or not same_bits(tensor, other[name])
    ]
    return VerifyResult(
        steps - begun,
        stopped.position.step - begun if stopped else 0,
        len(one),
        sum(tensor.numel() for tensor in one.values()),
        str(setup.compute.device),
        tuple(differences),
    )


def _steps_of(task: str, listener: Listener) -> Listener:
    """Return what tells the listener of the steps of a training alone, of those it will take."""

    def tell(event: Event) -> None:
        if isinstance(event, Progress):
            listener(Progress(task, event.done, min(event.total, BEFORE + AFTER)))

    return tell


def _at(run: RunFolder, step: int) -> TrainingState | None:
    path = checkpoint_at(run.checkpoints, step)
    return read_checkpoint(path) if path.is_dir() else None


def _tensors(snapshot: TrainingState) -> Mapping[str, Tensor]:
    error = snapshot.position.best_error
    best = torch.tensor(float("nan") if error is None else error, dtype=torch.float64)
    own = snapshot.copied()
    return {**own.networks, **own.training, "best_error": best}


def _largest(one: Tensor, other: Tensor | None) -> float:
    if other is None or one.shape != other.shape:
        return float("inf")
    return float((one.double() - other.double()).abs().max())
