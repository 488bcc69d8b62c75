"""A translation or prediction that is being made, maybe for the second time.

While ``OUT`` is being made, the folder ``.OUT.work`` lies beside it; only its owner may read it. It
holds ``work.json`` (a hash of all that the result depends on, and what was drawn once), the
unfinished result ``out``, and the journals of its units (``base/journal.py``). What was made from
something else is not used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from medxlate._version import __version__
from medxlate.base.distributed import ranks
from medxlate.base.errors import OutputError
from medxlate.base.events import Listener, Stage, Warned
from medxlate.base.files import check_parents, locked
from medxlate.base.journal import Journal, kept_until_done
from medxlate.dataset.parts import state_of
from medxlate.images.scan import Scan
from medxlate.inference.request import work_folder
from medxlate.inference.stream import Unit

_STATE = "work.json"
_OUT = "out"
_OLD = "old"  # what the result replaces, for the moment between two renames
_PLACING = "placing"  # from then on the result may stand in its place


def stamp(facts: Mapping[str, Any], scans: Sequence[Scan]) -> str:
    """Return a hash of what a result depends on.

    Args:
        facts: Model, options...: what JSON can hold.
        scans: The inputs; their files count by name, size and time of change.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update(f"{__version__} {torch.__version__}".encode())
    for scan in scans:
        files = [(file.relative, *state_of(file)) for file in scan.files]
        digest.update(json.dumps([scan.name, files, dict(scan.tags)]).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Work:
    """A result that is being made.

    Attributes:
        place: Where the result goes.
        drawn: What was drawn or measured once, when the work was begun.
        placed: Whether the result stands in its place: the process was killed after that.
        journal: The units that are done.
    """

    place: Path
    drawn: Mapping[str, Any]
    placed: bool
    journal: Journal

    @property
    def out(self) -> Path:
        """The unfinished result: a file or a folder."""
        return work_folder(self.place) / _OUT

    def report(self, text: str, units: Sequence[Unit], listener: Listener) -> None:
        """Report what begins; how much was done before, and how many processes share it."""
        if before := sum(unit.slices for unit in units if unit in self.journal):
            text += f" ({before} already done)"
        if not ranks().is_alone:
            text += f", shared by {ranks().count} processes"
        listener(Stage(text))

    def put(self) -> None:
        """Put the result into its place, where it replaces another one."""
        folder = work_folder(self.place)
        (folder / _PLACING).touch()
        if self.out.is_dir() and self.place.exists():
            self.place.rename(folder / _OLD)
        self.out.replace(self.place)


@contextmanager
def working(
    place: Path, made_from: str, draw: Callable[[], dict[str, Any]], listener: Listener
) -> Iterator[Work]:
    """Begin or continue a result; the folder beside it goes when the block succeeds.

    The folder also goes where the block refuses the inputs. It stays, and the next call continues,
    after an interruption, a full disk, or for want of memory.

    Args:
        place: The file or folder that is being made.
        made_from: Its ``stamp``.
        draw: Draws or measures what has to stay the same in a continued run; what JSON can hold.
            What it refuses leaves everything as it was.
        listener: Receives a warning where what was left is of no use.

    Raises:
        OutputError: Another process is making the same.
    """
    team, folder = ranks(), work_folder(place)
    with ExitStack() as stack:
        begun: dict[str, Any] | None = None
        if team.is_first:
            check_parents(place)
            stack.enter_context(locked(place.with_name(f".{place.name}.lock")))
            begun = _begin(place, made_from, draw, listener)
            stack.enter_context(kept_until_done(folder))
        begun = cast(dict[str, Any], team.broadcast(begun))
        if begun["made_from"] != made_from:
            raise OutputError("The inputs changed while the processes started.", "Run it again.")
        placed = begun["placed"]
        journal = Journal(folder, folder / _OUT, check=not placed)
        yield Work(place, begun["drawn"], placed, journal)
        team.barrier()
    team.barrier()


def _begin(
    place: Path, made_from: str, draw: Callable[[], dict[str, Any]], listener: Listener
) -> dict[str, Any]:
    """Return what the folder says, or make a new one."""
    folder = work_folder(place)
    if (folder / _OLD).exists() and not place.exists():
        (folder / _OLD).rename(place)
    state = _read_state(folder)
    if state is None or state["made_from"] != made_from:
        drawn = draw()
        if state is not None:
            listener(
                Warned(
                    f"The unfinished {place} was made from other images, another model or other "
                    "options; starting again."
                )
            )
        shutil.rmtree(folder, ignore_errors=True)
        state = {"made_from": made_from, "drawn": drawn}
        folder.mkdir(mode=0o700)
        _write_state(folder, state)
    placed = (folder / _PLACING).exists() and not (folder / _OUT).exists() and place.exists()
    if not placed:
        (folder / _PLACING).unlink(missing_ok=True)
    return {**state, "placed": placed}


def _read_state(folder: Path) -> dict[str, Any] | None:
    """Return the content of work.json; None where it was not even begun."""
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(state, dict) and {"made_from", "drawn"} <= set(state)
    return state if whole else None


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write work.json, which holds a secret, whole or not at all."""
    partial = folder / f"{_STATE}.partial"
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(json.dumps(state).encode())
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(folder / _STATE)
