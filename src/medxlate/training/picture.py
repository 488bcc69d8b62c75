"""progress.png: the whole training at a glance, drawn anew while it runs.

Matplotlib is loaded when the first picture is drawn: a command that trains nothing goes without.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from medxlate.artifacts.runs import RunFolder
from medxlate.base.errors import MedxlateError
from medxlate.base.events import EpochEnded, Event, Listener, Warned
from medxlate.config import Config
from medxlate.method.terms import FAMILIES, Family, find_term
from medxlate.training.record import read_events

COST = 0.01  # of the time of a training that its pictures may take
POINTS = 400  # of a line, at most
PANELS: tuple[Family, ...] = ("predictor", "translators", "discriminators", "images")
Line = tuple[str, list[float], list[float]]  # name, epochs, values


class ProgressPicture:
    """A listener that draws ``progress.png`` at ends of epochs, and passes every event on first.

    It draws after the first epoch and the last, and between them so seldom that it takes one
    hundredth of the time. Where it cannot draw, it says so once; the training goes on.

    Args:
        run: The run, whose record it draws.
        config: Its configuration, for the heading.
        then: The next listener.
    """

    def __init__(self, run: RunFolder, config: Config, then: Listener) -> None:
        self._run = run
        self._config = config
        self._then = then
        self._due = 0.0
        self._failed = False

    def __call__(self, event: Event) -> None:
        """Pass the event on; draw where an epoch has ended and a picture is due."""
        self._then(event)
        if not isinstance(event, EpochEnded) or self._failed:
            return
        began = time.monotonic()
        if began < self._due and event.epoch < event.epochs:
            return
        try:
            self._draw(event)
        except (OSError, ValueError, RuntimeError, ImportError, MedxlateError) as problem:
            self._failed = True
            self._then(Warned(f"{self._run.progress} could not be drawn: {problem}"))
        ended = time.monotonic()
        self._due = ended + (ended - began) / COST

    def _draw(self, event: EpochEnded) -> None:
        data = self._config.data
        names = f"{' + '.join(data.sources)} to {data.target}" if data.sources else data.target
        heading = f"{self._config.method}, {names}: epoch {event.epoch} of {event.epochs}"
        if panels := panels_of(read_events(self._run.metrics)):
            draw(self._run, panels, heading)


@dataclass(frozen=True)
class ProgressPanel:
    """Lines over epochs.

    Attributes:
        title: What they show.
        lines: A name, epochs and values each.
        kept: Where the kept model stands, with a ring around it; None for none.
    """

    title: str
    lines: tuple[Line, ...]
    kept: tuple[float, float] | None = None


def panels_of(events: Sequence[Mapping[str, Any]]) -> list[ProgressPanel]:
    """Return what a picture of a training shows; panels without a value are left out.

    Args:
        events: Of ``metrics.jsonl``, as ``read_events`` returns them.
    """
    steps = [each for each in events if each.get("event") == "step"]
    epochs = [each for each in events if each.get("event") == "epoch"]
    found = [_losses(family, steps, epochs) for family in PANELS]
    errors = _line("validation error", epochs, _error)
    kept = _line("kept", [each for each in epochs if each.get("best") is True], _error)
    place = (kept[1][-1], kept[2][-1]) if kept[1] else None
    found.append(ProgressPanel("Validation error (ring: the model that is kept)", (errors,), place))
    names = dict.fromkeys(name for each in epochs for name in _of(each, "rates"))
    rates = [_line(n, epochs, partial(_value, "rates", n)) for n in names]
    found.append(ProgressPanel("Learning rate", _distinct(rates)))
    seconds = _line("an epoch with its validation", epochs, lambda e: e.get("seconds") or None)
    found.append(ProgressPanel("Seconds an epoch", (seconds,)))
    return [panel for panel in found if any(line[1] for line in panel.lines)]


def _error(event: Mapping[str, Any]) -> Any:
    return _of(event, "metrics").get("val_error")


def _losses(
    family: Family, steps: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]]
) -> ProgressPanel:
    """Return the recorded losses of a family over epochs, by the steps that an epoch has."""
    _, ended, counts = _line("", epochs, lambda event: event.get("step"))
    each = counts[-1] / ended[-1] if ended and counts[-1] > 0 < ended[-1] else 1
    lines = []
    for name in sorted({name for event in steps for name in _of(event, "losses")}):
        source, term = find_term(name)
        if term is None or term.family != family:
            continue
        label = f"{term.label}, {source}" if source else term.label
        _, xs, ys = _line(label, steps, partial(_value, "losses", name), "step")
        lines.append((label, [x / each for x in xs], ys))
    return ProgressPanel(FAMILIES[family], tuple(lines))


def _line(
    name: str,
    events: Iterable[Mapping[str, Any]],
    value: Callable[[Mapping[str, Any]], Any],
    place: str = "epoch",
) -> Line:
    """Return the finite values of events, thinned to evenly many where there are too many."""
    pairs: list[tuple[Any, Any]] = [(each.get(place), value(each)) for each in events]
    kept = [(float(x), float(y)) for x, y in pairs if _finite(x) and _finite(y)]
    kept = kept[:: max(len(kept) // POINTS, 1)]
    return name, [x for x, _ in kept], [y for _, y in kept]


def _distinct(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Return lines of which equal ones share a name: most learning rates are the same."""
    found: dict[tuple[float, ...], Line] = {}
    for name, xs, ys in lines:
        known = found.get(tuple(ys))
        found[tuple(ys)] = (f"{known[0]}, {name}" if known else name, xs, ys)
    return tuple(found.values())


