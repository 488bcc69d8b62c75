"""Signals that ask a training to stop: it finishes the step, saves, and ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from medxlate.base.events import Event, Listener, Stage

# SIGTERM: a scheduler that preempts, or torchrun; SIGUSR1: SLURM's warning before the time is up
# (sbatch --signal=USR1@120); SIGINT: Ctrl-C. Windows has no SIGUSR1.
NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")


@dataclass
class Signals:
    """The signals that came, and whether a training will soon check for them.

    Attributes:
        came: Their names, in order.
        awaited: Whether steps are being taken: a training checks between two of them.
    """

    came: list[str]
    awaited: bool = False

    def first(self) -> str:
        """Return the name of the first signal, or ""; a training calls this between two steps."""
        self.awaited = True
        return self.came[0] if self.came else ""

    def watching(self, listener: Listener) -> Listener:
        """Return a listener that also notes the beginning of a stage, before its first step."""

        def watch(event: Event) -> None:
            if isinstance(event, Stage):
                self.awaited = False
            listener(event)

        return watch


@contextmanager
def stopping() -> Iterator[Signals]:
    """Yield the signals that come meanwhile.

    Ctrl-C interrupts at once while data are read or networks compiled, where no step would notice
    it, and when it comes for the second time.
    """
    signals = Signals([])

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and (signals.came or not signals.awaited):
            raise KeyboardInterrupt
        signals.came.append(signal.Signals(number).name)
        # Written past Python's buffers, which the signal may have interrupted.
        text = f"{signals.came[-1]}: finishing this step and saving a checkpoint before stopping.\n"
        os.write(2, text.encode())

    chosen = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    before = {number: signal.signal(number, note) for number in chosen}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
