"""Where things lie in a run folder; ``docs/reference/folders.md`` describes it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from medxlate.artifacts.hub import located
from medxlate.base.errors import MedxlateError, ModelError, OutputError
from medxlate.base.events import Listener, Warned, silent
from medxlate.base.files import check_parents, whole_file, write_json
from medxlate.base.plugins import PluginRecord
from medxlate.base.records import read_json, read_object, safe_join
from medxlate.config import Config, parse

LATEST = "latest"
_PLUGINS = TypeAdapter(tuple[PluginRecord, ...])
Need = Literal["anything", "a model", "a translator", "a predictor"]
_PARTS: dict[Need, str] = {"a translator": "translators", "a predictor": "predictor"}


@dataclass(frozen=True)
class RunFolder:
    """The places inside a run folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.json"

    @property
    def lock(self) -> Path:
        """Held by the process that trains."""
        return self.path / ".lock"

    @property
    def split(self) -> Path:
        """The patients of each part."""
        return self.path / "split.json"

    @property
    def plugins(self) -> Path:
        """The plug-ins by which it is trained; there only where there are any."""
        return self.path / "plugins.json"

    @property
    def metrics(self) -> Path:
        """The events, one a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """What one shares."""
        return self.path / "model"

    @property
    def samples(self) -> Path:
        """Grids of translated validation images."""
        return self.path / "samples"

    @property
    def progress(self) -> Path:
        """The picture of the whole training."""
        return self.path / "progress.png"

    @property
    def tracking(self) -> Path:
        """What trackers keep: a folder each."""
        return self.path / "tracking"

    @property
    def evaluation(self) -> Path:
        """What ``evaluate`` found; see ``evaluation.results``."""
        return self.path / "evaluation"

    @property
    def report(self) -> Path:
        """The page that people read."""
        return self.path / "report.html"


def new_run(
    runs: Path, name: str | None, sources: Sequence[str], target: str, *, begun: bool = False
) -> RunFolder:
    """Make a run folder and point ``latest`` to it.

    Args:
        runs: The folder of all runs.
        name: Its name; None: ``<sources>-to-<target>-001`` and on.
        sources: For the name.
        target: For the name.
        begun: Whether an empty folder of that name, left by a start that was killed, will do.

    Raises:
        OutputError: A run of that name exists.
    """
    check_parents(runs / "run")
    runs.mkdir(parents=True, exist_ok=True)
    if name is not None:
        if not re.fullmatch(r"[\w.-]+", name) or name == LATEST or name.startswith("."):
            raise OutputError(
                f"'{name}' is not a valid run name.",
                "Use letters, digits, ., - and _, not 'latest'.",
            )
        folder = runs / name
        if folder.exists() and not (begun and not (folder / "config.json").exists()):
            raise OutputError(
                f"The run {folder} already exists.",
                "Choose another --name, or continue it with --resume.",
            )
        folder.mkdir(exist_ok=True)
    else:
        folder = _next(runs, "-".join([*sources, "to", target]) if sources else target)
    with whole_file(runs / LATEST) as pointer:
        pointer.write_text(folder.name + "\n", encoding="utf-8")
    return RunFolder(folder)


def write_config(run: RunFolder, config: Config) -> None:
    """Write a run's configuration; a relative dataset folder as it is seen from the run."""
    write_json(run.config, seen_from(run.path, config).model_dump(mode="json"))


def read_config(run: RunFolder) -> Config:
    """Return a run's configuration; its dataset folder as it is found from here.

    Raises:
        ModelError: It is missing or damaged.
        ConfigError: It holds what no configuration may.
    """
    config = parse(read_json(run.config, error=ModelError))
    return seen_from_here(run.path, config, levels=2)  # above runs/


def write_plugins(run: RunFolder, plugins: Sequence[PluginRecord]) -> None:
    """Write by which plug-ins a run is trained; nothing where there are none."""
    if plugins:
        write_json(run.plugins, [each.model_dump(mode="json") for each in plugins])


def read_plugins(run: RunFolder) -> tuple[PluginRecord, ...]:
    """Return the plug-ins by which a run is trained.

    Raises:
        ModelError: The file is damaged.
    """
    if not run.plugins.is_file():
        return ()
    try:
        return _PLUGINS.validate_python(read_json(run.plugins, error=ModelError))
    except ValidationError:
        raise ModelError(f"{run.plugins} is damaged.") from None


