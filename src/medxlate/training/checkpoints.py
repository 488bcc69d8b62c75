"""Checkpoints: complete, without pickle, and there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from medxlate.errors import ModelError
from medxlate.files import read_json, whole_file, whole_folder, write_json
from medxlate.models.tensors import load_tensors, save_tensors
from medxlate.training.step import Learner

NETWORKS = "networks.safetensors"
TRAINING = "training.safetensors"
STATE = "state.json"


@dataclass(frozen=True)
class Position:
    """Where a training stands.

    Attributes:
        step: Optimizer steps taken.
        epoch: Epochs ended.
        best_error: Lowest validation error so far; None without any validation.
        best_step: The step at which it was reached.
        skipped: Steps without an update, because a loss was not finite.
        compiled: Whether the steps are compiled: a resumed run rounds as before; None: not
            decided yet.
    """

    step: int = 0
    epoch: int = 0
    best_error: float | None = None
    best_step: int = 0
    skipped: int = 0
    compiled: bool | None = None

    def is_better(self, error: float) -> bool:
        """Return whether a validation error is lower than all before."""
        return self.best_error is None or error < self.best_error


def save_checkpoint(folder: Path, learner: Learner, position: Position, *, best: bool) -> None:
    """Write ``folder/step-NNNNNN``, point ``last`` (and ``best``) to it, drop what neither names.

    Args:
        folder: The run's checkpoints.
        learner: Networks, optimizers and buffers.
        position: Where the training stands.
        best: Whether this is the best predictor so far.
    """
    name = f"step-{position.step:06d}"
    with whole_folder(folder / name, marker=STATE, overwrite=True) as partial:
        hashes = {
            NETWORKS: save_tensors(partial / NETWORKS, learner.networks.state_dict()),
            TRAINING: save_tensors(partial / TRAINING, _training_state(learner)),
        }
        write_json(partial / STATE, {**asdict(position), "sha256": hashes})
    # `last` goes last: killed in between, the training repeats the epoch and finds the same best.
    for pointer in ("best", "last") if best else ("last",):
        with whole_file(folder / pointer) as partial:
            partial.write_text(name + "\n", encoding="ascii")
    named = {pointed(folder, pointer) for pointer in ("last", "best")}
    for old in folder.glob("step-*"):
        if old not in named:
            shutil.rmtree(old)


def pointed(folder: Path, pointer: str) -> Path | None:
    """Return the checkpoint that ``last`` or ``best`` names, or None."""
    try:
        return folder / (folder / pointer).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None


def load_checkpoint(checkpoint: Path, learner: Learner, device: torch.device) -> Position:
    """Bring a learner to the state of a checkpoint and return where it stands.

    Raises:
        ModelError: The checkpoint is damaged or belongs to another configuration.
    """
    state = read_json(checkpoint / STATE, error=ModelError)
    position = _position(checkpoint, state)
    networks = _load(checkpoint, NETWORKS, state)
    training = _load(checkpoint, TRAINING, state)
    try:
        learner.networks.load_state_dict(networks)
        _load_training_state(learner, training, device)
        torch.set_rng_state(training["random"])
    except (RuntimeError, KeyError, TypeError) as problem:
        first = str(problem).splitlines()[0]
        raise ModelError(f"{checkpoint} does not fit this configuration: {first}") from None
    return position


def last_position(folder: Path) -> Position:
    """Return where the training stands whose checkpoints lie in ``folder``.

    Raises:
        ModelError: The last checkpoint is damaged.
    """
    checkpoint = pointed(folder, "last")
    if checkpoint is None:
        return Position()
    return _position(checkpoint, read_json(checkpoint / STATE, error=ModelError))


def _position(checkpoint: Path, state: Any) -> Position:
    try:
        return Position(**{key: state[key] for key in Position.__dataclass_fields__})
    except (KeyError, TypeError) as problem:
        raise ModelError(f"{checkpoint / STATE} is damaged: {problem!r}.") from None


def load_part(checkpoint: Path, prefix: str) -> dict[str, Tensor]:
    """Return the weights of one network of a checkpoint, such as ``predictor.``, without prefix."""
    networks = _load(checkpoint, NETWORKS, read_json(checkpoint / STATE, error=ModelError))
    return {k.removeprefix(prefix): v for k, v in networks.items() if k.startswith(prefix)}


def _training_state(learner: Learner) -> dict[str, Tensor]:
    """Flatten optimizer states and buffers to named tensors."""
    state = {"random": torch.get_rng_state()}
    for name, optimizer in learner.optimizers.items():
        for i, parameter in enumerate(_parameters(optimizer)):
            for key, value in optimizer.state[parameter].items():
                state[f"optimizer.{name}.{i}.{key}"] = value
    for name, buffer in learner.buffers.items():
        for key, value in buffer.state().items():
            state[f"buffer.{name}.{key}"] = value
    return state


def _load_training_state(
    learner: Learner, state: Mapping[str, Tensor], device: torch.device
) -> None:
    for name, optimizer in learner.optimizers.items():
        for i, parameter in enumerate(_parameters(optimizer)):
            prefix = f"optimizer.{name}.{i}."
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            optimizer.state[parameter] = {
                key: _laid_out_as(parameter, value.to(device)) for key, value in own.items()
            }
    for name, buffer in learner.buffers.items():
        prefix = f"buffer.{name}."
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        buffer.load_state(own, device)


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Return a moment in its parameter's memory format, as fused optimizers expect it."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter).copy_(value)


def _parameters(optimizer: Adam) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _load(checkpoint: Path, file: str, state: Any) -> dict[str, Tensor]:
    try:
        expected = str(state["sha256"][file])
    except (KeyError, TypeError):
        raise ModelError(f"{checkpoint / STATE} is damaged: it holds no hash of {file}.") from None
    return load_tensors(checkpoint / file, expected=expected)
