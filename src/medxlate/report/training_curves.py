"""What a training recorded, as pictures: errors, losses, speed. Nothing is smoothed.

Each recorded value is the mean since the one before (``docs/reference/folders.md``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from medxlate.evaluation.results import Picture, Points
from medxlate.method.terms import FAMILIES, Family, find_term

DECIDES = "val_error"  # of the validation metrics: by it the kept model is chosen


def curves(events: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Return the pictures of a training; those without a value are left out.

    Losses are grouped by what they are of, and with several sources by source too where more than
    six lines would share a picture.

    Args:
        events: Of ``metrics.jsonl``, as `medxlate.training.record.read_events` returns them.
    """
    steps = [each for each in events if each.get("event") == "step"]
    epochs = [each for each in events if each.get("event") == "epoch"]
    return [
        *_validation(epochs),
        *_losses(steps),
        *_single(steps, "images_per_second", "Speed", "Images a second"),
        *_single(steps, "data_wait", "Waiting for images", "Share of the time"),
    ]


def _validation(epochs: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Return the error that decides which model is kept, and the one that was."""
    points = _points(epochs, "epoch", lambda each: _mapping(each, "metrics").get(DECIDES))
    if not points:
        return []
    chosen = [each for each in epochs if each.get("best") is True]
    best = _points(chosen, "epoch", lambda each: _mapping(each, "metrics").get(DECIDES))[-1:]
    lines = [_line("validation error", points)]
    lines += [_line(f"kept: epoch {best[0][0]:g}", best)] if best else []
    return [_lines("Validation error", lines, x="Epoch")]


def _losses(steps: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Return a picture a family of terms; those of families with many lines are a source's each."""
    found: dict[Family, dict[str, list[Points]]] = {family: {} for family in FAMILIES}
    for name in sorted({name for each in steps for name in _mapping(each, "losses")}):
        source, term = find_term(name)
        points = _points(steps, "step", partial(_loss, name))
        if term is not None and points:
            words = f"{term.label}, {source}" if source else term.label
            found[term.family].setdefault(source, []).append(_line(words, points))
    pictures = []
    for family, by_source in found.items():
        lines = [line for each in by_source.values() for line in each]
        title = FAMILIES[family]
        if len(lines) > 6:
            pictures += [_lines(f"{title}: {s or 'all'}", each) for s, each in by_source.items()]
        elif lines:
            pictures.append(_lines(title, lines))
    return pictures


def _loss(name: str, event: Mapping[str, Any]) -> Any:
    return _mapping(event, "losses").get(name)


def _single(steps: Sequence[Mapping[str, Any]], key: str, title: str, label: str) -> list[Picture]:
    points = _points(steps, "step", lambda each: each.get(key))
    return [_lines(title, [_line(label, points)], y=label)] if points else []


def _points(
    events: Iterable[Mapping[str, Any]], key: str, value: Callable[[Mapping[str, Any]], Any]
) -> list[tuple[float, float]]:
    """Return place and value of the events that have both as finite numbers."""
    pairs: list[tuple[Any, Any]] = [(each.get(key), value(each)) for each in events]
    return [(float(x), float(y)) for x, y in pairs if _is_number(x) and _is_number(y)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _mapping(event: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = event.get(key)
    return value if isinstance(value, Mapping) else {}


def _line(name: str, points: Sequence[tuple[float, float]]) -> Points:
    return Points(name=name, x=tuple(x for x, _ in points), y=tuple(y for _, y in points))


def _lines(title: str, lines: Sequence[Points], *, x: str = "Step", y: str = "") -> Picture:
    return Picture(kind="lines", title=title, x_label=x, y_label=y, lines=tuple(lines))