def seen_from(folder: Path, config: Config) -> Config:
    """Return a configuration as ``folder``, a run or a study, keeps it.

    A relative dataset folder becomes relative to ``folder``, so that both can be moved together.
    """
    data = config.data.folder
    if not Path(data).is_absolute():
        data = os.path.realpath(data)
        with suppress(ValueError):  # on another drive of Windows nothing is relative
            data = Path(os.path.relpath(data, os.path.realpath(folder))).as_posix()
    return _with_dataset(config, data)


def seen_from_here(folder: Path, config: Config, *, levels: int = 1) -> Config:
    """Return a configuration that ``folder`` keeps, with its dataset as it is found from here.

    Args:
        folder: The run or study.
        config: As it was read.
        levels: Where older versions were most often started: that many levels above ``folder``.
    """
    return _with_dataset(config, str(dataset_of(folder, config.data.folder, levels=levels)))


def dataset_of(folder: Path, data: str, *, levels: int) -> Path:
    """Return the dataset folder that a run or study names, whatever the working directory.

    Args:
        folder: The run or study.
        data: What its configuration says: relative to ``folder``. Older versions wrote it relative
            to the working directory, which was most often the folder ``levels`` above: that one is
            looked at before today's.
        levels: As above.
    """
    if Path(data).is_absolute():
        return Path(data)
    home = folder.absolute()
    for _ in range(levels):  # at the root, its own parent
        home = home.parent
    places = (folder / data, home / data, Path(data))
    found = os.path.realpath(next((place for place in places if place.is_dir()), places[0]))
    with suppress(ValueError):  # on another drive of Windows nothing is relative
        found = os.path.relpath(found)
    return Path(found)


def _with_dataset(config: Config, folder: str) -> Config:
    return config.model_copy(update={"data": config.data.model_copy(update={"folder": folder})})


def find_run(path: Path, need: Need = "anything", listener: Listener = silent) -> RunFolder:
    """Return the run that ``path`` names: a run folder, or the pointer ``runs/latest``.

    Args:
        path: A run folder, or the pointer.
        need: What the run is asked for. Where the one that the pointer names cannot give it, the
            newest one that can is taken.
        listener: Receives a warning in that case.

    Raises:
        ModelError: There is no such run.
    """
    folder = path
    if path.is_file() and path.name == LATEST:
        folder = safe_join(
            path.parent, path.read_text("utf-8", "replace").strip(), error=ModelError
        )
        if not _has(folder, need) and (other := _newest(path.parent, need)):
            text = f"The latest run, {folder}, does not have {need}; using {other.name}."
            listener(Warned(text))
            folder = other
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"There is no run at {path}."
            if not path.exists()
            else f"{path} is not a run: it has no config.json.",
            "Give a run that `medxlate runs list` shows, or train one with `medxlate train`.",
        )
    return RunFolder(folder)


def _has(run: Path, need: Need) -> bool:
    """Whether a run can give what it is asked for."""
    if need == "anything":
        return True
    try:
        model = read_object(RunFolder(run).model / "model.json", error=ModelError)
    except MedxlateError:
        return False
    return bool(model.get(_PARTS[need])) if need in _PARTS else True


def _newest(runs: Path, need: Need) -> Path | None:
    """Return the run that was begun last among those that can give what is asked for."""
    able = [each.parent for each in runs.glob("*/config.json") if _has(each.parent, need)]
    return max(able, key=lambda run: (run / "config.json").stat().st_mtime, default=None)


def find_model(path: Path, need: Need = "a model", listener: Listener = silent) -> Path:
    """Return the model folder that ``path`` names: one itself, that of a run, or one on the hub.

    Args:
        path: A model folder, a run folder, the pointer ``runs/latest``, or
            ``hf://OWNER/NAME@REVISION``, which is downloaded where need be.
        need: As for ``find_run``.
        listener: Receives a warning where another run is taken than the pointer names.

    Raises:
        ModelError: There is none.
        UsageError: It is not the name of a model on the hub.
    """
    path = located(path, listener)
    if (path / "model.json").is_file():
        return path
    run = find_run(path, need, listener)
    if not (run.model / "model.json").is_file():
        raise ModelError(
            f"The run {run.path} has no model yet: its training has not finished.",
            f"Continue it with `medxlate train --resume --runs {run.path.parent} "
            f"--name {run.path.name}`.",
        )
    return run.model


def _next(runs: Path, stem: str) -> Path:
    """Make the first free ``stem-NNN``; two processes never get the same."""
    number = 1
    while True:
        folder = runs / f"{stem}-{number:03d}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder
