"""What a method trains first, and what it takes over from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medxlate.artifacts.runs import RunFolder
from medxlate.base.device import Compute
from medxlate.base.distributed import ranks
from medxlate.base.errors import ModelError
from medxlate.base.events import Listener
from medxlate.base.files import locked, remove_stale, whole_file
from medxlate.base.grey_levels import from_stored, to_stored
from medxlate.config import Config
from medxlate.dataset.arrays import open_array
from medxlate.dataset.loading import Read, Slices
from medxlate.images.stack import FloatArray
from medxlate.inference.engine import run as run_network
from medxlate.method.learner import Learner
from medxlate.method.placing import place
from medxlate.method.registry import find_method, translator_networks
from medxlate.training.checkpoints import load_part, load_translation, newest_sound, pointed
from medxlate.training.setup import TrainingSetup

TRANSLATED = "translated.npy"
BATCH = 16

Stages = Mapping[str, RunFolder]


def is_trained(run: RunFolder, config: Config, listener: Listener) -> bool:
    """Return whether a run has taken all of its epochs, and what it is for is sound.

    Raises:
        ModelError: All of its checkpoints are damaged.
        OutputError: Another process trains it.
    """
    if not run.config.is_file():
        return False
    with locked(run.lock):
        remove_stale(run.path)
        found = newest_sound(run.checkpoints, listener)
    if found is None:
        return False
    return found.position.epoch >= config.optimizer.epochs and found.position.best_step > 0


def checkpoint_of(run: RunFolder, pointer: str) -> Path:
    """Return the checkpoint that ``last`` or ``best`` names; raises ModelError without one."""
    found = pointed(run.checkpoints, pointer)
    if found is None:
        raise ModelError(f"The run {run.path} has no checkpoint.")
    return found


def take_over(setup: TrainingSetup, stages: Stages) -> TrainingSetup:
    """Give the predictor the weights, or the sources the translations, of a first stage."""
    first = find_method(setup.config.method).first
    if first == "source-only":
        _start_predictor(setup.learner, stages["sources"])
    if first != "translator":
        return setup
    fakes = {
        source: _translated(
            setup.data.train[source],
            stages[source],
            config=setup.config,
            image_size=setup.image_size,
            compute=setup.compute,
        )
        for source in setup.config.data.sources
    }
    return replace(setup, data=setup.data.showing(fakes))


def _start_predictor(learner: Learner, stage: RunFolder) -> None:
    """Give the predictor the weights of the best one of an earlier run."""
    weights = load_part(checkpoint_of(stage, "best"), "predictor.")
    learner.networks["predictor"].load_state_dict(weights)


def _translated(
    slices: Slices, stage: RunFolder, *, config: Config, image_size: int, compute: Compute
) -> Slices:
    """Return the source's slices with their translations as images: y becomes G(y).

    All are translated once, with the last generator, and kept beside it as 16-bit integers.

    Args:
        slices: The source's training slices.
        stage: The finished run of its translator.
        config: That run's configuration.
        image_size: Side of the images, pixels.
        compute: Device and precision.

    Raises:
        ModelError: The stage has no checkpoint, or belongs to other slices.
    """
    path = stage.path / TRANSLATED
    if ranks().is_first and not path.is_file():
        generator = translator_networks(config, image_size).g
        weights = load_translation(checkpoint_of(stage, "last"), slices.name, "g")
        generator.load_state_dict(weights)
        write_translated(path, slices, place(generator, compute), compute, image_size)
    ranks().barrier()
    if _open(path).shape != (len(slices), image_size, image_size):
        raise ModelError(f"{path} was translated from other slices.", "Delete the file.")
    return slices.with_images(read_translated(path))


def write_translated(
    path: Path, slices: Slices, generator: nn.Module, compute: Compute, size: int
) -> None:
    """Translate slices once, a batch in memory at a time, and write them as 16-bit integers."""
    shape = (len(slices), size, size)
    with whole_file(path) as partial:
        # Without the map closed, Windows could not rename the file.
        stored = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint16, shape=shape)
        done = 0
        for batch in slices.batches(BATCH):
            images = run_network(generator, [batch.images], compute=compute)[:, 0]
            if not torch.isfinite(images).all():
                raise ModelError(
                    f"The translator of {slices.name} outputs values that are not finite.",
                    "It diverged: lower optimizer.translator_lr and train it again.",
                )
            stored[done : done + len(images)] = to_stored(images.numpy(), 16)
            done += len(images)
        stored.flush()
        del stored


def _open(path: Path) -> np.memmap[Any, np.dtype[Any]]:
    try:
        return open_array(path)
    except (OSError, ValueError) as problem:
        raise ModelError(f"{path} cannot be read: {problem}.", "Delete the file.") from None


def read_translated(path: Path) -> Read:
    """Return how the images that ``write_translated`` wrote are read, by their position."""

    def read(index: int) -> FloatArray:
        return from_stored(_open(path)[index])

    return read
