"""What happened in the steps since the last look, added up on the device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medxlate.method.objective import Losses

SUMS = "sums."  # before the names of losses, in a window's state


@dataclass(frozen=True)
class Window:
    """What happened since the last look.

    Attributes:
        losses: Means over the steps that counted.
        steps: Steps taken, skipped ones included.
        skipped: Steps without an update, because a loss was not finite.
        row: Of these, how many the last steps were, one after the other.
    """

    losses: dict[str, float]
    steps: int
    skipped: int
    row: int


class LossWindow:
    """Sums of losses and counts of skipped steps; nothing but ``read`` waits for the device.

    Args:
        device: Where the losses are.
        state: Of an earlier window's ``state``; None: nothing happened yet.
    """

    def __init__(self, device: torch.device, state: Mapping[str, Tensor] | None = None) -> None:
        # Sums of the losses and how many steps counted, by the losses' names: a training's phases
        # have different ones.
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._skips: Tensor | None = None  # skipped steps, and those in a row
        self._steps = 0
        if state:
            self._steps = int(state["steps"])
            self._skips = state["skips"].to(device) if "skips" in state else None
            self._sums = {
                tuple(name.removeprefix(SUMS).split("|")): table.to(device)
                for name, table in state.items()
                if name.startswith(SUMS)
            }

    def add(self, losses: Losses, skipped: Tensor) -> None:
        """Add a step, on the device.

        Args:
            losses: Of the step.
            skipped: Whether it was skipped: float32, 0 or 1; its losses then do not count.
        """
        values = torch.stack([*losses.values(), 1 - skipped])
        names = tuple(losses)
        if self._skips is None:
            self._skips = values.new_zeros(2)
        if names not in self._sums:
            self._sums[names] = torch.zeros_like(values)
        self._sums[names].add_(torch.where(skipped > 0, torch.zeros_like(values), values))
        self._skips.copy_(torch.stack([self._skips[0] + skipped, (self._skips[1] + 1) * skipped]))

    def count(self) -> None:
        """Count a step, however it was taken."""
        self._steps += 1

    def read(self) -> Window:
        """Return what happened since the last call, and begin anew; waits for the device."""
        assert self._skips is not None, "a step was taken"
        sums, counts = defaultdict[str, float](float), defaultdict[str, float](float)
        fetched = fetch([*self._sums.values(), self._skips])
        for names, table in self._sums.items():
            values, fetched = fetched[: len(table)], fetched[len(table) :]
            for name, value in zip(names, values[:-1], strict=True):
                sums[name] += value
                counts[name] += values[-1]
            table.zero_()
        skipped, row = fetched
        losses = {name: total / counts[name] for name, total in sums.items() if counts[name]}
        window = Window(losses, self._steps, int(skipped), int(row))
        self._skips[:1].zero_()
        self._steps = 0
        return window

    def state(self) -> dict[str, Tensor]:
        """Return what a later window goes on from."""
        state = {"steps": torch.tensor(self._steps, dtype=torch.int64)}
        if self._skips is not None:
            state["skips"] = self._skips
        return state | {SUMS + "|".join(names): table for names, table in self._sums.items()}


def fetch(tensors: Sequence[Tensor]) -> list[float]:
    """Return the values of flat tensors, one after the other; waits for their device once."""
    values: list[float] = torch.cat(list(tensors)).tolist()
    return values


class BatchStatistics:
    """Running statistics of batch norms, which a step whose loss is not finite spoils.

    Args:
        networks: Of the learner.
        state: Of an earlier one's ``state``; None: they are kept as they are now.
    """

    def __init__(self, networks: nn.Module, state: Mapping[str, Tensor] | None = None) -> None:
        self._now = list(networks.buffers())
        self._kept: list[Tensor] = []
        self.keep()
        if state:
            self._kept = [state[f"kept.{i}"] for i in range(len(self._now))]

    def keep(self) -> None:
        """Keep them as they are now."""
        self._kept = [buffer.clone() for buffer in self._now]

    def restore(self) -> None:
        """Bring back what was kept."""
        for buffer, kept in zip(self._now, self._kept, strict=True):
            buffer.copy_(kept)

    def repair(self) -> None:
        """Bring back those that are no longer finite."""
        for buffer, kept in zip(self._now, self._kept, strict=True):
            if buffer.is_floating_point() and not bool(torch.isfinite(buffer).all()):
                buffer.copy_(kept)

    def state(self) -> dict[str, Tensor]:
        """Return what was kept, by names that begin with ``kept.``."""
        return {f"kept.{i}": kept for i, kept in enumerate(self._kept)}
