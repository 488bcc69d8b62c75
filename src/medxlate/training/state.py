"""Everything that the rest of a training depends on, as named tensors and a position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from medxlate.base.errors import ModelError
from medxlate.method.learner import Learner
from medxlate.training.randomness import random_state, set_random_state

WINDOW = "window"  # of losses that were not reported yet; see ``StepRunner.state``
AVERAGES = "average"  # of the generators; see ``Averages``


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training stands.

    The images of the next step follow from seed and ``step`` alone (``loading.Order``).

    Attributes:
        step: Optimizer steps taken.
        epoch: Epochs ended, validation included.
        best_error: Lowest validation error so far; None without any validation.
        best_step: The step at which it was reached.
        skipped: Steps without an update, because a loss was not finite.
        compiled: Whether the steps are compiled: a resumed run rounds as before; None: not
            decided yet.
        parts: In how many parts a batch is computed; None: as configured.
    """

    step: int = 0
    epoch: int = 0
    best_error: float | None = None
    best_step: int = 0
    skipped: int = 0
    compiled: bool | None = None
    parts: int | None = None

    def is_better(self, error: float) -> bool:
        """Return whether a validation error is lower than all before."""
        return self.best_error is None or error < self.best_error


@dataclass(frozen=True)
class TrainingState:
    """A training at one moment.

    Attributes:
        position: Where it stands.
        networks: Weights and statistics.
        training: Optimizers, image buffers, random generators, losses that were not reported yet,
            and averages of the generators.
        monitor: What the monitor of the training knows.
    """

    position: TrainingProgress
    networks: Mapping[str, Tensor]
    training: Mapping[str, Tensor]
    monitor: Mapping[str, Any] = field(default_factory=dict)

    @property
    def averages(self) -> dict[str, Tensor]:
        """The averages of the generators; none where none are kept."""
        return _part(self.training, AVERAGES)

    @property
    def bytes(self) -> int:
        """How many bytes its tensors take."""
        return sum(t.nbytes for t in (*self.networks.values(), *self.training.values()))

    def copied(self) -> TrainingState:
        """Return it in memory of its own, on the processor: later steps do not change it."""
        return replace(self, networks=_copied(self.networks), training=_copied(self.training))


def take_state(
    learner: Learner,
    position: TrainingProgress,
    *,
    device: torch.device,
    window: Mapping[str, Tensor],
    monitor: Mapping[str, Any],
    averages: Mapping[str, Tensor] | None = None,
) -> TrainingState:
    """Return the state of a training; its tensors are the training's own, not copies.

    Args:
        learner: Networks, optimizers and buffers.
        position: Where the training stands.
        device: Where it computes.
        window: Of the step_runner.
        monitor: Of the monitor.
        averages: Of the generators.
    """
    training = _prefixed("random", random_state(device)) | _prefixed(WINDOW, window)
    for name, optimizer in learner.optimizers.items():
        for i, parameter in enumerate(_parameters(optimizer)):
            training |= _prefixed(f"optimizer.{name}.{i}", optimizer.state[parameter])
    for name, buffer in learner.buffers.items():
        training |= _prefixed(f"buffer.{name}", buffer.state())
    training |= _prefixed(AVERAGES, averages or {})
    return TrainingState(position, learner.networks.state_dict(), training, monitor)


def restore(snapshot: TrainingState, learner: Learner, device: torch.device) -> dict[str, Tensor]:
    """Bring a learner and the random generators to a snapshot; return the runner's window.

    Raises:
        ModelError: The snapshot is of another learner.
    """
    try:
        return _restore(snapshot, learner, device)
    except (RuntimeError, KeyError, ValueError, TypeError, IndexError, OverflowError) as problem:
        first = (str(problem).splitlines() or [""])[0]
        raise ModelError(
            f"The checkpoint of step {snapshot.position.step} does not match this configuration: "
            f"{type(problem).__name__}: {first}"
        ) from None


def _restore(snapshot: TrainingState, learner: Learner, device: torch.device) -> dict[str, Tensor]:
    learner.networks.load_state_dict(dict(snapshot.networks))
    for name, optimizer in learner.optimizers.items():
        for i, parameter in enumerate(_parameters(optimizer)):
            moments = _part(snapshot.training, f"optimizer.{name}.{i}")
            optimizer.state[parameter] = {
                key: _laid_out_as(parameter, value.to(device)) for key, value in moments.items()
            }
    for name, buffer in learner.buffers.items():
        buffer.load_state(_part(snapshot.training, f"buffer.{name}"), device)
    set_random_state(_part(snapshot.training, "random"), device)
    return {name: each.clone() for name, each in _part(snapshot.training, WINDOW).items()}


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the processor, in the order of dimensions in which they are written."""
    return {
        name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        for name, tensor in tensors.items()
    }


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    prefix += "."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Return a copy in its parameter's memory format, as fused optimizers expect it.

    A copy, for what was read from a file would keep that file's space even after its removal.
    """
    if value.dim() == 0:  # the number of steps
        return value.clone()
    if value.shape != parameter.shape:
        raise ValueError(f"a moment of {list(value.shape)} for {list(parameter.shape)} weights")
    return torch.empty_like(parameter).copy_(value)


def _parameters(optimizer: Adam) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
