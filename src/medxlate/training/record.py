"""metrics.jsonl: what happened in a run, one event a line."""

from __future__ import annotations

import itertools
import json
from contextlib import suppress
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from medxlate.base.events import Alarmed, EpochEnded, Event, Listener, StepLogged
from medxlate.base.files import naming_full_disk, whole_file

MAX_LINE = 1 << 20  # bytes of an event; one takes some hundred
_RECORDED: dict[str, type[Event]] = {"step": StepLogged, "epoch": EpochEnded, "alarm": Alarmed}


class Recorder:
    """A listener that writes steps, epochs and alarms to a file and passes every event on.

    An epoch is recorded with the day on which it ended, ISO 8601.

    Args:
        path: The file; lines of an earlier part of the same run are kept.
        then: The next listener.
    """

    def __init__(self, path: Path, then: Listener) -> None:
        self._path = path
        self._then = then

    def __call__(self, event: Event) -> None:
        """Record the event and pass it on."""
        kind = next((name for name, each in _RECORDED.items() if isinstance(event, each)), None)
        if kind is not None:
            with (
                naming_full_disk(self._path),
                self._path.open("a", encoding="utf-8") as stream,
            ):
                record = {"event": kind, **asdict(event)}
                if isinstance(event, EpochEnded):
                    record["day"] = date.today().isoformat()
                stream.write(json.dumps(record) + "\n")
        self._then(event)


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the recorded events; what is none, such as a line cut off by a kill, is left out."""
    if not path.exists():
        return []
    events = []
    with path.open(encoding="utf-8", errors="replace") as stream:
        while line := stream.readline(MAX_LINE):
            with suppress(ValueError, RecursionError):
                event = json.loads(line)
                if isinstance(event, dict) and isinstance(event.get("step"), int):
                    events.append(event)
    return events


def rewind_record(path: Path, step: int, epoch: int) -> None:
    """Drop what was recorded after a checkpoint: a resumed run records it again.

    Args:
        path: The file.
        step: Of the checkpoint.
        epoch: How many epochs had ended by then, validation included.
    """

    def is_before(event: dict[str, Any]) -> bool:
        # The validation after the checkpoint's own step may not have been before it.
        again = event["event"] == "epoch" and event["epoch"] > epoch and event["step"] >= step
        return bool(event["step"] <= step) and not again

    kept = itertools.takewhile(is_before, read_events(path))  # in the order in which they happened
    with whole_file(path) as partial:
        text = "".join(json.dumps(event) + "\n" for event in kept)
        partial.write_text(text, encoding="utf-8")
