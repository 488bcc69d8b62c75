"""The runs in a folder: what each is and how far it came, and removing one. Needs no torch."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medxlate.artifacts.runs import LATEST, RunFolder, read_plugins
from medxlate.base.errors import MedxlateError, ModelError, OutputError, UsageError
from medxlate.base.files import is_locked, locked, whole_file
from medxlate.base.plugins import PluginRecord
from medxlate.base.records import is_plain, read_object, safe_join
from medxlate.config import Config, flat, parse

State = Literal["finished", "running", "stopped", "damaged"]
_EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class RunSummary:
    """What one sees of a run in a list.

    Attributes:
        name: Of its folder.
        path: Its folder.
        state: finished (there is a model), running (a process trains it), stopped (it can be
            continued) or damaged.
        problem: Which file of a damaged run is missing or cannot be read.
        method: As in the configuration; "" where that is damaged.
        sources: Source modalities.
        target: The target modality.
        epochs: Finished epochs.
        best_error: The lowest validation error; None before the first validation.
        metric: Name of the first figure of ``evaluation/evaluation.json`` on the predictor; "".
        test: Its value; None without an evaluation.
        bytes: Of all files; links are not followed.
        seconds: Since something was last recorded.
        latest: Whether ``latest`` names it.
    """

    name: str
    path: Path
    state: State
    problem: str = ""
    method: str = ""
    sources: tuple[str, ...] = ()
    target: str = ""
    epochs: int = 0
    best_error: float | None = None
    metric: str = ""
    test: float | None = None
    bytes: int = 0
    seconds: float = 0.0
    latest: bool = False


@dataclass(frozen=True)
class RunDetails:
    """A run in full.

    Attributes:
        summary: As in the list.
        differences: Keys of the configuration that differ from the defaults, and their values.
        plugins: The plug-ins by which it is trained.
        files: Entries of the run folder and their bytes; a folder ends with ``/``.
        metrics: Validation figures of the last epoch, by name.
        tests: All figures of the evaluation that have a value: name, value, level.
    """

    summary: RunSummary
    differences: dict[str, Any] = field(default_factory=dict)
    plugins: tuple[PluginRecord, ...] = ()
    files: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tests: tuple[dict[str, Any], ...] = ()


def list_runs(runs: Path | str) -> list[RunSummary]:
    """Return the runs in a folder, the one that changed last first; none where it is missing."""
    runs = Path(runs)
    if not runs.is_dir():
        return []
    latest = _latest(runs)
    names = [p.name for p in runs.iterdir() if p.is_dir() and not p.name.startswith(".")]
    found = [_summary(RunFolder(runs / name), latest=name == latest) for name in names]
    return sorted(found, key=lambda run: (run.seconds, run.name))


def show_run(runs: Path | str, name: str) -> RunDetails:
    """Return all of one run.

    Args:
        runs: The folder of all runs.
        name: The run's name, or ``latest``.

    Raises:
        ModelError: There is no such run.
    """
    run = _find(Path(runs), name)
    summary = _summary(run, latest=run.path.name == _latest(run.path.parent))
    files = {}
    for entry in sorted(run.path.iterdir()):
        is_folder = entry.is_dir() and not entry.is_symlink()
        files[entry.name + "/" * is_folder] = _size(entry)
    differences: dict[str, Any] = {}
    with suppress(MedxlateError):
        defaults = flat(Config())
        values = flat(parse(read_object(run.config, error=ModelError)))
        differences = {key: value for key, value in values.items() if value != defaults[key]}
    epochs = list(_epochs(run.metrics))
    metrics = epochs[-1]["metrics"] if epochs else {}
    plugins: tuple[PluginRecord, ...] = ()
    with suppress(MedxlateError):
        plugins = read_plugins(run)
    return RunDetails(summary, differences, plugins, files, metrics, tuple(_figures(run)))


def remove_run(runs: Path | str, name: str) -> int:
    """Remove a run; ``latest`` then names the newest of the others, or goes with the last one.

    Links inside it are removed, never what they lead to.

    Args:
        runs: The folder of all runs.
        name: The run's name, or ``latest``.

    Returns:
        The bytes that its files had.

    Raises:
        ModelError: There is no such run.
        UsageError: It is a link, or nothing in it says that it is a run.
        OutputError: A process trains it.
    """
    run = _find(Path(runs), name)
    path = run.path
    if path.is_symlink():
        raise UsageError(f"{path} is a link.", "Delete the link yourself, or give the run itself.")
    if any(path.iterdir()) and not any(
        each.exists() for each in (run.config, run.split, run.metrics, run.checkpoints, run.model)
    ):
        raise UsageError(f"{path} does not look like a run and was not touched.")
    if is_locked(run.lock):
        raise OutputError(
            f"The run {path} is being trained (its .lock is held).", "Stop the training first."
        )
    size = _size(path)
    was_latest = _latest(path.parent) == path.name
    # Moved aside first: a run that is half removed is never taken for one.
    with locked(run.lock):
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".removed", dir=path.parent))
        path.rename(aside / path.name)
    shutil.rmtree(aside)
    if was_latest:
        _repoint(path.parent)
    return size


def _find(runs: Path, name: str) -> RunFolder:
    if name == LATEST:
        name = _latest(runs)
    if not is_plain(name) or name.startswith(".") or not (runs / name).is_dir():
        raise ModelError(
            f"There is no run '{name or LATEST}' in {runs}.", "Run `medxlate runs list` to see all."
        )
    return RunFolder(runs / name)


def _latest(runs: Path) -> str:
    try:
        return (runs / LATEST).read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _repoint(runs: Path) -> None:
    others = [run for run in list_runs(runs) if (run.path / "config.json").is_file()]
    if not others:
        (runs / LATEST).unlink(missing_ok=True)
        return
    with whole_file(runs / LATEST) as pointer:
        pointer.write_text(others[0].name + "\n", encoding="utf-8")


def _summary(run: RunFolder, *, latest: bool) -> RunSummary:
    method, target = "", ""
    sources: tuple[str, ...] = ()
    try:
        values = read_object(run.config, error=ModelError, needs=["method", "data"])
        method, data = str(values["method"]), values["data"]
        data = data if isinstance(data, dict) else {}
        target = str(data.get("target") or "")
        sources = tuple(map(str, data.get("sources") or ()))
        problem = _missing(run)
    except MedxlateError as damage:
        problem = damage.message
    running = is_locked(run.lock)
    if running:  # what is not there yet is still to come
        problem = ""
    epochs = list(_epochs(run.metrics))
    errors = [e["metrics"]["val_error"] for e in epochs if "val_error" in e["metrics"]]
    figures = _figures(run)
    finished = (run.model / "model.json").is_file()
    state: State = "running" if running else "finished" if finished else "stopped"
    return RunSummary(
        run.path.name,
        run.path,
        "damaged" if problem else state,
        problem,
        method,
        sources,
        target,
        max((int(event["epoch"]) for event in epochs), default=0),
        min(errors, default=None),
        str(figures[0]["name"]) if figures else "",
        figures[0]["value"] if figures else None,
        _size(run.path),
        max(0.0, time.time() - _changed(run)),
        latest,
    )


def _missing(run: RunFolder) -> str:
    """Return a sentence on the first file that a run needs and has not, or nothing."""
    needed = [run.split]
    with suppress(OSError, MedxlateError):
        last = (run.checkpoints / "last").read_text("utf-8", "replace").strip()
        needed.append(safe_join(run.checkpoints, last, error=ModelError) / "state.json")
    if run.model.is_dir():
        needed.append(run.model / "model.json")
        with suppress(MedxlateError):
            model = read_object(run.model / "model.json", error=ModelError)
            needed += [run.model / name for name in _weights(model) if is_plain(name)]
    return next((f"{file} does not exist." for file in needed if not file.exists()), "")


def _weights(values: Any) -> Iterator[str]:
    """Yield the names of weight files that a record mentions."""
    if isinstance(values, dict):
        for value in values.values():
            yield from _weights(value)
    elif isinstance(values, list):
        for value in values:
            yield from _weights(value)
    elif isinstance(values, str) and values.endswith(".safetensors"):
        yield values


def _epochs(metrics: Path) -> Iterator[dict[str, Any]]:
    """Yield the epochs of metrics.jsonl; other lines are not even parsed."""
    with suppress(OSError), metrics.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            if '"epoch", ' not in line[:24]:
                continue
            with suppress(ValueError, RecursionError):
                event = json.loads(line)
                if isinstance(event.get("metrics"), dict) and isinstance(event.get("epoch"), int):
                    yield event


def _figures(run: RunFolder) -> list[dict[str, Any]]:
    """Return the figures of the predictor that an evaluation has, the first by image first."""
    with suppress(MedxlateError):
        values = read_object(run.evaluation / _EVALUATION, error=ModelError, needs=["metrics"])
        return [
            {"name": each["name"], "value": each["value"], "level": each.get("level", "")}
            for each in values["metrics"]
            if each.get("group") == "prediction"
            and each.get("of", "model") == "model"
            and each.get("value") is not None
        ]
    return []


def _changed(run: RunFolder) -> float:
    times = [each.stat().st_mtime for each in (run.metrics, run.config) if each.exists()]
    return max(times) if times else run.path.stat().st_mtime


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all below a folder; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    total = 0
    pending = [os.fspath(path)]
    while pending:
        with suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    with suppress(FileNotFoundError):
                        total += entry.stat(follow_symlinks=False).st_size
    return total
