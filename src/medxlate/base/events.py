"""What happened, as data.

The library tells its listener; the command line renders the events, the run folder records them.
A library call without a listener is silent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class Stage(Event):
    """A part of the work begins; ``text`` says which."""

    text: str


@dataclass(frozen=True)
class Progress(Event):
    """``done`` of ``total`` units of a task are finished; ``values`` may carry figures to show.

    Steps of a training also name their epoch, from 1, and how many there are; else both are 0.
    """

    task: str
    done: int
    total: int
    values: Mapping[str, float] = field(default_factory=dict)
    epoch: int = 0
    epochs: int = 0


@dataclass(frozen=True)
class Warned(Event):
    """Something the user should know; the work goes on."""

    text: str


@dataclass(frozen=True)
class StepLogged(Event):
    """Mean losses since the last such event, after ``step`` optimizer steps.

    ``skipped`` of these steps had a loss that was not finite: no update, and not in the means.
    ``data_wait`` is the share of the time since then in which the loop waited for images, 0 to 1.
    """

    step: int
    epoch: int
    losses: Mapping[str, float]
    images_per_second: float
    data_wait: float
    skipped: int = 0


@dataclass(frozen=True)
class EpochEnded(Event):
    """An epoch (counted from 1) and its validation; no metrics where nothing is validated.

    ``rates`` are the learning rates by network at its end, ``seconds`` how long its steps and its
    validation took; of the epoch in which a training was resumed, only what came after.
    """

    step: int
    epoch: int
    epochs: int
    metrics: Mapping[str, float]
    best: bool
    rates: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class SamplesWritten(Event):
    """Grids of translated validation images were written after a step: a PNG a source."""

    step: int
    epoch: int
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Alarmed(Event):
    """The numbers of a training go wrong; it goes on.

    ``kind`` is one of those in ``docs/how-to/when-training-goes-wrong.md`` and stays the same from
    version to version. ``value`` is what was measured, ``text`` says what it means and ``advice``
    what to do.
    """

    step: int
    kind: str
    modality: str
    value: float
    text: str
    advice: str


@dataclass(frozen=True)
class CellEnded(Event):
    """A cell of a study is finished or failed: ``done`` of ``total``.

    ``loss`` is its error on the test images, ``seconds`` its training; ``error`` says why it
    failed, or is empty.
    """

    name: str
    done: int
    total: int
    loss: float | None
    seconds: float
    error: str


Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """Listen to nothing."""


def counted(
    items: Iterable[Item], task: str, total: int, listener: Listener = silent
) -> Iterator[Item]:
    """Yield items and tell how many the caller is done with.

    Args:
        items: What is worked through; an item is done when the next one is asked for.
        task: What they are, such as ``test images``.
        total: How many there are.
        listener: Receives progress before the first item and after each.
    """
    listener(Progress(task, 0, total))
    for done, item in enumerate(items, start=1):
        yield item
        listener(Progress(task, done, total))
