"""What every tracker does, and the listener that tells it what happens in a training."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
STATE = "told.json"


class Tracker(Protocol):
    """One library's way of keeping a run."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Keep figures after a step; called once a step at most for each name."""

    def text(self, step: int, name: str, text: str) -> None:
        """Keep a sentence."""

    def image(self, step: int, name: str, path: Path) -> None:
        """Keep a picture, a PNG of grey validation images; only where that stays on this disk."""

    def finish(self) -> None:
        """Write what waits and end."""


@dataclass(frozen=True)
class Place:
    """Where and as what a tracker keeps a run.

    Attributes:
        folder: Of this tracker, in the run folder.
        name: The run's.
        settings: The configuration by key, without paths.
        offline: Whether nothing may leave this machine, whatever the environment says.
    """

    folder: Path
    name: str
    settings: Mapping[str, Any]
    offline: bool


@dataclass(frozen=True)
class Told:
    """What a tracker has received already: the last step of each kind of event."""

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
                f"Install it with `pip install 'medxlate[{name}]'`, or leave out --track {name}.",
            )


def settings_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return configuration values by key without those that may hold a path."""
    return {k: v for k, v in values.items() if k not in ("data.folder", "model.pretrained")}


class Tracking:
    """A listener that tells trackers what happens, and passes every event on; a context.

    A training that was killed repeats what came after its last checkpoint, with the same figures.
    What a tracker received before is therefore not sent again. A tracker that fails is left alone
    from then on, with one warning: it never stops a training.

    Args:
        names: Which trackers.
        root: The folder for all of them, in the run folder.
        run: The run's name.
        settings: The configuration by key; see ``settings_of``.
        offline: See ``Place``.
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
        self._places = {n: Place(root / n, run, settings, offline) for n in names}
        self._trackers: dict[str, Tracker] = {}
        self._before: dict[str, Told] = {}  # in an earlier part of the same training
        self._told: dict[str, Told] = {}
        self._then = then

    def __enter__(self) -> Tracking:
        for name, place in self._places.items():
            self._try(name, lambda place=place, name=name: self._open(name, place))  # type: ignore[misc]
        return self

    def __exit__(self, *_: object) -> None:
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.finish)

    def __call__(self, event: Event) -> None:
        """Tell the trackers what is for them, and pass the event on."""
        for name in list(self._trackers):
            self._try(name, lambda name=name: self._tell(name, event))  # type: ignore[misc]
        self._then(event)

    def _open(self, name: str, place: Place) -> None:
        place.folder.mkdir(parents=True, exist_ok=True)
        self._before[name] = self._told[name] = _read_told(place.folder / STATE)
        self._trackers[name] = import_module(f"medxlate.tracking.{name}").start(place)

    def _tell(self, name: str, event: Event) -> None:
        kind, tell = _telling(event, self._trackers[name])
        step = getattr(event, "step", 0)
        # Not against what was sent just now: a step may bring several alarms.
        if tell is None or step <= getattr(self._before[name], kind):
            return
        tell()
        self._told[name] = replace(self._told[name], **{kind: step})
        write_json(self._places[name].folder / STATE, asdict(self._told[name]))

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as problem:  # libraries raise kinds of their own, and networks fail
            self._trackers.pop(name, None)
            first = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            self._then(Warned(f"{name} receives nothing more of this training: {first}"))


def _telling(event: Event, tracker: Tracker) -> tuple[str, Callable[[], None] | None]:
    """Return the kind of an event and what tells the tracker of it; None for other events."""
    if isinstance(event, StepLogged):
        values = {f"loss/{name}": value for name, value in event.losses.items()}
        values |= {
            "speed/images_per_second": event.images_per_second,
            "speed/data_wait": event.data_wait,
            "speed/skipped_steps": float(event.skipped),
        }
        return "steps", lambda: tracker.scalars(event.step, values)
    if isinstance(event, EpochEnded):
        told = {f"validation/{name.removeprefix('val_')}": v for name, v in event.metrics.items()}
        return "epochs", lambda: tracker.scalars(event.step, {**told, "epoch": float(event.epoch)})
    if isinstance(event, SamplesWritten):
        return "pictures", lambda: _show(event, tracker)
    if isinstance(event, Alarmed):
        said = f"{event.modality}: {event.text}. {event.advice}"
        return "alarms", lambda: tracker.text(event.step, f"alarm/{event.kind}", said)
    return "", None


def _show(event: SamplesWritten, tracker: Tracker) -> None:
    for name, path in event.files.items():
        tracker.image(event.step, f"samples/{name}", path)


def _read_told(path: Path) -> Told:
    if not path.is_file():
        return Told()
    try:
        values = read_object(path, error=DataError)
        return Told(**{key: int(values.get(key, 0)) for key in asdict(Told())})
    except (DataError, TypeError, ValueError):
        return Told()
