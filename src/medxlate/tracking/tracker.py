"""The interface of a tracker, and the listener that sends it the events of a training."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from medxlate.base.errors import ConfigError, DataError
from medxlate.base.events import (
    Alarmed,
    EpochEnded,
    Event,
    Listener,
    SamplesWritten,
    StepLogged,
    Warned,
)
from medxlate.base.files import write_json
from medxlate.base.records import read_object

NEEDS: Mapping[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
}
STATE = "told.json"  # what a tracker has received


class Tracker(Protocol):
    """One library's way to keep a run."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Keep figures after a step, at most once a step for each name."""

    def text(self, step: int, name: str, text: str) -> None:
        """Keep a sentence."""

    def image(self, step: int, name: str, path: Path) -> None:
        """Keep a PNG of grey validation images, but only where it stays on this disk."""

    def finish(self) -> None:
        """Write what is buffered and end."""


@dataclass(frozen=True)
class TrackedRun:
    """Where and as what a tracker keeps a run.

    Attributes:
        folder: The tracker's own, in the run folder.
        name: The run's.
        settings: The configuration by key, without paths.
        offline: Whether nothing may leave this machine, whatever the environment says.
    """

    folder: Path
    name: str
    settings: Mapping[str, Any]
    offline: bool


@dataclass(frozen=True)
class Received:
    """What a tracker has received: the last step of each kind of event."""

    steps: int = 0
    epochs: int = 0
    pictures: int = 0
    alarms: int = 0


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError where a tracker's library is not installed."""
    for name in names:
        missing = [each for each in NEEDS[name] if importlib.util.find_spec(each) is None]
        if missing:
            raise ConfigError(
                f"Tracking with {name} needs {', '.join(missing)}, which is not installed.",
                f"Install it with `pip install 'medxlate[{name}]'`, or drop --track {name}.",
            )


def settings_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return configuration values by key, without those that may hold a path."""
    return {k: v for k, v in values.items() if k not in ("data.folder", "model.pretrained")}


class Tracking:
    """A listener that sends events to trackers and passes each on to the next; a context.

    A resumed training repeats what came after its last checkpoint, with the same figures; what a
    tracker received before is not sent again. A tracker that fails causes one warning and receives
    nothing more: it never stops a training.

    Args:
        names: The trackers, of NEEDS.
        root: The folder for all of them, in the run folder.
        run: The run's name.
        settings: The configuration by key; see ``settings_of``.
        offline: See ``TrackedRun``.
        then: The next listener.
    """

    def __init__(
        self,
        names: Sequence[str],
        root: Path,
        *,
        run: str,
        settings: Mapping[str, Any],
        offline: bool,
        then: Listener,
    ) -> None:
        self._runs = {n: TrackedRun(root / n, run, settings, offline) for n in names}
        self._trackers: dict[str, Tracker] = {}
        self._before: dict[str, Received] = {}  # in an earlier part of the same training
        self._received: dict[str, Received] = {}
        self._then = then

    def __enter__(self) -> Tracking:
        for name, run in self._runs.items():
            self._try(name, partial(self._open, name, run))
        return self

    def __exit__(self, *_: object) -> None:
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.finish)

    def __call__(self, event: Event) -> None:
        """Send the event to the trackers and pass it on."""
        for name in list(self._trackers):
            self._try(name, partial(self._send, name, event))
        self._then(event)

    def _open(self, name: str, run: TrackedRun) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        self._before[name] = self._received[name] = _read_received(run.folder / STATE)
        self._trackers[name] = import_module(f"medxlate.tracking.{name}").start(run)

    def _send(self, name: str, event: Event) -> None:
        kind, send = _sending(event, self._trackers[name])
        step = getattr(event, "step", 0)
        # Compared with an earlier part only: a step of this one may bring several alarms.
        if send is None or step <= getattr(self._before[name], kind):
            return
        send()
        self._received[name] = replace(self._received[name], **{kind: step})
        write_json(self._runs[name].folder / STATE, asdict(self._received[name]))

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as problem:  # libraries raise kinds of their own, and networks fail
            self._trackers.pop(name, None)
            first = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            self._then(Warned(f"Tracking with {name} stopped for this training: {first}"))


def _sending(event: Event, tracker: Tracker) -> tuple[str, Callable[[], None] | None]:
    """Return an event's kind and the call that sends it to the tracker; None for other events."""
    if isinstance(event, StepLogged):
        values = {f"loss/{name}": value for name, value in event.losses.items()}
        values |= {
            "speed/images_per_second": event.images_per_second,
            "speed/data_wait": event.data_wait,
            "speed/skipped_steps": float(event.skipped),
        }
        return "steps", lambda: tracker.scalars(event.step, values)
    if isinstance(event, EpochEnded):
        values = {f"validation/{name.removeprefix('val_')}": v for name, v in event.metrics.items()}
        values["epoch"] = float(event.epoch)
        return "epochs", lambda: tracker.scalars(event.step, values)
    if isinstance(event, SamplesWritten):
        return "pictures", lambda: _show(event, tracker)
    if isinstance(event, Alarmed):
        text = f"{event.modality}: {event.text}. {event.advice}"
        return "alarms", lambda: tracker.text(event.step, f"alarm/{event.kind}", text)
    return "", None


def _show(event: SamplesWritten, tracker: Tracker) -> None:
    for name, path in event.files.items():
        tracker.image(event.step, f"samples/{name}", path)


def _read_received(path: Path) -> Received:
    if not path.is_file():
        return Received()
    try:
        values = read_object(path, error=DataError)
        return Received(**{key: int(values.get(key, 0)) for key in asdict(Received())})
    except (DataError, TypeError, ValueError):
        return Received()
