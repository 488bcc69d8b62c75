"""Signals that ask a training to stop: it finishes the step, saves, and ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# SIGTERM: a scheduler that preempts, or torchrun; SIGUSR1: SLURM's warning before the time is up
# (sbatch --signal=USR1@120); SIGINT: Ctrl-C. Windows has no SIGUSR1.
NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")


@contextmanager
def stopping() -> Iterator[Callable[[], str]]:
    """Yield what says which signal came first, or ""; a second Ctrl-C interrupts at once."""
    came: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(signal.Signals(number).name)
        # Written past Python's buffers, which the signal may have interrupted.
        os.write(2, f"{came[-1]}: the step is finished and saved; then it stops.\n".encode())

    chosen = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    before = {number: signal.signal(number, note) for number in chosen}
    try:
        yield lambda: came[0] if came else ""
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
