"""The rate of a task, and the plain lines that report it where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable

from medxlate.base.events import Progress

EVERY = 30.0  # seconds between lines


class Pace:
    """The rate of a task since its first event, so that what a run continues from does not count.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: dict[str, tuple[float, int]] = {}
        self._last: dict[str, int] = {}
        self._reported = clock()

    def rate(self, event: Progress) -> float | None:
        """Return units a second; None while nothing is known."""
        now = self._clock()
        if event.done < self._last.get(event.task, 0):  # the task begins anew
            del self._began[event.task]
        self._last[event.task] = event.done
        began, first = self._began.setdefault(event.task, (now, event.done))
        passed = now - began
        return (event.done - first) / passed if passed > 0 and event.done > first else None

    def line(self, event: Progress) -> str | None:
        """Return a line for a log; None where one was returned in the last 30 seconds."""
        rate = self.rate(event)
        if self._clock() - self._reported < EVERY:
            return None
        self._reported = self._clock()
        text = f"{described(event)}: {event.done}/{event.total}"
        if rate is None:
            return text
        return f"{text}, {speed(rate, event)}, {duration((event.total - event.done) / rate)} left"


def described(event: Progress) -> str:
    """Return what is done: the epoch of a training, else the task."""
    return f"epoch {event.epoch}/{event.epochs}" if event.epochs else event.task


def speed(rate: float, event: Progress | None = None) -> str:
    """Return a rate for people: 12.3/s, or 4.2/min where it is slow; 0.4 it/s of training steps."""
    if event is not None and event.epochs:
        return f"{rate:.2g} it/s" if rate < 10 else f"{rate:.0f} it/s"
    return f"{rate:.3g}/s" if rate >= 1 else f"{rate * 60:.3g}/min"


def duration(seconds: float) -> str:
    """Return hours, minutes and seconds: 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