def _value(key: str, name: str, event: Mapping[str, Any]) -> Any:
    return _of(event, key).get(name)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _of(event: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = event.get(key)
    return value if isinstance(value, Mapping) else {}


def draw(run: RunFolder, panels: Sequence[ProgressPanel], heading: str) -> None:
    """Write a run's ``progress.png``: a field a panel, two beside one another.

    Args:
        run: The run.
        panels: What is shown, in order; at least one.
        heading: Above the fields.
    """
    from medxlate.charts.style import styled

    styled(_paint)(run, panels, heading)


def _paint(run: RunFolder, panels: Sequence[ProgressPanel], heading: str) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from medxlate.charts.style import INK, cut, look_of, save

    rows = max(-(-len(panels) // 2), 1)
    height = 2.6 * rows + 0.8
    figure = Figure(figsize=(12, height))
    figure.set_layout_engine("none")  # the constrained one takes a second
    grid = figure.add_gridspec(
        rows, 2, left=0.06, right=0.985, bottom=0.6 / height, top=1 - 0.85 / height,
        hspace=0.35, wspace=0.14,
    )  # fmt: skip
    end = max(x for panel in panels for _, xs, _ in panel.lines for x in xs)
    figure.text(0.012, 1 - 0.35 / height, heading, fontsize=15, fontweight="bold", color=INK)
    for k, panel in enumerate(panels):
        axis = figure.add_subplot(grid[k // 2, k % 2])
        axis.set_title(panel.title, color=INK)
        axis.set_xlim(0, 1.03 * end)
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        for i, (name, xs, ys) in enumerate(line for line in panel.lines if line[1]):
            colour, dashes, marker = look_of(i)
            shape = marker if len(xs) == 1 else {}
            look: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 1.6, **shape}
            axis.plot(xs, ys, label=cut(name, 40), **look)
        if panel.kept:
            ring: dict[str, Any] = {
                "markerfacecolor": "none",
                "markeredgecolor": INK,
                "markeredgewidth": 1.6,
            }
            axis.plot(*panel.kept, "o", markersize=11, **ring)
        if len(panel.lines) > 1:
            axis.legend(loc="upper right")
        if k >= len(panels) - 2:
            axis.set_xlabel("Epoch")
    save(figure, run.progress, dpi=100)
