"""Where things lie in a run folder; ``docs/reference/folders.md`` describes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medxlate.errors import ModelError, OutputError
from medxlate.files import check_parents, whole_file
from medxlate.records import inside

LATEST = "latest"


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
    def metrics(self) -> Path:
        """The events, one a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """What one hands on."""
        return self.path / "model"

    @property
    def samples(self) -> Path:
        """Grids of translated validation images."""
        return self.path / "samples"

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
                f"'{name}' cannot name a run.", "Use letters, digits, ., - and _; not 'latest'."
            )
        folder = runs / name
        if folder.exists() and not (begun and not (folder / "config.json").exists()):
            raise OutputError(
                f"The run {folder} exists.", "Choose another --name, or continue it with --resume."
            )
        folder.mkdir(exist_ok=True)
    else:
        folder = _next(runs, "-".join([*sources, "to", target]) if sources else target)
    with whole_file(runs / LATEST) as pointer:
        pointer.write_text(folder.name + "\n", encoding="utf-8")
    return RunFolder(folder)


def find_run(path: Path) -> RunFolder:
    """Return the run that ``path`` names: a run folder, or the pointer ``runs/latest``.

    Raises:
        ModelError: There is no such run.
    """
    folder = path
    if path.is_file() and path.name == LATEST:
        folder = inside(path.parent, path.read_text("utf-8", "replace").strip(), error=ModelError)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{path} is no run{': nothing was trained here yet' if not path.exists() else ''}.",
            "Train one with `medxlate train`, or name another.",
        )
    return RunFolder(folder)


def find_model(path: Path) -> Path:
    """Return the model folder that ``path`` names: one itself, or that of a run.

    Raises:
        ModelError: There is none.
    """
    if (path / "model.json").is_file():
        return path
    run = find_run(path)
    if not (run.model / "model.json").is_file():
        raise ModelError(
            f"The run {run.path} has no model yet: its training did not end.",
            f"Continue it with `medxlate train --resume {run.path}`.",
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
